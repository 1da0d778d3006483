//! The world file: what the scripted Windows is, and what its updates do to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wardring_protocol::RebootSource;
use wardring_seal::{ActiveHours, UpdateKind, UpdateTarget};

use crate::platform::active_hours::until;
use crate::state::{People, Power, ServiceState, Startup, StoreState, Surroundings};

/// A scripted Windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct World {
    /// Product, `Windows Server 2022`.
    pub product: String,
    /// `build.UBR` before any update of this file.
    pub build: String,
    /// Services and their state after a boot without trouble.
    #[serde(default)]
    pub services: BTreeMap<String, ServiceState>,
    /// Probes, by name, that fail from the beginning; all others are answered well.
    #[serde(default)]
    pub failing_probes: Vec<String>,
    /// Programs in its hooks folder, by file name.
    #[serde(default)]
    pub hooks: BTreeMap<String, ScriptedHook>,
    /// Updates that its source knows.
    #[serde(default)]
    pub updates: Vec<ScriptedUpdate>,
    /// Signs of a pending restart that are there from the beginning; a restart clears them.
    #[serde(default)]
    pub pending_reboot: Vec<RebootSource>,
    /// Time that a restart takes, milliseconds.
    #[serde(default = "half_a_second")]
    pub reboot_ms: u64,
    /// Somebody switches it off, once.
    #[serde(default)]
    pub switched_off: Option<SwitchedOff>,
    /// Free space on the system drive.
    #[serde(default = "a_hundred")]
    pub free_disk_gb: u32,
    /// State of the component store.
    #[serde(default)]
    pub component_store: ScriptedStore,
    /// Model of the hardware.
    #[serde(default)]
    pub model: Option<String>,
    /// Roles, in the API's words.
    #[serde(default)]
    pub roles: Vec<String>,
    /// IP addresses.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Others that patch this device.
    #[serde(default)]
    pub other_patch_sources: Vec<String>,
    /// Who is logged on.
    #[serde(default)]
    pub people: ScriptedPeople,
    /// Percent that its battery has left; without it, the device is plugged in.
    #[serde(default)]
    pub battery: Option<u8>,
    /// Kinds of key protectors that ask for a person at every start, such as `TpmAndPin`.
    #[serde(default)]
    pub protectors: Vec<String>,
    /// Its own active hours, by UTC: the first one, and the first one after them.
    #[serde(default)]
    pub active_hours: Option<[u8; 2]>,
}

/// When somebody switches a scripted Windows off, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SwitchedOff {
    /// At the end of the first one of these.
    pub after: Work,
    /// Milliseconds until its next start.
    pub for_ms: u64,
}

/// What Windows is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// A download.
    Download,
    /// An installation.
    Install,
}

/// State of a scripted component store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScriptedStore {
    /// Nothing marked it as damaged.
    #[default]
    Healthy,
    /// Damaged; it can be repaired.
    Repairable,
    /// Damaged; it cannot be repaired.
    Damaged,
    /// It does not tell.
    Unknown,
}

/// People who are logged on to a scripted Windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScriptedPeople {
    /// Sessions in which somebody works.
    #[serde(default)]
    pub active: u32,
    /// Sessions that are left open.
    #[serde(default)]
    pub disconnected: u32,
    /// They leave so many milliseconds after a boot; without it they stay.
    #[serde(default)]
    pub leave_after_ms: Option<u64>,
    /// What they answer when they are asked, first the first question; nothing after the last of them.
    #[serde(default)]
    pub answers: Vec<Answers>,
    /// How long they think about it, milliseconds.
    #[serde(default)]
    pub answer_after_ms: u64,
}

/// What people answer to the question whether the device may restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answers {
    /// It may.
    Now,
    /// Not yet.
    Later,
    /// Nothing, as long as the question is open.
    Nothing,
}

/// A program in the hooks folder of a scripted Windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScriptedHook {
    /// How it ends.
    #[serde(default)]
    pub exit_code: i32,
    /// Time that it takes, milliseconds.
    #[serde(default)]
    pub takes_ms: u64,
}

/// One update of a scripted Windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScriptedUpdate {
    /// KB number.
    pub kb: String,
    /// Title.
    #[serde(default)]
    pub title: String,
    /// Where it stands at first.
    #[serde(default)]
    pub availability: Availability,
    /// `build.UBR` once it is in force.
    #[serde(default)]
    pub target_build: Option<String>,
    /// Whether a restart finishes it.
    #[serde(default = "yes")]
    pub reboot_required: bool,
    /// Time that its installation takes, milliseconds.
    #[serde(default = "a_tenth_of_a_second")]
    pub install_ms: u64,
    /// Time that its download takes, milliseconds.
    #[serde(default)]
    pub download_ms: u64,
    /// Whether it can be removed.
    #[serde(default = "yes")]
    pub uninstallable: bool,
    /// Its source classifies it as an upgrade to another version of Windows.
    #[serde(default)]
    pub upgrade: bool,
    /// What goes wrong.
    #[serde(default)]
    pub effects: Effects,
}

/// Where an update stands at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Availability {
    /// The source offers it.
    #[default]
    Offered,
    /// It is installed.
    Installed,
    /// The source does not offer it.
    NotOffered,
    /// A newer one took its place.
    Superseded,
    /// It is not for this Windows.
    NotApplicable,
}

