//! One device's agent from its first start to its last: folder, lock, enrolment, renewal.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::chance;
use crate::client::{AddressError, Addresses, ClientError, HttpGateway};
use crate::driver::{Agent, RunEnd};
use crate::enrol::{self, EnrolError};
use crate::gateway::Gateway;
use crate::identity::{Credentials, IdentityError, IdentityFile, Known};
use crate::journal::{Durability, Journal, Loaded, SCHEMA, Saved, WriteError};
use crate::platform::{Platform, wall_clock};

/// How often it is asked whether the certificate must be renewed.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);
/// Pause after a renewal was refused.
const RENEWAL_RETRY: Duration = Duration::from_secs(600);

/// What a device needs to know to take part.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Addresses of the gateways.
    pub gateways: Vec<String>,
    /// Proxy for all of them.
    pub proxy: Option<String>,
    /// Token, needed until the device is enrolled.
    pub token: Option<String>,
    /// Name of the device.
    pub name: String,
    /// Folder of journal and identity.
    pub folder: PathBuf,
    /// How far a journal write goes.
    pub durability: Durability,
    /// Longest a gateway is asked to hold a poll, seconds.
    pub poll_wait_s: u64,
    /// How long a device that is not enrolled yet tries before it gives up.
    pub enrol_within: Duration,
}

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// An address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The folder.
    #[error(
        "failed to use the data folder {folder}; let the agent's account write there, or name \
         another folder with --data-dir"
    )]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder is somebody else's.
    #[cfg(unix)]
    #[error(
        "the data folder {folder} belongs to user {owner}, and the agent runs as user {agent}: its \
         owner could take the device's key; change its owner, or name another folder with --data-dir"
    )]
    Foreign {
        /// Which.
        folder: PathBuf,
        /// Whose.
        owner: u32,
        /// Who we are.
        agent: u32,
    },
    /// The folder is not protected.
    #[cfg(windows)]
    #[error(transparent)]
    Unprotected(#[from] crate::folder::FolderError),
    /// The journal is of a newer agent.
    #[error(
        "the journal in {folder} was written by a newer agent (layout {found}; this one reads \
         {SCHEMA}); start the newer agent again, or move the journal away, and the job in hand counts \
         as failed"
    )]
    NewerJournal {
        /// Which.
        folder: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// Somebody else uses it.
    #[error("another agent uses the data folder {folder}; stop it first")]
    Locked {
        /// Which.
        folder: PathBuf,
    },
    /// The journal.
    #[error("failed to begin the journal")]
    Journal(#[from] WriteError),
    /// Enrolment.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The identity.
    #[error("failed to read the device's identity")]
    Identity(#[from] IdentityError),
    /// The connection.
    #[error("failed to prepare the connection")]
    Client(#[from] ClientError),
}

/// A device that is enrolled and ready to run.
pub struct Ready {
    setup: Setup,
    addresses: Addresses,
    credentials: Credentials,
    journal: Journal,
    gateway: Arc<HttpGateway>,
    /// Held as long as this agent lives: two agents on one journal would both install.
    _lock: File,
}

impl Setup {
    /// Locks the folder, begins the journal and enrols the device where that is still to be done.
    ///
    /// # Errors
    /// One of these is not possible. An unreachable gateway is waited for.
    pub async fn prepare(self) -> Result<Ready, SetupError> {
        let addresses = Addresses::parse(&self.gateways, self.proxy.as_deref())?;
        let lock = lock(&self.folder)?;
        let file = IdentityFile::new(&self.folder);
        file.protect()?;
        let journal = Journal::new(&self.folder, self.durability);
        match journal.load() {
            // Before the enrolment, so that an enrolled device without a journal is one that lost it.
            Loaded::Fresh if matches!(file.load()?, Known::Nothing) => {
                journal.save(&Saved::default())?;
            }
            Loaded::Newer(found) => {
                return Err(SetupError::NewerJournal { folder: self.folder, found });
            }
            Loaded::Lost(why) => tracing::error!(
                device = self.name, folder = %self.folder.display(), why,
                "the journal is damaged: the agent begins a new one, tells that the job in hand is \
                 lost, and does nothing about that job"
            ),
            Loaded::Fresh | Loaded::Found(_) => {}
        }
        let token = self.token.as_deref();
        let mut identity =
            enrol::enrol(&file, &addresses, token, &self.name, self.enrol_within).await?;
        if wall_clock() >= identity.details.not_after {
            // Without this nothing but a renewal would be answered.
            identity = enrol::renew(&file, &addresses, &identity).await?;
        }
        let gateway = Arc::new(HttpGateway::identified(&addresses, &identity)?);
        let credentials = Credentials::new(identity);
        Ok(Ready { setup: self, addresses, credentials, journal, gateway, _lock: lock })
    }
}

impl Ready {
    /// The gateways, with the device's certificate.
    pub fn gateway(&self) -> Arc<HttpGateway> {
        Arc::clone(&self.gateway)
    }

    /// Runs the agent in one boot of the device.
    pub async fn run<P: Platform, G: Gateway>(
        &self,
        platform: Arc<P>,
        gateway: Arc<G>,
        stop: watch::Receiver<bool>,
    ) -> RunEnd {
        let agent = Agent {
            platform,
            gateway,
            credentials: self.credentials.clone(),
            journal: self.journal.clone(),
            poll_wait_s: self.setup.poll_wait_s,
        };
        tokio::select! {
            end = agent.run(stop) => end,
            never = self.renew() => never,
        }
    }

    /// Renews the certificate whenever two thirds of its life are over.
    async fn renew(&self) -> RunEnd {
        let file = IdentityFile::new(&self.setup.folder);
        loop {
            let current = self.credentials.current();
            let left = current.renew_at().duration_since(wall_clock());
            let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
            if !left.is_zero() {
                tokio::time::sleep(left.min(RENEWAL_CHECK)).await;
                continue;
            }
            match enrol::renew(&file, &self.addresses, &current).await {
                Ok(identity) => self.credentials.replace(identity),
                Err(error) => {
                    tracing::error!(device = self.setup.name, %error, "the renewal failed");
                    tokio::time::sleep(chance::around(RENEWAL_RETRY)).await;
                    continue;
                }
            }
            let renewed = self.credentials.current();
            while let Err(error) = self.gateway.use_identity(&renewed)
                && wall_clock() < renewed.renew_at()
            {
                tracing::error!(device = self.setup.name, %error, "the new certificate is not in use yet");
                tokio::time::sleep(chance::around(RENEWAL_RETRY)).await;
            }
            // One that lives shortly is due again at once by its own dates.
            let left = Duration::try_from(renewed.details.not_after.duration_since(wall_clock()));
            tokio::time::sleep(left.unwrap_or_default() / 3).await;
        }
    }
}

fn lock(folder: &Path) -> Result<File, SetupError> {
    let failed = |source| SetupError::Folder { folder: folder.to_owned(), source };
    create_private(folder)?;
    let file = File::create(folder.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            check_owner(folder)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => Err(SetupError::Locked { folder: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Creates a folder that nobody else may look into.
#[cfg(not(windows))]
fn create_private(folder: &Path) -> Result<(), SetupError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(folder)
        .map_err(|source| SetupError::Folder { folder: folder.to_owned(), source })
}

/// Creates a folder that nobody else may look into, or judges the one that is there.
#[cfg(windows)]
fn create_private(folder: &Path) -> Result<(), SetupError> {
    crate::folder::secure(folder)?;
    Ok(())
}

/// Refuses a folder that somebody else prepared.
#[cfg(unix)]
fn check_owner(folder: &Path) -> Result<(), SetupError> {
    use std::os::unix::fs::MetadataExt;
    let failed = |source| SetupError::Folder { folder: folder.to_owned(), source };
    // A new file is ours, whoever made what was there before.
    let probe = folder.join(format!("owner-{}", chance::id()));
    let agent = File::create_new(&probe).and_then(|file| file.metadata()).map_err(failed)?.uid();
    std::fs::remove_file(&probe).map_err(failed)?;
    let owner = std::fs::metadata(folder).map_err(failed)?.uid();
    if owner != agent {
        return Err(SetupError::Foreign { folder: folder.to_owned(), owner, agent });
    }
    Ok(())
}

/// On Windows its owner was looked at before anything was written there.
#[cfg(not(unix))]
fn check_owner(_folder: &Path) -> Result<(), SetupError> {
    Ok(())
}

/// Lives the life of a scripted device, restart after restart, until `stop` becomes true. `arrived`
/// is told once, when the device is enrolled.
///
/// # Errors
/// The device cannot begin.
#[cfg(all(feature = "scripted", not(windows)))]
pub async fn live_scripted(
    setup: Setup,
    world: Arc<crate::platform::scripted::World>,
    mut stop: watch::Receiver<bool>,
    arrived: impl FnOnce(),
) -> Result<(), SetupError> {
    use crate::platform::scripted::{Scripted, ScriptedNetwork};
    let (name, folder) = (setup.name.clone(), setup.folder.clone());
    // First, because it makes the folder ours.
    let ready = tokio::select! {
        ready = setup.prepare() => ready?,
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
    let opened = Scripted::open(&name, world, &folder);
    let device = Arc::new(opened.map_err(|source| SetupError::Folder { folder, source })?);
    arrived();
    let network = Arc::new(ScriptedNetwork::new(Arc::clone(&device), ready.gateway()));
    loop {
        tokio::select! {
            () = device.up() => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        let end = ready.run(Arc::clone(&device), Arc::clone(&network), stop.clone()).await;
        if end == RunEnd::Stopped {
            return Ok(());
        }
    }
}
