//! The device under Windows, put together: identity, signs of a restart, neighbours, and the acts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use wardring_protocol::Facts;
use wardring_seal::{ActiveHours, JobKey, UpdateSource, UpdateTarget};

use super::boots::OwnBoot;
use super::pending::{self, Known, Servicing};
use super::product::{product, release};
use super::registry::{LocalMachine, text};
use super::updates::{self, Seen, WindowsUpdate};
use super::{bitlocker, configmgr, dism, neighbours, power, services, smbios, store};
use crate::ffi;
use crate::platform::{
    Machine, Performed, Permit, RunningBoot, Services, Terms, Updates, startup_fact, told_free_gb,
};
use crate::state::{
    DownloadFailure, Inspection, InstallFound, Question, Reply, ServiceSample, ServicingResult,
    Surroundings, UpdateStatus,
};

const CURRENT_VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const TCPIP: &str = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters";
const BIOS: &str = r"HARDWARE\DESCRIPTION\System\BIOS";

/// Why Windows cannot be observed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The boot cannot be told from others.
    #[error(
        "failed to keep the identity of this boot in the registry; run the agent as an administrator \
         or as a service"
    )]
    Boot(#[source] windows::core::Error),
}

/// This computer.
pub struct Windows {
    boot: OwnBoot,
    updates: WindowsUpdate,
    hooks: PathBuf,
}

impl Windows {
    /// Finds out which boot this is, and why it came. May wait a minute for the event log.
    /// What is known of the updates is kept in `folder`; packages of jobs are fetched by `proxy`.
    ///
    /// # Errors
    /// The registry refuses.
    pub fn open(folder: &Path, proxy: Option<&str>) -> Result<Windows, OpenError> {
        let boot = OwnBoot::find().map_err(OpenError::Boot)?;
        let updates = updates::open(folder, &boot.id, proxy, build_and_ubr, packages);
        Ok(Windows { boot, updates, hooks: folder.join(crate::hooks::FOLDER) })
    }

    /// Everything that Windows Update has for this device, by its source or by what it knows already.
    ///
    /// # Errors
    /// It does not answer, in words.
    pub(crate) async fn search(&self, is_online: bool) -> Result<Vec<updates::Update>, String> {
        self.updates.search(is_online).await
    }

    /// The folder of the hooks.
    pub(super) fn hooks(&self) -> &Path {
        &self.hooks
    }

    /// Keeps what the agent must tell from its own traces, before it changes anything.
    fn before_act(&self) {
        let pending = pending::pending_renames(&LocalMachine);
        if let Err(error) = self.boot.keep_renames(&pending) {
            tracing::warn!(%error, "pending renames are not kept; they may be taken for ours");
        }
    }

    /// Remembers that an act asked for a restart.
    fn after_act(&self, act: &str, result: &ServicingResult) {
        if result.reboot_required
            && let Err(error) = self.boot.note_restart_asked_for(act)
        {
            tracing::warn!(%error, act, "that a restart was asked for is not kept");
        }
    }
}

/// What is known about a pending restart beside the registry. Asks the ConfigMgr client, so it may
/// take a while.
fn known(boot: &OwnBoot) -> Known {
    Known {
        is_asked_for: boot.is_restart_asked_for(),
        renames_before: boot.renames_before(),
        configmgr: configmgr::waits_for_restart(),
    }
}

/// `build.UBR`; `0.0` where the registry does not tell for now, which is no build.
fn build_and_ubr() -> String {
    super::product::build(&LocalMachine, CURRENT_VERSION).unwrap_or_else(|error| {
        tracing::warn!(%error, "Windows does not tell its build");
        "0.0".to_owned()
    })
}

/// Names of the packages in force; an installation is known by their difference. None where they cannot
/// be listed: then there is no difference, and a removal finds out for itself.
fn packages() -> Option<BTreeSet<String>> {
    match dism::installed(&LocalMachine) {
        Ok(packages) => Some(dism::in_force(&packages)),
        Err(error) => {
            tracing::warn!(%error, "the packages of Windows cannot be listed");
            None
        }
    }
}

fn product_name() -> String {
    let read = |name| text(&LocalMachine, CURRENT_VERSION, name);
    let name = read("ProductName").unwrap_or_else(|| "Windows".to_owned());
    let build = read("CurrentBuild").unwrap_or_default();
    let kind = read("InstallationType").unwrap_or_default();
    product(&name, &build, &kind, release(&LocalMachine, CURRENT_VERSION).as_deref())
}

/// Addresses that other computers know this one by.
fn addresses(hostname: &str) -> Vec<String> {
    let Ok(found) = (hostname, 0).to_socket_addrs() else { return Vec::new() };
    let mut addresses: Vec<String> = found
        .map(|address| address.ip())
        .filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
        .map(|ip| ip.to_string())
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(8);
    addresses
}

