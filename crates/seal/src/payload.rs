//! The payloads: what a job asks of one device, what a device answers, what an enrolment claims.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{HealthChecks, Hook};

/// Version of every payload. A reader refuses a payload with a higher one.
pub const PAYLOAD_VERSION: u32 = 1;

/// Identity of one grant: which rollout asks which enrolled device for what, for the how-manieth time.
/// Whoever does not know all of a key must not act on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobKey {
    /// Uid of the PatchRollout.
    pub rollout_uid: String,
    /// Enrolment id of the device.
    pub device_id: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// What is asked.
    pub action: Action,
}

/// The closed set of things a job may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Fetch the updates, install nothing.
    Download,
    /// Install and prove.
    Install,
    /// Take the updates back and prove it.
    Rollback,
}

/// A sealed job: everything an agent acts on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobPayload {
    /// [`PAYLOAD_VERSION`].
    pub version: u32,
    /// Namespace (tenant) of rollout and device.
    pub namespace: String,
    /// Name of the device.
    pub device: String,
    /// Name of the rollout, for logs and people.
    pub rollout: String,
    /// Name of the stage, for logs and people.
    pub stage: String,
    /// Slice that holds the device's line.
    pub slice: String,
    /// Which grant this is.
    pub key: JobKey,
    /// Ledger sequence of the grant. Agents remember the highest they saw, and refuse lower ones.
    pub sequence: i64,
    /// Updates, in order of installation; a rollback goes through them backwards.
    pub updates: Vec<UpdateTarget>,
    /// Where the device looks for updates.
    pub source: UpdateSource,
    /// Whether licence terms may be accepted.
    pub accept_eula: bool,
    /// No install or uninstall begins after this instant.
    pub start_by: Timestamp,
    /// No step begins after this instant.
    pub finish_by: Timestamp,
    /// Checks before anything happens.
    pub preflight: Preflight,
    /// What must be healthy afterwards.
    pub health: HealthChecks,
    /// How to restart.
    pub reboot: RebootRules,
    /// What the agent does by itself when health fails for good after an install.
    pub on_unhealthy: OnUnhealthy,
    /// Programs that run around installation and restarts, in order. Left out where there are none,
    /// so that an agent that knows no hooks refuses only the jobs that need them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// What makes the device take the updates back without a permit. Left out where nothing does, so
    /// that an agent that does not know it refuses only the jobs that ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autonomous_rollback: Option<AutonomousRollback>,
}

/// What makes a device take back, once and without a permit, what this very job installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AutonomousRollback {
    /// Two crashes or losses of power since the update.
    pub boot_loop: bool,
    /// The network is lost since the update. Left out where that does not count, so that an agent that
    /// does not know it refuses only the jobs that ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_lost: Option<NetworkLost>,
}

/// When a device takes its network for lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkLost {
    /// How long nothing must have answered, milliseconds; the device adds up to as much by chance.
    pub after_ms: u64,
    /// Ports of other devices that count beside gateways and DNS servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<Endpoint>,
}

/// A TCP port of another device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// One update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdateTarget {
    /// KB number, `KB5068787`.
    pub kb: String,
    /// Product it is for, `Windows Server 2022`.
    pub product: String,
    /// Kind, which decides how it is proven.
    pub kind: UpdateKind,
    /// `build.UBR` after a proven install, for quality updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_build: Option<String>,
    /// Update identities, `<UpdateID>/<revision>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
    /// Its package, where the job brings it itself. Left out where the device's source does, so that
    /// an agent that fetches nothing refuses only the jobs that ask it to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<Package>,
}

/// A package (`.msu`) that a job brings itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Package {
    /// Where it is fetched.
    pub url: String,
    /// SHA-256 of the whole file, hexadecimal: nothing else is installed, whoever answers there.
    pub sha256: String,
}

/// Kind of an update, in words that decide how it is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum UpdateKind {
    /// Cumulative quality update: proven by build.UBR.
    Quality,
    /// .NET: proven by its package or history.
    DotNet,
    /// Servicing stack alone.
    ServicingStack,
    /// Another package of Windows.
    Other,
    /// Upgrade to another Windows version.
    FeatureUpdate,
    /// Driver.
    Driver,
    /// Defender definitions.
    Definition,
}

/// Where a device looks for updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateSource {
    /// What the device's policy says.
    Default,
    /// The WSUS server of the device's policy.
    Wsus,
    /// Windows Update.
    WindowsUpdate,
    /// Microsoft Update.
    MicrosoftUpdate,
}

