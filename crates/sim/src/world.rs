//! A scripted Windows: where its updates and services stand, and what its script makes of an
//! installation, a restart or a removal. It knows no agent and no time.

use std::collections::{BTreeMap, BTreeSet};

use wardring_agent::state::{
    Inspection, ProbeSample, Reversible, ServiceSample, ServiceState, ServicingResult, StartType,
    StoreState, Surroundings, UpdateStatus,
};
use wardring_api::UpdateSpec;
use wardring_protocol::{Facts, RebootSource, Scan, ServiceFact};
use wardring_seal::{JobKey, Probe, UpdateTarget};

use crate::clock::{Ms, wall};

/// The two products of a fleet.
pub const PRODUCTS: [&str; 2] = ["Windows Server 2022", "Windows 11 24H2"];
/// The one service that rollouts watch.
pub const SERVICE: &str = "MSSQLSERVER";

const BEFORE: &str = "20348.100";
const AFTER: &str = "20348.200";

/// Updates that exist.
pub fn catalogue() -> Vec<UpdateSpec> {
    let update = |kb: &str, product: &str, kind: &str| {
        let build = (kind == "Quality").then_some(AFTER);
        let value = serde_json::json!({
            "kb": kb, "title": kb, "product": product, "kind": kind, "release": "2026-11",
            "targetBuild": build,
        });
        serde_json::from_value(value).expect("the catalogue reads")
    };
    vec![
        update("KB5068787", PRODUCTS[0], "Quality"),
        update("KB5068001", PRODUCTS[0], "DotNet"),
        update("KB5068791", PRODUCTS[1], "Quality"),
    ]
}

/// What happens on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Everything works.
    Good,
    /// It has every update already.
    Current,
    /// Its source offers nothing.
    NotOffered,
    /// The service does not run after the restart, whatever is tried.
    ServiceDown,
    /// The service runs once it is restarted.
    ServiceLame,
    /// The installation fails.
    InstallFails,
    /// The installation fails the first time.
    FailsOnce,
    /// Windows takes the update back at the restart.
    Reverts,
    /// It never comes back from the restart.
    Lost,
    /// It comes back hours later.
    Slow,
    /// It crashes again and again after the restart, until the update is removed.
    BootLoop,
    /// The service does not run, and the update cannot be removed.
    Stuck,
    /// A restart was pending before anything began.
    Pending,
}

impl Script {
    /// Every script, good ones more often.
    pub const ALL: [Script; 20] = [
        Script::Good,
        Script::Good,
        Script::Good,
        Script::Good,
        Script::Good,
        Script::Good,
        Script::Good,
        Script::Good,
        Script::Current,
        Script::NotOffered,
        Script::ServiceDown,
        Script::ServiceLame,
        Script::InstallFails,
        Script::FailsOnce,
        Script::Reverts,
        Script::Lost,
        Script::Slow,
        Script::BootLoop,
        Script::Stuck,
        Script::Pending,
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Offered,
    NotOffered,
    /// Installed; a restart finishes it.
    PendingInstall,
    Installed,
    /// Removed; a restart finishes it.
    PendingRemoval,
}

/// One Windows.
#[derive(Clone, Debug)]
pub struct World {
    /// Product.
    pub product: &'static str,
    /// What happens on it.
    pub script: Script,
    /// Number of the running boot.
    pub boot: u32,
    updates: BTreeMap<String, Stand>,
    service: ServiceState,
    pid: u32,
    pending: bool,
    failed_once: bool,
    /// Installations and removals that ended, by grant and update.
    ended: BTreeMap<(JobKey, String), ServicingResult>,
    /// The one that runs, and when it ends.
    pub running: Option<(JobKey, String, Ms)>,
    /// Boot in which an update was last installed.
    installed_in: BTreeMap<String, u32>,
    /// How often each installation began, by grant and update.
    pub begun: BTreeMap<(JobKey, String), u32>,
}

/// How a restart goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comeback {
    /// After a while.
    Soon,
    /// After hours.
    Late,
    /// Never.
    Never,
}

