//! What happened to a scripted Windows so far: pure changes of one value, kept in `world.json`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use wardring_protocol::{RebootSource, key_id};
use wardring_seal::JobKey;

use super::world::{Availability, ScriptedUpdate, SwitchedOff, Work, World, hresult};
use crate::state::{
    BootKind, Off, Reversible, ServiceSample, ServiceState, ServicingResult, StartType,
    UpdateStatus,
};

/// Where Windows names a restart that an update waits for.
const CBS: &str = "ComponentBasedServicing";
const INSTALL_FAILED: i32 = 4;
const SUCCEEDED: i32 = 2;

/// The life of a scripted Windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Life {
    pub boot_id: String,
    pub boot_kind: BootKind,
    pub booted_at: Timestamp,
    pub scanned_at: Timestamp,
    /// Down until then.
    pub down_until: Option<Timestamp>,
    /// What kind the next boot will be.
    pub next_boot: BootKind,
    /// When somebody switched it off, for the first time.
    #[serde(default)]
    pub switched_off: Option<Timestamp>,
    /// How long it had been off before this boot.
    #[serde(default)]
    pub off: Option<Off>,
    /// Never comes up again.
    pub is_dead: bool,
    /// Crashes that are still to come.
    pub crashes_left: u32,
    pub services: BTreeMap<String, Service>,
    pub updates: BTreeMap<String, Stand>,
    /// Installations that ended so far, by KB.
    #[serde(default)]
    pub installs_ended: BTreeMap<String, u32>,
    /// KBs whose files are there.
    #[serde(default)]
    pub downloaded: BTreeSet<String>,
    /// Results by key and KB.
    pub results: BTreeMap<String, ServicingResult>,
    pub pending_reboot: Vec<RebootSource>,
    /// How often people were asked something.
    #[serde(default)]
    pub questions: usize,
    /// Number of the next process.
    pub next_pid: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Service {
    pub state: ServiceState,
    pub pid: Option<u32>,
    pub refuses_restart: bool,
}

/// Where an update stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Stand {
    Available(Availability),
    /// At work; without an end it hangs.
    Working {
        removes: bool,
        result: String,
        ends: Option<Timestamp>,
    },
    PendingReboot,
    Installed,
    Removing,
}

/// What an order to install or remove came to.
pub(super) enum Order {
    /// It was carried out before.
    Done(ServicingResult),
    /// It is at work.
    Working,
    /// It may begin.
    New,
}

/// Name of the result of one act on one update for one grant; every try of it has its own.
pub(super) fn act(key: &JobKey, kb: &str, removes: bool, tries: u32) -> String {
    let verb = if removes { "uninstall" } else { "install" };
    let again = if tries == 0 { String::new() } else { format!(" again {tries}") };
    format!("{} {verb} {kb}{again}", key_id(key))
}

impl Life {
    /// A Windows that was set up a moment ago.
    pub fn begin(world: &World, boot_id: String, now: Timestamp) -> Life {
        let updates = world
            .updates
            .iter()
            .map(|update| {
                let stand = match update.availability {
                    Availability::Installed => Stand::Installed,
                    other => Stand::Available(other),
                };
                (update.kb.clone(), stand)
            })
            .collect();
        let mut life = Life {
            boot_id,
            boot_kind: BootKind::Unknown,
            booted_at: now,
            scanned_at: now,
            down_until: None,
            next_boot: BootKind::Foreign,
            switched_off: None,
            off: None,
            is_dead: false,
            crashes_left: 0,
            services: BTreeMap::new(),
            updates,
            installs_ended: BTreeMap::new(),
            downloaded: BTreeSet::new(),
            results: BTreeMap::new(),
            pending_reboot: world.pending_reboot.clone(),
            questions: 0,
            next_pid: 1000,
        };
        life.start_services(world);
        life
    }

    /// The next boot.
    pub fn boot(&mut self, world: &World, boot_id: String, now: Timestamp) {
        self.advance(world, now);
        self.boot_id = boot_id;
        self.boot_kind = std::mem::replace(&mut self.next_boot, BootKind::Foreign);
        // The script says that it was off, however short it makes that.
        let since = self.switched_off.filter(|since| *since >= self.booted_at);
        self.off = since.map(|since| Off { since, until: now });
        self.booted_at = now;
        self.down_until = None;
        self.pending_reboot.clear();
        for update in &world.updates {
            let stand = self.stand(&update.kb);
            let next = match stand {
                Stand::PendingReboot if update.effects.revert_at_boot => offered(),
                Stand::PendingReboot => {
                    self.is_dead |= update.effects.never_return;
                    self.crashes_left += update.effects.boot_loop;
                    Stand::Installed
                }
                Stand::Removing => {
                    self.crashes_left = 0;
                    offered()
                }
                // The power went while Windows was at work: it undoes what it had begun.
                Stand::Working { removes: false, result, .. } => {
                    self.results.insert(result, failed(0x8024_001E));
                    offered()
                }
                // A removal that was interrupted is still to be done, and may be ordered again.
                Stand::Working { removes: true, .. } => Stand::Installed,
                other => other,
            };
            self.updates.insert(update.kb.clone(), next);
        }
        self.start_services(world);
    }