/// Checks before anything happens on the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preflight {
    /// Whether a pending restart is cleared by restarting first; otherwise it refuses the job.
    pub reboot_first: bool,
    /// Free space the system drive needs, gigabytes; 0 checks nothing.
    pub min_free_disk_gb: u32,
    /// Refuse updates that cannot be taken back.
    pub require_reversible: bool,
    /// Go on although the device would wait for a person at its next start, or cannot tell.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ignore_attended_boot: bool,
    /// Go on although the device runs on battery.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ignore_battery: bool,
    /// What a damaged component store means. Left out where it is the usual, so that an agent that does
    /// not look at it refuses only the jobs that say something else.
    #[serde(default, skip_serializing_if = "StorePolicy::is_usual")]
    pub component_store: StorePolicy,
    /// Refuse the job where something else patches the device, too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sole_source: bool,
}

/// What a damaged component store means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorePolicy {
    /// Damage refuses the job.
    #[default]
    Block,
    /// So does not to know.
    Require,
    /// It is not looked at.
    Ignore,
}

impl StorePolicy {
    fn is_usual(&self) -> bool {
        *self == StorePolicy::Block
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// How to restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RebootRules {
    /// The agent's own countdown, milliseconds; the permit is asked for at its end.
    pub countdown_ms: u64,
    /// Text for people who are logged on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// A device that has not restarted after this long is stuck, milliseconds.
    pub stuck_after_ms: u64,
    /// Longest that a restart waits for people and for active hours, milliseconds. Left out where it
    /// waits for neither: an agent that cannot wait refuses the jobs that ask it to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wait_ms: u64,
    /// How often people may put it off, each time until they are asked again and never beyond `wait_ms`.
    /// Left out where nobody is asked: an agent that cannot ask refuses only the jobs that want it to.
    #[serde(default, skip_serializing_if = "is_never")]
    pub deferrals: u8,
    /// End programs that refuse to end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
    /// Hours in which a restart waits, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_hours: Option<ActiveHours>,
}

fn is_never(times: &u8) -> bool {
    *times == 0
}

fn is_zero(ms: &u64) -> bool {
    *ms == 0
}

/// Hours of the day in which a restart waits, by the device's local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type", deny_unknown_fields)]
pub enum ActiveHours {
    /// Those that Windows Update has on the device. With braces, because without them serde would skip
    /// fields that it does not know.
    Device {},
    /// These.
    Fixed {
        /// First hour, 0 to 23.
        start: u8,
        /// First hour after them, 0 to 23; below `start`, it is one of the next day.
        end: u8,
    },
}

/// What the agent does when health fails for good after an install.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnUnhealthy {
    /// Report Failed and leave everything as it is; the controller decides on a rollback job.
    Report,
}

/// What a device says at the end of a grant; signed with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutcomePayload {
    /// [`PAYLOAD_VERSION`].
    pub version: u32,
    /// Which grant this answers.
    pub key: JobKey,
    /// Ledger sequence of that grant.
    pub sequence: i64,
    /// Namespace of the device.
    pub namespace: String,
    /// Name of the device.
    pub device: String,
    /// The result.
    pub result: OutcomeResult,
    /// Detail word, such as `ServiceDown` (a reason of the API), if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence for people, at most 256 characters.
    pub message: String,
    /// Boot in which the result was found.
    pub boot_id: String,
    /// Boot in which the installation ended, if there was one: success after a required restart
    /// needs `boot_id` to differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_in_boot: Option<String>,
    /// Whether any update asked for a restart.
    pub reboot_required: bool,
    /// Whether installing (or uninstalling) really began.
    pub started: bool,
    /// `build.UBR` at the end.
    pub build: String,
    /// Restarts made for this grant.
    pub reboots: u32,
    /// By the device's clock.
    pub at: Timestamp,
}

/// Result of a grant, by the device's own proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OutcomeResult {
    /// Installed and proven, after the restart where one was needed.
    Succeeded,
    /// It was there already.
    AlreadyInstalled,
    /// Out of scope for this Windows.
    NotApplicable,
    /// The device's source does not offer it.
    NotOffered,
    /// A newer update took its place.
    Superseded,
    /// Did not begin: startBy passed, clock wrong, on battery.
    NotStarted,
    /// Somebody else installed it.
    PatchedOutside,
    /// A person switched the device off cleanly.
    PoweredOff,
    /// Failed, see `reason`.
    Failed,
    /// Windows took it back at boot.
    RevertedByWindows,
    /// Taken back, verified.
    RolledBack,
    /// Cannot be taken back.
    NotReversible,
    /// Taking it back failed.
    RollbackFailed,
}