impl World {
    /// A Windows that was not touched yet.
    pub fn new(product: &'static str, script: Script) -> World {
        let stand = match script {
            Script::Current => Stand::Installed,
            Script::NotOffered => Stand::NotOffered,
            _ => Stand::Offered,
        };
        let ours = catalogue().into_iter().filter(|update| update.product == product);
        World {
            product,
            script,
            boot: 1,
            updates: ours.map(|update| (update.kb.to_string(), stand)).collect(),
            service: ServiceState::Running,
            pid: 100,
            pending: script == Script::Pending,
            failed_once: false,
            ended: BTreeMap::new(),
            running: None,
            installed_in: BTreeMap::new(),
            begun: BTreeMap::new(),
        }
    }

    /// Identity of the running boot.
    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    /// `build.UBR`.
    pub fn build(&self) -> String {
        let quality = self.updates.iter().find(|(kb, _)| *kb != "KB5068001");
        let stands = quality.map(|(_, stand)| *stand);
        let build = match stands {
            Some(Stand::Installed | Stand::PendingRemoval) => AFTER,
            _ => BEFORE,
        };
        build.to_owned()
    }

    /// Whether every update is installed, and a restart came after the last installation.
    pub fn is_proven(&self) -> bool {
        self.updates.values().all(|stand| *stand == Stand::Installed)
            && self.installed_in.values().all(|boot| *boot < self.boot)
    }

    /// Whether anything of the updates is on the device.
    pub fn carries_any(&self) -> bool {
        let gone = |stand: &Stand| matches!(stand, Stand::Offered | Stand::NotOffered);
        !self.updates.values().all(gone)
    }

    /// What a look at the device shows.
    pub fn inspect(
        &self,
        targets: &[UpdateTarget],
        services: &[String],
        probes: &[Probe],
    ) -> Inspection {
        let reversible =
            if self.script == Script::Stuck { Reversible::Unknown } else { Reversible::Expected };
        let status = |target: &UpdateTarget| {
            let status = match self.updates.get(&target.kb) {
                None => UpdateStatus::NotApplicable,
                Some(Stand::Offered) => UpdateStatus::Offered(reversible),
                Some(Stand::NotOffered) => UpdateStatus::NotOffered,
                Some(Stand::PendingInstall) => UpdateStatus::PendingReboot(reversible),
                Some(Stand::Installed) => UpdateStatus::Installed(reversible),
                Some(Stand::PendingRemoval) => UpdateStatus::Removing,
            };
            (target.kb.clone(), status)
        };
        let sample = ServiceSample {
            state: self.service,
            start: StartType::Auto,
            pid: (self.service == ServiceState::Running).then_some(self.pid),
            ..ServiceSample::missing()
        };
        Inspection {
            product: self.product.to_owned(),
            build: self.build(),
            updates: targets.iter().map(status).collect(),
            upgrades: BTreeMap::new(),
            pending_upgrade: None,
            services: services.iter().map(|name| (name.clone(), sample.clone())).collect(),
            automatic: BTreeSet::new(),
            // What an update breaks here is a service.
            probes: probes.iter().map(|probe| (probe.name.clone(), ProbeSample::Good)).collect(),
            ports: BTreeSet::new(),
            witnesses: BTreeSet::new(),
            hard_pending: self.hard_pending(),
            busy: self.running.is_some(),
            free_disk_gb: Some(100),
            component_store: Some(StoreState::Healthy),
            other_patch_sources: Vec::new(),
            surroundings: Surroundings::CLEAR,
        }
    }

    fn hard_pending(&self) -> Vec<String> {
        let waits = |stand: &Stand| matches!(stand, Stand::PendingInstall | Stand::PendingRemoval);
        let servicing = self.updates.values().any(waits);
        if self.pending || servicing { vec!["CBS RebootPending".to_owned()] } else { Vec::new() }
    }

    /// Everything there is to report.
    pub fn facts(&self, name: &str, now: Ms) -> Facts {
        let with = |stand: Stand| -> Vec<String> {
            let all = self.updates.iter().filter(|(_, found)| **found == stand);
            all.map(|(kb, _)| kb.clone()).collect()
        };
        Facts {
            hostname: name.to_owned(),
            product: self.product.to_owned(),
            build: self.build(),
            agent_version: "0.1.0".to_owned(),
            last_scan: Some(Scan {
                // A day's scan: facts change when something changed, not with every look.
                time: wall(now - now % crate::clock::HOUR),
                source: "WSUS".to_owned(),
                result: "0x00000000".to_owned(),
            }),
            installed: with(Stand::Installed),
            installed_count: with(Stand::Installed).len() as u32,
            missing: with(Stand::Offered),
            pending_reboot: self
                .hard_pending()
                .into_iter()
                .map(|source| RebootSource { source, hard: true })
                .collect(),
            services: vec![ServiceFact {
                name: SERVICE.to_owned(),
                state: self.service.as_str().to_owned(),
            }],
            ..Facts::default()
        }
    }

