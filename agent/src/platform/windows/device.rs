//! The device under Windows: registry, service control manager, names and addresses.

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;

use wardring_protocol::{Facts, ServiceFact};
use wardring_seal::{JobKey, UpdateTarget};
use windows_registry::{Key, LOCAL_MACHINE};

use super::pending::{Registry, sources};
use super::product::product;
use crate::chance;
use crate::ffi::{self, ListedService};
use crate::platform::{Machine, Performed, Permit, RunningBoot, Services, Terms, Updates};
use crate::state::{
    BootKind, Inspection, InstallFound, ServiceSample, ServiceState, ServicingResult, StartType,
};

const CURRENT_VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";
const TCPIP: &str = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters";
const BIOS: &str = r"HARDWARE\DESCRIPTION\System\BIOS";
const OWN_KEY: &str = r"SOFTWARE\Wardring";
const BOOT_KEY: &str = r"SOFTWARE\Wardring\Boot";
const BOOT_VALUE: &str = "Id";

const NOT_IN_THIS_VERSION: &str =
    "this version of the Windows agent observes and reports; it installs nothing yet";
/// E_NOTIMPL, for an installation that is asked of this version.
const E_NOTIMPL: u32 = 0x8000_4001;

/// Services whose failure after a patch people notice first; reported where they exist, before any
/// job names its own.
const WELL_KNOWN: &[&str] = &[
    "ADWS",
    "BITS",
    "CertSvc",
    "ClusSvc",
    "CryptSvc",
    "DFSR",
    "DHCPServer",
    "DNS",
    "Dnscache",
    "EventLog",
    "Kdc",
    "LanmanServer",
    "LanmanWorkstation",
    "MSExchangeIS",
    "MSSQLSERVER",
    "Netlogon",
    "NTDS",
    "SQLSERVERAGENT",
    "Spooler",
    "TermService",
    "TrustedInstaller",
    "vmms",
    "W32Time",
    "W3SVC",
    "WAS",
    "WinRM",
    "Winmgmt",
    "wuauserv",
];

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
    boot_id: String,
}

impl Windows {
    /// Finds out which boot this is.
    ///
    /// # Errors
    /// The registry refuses.
    pub fn open() -> Result<Windows, OpenError> {
        boot_id().map(|boot_id| Windows { boot_id }).map_err(OpenError::Boot)
    }
}

/// The identity of the running boot: a value in a key that Windows forgets with the boot. Neither a
/// moved clock nor a restored journal can fake it.
fn boot_id() -> windows::core::Result<String> {
    // Only the key below may be volatile: others will want to last.
    LOCAL_MACHINE.create(OWN_KEY)?;
    let key = LOCAL_MACHINE.options().read().write().create().volatile().open(BOOT_KEY)?;
    match key.get_string(BOOT_VALUE) {
        Ok(id) if !id.is_empty() => Ok(id),
        _ => {
            let id = chance::id();
            key.set_string(BOOT_VALUE, &id)?;
            Ok(id)
        }
    }
}

fn key(path: &str) -> Option<Key> {
    LOCAL_MACHINE.open(path).ok()
}

fn text(path: &str, name: &str) -> Option<String> {
    key(path)?.get_string(name).ok().filter(|text| !text.is_empty())
}

fn is_set(path: &str, name: &str) -> bool {
    let value = key(path).and_then(|key| key.get_value(name).ok());
    value.is_some_and(|value| value.iter().any(|byte| *byte != 0))
}

fn build_and_ubr() -> String {
    let build = text(CURRENT_VERSION, "CurrentBuild")
        .or_else(|| text(CURRENT_VERSION, "CurrentBuildNumber"))
        .unwrap_or_else(|| "0".to_owned());
    let ubr = key(CURRENT_VERSION).and_then(|key| key.get_u32("UBR").ok()).unwrap_or(0);
    format!("{build}.{ubr}")
}

fn product_name() -> String {
    let name = text(CURRENT_VERSION, "ProductName").unwrap_or_else(|| "Windows".to_owned());
    let build = text(CURRENT_VERSION, "CurrentBuild").unwrap_or_default();
    let kind = text(CURRENT_VERSION, "InstallationType").unwrap_or_default();
    product(&name, &build, &kind, text(CURRENT_VERSION, "DisplayVersion").as_deref())
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

fn state(listed: &ListedService) -> ServiceState {
    match listed.state {
        // A process that was killed may leave its service running in the books.
        4 if listed.pid != 0 && !ffi::process_lives(listed.pid) => ServiceState::Stopped,
        2 => ServiceState::StartPending,
        3 => ServiceState::StopPending,
        4 => ServiceState::Running,
        5..=7 => ServiceState::Paused,
        _ => ServiceState::Stopped,
    }
}

fn start_type(name: &str) -> StartType {
    let start = key(&format!(r"{SERVICES}\{name}")).and_then(|key| key.get_u32("Start").ok());
    match start {
        Some(0..=2) => StartType::Auto,
        Some(3) => StartType::Demand,
        Some(4) => StartType::Disabled,
        _ => StartType::Unknown,
    }
}

fn find<'a>(listed: &'a [ListedService], name: &str) -> Option<&'a ListedService> {
    listed.iter().find(|service| service.name.eq_ignore_ascii_case(name))
}

