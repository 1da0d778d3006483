//! Health checks and hooks as a sealed job carries them: presets and defaults resolved.

use serde::{Deserialize, Serialize};

/// What must be healthy afterwards, compared with the baseline taken before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthChecks {
    /// Services that must run.
    pub services: Vec<String>,
    /// Questions that must be answered well. Left out where there are none, so that an agent that
    /// knows no probes refuses only the jobs that need them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    /// What becomes of services that nobody named. Left out where they are only told of, so that an
    /// agent that knows nothing else refuses only the jobs that ask for more.
    #[serde(default, skip_serializing_if = "UnlistedServices::is_report")]
    pub unlisted: UnlistedServices,
    /// Shortest time after the boot before a good verdict, milliseconds.
    pub settle_ms: u64,
    /// Restart attempts per service.
    pub restart_attempts: u32,
    /// Time between samples and between restart attempts, milliseconds. Three good samples in a row pass.
    pub sample_interval_ms: u64,
}

/// What becomes of services that nobody named, that ran before because Windows starts them, and that do
/// not run afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnlistedServices {
    /// They are told of.
    #[default]
    Report,
    /// They are judged like those that are named.
    Judge,
}

impl UnlistedServices {
    /// Whether they are only told of.
    pub fn is_report(&self) -> bool {
        *self == UnlistedServices::Report
    }
}

/// One question to the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// Name, unique in the job.
    pub name: String,
    /// Longest time for an answer, milliseconds.
    pub timeout_ms: u64,
    /// The question.
    pub check: Check,
}

/// What a probe asks. Without a host it asks the device itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Check {
    /// A TCP port takes a connection.
    Tcp {
        /// Where.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Port.
        port: u16,
    },
    /// A URL answers a GET.
    Http {
        /// `http://…` or `https://…`.
        url: String,
        /// Good statuses; none means any from 200 to 399.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        statuses: Vec<u16>,
        /// Text that the body must contain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        contains: Option<String>,
    },
    /// A process runs.
    Process {
        /// File name of its program.
        image: String,
    },
    /// A drive has room.
    Disk {
        /// Drive, such as `D:`; none is the system drive.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drive: Option<String>,
        /// Free space, gigabytes.
        min_free_gb: u32,
    },
    /// An event log is quiet.
    EventLog {
        /// Log.
        log: String,
        /// Source of the events.
        provider: String,
        /// Numbers of the events.
        ids: Vec<u16>,
        /// How far to look back, but not beyond the boot, milliseconds.
        within_ms: u64,
        /// Events that are borne.
        max: u32,
    },
    /// A name is resolved.
    Dns {
        /// The name; `.` asks a server whether it answers at all.
        name: String,
        /// Server, an IP address; none is what the device itself uses.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server: Option<String>,
    },
    /// A directory takes an anonymous bind and shows its root.
    Ldap {
        /// Where.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Port.
        port: u16,
    },
    /// A share of the device itself can be listed.
    Smb {
        /// Name of the share.
        share: String,
    },
    /// A SQL Server answers the first packet of its protocol.
    Sql {
        /// Where.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Port.
        port: u16,
    },
}

/// A program of the agent's hooks folder that runs at a set moment. Never its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hook {
    /// When.
    pub moment: HookMoment,
    /// File name in the hooks folder.
    pub program: String,
    /// Longest time it may take, milliseconds.
    pub timeout_ms: u64,
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HookMoment {
    /// Before anything is installed or removed.
    BeforeInstall,
    /// Before every restart by the agent.
    BeforeReboot,
    /// Once the device is healthy.
    AfterHealthy,
}

impl HookMoment {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            HookMoment::BeforeInstall => "beforeInstall",
            HookMoment::BeforeReboot => "beforeReboot",
            HookMoment::AfterHealthy => "afterHealthy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHOUT: &str =
        r#"{"services":["Spooler"],"settleMs":1,"restartAttempts":2,"sampleIntervalMs":3}"#;

    #[test]
    fn checks_without_probes_are_written_as_agents_that_know_none_read_them() {
        let checks: HealthChecks = serde_json::from_str(WITHOUT).unwrap();
        assert!(checks.probes.is_empty());
        assert_eq!(serde_json::to_string(&checks).unwrap(), WITHOUT);
    }

    #[test]
    fn a_question_that_this_version_does_not_know_is_refused_and_not_left_out() {
        let with = |check: &str| {
            let probes = format!(r#""probes":[{{"name":"p","timeoutMs":1,"check":{check}}}],"#);
            let text = WITHOUT.replacen("\"settleMs\"", &format!("{probes}\"settleMs\""), 1);
            serde_json::from_str::<HealthChecks>(&text)
        };
        assert!(with(r#"{"type":"Tcp","port":443}"#).is_ok());
        assert!(with(r#"{"type":"Telepathy"}"#).is_err());
        assert!(with(r#"{"type":"Tcp","port":443,"depth":1}"#).is_err());
        assert!(with(r#"{"type":"Tcp","port":70000}"#).is_err());
    }
}