    /// How an installation or removal ended, if it did.
    pub fn ended(&self, key: &JobKey, kb: &str) -> Option<ServicingResult> {
        self.ended.get(&(key.clone(), kb.to_owned())).cloned()
    }

    /// Begins an installation or a removal that ends at `until`.
    pub fn begin(&mut self, key: &JobKey, kb: &str, until: Ms) {
        *self.begun.entry((key.clone(), kb.to_owned())).or_default() += 1;
        self.running = Some((key.clone(), kb.to_owned(), until));
    }

    /// The installation or removal that runs comes to its end.
    pub fn finish(&mut self) {
        let Some((key, kb, _)) = self.running.take() else { return };
        let is_removal = key.action == wardring_seal::Action::Rollback;
        let fails = match self.script {
            Script::InstallFails => !is_removal,
            Script::FailsOnce if !is_removal => !std::mem::replace(&mut self.failed_once, true),
            Script::Stuck => is_removal,
            _ => false,
        };
        if !fails {
            let stand = self.updates.get(&kb).copied().unwrap_or(Stand::NotOffered);
            let next = match (is_removal, stand) {
                (false, _) => Stand::PendingInstall,
                (true, Stand::PendingInstall) => Stand::Offered,
                (true, _) => Stand::PendingRemoval,
            };
            self.updates.insert(kb.clone(), next);
            if !is_removal {
                self.installed_in.insert(kb.clone(), self.boot);
            }
        }
        let result = ServicingResult {
            code: if fails { 4 } else { 2 },
            hresult: if fails { 0x8007_0643 } else { 0 },
            reboot_required: !fails,
            packages: Vec::new(),
        };
        self.ended.insert((key, kb), result);
    }

    /// The service is restarted by hand.
    pub fn restart_service(&mut self) {
        self.pid += 1;
        if !matches!(self.script, Script::ServiceDown | Script::Stuck) || !self.carries_any() {
            self.service = ServiceState::Running;
        }
    }

    /// Windows goes down. Answers whether and when it comes back.
    pub fn go_down(&mut self) -> Comeback {
        // What was being installed is not installed.
        self.running = None;
        let installs = self.updates.values().any(|stand| *stand == Stand::PendingInstall);
        match self.script {
            Script::Lost if installs => Comeback::Never,
            Script::Slow if installs => Comeback::Late,
            _ => Comeback::Soon,
        }
    }

    /// Windows is up again.
    pub fn come_up(&mut self) {
        self.boot += 1;
        self.pid += 1;
        self.pending = false;
        let reverts = self.script == Script::Reverts;
        for stand in self.updates.values_mut() {
            *stand = match *stand {
                Stand::PendingInstall if reverts => Stand::Offered,
                Stand::PendingInstall => Stand::Installed,
                Stand::PendingRemoval => Stand::Offered,
                stand => stand,
            };
        }
        let breaks =
            matches!(self.script, Script::ServiceDown | Script::ServiceLame | Script::Stuck);
        self.service = if breaks && self.carries_any() {
            ServiceState::Stopped
        } else {
            ServiceState::Running
        };
    }

    /// Whether it crashes by itself in this boot.
    pub fn crashes(&self) -> bool {
        self.script == Script::BootLoop && self.carries_any()
    }

    /// Crashes no more.
    pub fn calm_down(&mut self) {
        if self.script == Script::BootLoop {
            self.script = Script::Good;
        }
    }

    /// Grants whose installation of some update began more than once.
    pub fn twice(&self) -> BTreeSet<String> {
        // A removal that a restart interrupted is begun again, and removes nothing twice.
        let twice = self.begun.iter().filter(|((key, _), times)| {
            key.action == wardring_seal::Action::Install && **times > 1
        });
        twice.map(|((key, kb), _)| format!("{kb} under attempt {}", key.attempt)).collect()
    }
}