impl Machine for Windows {
    fn refuses(&self) -> Option<&'static str> {
        Some(NOT_IN_THIS_VERSION)
    }

    fn boot(&self) -> RunningBoot {
        // Why Windows booted stands in its event log, which this version does not read.
        RunningBoot {
            id: self.boot_id.clone(),
            kind: BootKind::Unknown,
            uptime_ms: ffi::uptime_ms(),
        }
    }

    fn build(&self) -> String {
        build_and_ubr()
    }

    fn facts(&self) -> Facts {
        let hostname = text(TCPIP, "Hostname")
            .or_else(|| std::env::var("COMPUTERNAME").ok())
            .unwrap_or_default();
        let domain = text(TCPIP, "Domain").or_else(|| text(TCPIP, "DhcpDomain"));
        let listed = ffi::list_services().unwrap_or_else(|error| {
            tracing::warn!(%error, "the service control manager does not answer");
            Vec::new()
        });
        let services = WELL_KNOWN.iter().filter_map(|name| find(&listed, name)).map(|service| {
            ServiceFact { name: service.name.clone(), state: state(service).as_str().to_owned() }
        });
        Facts {
            fqdn: domain.map(|domain| format!("{hostname}.{domain}")),
            addresses: addresses(&hostname),
            hostname,
            model: text(BIOS, "SystemProductName"),
            product: product_name(),
            build: build_and_ubr(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            pending_reboot: sources(&Registry {
                has_key: &|path| key(path).is_some(),
                is_set: &is_set,
                text: &text,
            }),
            services: services.collect(),
            ..Facts::default()
        }
    }

    fn announce(&self, _message: Option<&str>, _countdown_ms: u64) {}

    fn reboot(&self, _key: &JobKey, _boot_before: &str) -> Result<(), String> {
        Err(NOT_IN_THIS_VERSION.to_owned())
    }

    async fn changed(&self) {
        std::future::pending().await
    }

    async fn ended(&self) {
        // Windows ends this process with itself.
        std::future::pending().await
    }
}

fn not_in_this_version() -> ServicingResult {
    ServicingResult { code: 4, hresult: E_NOTIMPL, reboot_required: false, packages: Vec::new() }
}

impl Updates for Windows {
    async fn inspect(
        &self,
        _updates: &[UpdateTarget],
        _services: &[String],
        _terms: Terms,
    ) -> Result<Inspection, String> {
        Err(NOT_IN_THIS_VERSION.to_owned())
    }

    async fn download(
        &self,
        _key: &JobKey,
        _updates: &[UpdateTarget],
        _terms: Terms,
    ) -> Result<(), String> {
        Err(NOT_IN_THIS_VERSION.to_owned())
    }

    async fn install(
        &self,
        _key: &JobKey,
        _update: &UpdateTarget,
        _terms: Terms,
        _permit: Permit,
    ) -> Performed {
        Performed::Ended(not_in_this_version())
    }

    async fn find_install(
        &self,
        _key: &JobKey,
        _update: &UpdateTarget,
        _terms: Terms,
    ) -> InstallFound {
        InstallFound::NotBegun
    }

    async fn uninstall(
        &self,
        _key: &JobKey,
        _update: &UpdateTarget,
        _packages: &[String],
        _permit: Permit,
    ) -> Performed {
        Performed::Ended(not_in_this_version())
    }
}

impl Services for Windows {
    fn sample(&self, names: &[String]) -> Result<BTreeMap<String, ServiceSample>, String> {
        let listed = ffi::list_services().map_err(|error| error.to_string())?;
        let sample = |name: &String| {
            let sample =
                find(&listed, name).map_or_else(ServiceSample::missing, |service| ServiceSample {
                    state: state(service),
                    start: start_type(name),
                    pid: Some(service.pid).filter(|pid| *pid != 0),
                });
            (name.clone(), sample)
        };
        Ok(names.iter().map(sample).collect())
    }

    async fn restart(&self, _name: &str) -> Result<(), String> {
        Err(NOT_IN_THIS_VERSION.to_owned())
    }
}