/// Space on the disk of Windows, gigabytes, where Windows tells.
fn free_disk_gb() -> Option<u32> {
    let free = ffi::system_folder().and_then(|folder| ffi::free_bytes(&folder));
    let bytes = free
        .inspect_err(|error| tracing::warn!(%error, "Windows does not tell how much space is left"))
        .ok()?;
    Some(u32::try_from(bytes >> 30).unwrap_or(u32::MAX))
}

/// The same as it is reported.
fn told_free() -> Option<u32> {
    static TOLD: Mutex<Option<u32>> = Mutex::new(None);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    *told = free_disk_gb().map(|free_gb| told_free_gb(*told, free_gb));
    *told
}

/// Acts under way that change what is installed.
static ACTS: AtomicUsize = AtomicUsize::new(0);

/// One of them.
struct Act;

impl Act {
    fn begin() -> Act {
        ACTS.fetch_add(1, Ordering::SeqCst);
        Act
    }
}

impl Drop for Act {
    fn drop(&mut self) {
        ACTS.fetch_sub(1, Ordering::SeqCst);
    }
}

fn is_at_rest() -> bool {
    ACTS.load(Ordering::SeqCst) == 0
}

impl Machine for Windows {
    fn refuses(&self) -> Option<&'static str> {
        None
    }

    fn boot(&self) -> RunningBoot {
        let OwnBoot { id, kind, off } = self.boot.clone();
        RunningBoot { id, kind, off, uptime_ms: ffi::uptime_ms() }
    }

    fn build(&self) -> String {
        build_and_ubr()
    }

    fn roles(&self) -> Vec<String> {
        neighbours::roles(&LocalMachine)
    }

    fn facts(&self) -> Facts {
        let hostname = text(&LocalMachine, TCPIP, "Hostname")
            .or_else(|| std::env::var("COMPUTERNAME").ok())
            .unwrap_or_default();
        let domain = text(&LocalMachine, TCPIP, "Domain")
            .or_else(|| text(&LocalMachine, TCPIP, "DhcpDomain"));
        let mut facts = Facts {
            fqdn: domain.map(|domain| format!("{hostname}.{domain}")),
            addresses: addresses(&hostname),
            hostname,
            serial: smbios::serial(&ffi::firmware_tables()),
            model: text(&LocalMachine, BIOS, "SystemProductName"),
            roles: self.roles(),
            product: product_name(),
            build: build_and_ubr(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_update_failed: self.hooks.parent().and_then(crate::service::update::failure),
            pending_reboot: pending::sources(&LocalMachine, &known(&self.boot)),
            services: services::facts(),
            startup: Some(startup_fact(&bitlocker::reported())),
            free_disk_gb: told_free(),
            component_store: store::store()
                .known(is_at_rest())
                .map(|state| state.as_str().to_owned()),
            other_patch_sources: neighbours::others(&LocalMachine),
            ..Facts::default()
        };
        self.updates.facts(&mut facts);
        facts
    }

    fn announce(&self, message: Option<&str>, countdown_ms: u64) {
        power::announce(message, countdown_ms);
    }

    fn ask_to_leave(&self, message: Option<&str>, within_ms: u64) {
        power::ask_to_leave(message, within_ms);
    }

    async fn ask_people(&self, question: Question) -> Reply {
        power::ask_people(question).await
    }

    async fn surroundings(&self, hours: Option<ActiveHours>) -> Surroundings {
        blocking(move || power::surroundings(hours)).await
    }

    fn before_restart(&self, boot_before: &str, force: bool) -> bool {
        if boot_before != self.boot.id {
            return force;
        }
        if let Err(error) = self.updates.commit() {
            // Only feature updates need it, and the proof after the restart would miss one.
            tracing::warn!(error, "what was installed is not committed");
        }
        power::is_forced(&self.boot, force)
    }

    fn reboot(&self, key: &JobKey, boot_before: &str, is_forced: bool) -> Result<(), String> {
        power::reboot(&self.boot, key, boot_before, is_forced)
    }

    fn take_back_restart(&self) {
        power::take_back(&self.boot);
    }

    async fn changed(&self) {
        self.updates.changed().await;
    }

    async fn ended(&self) {
        // Windows ends this process with itself.
        std::future::pending().await
    }
}

impl Updates for Windows {
    async fn inspect(
        &self,
        updates: &[UpdateTarget],
        services: &[String],
        terms: Terms,
    ) -> Result<Inspection, String> {
        let seen = self.updates.look(updates, terms).await?;
        let (boot, targets, names) = (self.boot.clone(), updates.to_vec(), services.to_vec());
        blocking(move || {
            let component_store = terms.looks_at_store.then(|| store::store().fresh());
            inspection(&boot, &targets, &names, seen)
                .map(|seen| Inspection { component_store, ..seen })
        })
        .await
    }