/// What goes wrong with an update. What it breaks stays broken until it is removed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Effects {
    /// Services that do not come back from the restart.
    #[serde(default)]
    pub after_reboot: Vec<StoppedService>,
    /// Probes, by name, that fail while it is in force.
    #[serde(default)]
    pub fail_probes: Vec<String>,
    /// The device never comes back from the restart.
    #[serde(default)]
    pub never_return: bool,
    /// It crashes so many times after the restart before it stays up.
    #[serde(default)]
    pub boot_loop: u32,
    /// Windows takes it back at the restart.
    #[serde(default)]
    pub revert_at_boot: bool,
    /// The installation never ends.
    #[serde(default)]
    pub hang_install: bool,
    /// The installation fails with this HRESULT, `0x80070643`.
    #[serde(default)]
    pub fail_install: Option<String>,
    /// So many installations fail and the next one succeeds; 0: all of them fail.
    #[serde(default)]
    pub fail_installs: u32,
    /// The removal fails with this HRESULT.
    #[serde(default)]
    pub fail_uninstall: Option<String>,
    /// The download fails.
    #[serde(default)]
    pub fail_download: bool,
    /// No gateway can be reached after the restart.
    #[serde(default)]
    pub network_dead_after_reboot: bool,
}

/// A service that an update stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StoppedService {
    /// Which.
    pub stop_service: String,
    /// Whether restarting it fails.
    #[serde(default)]
    pub refuses_restart: bool,
}

fn half_a_second() -> u64 {
    500
}

fn a_tenth_of_a_second() -> u64 {
    100
}

fn a_hundred() -> u32 {
    100
}

fn yes() -> bool {
    true
}

/// Why a world file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// Not readable.
    #[error("failed to read the world file {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a world.
    #[error("failed to understand the world file {path}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_yaml::Error,
    },
    /// An HRESULT is not one.
    #[error("`{text}` is not an HRESULT such as 0x80070643")]
    Hresult {
        /// The text.
        text: String,
    },
}

impl World {
    /// Reads a world file, YAML or JSON.
    ///
    /// # Errors
    /// The file cannot be read or is not a world.
    pub fn read(path: &Path) -> Result<World, WorldError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| WorldError::Read { path: path.to_owned(), source })?;
        let world: World = serde_yaml::from_str(&text)
            .map_err(|source| WorldError::Parse { path: path.to_owned(), source })?;
        world.check()?;
        Ok(world)
    }

    /// Checks what the shape of the file cannot say.
    ///
    /// # Errors
    /// An HRESULT is not one.
    pub fn check(&self) -> Result<(), WorldError> {
        let codes = self
            .updates
            .iter()
            .flat_map(|update| [&update.effects.fail_install, &update.effects.fail_uninstall]);
        codes.flatten().try_for_each(|text| {
            hresult(text).map(|_| ()).ok_or_else(|| WorldError::Hresult { text: text.clone() })
        })
    }

    /// What a restart would be in the way of.
    pub(super) fn surroundings(
        &self,
        up_ms: u64,
        hours: Option<ActiveHours>,
        hour: u8,
    ) -> Surroundings {
        let have_left = self.people.leave_after_ms.is_some_and(|after| up_ms >= after);
        let (active, disconnected) = (self.people.active, self.people.disconnected);
        let people = if have_left { People::NOBODY } else { People { active, disconnected } };
        let hours = match hours {
            Some(ActiveHours::Fixed { start, end }) => Some([start, end]),
            Some(ActiveHours::Device {}) => self.active_hours,
            None => None,
        };
        Surroundings {
            people: Some(people),
            sessions: (1..=people.active).collect(),
            active_until: hours.and_then(|[start, end]| until(start, end, hour)),
            power: self.battery.map_or(Power::PluggedIn, |percent| Power::Battery(Some(percent))),
            startup: self.startup(),
        }
    }

    /// What it says of its component store.
    pub(super) fn component_store(&self) -> StoreState {
        match self.component_store {
            ScriptedStore::Healthy => StoreState::Healthy,
            ScriptedStore::Repairable => StoreState::Repairable,
            ScriptedStore::Damaged => StoreState::Damaged,
            ScriptedStore::Unknown => StoreState::Unknown("it does not tell".to_owned()),
        }
    }

    /// What happens at its next start.
    pub(super) fn startup(&self) -> Startup {
        if self.protectors.is_empty() {
            Startup::Unattended
        } else {
            Startup::Attended(self.protectors.clone())
        }
    }

    /// Which of these its source offers as upgrades though they are not meant to be any.
    pub(super) fn upgrades(&self, asked: &[UpdateTarget]) -> BTreeMap<String, String> {
        let is_meant = |target: &UpdateTarget| target.kind == UpdateKind::FeatureUpdate;
        let kbs = asked.iter().filter(|target| !is_meant(target)).map(|target| &target.kb);
        let of = |kb: &&String| self.update(kb).is_some_and(|update| update.upgrade);
        kbs.filter(of)
            .map(|kb| (kb.clone(), "its source classifies it as an upgrade".to_owned()))
            .collect()
    }

    pub(super) fn update(&self, kb: &str) -> Option<&ScriptedUpdate> {
        self.updates.iter().find(|update| update.kb == kb)
    }
}

/// The number behind `0x80070643`.
pub(super) fn hresult(text: &str) -> Option<u32> {
    text.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok())
}
