//! The certificate authority's Secret: read, or made when no device is enrolled yet.
//!
//! The Secret holds `root.crt` and `root.key`, the job-signing pair `jobs.crt` and `jobs.key`, and
//! while roots overlap one of `previous.crt` and `next.crt`: a second root that is trusted but does
//! not issue.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use wardring_api::Device;
use wardring_api::names::{CA_SECRET, CONTROLLER_MANAGER};
use wardring_api::reasons::Reason;
use wardring_seal::{Authority, IssueError, JobSigner};

use super::{Identity, Keys};

const ROOT_CERTIFICATE: &str = "root.crt";
const ROOT_KEY: &str = "root.key";
const PREVIOUS_ROOT: &str = "previous.crt";
const NEXT_ROOT: &str = "next.crt";
const JOBS_CERTIFICATE: &str = "jobs.crt";
const JOBS_KEY: &str = "jobs.key";

/// Writers that lose against another controller look again this often: whoever won has written what
/// is needed, so the second look nearly always ends it.
const TRIES: usize = 5;

/// Devices are listed in pages of this size when the Secret is missing.
const PAGE: u32 = 500;

/// Why there is no certificate authority to work with.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Gone although devices trust it.
    #[error(
        "Secret {namespace}/{CA_SECRET} is missing although devices are enrolled (Device {device}); restore it from a backup, since a new certificate authority would lock every device out"
    )]
    Missing {
        /// Namespace of the Secret.
        namespace: String,
        /// One of the enrolled devices, `namespace/name`.
        device: String,
    },
    /// An entry is missing or no text.
    #[error(
        "Secret {namespace}/{CA_SECRET} has no readable entry {entry}; restore it from a backup"
    )]
    Entry {
        /// Namespace of the Secret.
        namespace: String,
        /// The entry.
        entry: &'static str,
    },
    /// Both a previous and a next root.
    #[error(
        "Secret {namespace}/{CA_SECRET} has both {PREVIOUS_ROOT} and {NEXT_ROOT}; only two roots may overlap, so remove one"
    )]
    ThreeRoots {
        /// Namespace of the Secret.
        namespace: String,
    },
    /// The entries do not make an authority.
    #[error("failed to use the certificate authority of Secret {namespace}/{CA_SECRET}")]
    Unusable {
        /// Namespace of the Secret.
        namespace: String,
        /// Why.
        source: IssueError,
    },
    /// Making keys.
    #[error("failed to make the keys of the certificate authority")]
    Make(#[source] IssueError),
    /// The API server.
    #[error("failed to {action}")]
    Api {
        /// What we were doing.
        action: &'static str,
        /// The client's error.
        source: kube::Error,
    },
    /// Others kept writing.
    #[error("Secret {namespace}/{CA_SECRET} kept changing while it was being written")]
    Contended {
        /// Namespace of the Secret.
        namespace: String,
    },
}

impl CaError {
    /// Reason word for conditions and events, where there is one.
    pub fn reason(&self) -> Option<Reason> {
        matches!(self, CaError::Missing { .. }).then_some(Reason::CaMissing)
    }
}

/// Opens the installation's identity: reads the Secret, or creates it on the very first start.
///
/// Safe to call from several controllers at once: the Secret is created and replaced atomically, and
/// whoever loses reads what the other wrote.
pub async fn open(
    client: &Client,
    system_namespace: &str,
    now: Timestamp,
) -> Result<Identity, CaError> {
    let Keys { authority, jobs } = load_or_create(client, system_namespace, now).await?;
    Ok(Identity::new(authority, jobs))
}

/// Reads the Secret again, so that a root a person added or replaced takes effect, and renews the
/// job signer in time.
pub(super) async fn refresh(
    client: &Client,
    system_namespace: &str,
    identity: &Identity,
    now: Timestamp,
) -> Result<(), CaError> {
    identity.replace(load_or_create(client, system_namespace, now).await?);
    Ok(())
}

