//! What must be healthy on a device after an update: services, probes, and presets of both.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Span;

/// Names of other devices, as probes and witnesses may carry them: a DNS name or an address.
pub(crate) const HOST: &str = "^[A-Za-z0-9]([-A-Za-z0-9._:]*[A-Za-z0-9])?$";

/// What must be healthy on a device after the update, always compared with its own baseline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Services by name that must run if they ran before (and must exist).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub services: Vec<String>,
    /// What becomes of a service that is not named here or by a preset, ran before because Windows starts
    /// it, and does not run afterwards: `Report` (the default) tells of it in the job's `status.changes`,
    /// `Judge` treats it as if it were named. One that starts by a trigger, on demand or for one user, or
    /// that ended without an error, is not meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlisted_services: Option<UnlistedServices>,
    /// Questions to the device that must be answered well if they were before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub probes: Vec<Probe>,
    /// Services and probes by what the device is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub presets: Vec<HealthPreset>,
    /// Shortest time between the first contact after the restart and a good verdict. Default 3m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<Span>,
    /// Restart attempts for a service that does not run; default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub restart_attempts: Option<u32>,
    /// Pause between the three good samples that a verdict needs, and after the first restart attempt;
    /// each further attempt waits twice as long, up to 2 minutes. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_interval: Option<Span>,
}

/// What becomes of services that nobody named and that ended with the update; default `Report`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum UnlistedServices {
    /// They are told of.
    #[default]
    Report,
    /// They must run if Windows started them before.
    Judge,
}

/// Services and probes by what a device is for. What a device does not have is not asked of it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum HealthPreset {
    /// Directory, Kerberos, Netlogon, DNS and SYSVOL of a domain controller.
    DomainController,
    /// The default instance of SQL Server; name the services of others under `services`.
    SqlServer,
    /// The print spooler.
    PrintServer,
    /// Remote Desktop Session Host.
    RdsHost,
}

/// One question to the device: exactly the one field that `type` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Name, unique among the probes; reports use it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What is asked.
    #[serde(rename = "type")]
    pub kind: ProbeType,
    /// Longest time for an answer, at most 60s; default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// For type Tcp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// For type Http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// For type Process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessProbe>,
    /// For type Disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskProbe>,
    /// For type EventLog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_log: Option<EventLogProbe>,
    /// For type Dns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsProbe>,
    /// For type Ldap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ldap: Option<LdapProbe>,
    /// For type Smb.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smb: Option<SmbProbe>,
    /// For type Sql.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<SqlProbe>,
}

impl Probe {
    /// A probe without its question.
    pub fn new(name: &str, kind: ProbeType) -> Probe {
        Probe {
            name: name.to_owned(),
            kind,
            timeout: None,
            tcp: None,
            http: None,
            process: None,
            disk: None,
            event_log: None,
            dns: None,
            ldap: None,
            smb: None,
            sql: None,
        }
    }
}

/// What a probe asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProbeType {
    /// A TCP port takes a connection.
    Tcp,
    /// A URL answers.
    Http,
    /// A process runs.
    Process,
    /// A drive has room.
    Disk,
    /// An event log is quiet.
    EventLog,
    /// A name is resolved.
    Dns,
    /// A directory takes an anonymous bind and shows its root.
    Ldap,
    /// A share of the device itself can be listed.
    Smb,
    /// A SQL Server answers the first packet of its protocol.
    Sql,
}

/// A TCP port that takes a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpProbe {
    /// Where; default the device itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = HOST))]
    pub host: Option<String>,
    /// Port.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u32,
}

/// A URL that answers a GET. Redirects are not followed, and certificates are not judged: the
/// probe asks whether something answers, and sends nothing that would be worth stealing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpProbe {
    /// `http://…` or `https://…`, in ASCII (`xn--…`, `%C3%BC`), without user name and password.
    #[schemars(length(min = 8, max = 512), regex(pattern = r"^https?://[A-Za-z0-9\[][!-?A-~]*$"))]
    pub url: String,
    /// Statuses that are good; default any from 200 to 399.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(range(min = 100, max = 599)))]
    pub statuses: Vec<u32>,
    /// Text that the first 64 KiB of the body must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub contains: Option<String>,
}

/// A process that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessProbe {
    /// File name of its program, such as `sqlservr.exe`; case does not matter.
    #[schemars(length(min = 1, max = 128), regex(pattern = r#"^[^\\/:*?"<>|]+$"#))]
    pub image: String,
}

/// A drive that has room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskProbe {
    /// Drive, such as `D:`; default the system drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 2), regex(pattern = "^[A-Za-z]:$"))]
    pub drive: Option<String>,
    /// Free space it must have, in gigabytes.
    #[schemars(range(min = 1, max = 100_000))]
    pub min_free_gb: u32,
}

/// An event log that is quiet: of the named events, no more than `max` within `within`, and none
/// from before the last start of Windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventLogProbe {
    /// Log, such as `Application` or `System`.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9 ./_-]+$"))]
    pub log: String,
    /// Source of the events, such as `Application Error`.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9 ./_$()-]+$"))]
    pub provider: String,
    /// Numbers of the events.
    #[schemars(length(min = 1, max = 8), inner(range(min = 0, max = 65_535)))]
    pub ids: Vec<u32>,
    /// How far to look back, at most 24h; default 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
    /// Events that are borne; default none.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000))]
    pub max: u32,
}

/// A name that is resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DnsProbe {
    /// The name. With `server`, `.` asks only whether the server answers at all.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^(\.|[A-Za-z0-9_]([-A-Za-z0-9._]*[A-Za-z0-9])?)$")
    )]
    pub name: String,
    /// Server to ask, an IP address; default what the device itself uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 45), regex(pattern = "^[0-9A-Fa-f:.]+$"))]
    pub server: Option<String>,
}

/// A directory that takes an anonymous bind and shows its root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LdapProbe {
    /// Where; default the device itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = HOST))]
    pub host: Option<String>,
    /// Port; default 389.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u32>,
}

/// A share of the device itself. Shares elsewhere cannot be asked for: the device would prove
/// itself to whoever the rollout names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SmbProbe {
    /// Name of the share, such as `SYSVOL`.
    #[schemars(length(min = 1, max = 80), regex(pattern = r"^[A-Za-z0-9_-]+[$]?$"))]
    pub share: String,
}

/// A SQL Server that answers the first packet of its protocol; nobody logs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SqlProbe {
    /// Where; default the device itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = HOST))]
    pub host: Option<String>,
    /// Port; default 1433.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u32>,
}