    /// Somebody switches it off at the end of this, if the script says so: until when.
    pub fn switch_off(&mut self, world: &World, work: Work, now: Timestamp) -> Option<Timestamp> {
        let SwitchedOff { after, for_ms } = world.switched_off?;
        if after != work || self.switched_off.is_some() || self.down_until.is_some() {
            return None;
        }
        self.switched_off = Some(now);
        Some(later(now, for_ms))
    }

    fn start_services(&mut self, world: &World) {
        let in_force: Vec<&ScriptedUpdate> = world
            .updates
            .iter()
            .filter(|update| self.stand(&update.kb) == Stand::Installed)
            .collect();
        for (name, declared) in &world.services {
            let stopped = in_force
                .iter()
                .flat_map(|update| &update.effects.after_reboot)
                .find(|stopped| stopped.stop_service == *name);
            let state = if stopped.is_some() { ServiceState::Stopped } else { *declared };
            let pid = (state == ServiceState::Running).then(|| self.new_pid());
            let refuses_restart = stopped.is_some_and(|stopped| stopped.refuses_restart);
            self.services.insert(name.clone(), Service { state, pid, refuses_restart });
        }
    }

    fn new_pid(&mut self) -> u32 {
        self.next_pid += 4;
        self.next_pid
    }

    /// Ends what Windows was at work on and is over by now; with or without an agent.
    pub fn advance(&mut self, world: &World, now: Timestamp) {
        for update in &world.updates {
            let Stand::Working { removes, result, ends: Some(ends) } = self.stand(&update.kb)
            else {
                continue;
            };
            if ends > now {
                continue;
            }
            let effects = &update.effects;
            let failure = if removes { &effects.fail_uninstall } else { &effects.fail_install };
            let is_over = !removes && {
                let ended = self.installs_ended.entry(update.kb.clone()).or_default();
                *ended += 1;
                effects.fail_installs > 0 && *ended > effects.fail_installs
            };
            let failure = failure.as_deref().filter(|_| !is_over).and_then(hresult);
            let needs_restart = update.reboot_required;
            let stand = match (failure, removes) {
                (None, false) if needs_restart => Stand::PendingReboot,
                (None, true) if needs_restart => Stand::Removing,
                (None, false) | (Some(_), true) => Stand::Installed,
                (None, true) | (Some(_), false) => offered(),
            };
            let ended = failure.map_or_else(
                || ServicingResult {
                    code: SUCCEEDED,
                    hresult: 0,
                    reboot_required: needs_restart,
                    packages: vec![format!("Package_for_{}~31bf3856ad364e35~amd64", update.kb)],
                },
                failed,
            );
            self.updates.insert(update.kb.clone(), stand);
            self.results.insert(result, ended);
        }
    }

    /// What an order comes to; [`Life::work`] begins it.
    pub fn order(&self, act: &str, kb: &str) -> Order {
        if let Some(result) = self.results.get(act) {
            return Order::Done(result.clone());
        }
        match self.stand(kb) {
            Stand::Working { .. } => Order::Working,
            _ => Order::New,
        }
    }

    /// Begins to install or remove. Nonsense — what is not offered, what cannot be removed — ends at
    /// once, as Windows would say it.
    pub fn work(&mut self, world: &World, act: String, kb: &str, removes: bool, now: Timestamp) {
        let update = world.update(kb);
        let stand = self.stand(kb);
        let refusal = match (&stand, removes) {
            (Stand::Available(Availability::Offered), false) => None,
            (Stand::Installed | Stand::PendingReboot, true)
                if update.is_some_and(|update| update.uninstallable) =>
            {
                None
            }
            (Stand::Installed | Stand::PendingReboot, true) => Some(failed(0x800F_0825)),
            (Stand::Installed | Stand::PendingReboot, false)
            | (Stand::Available(_) | Stand::Removing, true) => Some(done()),
            _ => Some(failed(0x8024_0017)),
        };
        if let Some(result) = refusal {
            self.results.insert(act, result);
            return;
        }
        let hangs = !removes && update.is_some_and(|update| update.effects.hang_install);
        let takes = update.map_or(0, |update| update.install_ms);
        let ends = (!hangs).then(|| later(now, takes));
        self.updates.insert(kb.to_owned(), Stand::Working { removes, result: act, ends });
    }

