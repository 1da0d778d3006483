//! Who this device is: its key and certificate, kept in one file that only its owner may read.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wardring_seal::{DeviceIdentity, DeviceKey, Roots, parse_device_certificate};

use crate::files::{private_file, replace};
use crate::state::Me;

const FILE: &str = "identity.json";

/// The file's content. The key is there before the certificate: a device that never saw the answer
/// to its first claim asks again with the same key, and gets the same enrolment.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    namespace: String,
    device: String,
    /// PKCS#8 PEM: a secret. Only where nothing can wrap it, or from an agent that did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The same, wrapped by the operating system, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wrapped_key: Option<String>,
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

/// How this operating system wraps secrets, so that a copied file is of no use elsewhere.
#[derive(Clone, Copy, Debug)]
struct Wrapping {
    wrap: fn(&[u8]) -> io::Result<Vec<u8>>,
    unwrap: fn(&[u8]) -> io::Result<Vec<u8>>,
}

/// Elsewhere than on Windows the file's mode is the protection.
#[cfg(not(windows))]
const WRAPPING: Option<Wrapping> = None;
#[cfg(windows)]
const WRAPPING: Option<Wrapping> =
    Some(Wrapping { wrap: crate::ffi::wrap, unwrap: crate::ffi::unwrap });

/// The identity file of a data folder.
#[derive(Clone, Debug)]
pub struct IdentityFile {
    path: PathBuf,
    wrapping: Option<Wrapping>,
}

impl IdentityFile {
    /// The file in this folder.
    pub fn new(folder: &Path) -> IdentityFile {
        IdentityFile { path: folder.join(FILE), wrapping: WRAPPING }
    }

    /// Texts that must not be shown to anybody: the key, as it is kept and as lines of its own.
    pub fn secrets(&self) -> Vec<String> {
        let Ok(Some(stored)) = self.read() else { return Vec::new() };
        let lines = |pem: &String| {
            let inner = pem.lines().filter(|line| !line.starts_with("-----"));
            inner.map(str::to_owned).collect::<Vec<_>>()
        };
        let mut secrets = stored.key.as_ref().map(lines).unwrap_or_default();
        secrets.extend(stored.wrapped_key);
        secrets
    }