async fn load_or_create(client: &Client, namespace: &str, now: Timestamp) -> Result<Keys, CaError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let ours =
        PostParams { field_manager: Some(CONTROLLER_MANAGER.to_owned()), ..PostParams::default() };
    for _ in 0..TRIES {
        let found = secrets.get_opt(CA_SECRET).await.map_err(api("read the CA Secret"))?;
        let (keys, written) = match found {
            None => {
                refuse_if_enrolled(client, namespace).await?;
                let authority = Authority::create(now).map_err(CaError::Make)?;
                let jobs = authority.issue_job_signer(now).map_err(CaError::Make)?;
                let keys = Keys { authority, jobs };
                let secret = new_secret(namespace, &keys);
                (keys, secrets.create(&ours, &secret).await)
            }
            Some(mut secret) => {
                let authority = read_authority(&secret, namespace)?;
                let stored = read_jobs(&secret);
                if let Some(jobs) = stored.filter(|jobs| authority.keeps_job_signer(jobs, now)) {
                    return Ok(Keys { authority, jobs });
                }
                let jobs = authority.issue_job_signer(now).map_err(CaError::Make)?;
                secret.data.get_or_insert_default().extend(jobs_entries(&jobs));
                (Keys { authority, jobs }, secrets.replace(CA_SECRET, &ours, &secret).await)
            }
        };
        match written {
            Ok(_) => return Ok(keys),
            // Another controller was faster; use what it wrote.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
            }
            Err(error) => return Err(api("write the CA Secret")(error)),
        }
    }
    Err(CaError::Contended { namespace: namespace.to_owned() })
}

/// A device that has an enrolment trusts a root that we do not have: making another one would look
/// fine and reach nobody.
async fn refuse_if_enrolled(client: &Client, namespace: &str) -> Result<(), CaError> {
    let devices: Api<Device> = Api::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = devices.list(&page).await.map_err(api("list devices"))?;
        if let Some(device) = list.items.iter().find(|device| device.spec.enrolment_id.is_some()) {
            let name = format!("{}/{}", device.namespace().unwrap_or_default(), device.name_any());
            return Err(CaError::Missing { namespace: namespace.to_owned(), device: name });
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(()),
        }
    }
}

fn read_authority(secret: &Secret, namespace: &str) -> Result<Authority, CaError> {
    let need = |name: &'static str| {
        entry(secret, name)
            .ok_or_else(|| CaError::Entry { namespace: namespace.to_owned(), entry: name })
    };
    let second = match (entry(secret, PREVIOUS_ROOT), entry(secret, NEXT_ROOT)) {
        (Some(_), Some(_)) => {
            return Err(CaError::ThreeRoots { namespace: namespace.to_owned() });
        }
        (previous, next) => previous.or(next),
    };
    Authority::from_pem(need(ROOT_CERTIFICATE)?, need(ROOT_KEY)?, second)
        .map_err(|source| CaError::Unusable { namespace: namespace.to_owned(), source })
}

/// The stored job signer; one that cannot be read is as good as none, since it can be made anew.
fn read_jobs(secret: &Secret) -> Option<JobSigner> {
    JobSigner::from_pem(entry(secret, JOBS_CERTIFICATE)?, entry(secret, JOBS_KEY)?).ok()
}

fn entry<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    std::str::from_utf8(&secret.data.as_ref()?.get(name)?.0).ok()
}

fn new_secret(namespace: &str, keys: &Keys) -> Secret {
    let root = [
        (ROOT_CERTIFICATE, keys.authority.certificate_pem()),
        (ROOT_KEY, keys.authority.key_pem().to_owned()),
    ];
    let mut data: BTreeMap<_, _> = root.into_iter().map(bytes).collect();
    data.extend(jobs_entries(&keys.jobs));
    Secret {
        metadata: ObjectMeta {
            name: Some(CA_SECRET.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..Secret::default()
    }
}

fn jobs_entries(jobs: &JobSigner) -> [(String, ByteString); 2] {
    [(JOBS_CERTIFICATE, jobs.certificate_pem()), (JOBS_KEY, jobs.key_pem())].map(bytes)
}

fn bytes((name, text): (&str, String)) -> (String, ByteString) {
    (name.to_owned(), ByteString(text.into_bytes()))
}

fn api(action: &'static str) -> impl FnOnce(kube::Error) -> CaError {
    move |source| CaError::Api { action, source }
}