    /// Restarts a service.
    pub fn restart_service(&mut self, name: &str) -> Result<(), String> {
        let pid = self.new_pid();
        let Some(service) = self.services.get_mut(name) else {
            return Err(format!("{name}: error 1060, there is no such service"));
        };
        if service.refuses_restart {
            return Err(format!("{name}: error 1053, the service did not answer in time"));
        }
        service.state = ServiceState::Running;
        service.pid = Some(pid);
        Ok(())
    }

    /// One service.
    pub fn sample(&self, name: &str) -> ServiceSample {
        self.services.get(name).map_or_else(ServiceSample::missing, |service| ServiceSample {
            state: service.state,
            start: StartType::Auto,
            pid: service.pid,
            ..ServiceSample::missing()
        })
    }

    /// Where an update stands, in the agent's words.
    pub fn status(&self, world: &World, kb: &str) -> UpdateStatus {
        let reversible = match world.update(kb) {
            Some(update) if update.uninstallable => Reversible::Expected,
            Some(_) => Reversible::No,
            None => return UpdateStatus::NotOffered,
        };
        match self.stand(kb) {
            Stand::Available(Availability::Offered) | Stand::Working { removes: false, .. } => {
                UpdateStatus::Offered(reversible)
            }
            Stand::Available(Availability::Superseded) => UpdateStatus::Superseded,
            Stand::Available(Availability::NotApplicable) => UpdateStatus::NotApplicable,
            Stand::Available(_) => UpdateStatus::NotOffered,
            Stand::PendingReboot => UpdateStatus::PendingReboot(reversible),
            Stand::Installed | Stand::Working { removes: true, .. } => {
                UpdateStatus::Installed(reversible)
            }
            Stand::Removing => UpdateStatus::Removing,
        }
    }

    /// Whether Windows is at work.
    pub fn is_busy(&self) -> bool {
        self.updates.values().any(|stand| matches!(stand, Stand::Working { .. }))
    }

    /// Signs of a pending restart.
    pub fn pending(&self) -> Vec<RebootSource> {
        let waits = |stand: &Stand| matches!(stand, Stand::PendingReboot | Stand::Removing);
        let mut pending = self.pending_reboot.clone();
        if self.updates.values().any(waits) {
            pending.push(RebootSource { source: CBS.to_owned(), hard: true });
        }
        pending
    }

    /// `build.UBR`: the highest of the updates in force.
    pub fn build(&self, world: &World) -> String {
        let in_force =
            world.updates.iter().filter(|update| self.stand(&update.kb) == Stand::Installed);
        let builds = in_force.filter_map(|update| update.target_build.as_deref());
        let by_ubr = |build: &&str| {
            build.split_once('.').and_then(|(_, ubr)| ubr.parse::<u32>().ok()).unwrap_or(0)
        };
        builds.chain([world.build.as_str()]).max_by_key(by_ubr).unwrap_or_default().to_owned()
    }

    /// Whether gateways can be reached.
    pub fn has_network(&self, world: &World) -> bool {
        !world.updates.iter().any(|update| {
            update.effects.network_dead_after_reboot && self.stand(&update.kb) == Stand::Installed
        })
    }

    /// KBs whose stand is like this.
    pub fn kbs(&self, like: impl Fn(&Stand) -> bool) -> Vec<String> {
        self.updates.iter().filter(|(_, stand)| like(stand)).map(|(kb, _)| kb.clone()).collect()
    }

    pub fn stand(&self, kb: &str) -> Stand {
        let unknown = Stand::Available(Availability::NotOffered);
        self.updates.get(kb).cloned().unwrap_or(unknown)
    }
}

/// The same instant, so many milliseconds later.
pub(super) fn later(at: Timestamp, ms: u64) -> Timestamp {
    let span = SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

fn offered() -> Stand {
    Stand::Available(Availability::Offered)
}

fn failed(hresult: u32) -> ServicingResult {
    ServicingResult { code: INSTALL_FAILED, hresult, reboot_required: false, packages: Vec::new() }
}

fn done() -> ServicingResult {
    ServicingResult {
        code: SUCCEEDED,
        hresult: 0x0024_0006,
        reboot_required: false,
        packages: Vec::new(),
    }
}
