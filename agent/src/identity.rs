//! Who this device is: its key and certificate, kept in one file that only its owner may read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wardring_seal::{DeviceIdentity, DeviceKey, Roots, parse_device_certificate};

use crate::files::replace;
use crate::state::Me;

const FILE: &str = "identity.json";

/// The file's content. The key is there before the certificate: a device that never saw the answer
/// to its first claim asks again with the same key, and gets the same enrolment.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    namespace: String,
    device: String,
    /// PKCS#8 PEM: a secret.
    key: String,
    certificate: Option<String>,
    #[serde(default)]
    roots: Vec<String>,
}

/// A device that asks to be enrolled.
#[derive(Debug)]
pub struct Applicant {
    /// Namespace that the token names.
    pub namespace: String,
    /// Name wanted.
    pub device: String,
    /// Its key.
    pub key: DeviceKey,
}

/// An enrolled device.
#[derive(Debug)]
pub struct Identity {
    /// Who.
    pub me: Me,
    /// Its key.
    pub key: DeviceKey,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// What the certificate says.
    pub details: DeviceIdentity,
    /// The roots it trusts.
    pub roots: Roots,
}

/// What the file holds.
#[derive(Debug)]
pub enum Known {
    /// No file.
    Nothing,
    /// A key that no certificate was issued for yet.
    Applicant(Box<Applicant>),
    /// An enrolled device.
    Enrolled(Box<Identity>),
}

/// Why the identity cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system refused.
    #[error("failed to access {path}")]
    Access {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is not an identity.
    #[error(
        "{path} is damaged ({why}); delete it and enrol the device again with a token that may \
         replace it"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// The identity file of a data folder.
#[derive(Clone, Debug)]
pub struct IdentityFile {
    path: PathBuf,
}

impl IdentityFile {
    /// The file in this folder.
    pub fn new(folder: &Path) -> IdentityFile {
        IdentityFile { path: folder.join(FILE) }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// It is there and cannot be used.
    pub fn load(&self) -> Result<Known, IdentityError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::Nothing),
            Err(source) => return Err(IdentityError::Access { path: self.path.clone(), source }),
        };
        let damaged = |why: String| IdentityError::Damaged { path: self.path.clone(), why };
        let stored: Stored =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let key = DeviceKey::from_pem(&stored.key).map_err(|error| damaged(error.to_string()))?;
        let Some(certificate) = stored.certificate else {
            let (namespace, device) = (stored.namespace, stored.device);
            return Ok(Known::Applicant(Box::new(Applicant { namespace, device, key })));
        };
        let certificate =
            STANDARD.decode(certificate).map_err(|error| damaged(error.to_string()))?;
        let details =
            parse_device_certificate(&certificate).map_err(|error| damaged(error.to_string()))?;
        let roots =
            Roots::from_base64(&stored.roots).map_err(|error| damaged(error.to_string()))?;
        let me = Me {
            namespace: stored.namespace,
            device: stored.device,
            device_id: details.enrolment_id.clone(),
        };
        Ok(Known::Enrolled(Box::new(Identity { me, key, certificate, details, roots })))
    }

    /// Keeps the key of a device that is about to ask.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep_applicant(&self, applicant: &Applicant) -> Result<(), IdentityError> {
        self.keep(&Stored {
            namespace: applicant.namespace.clone(),
            device: applicant.device.clone(),
            key: applicant.key.to_pem(),
            certificate: None,
            roots: Vec::new(),
        })
    }

    /// Keeps an enrolled device.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep_identity(&self, identity: &Identity) -> Result<(), IdentityError> {
        self.keep(&Stored {
            namespace: identity.me.namespace.clone(),
            device: identity.me.device.clone(),
            key: identity.key.to_pem(),
            certificate: Some(STANDARD.encode(&identity.certificate)),
            roots: identity.roots.to_base64(),
        })
    }

    fn keep(&self, stored: &Stored) -> Result<(), IdentityError> {
        let text = serde_json::to_vec_pretty(stored).expect("an identity has only string keys");
        let new = self.path.with_extension("new");
        let written = private_file(&new).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            replace(&new, &self.path)
        });
        written.map_err(|source| IdentityError::Access { path: self.path.clone(), source })
    }
}

/// A new file that only its owner may read, from its first moment on.
fn private_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// The identity in use; a renewal replaces it while the agent runs.
#[derive(Clone, Debug)]
pub struct Credentials(Arc<RwLock<Arc<Identity>>>);

impl Credentials {
    /// Begins with this identity.
    pub fn new(identity: Identity) -> Credentials {
        Credentials(Arc::new(RwLock::new(Arc::new(identity))))
    }

    /// The identity in use.
    pub fn current(&self) -> Arc<Identity> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a new one into use.
    pub fn replace(&self, identity: Identity) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
    }
}

impl Identity {
    /// When the certificate is to be renewed: at two thirds of its life.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.details.not_after.duration_since(self.details.not_before);
        self.details.not_before.checked_add(life * 2 / 3).unwrap_or(self.details.not_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_before_it_is_certified_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = IdentityFile::new(folder.path());
        assert!(matches!(file.load().unwrap(), Known::Nothing));
        let key = DeviceKey::generate().unwrap();
        let key_id = key.key_id();
        let applicant = Applicant { namespace: "a".to_owned(), device: "ws-1".to_owned(), key };
        file.keep_applicant(&applicant).unwrap();
        let Known::Applicant(found) = file.load().unwrap() else { panic!("no applicant") };
        assert_eq!((found.key.key_id(), found.device), (key_id, "ws-1".to_owned()));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_damaged_identity_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{}").unwrap();
        let error = IdentityFile::new(folder.path()).load().unwrap_err().to_string();
        assert!(error.contains("delete it and enrol the device again"), "{error}");
    }
}