    async fn download(
        &self,
        _key: &JobKey,
        updates: &[UpdateTarget],
        terms: Terms,
    ) -> Result<(), DownloadFailure> {
        self.updates.download(updates, terms).await
    }

    async fn install(
        &self,
        key: &JobKey,
        update: &UpdateTarget,
        tries: u32,
        terms: Terms,
        permit: Permit,
    ) -> Performed {
        let _act = Act::begin();
        self.before_act();
        let performed = self.updates.install(key, update, tries, terms, permit).await;
        if let Performed::Ended(result) = &performed {
            self.after_act(&format!("installation of {}", update.kb), result);
        }
        performed
    }

    async fn find_install(
        &self,
        key: &JobKey,
        update: &UpdateTarget,
        tries: u32,
        terms: Terms,
    ) -> InstallFound {
        let found = self.updates.find_install(key, update, tries, terms).await;
        if let InstallFound::Ended(result) = &found {
            self.after_act(&format!("installation of {}", update.kb), result);
        }
        found
    }

    async fn uninstall(
        &self,
        _key: &JobKey,
        update: &UpdateTarget,
        packages: &[String],
        // Each try asks Windows anew what is left to remove.
        _tries: u32,
        permit: Permit,
    ) -> Performed {
        self.before_act();
        let (boot, target, packages) = (self.boot.clone(), update.clone(), packages.to_vec());
        let removal = move || {
            let _act = Act::begin();
            dism::uninstall(&boot, &target, &packages, permit)
        };
        let performed = blocking(removal).await;
        if let Performed::Ended(result) = &performed {
            self.after_act(&format!("removal of {}", update.kb), result);
            if result.is_success() {
                // Automatic Updates would install it again.
                let hidden = self.updates.hide(update, UpdateSource::Default).await;
                if let Err(error) = hidden {
                    tracing::warn!(kb = update.kb, error, "the removed update is not hidden");
                }
            }
        }
        performed
    }
}

/// Puts together what a job must know of the device. Windows knows thousands of packages, and the
/// ConfigMgr client may take its time: this blocks.
fn inspection(
    boot: &OwnBoot,
    updates: &[UpdateTarget],
    names: &[String],
    seen: Seen,
) -> Result<Inspection, String> {
    let packages = dism::installed(&LocalMachine).map_err(|error| error.to_string())?;
    let stands = |update: &UpdateTarget| {
        let by_packages = dism::status(&LocalMachine, update, &packages);
        let by_search = seen.updates.get(&update.kb).copied();
        (update.kb.clone(), judged(by_packages, by_search))
    };
    let servicing = pending::servicing(&LocalMachine).map_err(|error| error.to_string())?;
    let signs = pending::sources(&LocalMachine, &known(boot)).into_iter();
    let hard = signs.filter(|sign| sign.hard).map(|sign| sign.source);
    Ok(Inspection {
        product: product_name(),
        build: build_and_ubr(),
        updates: updates.iter().map(stands).collect(),
        upgrades: seen.upgrades.clone(),
        pending_upgrade: seen.pending_upgrade.clone(),
        services: services::sample(names)?,
        automatic: services::automatic()?,
        probes: BTreeMap::new(),
        ports: BTreeSet::new(),
        witnesses: BTreeSet::new(),
        hard_pending: hard.chain(seen.hard_pending.clone()).collect(),
        busy: servicing == Servicing::AtWork || seen.is_busy,
        free_disk_gb: free_disk_gb(),
        component_store: None,
        other_patch_sources: neighbours::others(&LocalMachine),
        surroundings: Surroundings::default(),
    })
}

/// Where an update stands by its packages and by what a search found. Packages are what Windows is
/// made of; whether something is offered is known to the search alone.
fn judged(by_packages: Option<UpdateStatus>, by_search: Option<UpdateStatus>) -> UpdateStatus {
    use UpdateStatus::{Installed, NotOffered, PendingReboot, Removing, Superseded};
    match (by_packages, by_search) {
        (Some(removing @ Removing), _) => removing,
        (_, Some(pending @ PendingReboot(_))) => pending,
        (Some(there @ (Installed(_) | PendingReboot(_))), _) => there,
        (Some(Superseded), None | Some(NotOffered)) => Superseded,
        (_, by_search) => by_search.unwrap_or(NotOffered),
    }
}

impl Services for Windows {
    fn sample(&self, names: &[String]) -> Result<BTreeMap<String, ServiceSample>, String> {
        services::sample(names)
    }

    async fn restart(&self, name: &str) -> Result<(), String> {
        let name = name.to_owned();
        blocking(move || services::restart(&name)).await
    }
}

/// Runs what blocks beside everything else.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let ended = tokio::task::spawn_blocking(act).await;
    ended.expect("acts do not panic, and nothing cancels them once they began")
}