    /// Wraps a key that an agent before this one left in the clear.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn protect(&self) -> Result<(), IdentityError> {
        let Some(stored) = self.read()? else { return Ok(()) };
        let Some(key) = stored.key.as_ref().filter(|_| self.wrapping.is_some()) else {
            return Ok(());
        };
        let key = DeviceKey::from_pem(key).map_err(|error| self.damaged(error))?;
        self.keep(stored, &key)
    }

    fn damaged(&self, why: impl ToString) -> IdentityError {
        IdentityError::Damaged { path: self.path.clone(), why: why.to_string() }
    }

    fn read(&self) -> Result<Option<Stored>, IdentityError> {
        match fs::read(&self.path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|error| self.damaged(error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::Access { path: self.path.clone(), source }),
        }
    }

    fn key(&self, stored: &Stored) -> Result<DeviceKey, IdentityError> {
        let pem = match (&stored.wrapped_key, &stored.key, self.wrapping) {
            (Some(wrapped), _, Some(Wrapping { unwrap, .. })) => {
                let wrapped = STANDARD.decode(wrapped).map_err(|error| self.damaged(error))?;
                let plain = unwrap(&wrapped).map_err(|error| {
                    self.damaged(format!("its key was wrapped on another installation: {error}"))
                })?;
                String::from_utf8(plain).map_err(|_| self.damaged("its key is not text"))?
            }
            (Some(_), _, None) => {
                return Err(self.damaged("its key was wrapped by another operating system"));
            }
            (None, Some(plain), _) => plain.clone(),
            (None, None, _) => return Err(self.damaged("it has no key")),
        };
        DeviceKey::from_pem(&pem).map_err(|error| self.damaged(error))
    }

    /// Reads the file.
    ///
    /// # Errors
    /// It is there and cannot be used.
    pub fn load(&self) -> Result<Known, IdentityError> {
        let Some(stored) = self.read()? else { return Ok(Known::Nothing) };
        let key = self.key(&stored)?;
        let Some(certificate) = stored.certificate else {
            let (namespace, device) = (stored.namespace, stored.device);
            return Ok(Known::Applicant(Box::new(Applicant { namespace, device, key })));
        };
        let certificate = STANDARD.decode(certificate).map_err(|error| self.damaged(error))?;
        let details =
            parse_device_certificate(&certificate).map_err(|error| self.damaged(error))?;
        let roots = Roots::from_base64(&stored.roots).map_err(|error| self.damaged(error))?;
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
        let stored = Stored {
            namespace: applicant.namespace.clone(),
            device: applicant.device.clone(),
            ..Stored::default()
        };
        self.keep(stored, &applicant.key)
    }

    /// Keeps an enrolled device.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep_identity(&self, identity: &Identity) -> Result<(), IdentityError> {
        let stored = Stored {
            namespace: identity.me.namespace.clone(),
            device: identity.me.device.clone(),
            certificate: Some(STANDARD.encode(&identity.certificate)),
            roots: identity.roots.to_base64(),
            ..Stored::default()
        };
        self.keep(stored, &identity.key)
    }

    fn keep(&self, stored: Stored, key: &DeviceKey) -> Result<(), IdentityError> {
        let access = |source| IdentityError::Access { path: self.path.clone(), source };
        let pem = key.to_pem();
        let stored = match self.wrapping {
            None => Stored { key: Some(pem), wrapped_key: None, ..stored },
            Some(Wrapping { wrap, .. }) => {
                let wrapped = STANDARD.encode(wrap(pem.as_bytes()).map_err(access)?);
                Stored { key: None, wrapped_key: Some(wrapped), ..stored }
            }
        };
        let text = serde_json::to_vec_pretty(&stored).expect("an identity has only string keys");
        let new = self.path.with_extension("new");
        let written = private_file(&new).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()?;
            drop(file);
            replace(&new, &self.path)
        });
        written.map_err(access)
    }
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

    /// Wraps by turning every bit over.
    fn turn(bytes: &[u8]) -> io::Result<Vec<u8>> {
        Ok(bytes.iter().map(|byte| !byte).collect())
    }

    #[test]
    fn where_keys_can_be_wrapped_no_file_holds_one_in_the_clear() {
        let folder = tempfile::tempdir().unwrap();
        let old = IdentityFile { wrapping: None, ..IdentityFile::new(folder.path()) };
        let wrapping = Some(Wrapping { wrap: turn, unwrap: turn });
        let file = IdentityFile { wrapping, ..old.clone() };
        let text = || fs::read_to_string(folder.path().join(FILE)).unwrap();
        let key = DeviceKey::generate().unwrap();
        let (key_id, pem) = (key.key_id(), key.to_pem());
        let secret = pem.lines().nth(1).unwrap();
        file.protect().unwrap();
        assert!(matches!(file.load().unwrap(), Known::Nothing), "there is nothing to protect");

        let applicant = Applicant { namespace: "a".to_owned(), device: "ws-1".to_owned(), key };
        old.keep_applicant(&applicant).unwrap();
        assert!(text().contains(secret));
        // What an older agent left can be used, and is wrapped.
        assert!(matches!(file.load().unwrap(), Known::Applicant(_)));
        file.protect().unwrap();
        assert!(!text().contains(secret) && !text().contains("PRIVATE"), "{}", text());
        let Known::Applicant(found) = file.load().unwrap() else { panic!("no applicant") };
        assert_eq!(found.key.key_id(), key_id);

        let refused = old.load().unwrap_err().to_string();
        assert!(refused.contains("wrapped by another operating system"), "{refused}");
    }

    #[test]
    fn a_damaged_identity_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{}").unwrap();
        let error = IdentityFile::new(folder.path()).load().unwrap_err().to_string();
        assert!(error.contains("delete it and enrol the device again"), "{error}");
    }
}