/// What an agent claims when it asks for a certificate. Signed with the token's seed (first
/// enrolment) or the current key (renewal).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnrolmentClaim {
    /// [`PAYLOAD_VERSION`].
    pub version: u32,
    /// Namespace (tenant).
    pub namespace: String,
    /// Name wanted for the device.
    pub device: String,
    /// Token, `None` for a renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Certificate signing request (DER, base64) for the new key.
    pub csr: String,
    /// When, by the device's clock.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::bytes::read_payload;

    /// A job that uses everything that there is.
    fn whole() -> Value {
        json!({
            "version": 1, "namespace": "n", "device": "d", "rollout": "r", "stage": "s",
            "slice": "r-s-0", "sequence": 7, "source": "Wsus", "acceptEula": true,
            "key": { "rolloutUid": "u", "deviceId": "e", "attempt": 1, "action": "Install" },
            "updates": [{
                "kb": "KB5068787", "product": "p", "kind": "Quality", "targetBuild": "1.2",
                "identities": ["a/1"],
                "package": { "url": "https://h/p.msu", "sha256": "0a" },
            }],
            "startBy": "2026-11-21T02:00:00Z", "finishBy": "2026-11-21T06:00:00Z",
            "preflight": {
                "rebootFirst": true, "minFreeDiskGb": 1, "requireReversible": true,
                "ignoreAttendedBoot": true, "ignoreBattery": true,
            },
            "health": {
                "services": ["Spooler"], "settleMs": 1, "restartAttempts": 1,
                "sampleIntervalMs": 1,
                "probes": [
                    { "name": "a", "timeoutMs": 1, "check": { "type": "Tcp", "port": 1 } },
                    { "name": "b", "timeoutMs": 1, "check": { "type": "Smb", "share": "SYSVOL" } },
                ],
            },
            "reboot": {
                "countdownMs": 1, "message": "m", "stuckAfterMs": 1, "waitMs": 1, "force": true,
                "deferrals": 3,
                "activeHours": { "type": "fixed", "start": 8, "end": 17 },
            },
            "onUnhealthy": "Report",
            "hooks": [{ "moment": "BeforeInstall", "program": "x.exe", "timeoutMs": 1 }],
            "autonomousRollback": {
                "bootLoop": true,
                "networkLost": {
                    "afterMs": 1, "witnesses": [{ "host": "192.0.2.1", "port": 389 }],
                },
            },
        })
    }

    /// Adds a field to one object after the other, however deep.
    fn each_with_one_more(value: &Value) -> Vec<(String, Value)> {
        let deeper = |place: String, of: &dyn Fn(Value) -> Value, inner: &Value| {
            let all = each_with_one_more(inner).into_iter();
            all.map(|(path, inner)| (format!("{place}.{path}"), of(inner))).collect::<Vec<_>>()
        };
        match value {
            Value::Object(map) => {
                let mut all = vec![(String::new(), {
                    let mut map = map.clone();
                    map.insert("newRule".to_owned(), json!(true));
                    Value::Object(map)
                })];
                for (key, inner) in map {
                    let of = |inner| {
                        let mut map = map.clone();
                        map.insert(key.clone(), inner);
                        Value::Object(map)
                    };
                    all.extend(deeper(key.clone(), &of, inner));
                }
                all
            }
            Value::Array(list) => {
                let mut all = Vec::new();
                for (index, inner) in list.iter().enumerate() {
                    let of = |inner| {
                        let mut list = list.clone();
                        list[index] = inner;
                        Value::Array(list)
                    };
                    all.extend(deeper(index.to_string(), &of, inner));
                }
                all
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn a_restart_that_nobody_may_put_off_says_nothing_that_an_older_agent_does_not_know() {
        let mut job: JobPayload = serde_json::from_value(whole()).unwrap();
        let written = |job: &JobPayload| serde_json::to_value(job).unwrap()["reboot"].clone();
        assert_eq!(written(&job)["deferrals"], 3);
        job.reboot.deferrals = 0;
        assert_eq!(written(&job).get("deferrals"), None);
        let read: JobPayload = serde_json::from_str(&serde_json::to_string(&job).unwrap()).unwrap();
        assert_eq!(read, job);
    }

    #[test]
    fn a_job_with_a_rule_that_this_agent_does_not_know_is_refused_wherever_it_stands() {
        let mut device_hours = whole();
        device_hours["reboot"]["activeHours"] = json!({ "type": "device" });
        for whole in [whole(), device_hours] {
            let text = whole.to_string();
            read_payload::<JobPayload>(&text).unwrap();
            let changed = each_with_one_more(&whole);
            assert!(changed.len() >= 15, "{changed:?}");
            for (place, job) in changed {
                let read = read_payload::<JobPayload>(&job.to_string());
                assert!(read.is_err(), "a new rule in `{place}` would be half obeyed");
            }
        }
    }
}
