//! Health checks and hooks, from the API's words to those of a sealed job.

use wardring_api::{EventLogProbe, Probe, ProbeType, Span, UnlistedServices, Witness};
use wardring_planner::{HookMoment, JobHook};
use wardring_seal::{self as seal, Check};

use super::job::millis;

/// What becomes of services that nobody named.
pub(super) fn unlisted(asked: UnlistedServices) -> seal::UnlistedServices {
    match asked {
        UnlistedServices::Report => seal::UnlistedServices::Report,
        UnlistedServices::Judge => seal::UnlistedServices::Judge,
    }
}

/// A probe in the words of the payload.
pub(super) fn probe(probe: &Probe) -> seal::Probe {
    let timeout = probe.timeout.unwrap_or(Span::from_secs(10));
    seal::Probe {
        name: probe.name.clone(),
        timeout_ms: millis(timeout.duration()),
        check: check(probe).expect("the planner grants nothing with a probe that lacks its field"),
    }
}

fn check(probe: &Probe) -> Option<Check> {
    Some(match probe.kind {
        ProbeType::Tcp => {
            let tcp = probe.tcp.as_ref()?;
            Check::Tcp { host: tcp.host.clone(), port: port(tcp.port) }
        }
        ProbeType::Http => {
            let http = probe.http.as_ref()?;
            Check::Http {
                url: http.url.clone(),
                statuses: http.statuses.iter().map(|status| port(*status)).collect(),
                contains: http.contains.clone(),
            }
        }
        ProbeType::Process => Check::Process { image: probe.process.as_ref()?.image.clone() },
        ProbeType::Disk => {
            let disk = probe.disk.as_ref()?;
            Check::Disk { drive: disk.drive.clone(), min_free_gb: disk.min_free_gb }
        }
        ProbeType::EventLog => event_log(probe.event_log.as_ref()?),
        ProbeType::Dns => {
            let dns = probe.dns.as_ref()?;
            Check::Dns { name: dns.name.clone(), server: dns.server.clone() }
        }
        ProbeType::Ldap => {
            let ldap = probe.ldap.as_ref()?;
            Check::Ldap { host: ldap.host.clone(), port: port(ldap.port.unwrap_or(389)) }
        }
        ProbeType::Smb => Check::Smb { share: probe.smb.as_ref()?.share.clone() },
        ProbeType::Sql => {
            let sql = probe.sql.as_ref()?;
            Check::Sql { host: sql.host.clone(), port: port(sql.port.unwrap_or(1433)) }
        }
    })
}

fn event_log(events: &EventLogProbe) -> Check {
    Check::EventLog {
        log: events.log.clone(),
        provider: events.provider.clone(),
        ids: events.ids.iter().map(|id| port(*id)).collect(),
        within_ms: millis(events.within.unwrap_or(Span::from_mins(10)).duration()),
        max: events.max,
    }
}

/// A witness of the network in the words of the payload.
pub(super) fn endpoint(witness: &Witness) -> seal::Endpoint {
    seal::Endpoint { host: witness.host.clone(), port: port(witness.port) }
}

/// Whole numbers that the schema keeps below 65,536.
fn port(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// A hook in the words of the payload.
pub(super) fn hook(hook: &JobHook) -> seal::Hook {
    seal::Hook {
        moment: match hook.moment {
            HookMoment::BeforeInstall => seal::HookMoment::BeforeInstall,
            HookMoment::BeforeReboot => seal::HookMoment::BeforeReboot,
            HookMoment::AfterHealthy => seal::HookMoment::AfterHealthy,
        },
        program: hook.program.clone(),
        timeout_ms: millis(hook.timeout),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_becomes_of_unlisted_services_reaches_the_device_in_the_same_word() {
        for asked in [UnlistedServices::Report, UnlistedServices::Judge] {
            assert_eq!(json!(unlisted(asked)), json!(asked));
        }
    }

    #[test]
    fn every_kind_of_probe_reaches_the_device_as_it_was_asked() {
        for (asked, sealed) in [
            (json!({"type": "Tcp", "tcp": {"port": 443}}), json!({"type": "Tcp", "port": 443})),
            (
                json!({"type": "Http", "http": {"url": "https://a/b", "statuses": [204]}}),
                json!({"type": "Http", "url": "https://a/b", "statuses": [204]}),
            ),
            (
                json!({"type": "Process", "process": {"image": "a.exe"}}),
                json!({"type": "Process", "image": "a.exe"}),
            ),
            (
                json!({"type": "Disk", "disk": {"minFreeGb": 5}}),
                json!({"type": "Disk", "minFreeGb": 5}),
            ),
            (
                json!({"type": "EventLog", "eventLog":
                    {"log": "System", "provider": "Disk", "ids": [7], "within": "1h"}}),
                json!({"type": "EventLog", "log": "System", "provider": "Disk", "ids": [7],
                    "withinMs": 3_600_000, "max": 0}),
            ),
            (
                json!({"type": "Dns", "dns": {"name": "example.com"}}),
                json!({"type": "Dns", "name": "example.com"}),
            ),
            (json!({"type": "Ldap", "ldap": {}}), json!({"type": "Ldap", "port": 389})),
            (
                json!({"type": "Smb", "smb": {"share": "SYSVOL"}}),
                json!({"type": "Smb", "share": "SYSVOL"}),
            ),
            (
                json!({"type": "Sql", "sql": {"host": "db"}}),
                json!({"type": "Sql", "host": "db", "port": 1433}),
            ),
        ] {
            let mut asked = asked;
            asked["name"] = json!("p");
            let found = probe(&serde_json::from_value(asked).unwrap());
            assert_eq!(found.timeout_ms, 10_000);
            let json = serde_json::to_value(&found.check).unwrap();
            assert_eq!(json, sealed);
            assert_eq!(serde_json::from_value::<Check>(json).unwrap(), found.check);
        }
    }
}
