//! What must be healthy on one device, and which hooks run on it: what the rollout says together
//! with what the device's groups say, presets and defaults resolved.
//!
//! Presets are made of names alone. What a device does not have — a service that does not exist, a
//! probe that failed before — is not held against the update by the agent, so a preset may stand on
//! devices that play the role only in part.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use wardring_api::{
    DeviceGroupSpec, DnsProbe, Health, HealthPreset, Hook, LdapProbe, Probe, ProbeType, SmbProbe,
    Span, SqlProbe, TcpProbe,
};

use crate::{HookMoment, JobHealth, JobHook};

/// Hooks of one moment beyond these are not sealed: a device is in a few groups at most.
const MAX_HOOKS: usize = 4;

/// Whether a probe has the field that its type names. The API server sees to that with a rule of the
/// CRD; a cluster whose CRD lost it must not get jobs with fewer checks than people asked for.
pub(crate) fn asks_something(probe: &Probe) -> bool {
    match probe.kind {
        ProbeType::Tcp => probe.tcp.is_some(),
        ProbeType::Http => probe.http.is_some(),
        ProbeType::Process => probe.process.is_some(),
        ProbeType::Disk => probe.disk.is_some(),
        ProbeType::EventLog => probe.event_log.is_some(),
        ProbeType::Dns => probe.dns.is_some(),
        ProbeType::Ldap => probe.ldap.is_some(),
        ProbeType::Smb => probe.smb.is_some(),
        ProbeType::Sql => probe.sql.is_some(),
    }
}

/// What a preset stands for.
///
/// Service names and ports: Microsoft Learn, "Service overview and network port requirements for
/// Windows"; the services of SQL Server: "Configure Windows service accounts and permissions".
pub fn resolve_preset(preset: HealthPreset) -> (&'static [&'static str], Vec<Probe>) {
    match preset {
        HealthPreset::DomainController => (
            // DNS is the DNS server, which a domain controller may or may not be.
            &["NTDS", "Kdc", "Netlogon", "DFSR", "W32Time", "ADWS", "DNS"],
            vec![
                Probe {
                    ldap: Some(LdapProbe::default()),
                    ..Probe::new("domain-controller-ldap", ProbeType::Ldap)
                },
                Probe {
                    // Without it no group policy and no logon script reaches anybody.
                    smb: Some(SmbProbe { share: "SYSVOL".to_owned() }),
                    ..Probe::new("domain-controller-sysvol", ProbeType::Smb)
                },
                Probe {
                    dns: Some(DnsProbe {
                        name: ".".to_owned(),
                        server: Some("127.0.0.1".to_owned()),
                    }),
                    ..Probe::new("domain-controller-dns", ProbeType::Dns)
                },
            ],
        ),
        HealthPreset::SqlServer => (
            &["MSSQLSERVER", "SQLSERVERAGENT"],
            vec![Probe {
                sql: Some(SqlProbe::default()),
                ..Probe::new("sql-server", ProbeType::Sql)
            }],
        ),
        HealthPreset::PrintServer => (&["Spooler"], Vec::new()),
        HealthPreset::RdsHost => (
            &["TermService", "SessionEnv", "UmRdpService"],
            vec![Probe {
                tcp: Some(TcpProbe { host: None, port: 3389 }),
                ..Probe::new("rds-host", ProbeType::Tcp)
            }],
        ),
    }
}

/// The checks for a device in `groups`. What the rollout itself names comes first and wins.
pub(crate) fn health<'a>(
    own: &Health,
    groups: impl Iterator<Item = &'a DeviceGroupSpec>,
) -> JobHealth {
    let (mut services, mut probes) = (own.services.clone(), own.probes.clone());
    let presets: BTreeSet<HealthPreset> =
        own.presets.iter().chain(groups.flat_map(|group| &group.health_presets)).copied().collect();
    for preset in presets {
        let (names, questions) = resolve_preset(preset);
        for name in names {
            // Windows' names of services do not distinguish case.
            if !services.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                services.push((*name).to_owned());
            }
        }
        for question in questions {
            if !probes.iter().any(|known| known.name == question.name) {
                probes.push(question);
            }
        }
    }
    let span = |span: Option<Span>, default: Span| span.unwrap_or(default).duration();
    JobHealth {
        services,
        unlisted: own.unlisted_services.unwrap_or_default(),
        probes,
        settle: span(own.settle, Span::from_mins(3)),
        restart_attempts: own.restart_attempts.unwrap_or(3),
        sample_interval: span(own.sample_interval, Span::from_secs(30)),
    }
}

/// The hooks for a device in `groups`, which come in the order of their names. Two groups that name
/// the same program for the same moment mean one call, with the longer of the times.
pub(crate) fn hooks<'a>(groups: impl Iterator<Item = &'a DeviceGroupSpec>) -> Vec<JobHook> {
    let mut hooks: Vec<JobHook> = Vec::new();
    for group in groups {
        let named = &group.hooks;
        for (moment, hook) in [
            (HookMoment::BeforeInstall, &named.before_install),
            (HookMoment::BeforeReboot, &named.before_reboot),
            (HookMoment::AfterHealthy, &named.after_healthy),
        ] {
            let Some(Hook { program, timeout }) = hook else { continue };
            let timeout: SignedDuration = timeout.unwrap_or(Span::from_mins(10)).duration();
            let same = |known: &&mut JobHook| known.moment == moment && known.program == *program;
            if let Some(known) = hooks.iter_mut().find(same) {
                known.timeout = known.timeout.max(timeout);
            } else if hooks.iter().filter(|known| known.moment == moment).count() < MAX_HOOKS {
                hooks.push(JobHook { moment, program: program.clone(), timeout });
            }
        }
    }
    hooks.sort_by_key(|hook| hook.moment);
    hooks
}

#[cfg(test)]
mod tests {
    use wardring_api::UnlistedServices;

    use super::*;

    fn group(yaml: &str) -> DeviceGroupSpec {
        serde_yaml::from_str(&format!("{{selector: {{matchLabels: {{a: b}}}}, {yaml}}}")).unwrap()
    }

    #[test]
    fn presets_of_rollout_and_groups_add_up_and_what_is_named_wins() {
        let own: Health = serde_yaml::from_str(
            "{services: [spooler], presets: [SqlServer],
              probes: [{name: sql-server, type: Tcp, tcp: {port: 1433}}]}",
        )
        .unwrap();
        let groups = [group("healthPresets: [PrintServer]"), group("healthPresets: [SqlServer]")];

        let health = health(&own, groups.iter());

        assert_eq!(health.services, ["spooler", "MSSQLSERVER", "SQLSERVERAGENT"]);
        let probes: Vec<_> =
            health.probes.iter().map(|probe| (probe.name.as_str(), probe.kind)).collect();
        assert_eq!(probes, [("sql-server", ProbeType::Tcp)]);
    }

    #[test]
    fn services_that_nobody_named_are_told_of_unless_the_rollout_asks_for_more() {
        for (asked, then) in [
            ("{}", UnlistedServices::Report),
            ("{unlistedServices: Judge}", UnlistedServices::Judge),
        ] {
            let own: Health = serde_yaml::from_str(asked).unwrap();
            assert_eq!(health(&own, std::iter::empty()).unlisted, then);
        }
    }

    #[test]
    fn without_presets_and_groups_nothing_is_added() {
        let health = health(&Health::default(), std::iter::empty());
        assert!(health.services.is_empty() && health.probes.is_empty());
        assert!(hooks(std::iter::empty()).is_empty());
    }

    #[test]
    fn a_hook_that_two_groups_name_runs_once_with_the_longer_time() {
        let groups = [
            group("hooks: {afterHealthy: {program: resume.ps1}}"),
            group("hooks: {beforeInstall: {program: drain.ps1, timeout: 30m}}"),
            group("hooks: {beforeInstall: {program: drain.ps1, timeout: 5m}}"),
            group("hooks: {beforeInstall: {program: tell.cmd}}"),
        ];
        let hooks: Vec<_> = hooks(groups.iter())
            .into_iter()
            .map(|hook| (hook.moment, hook.program, hook.timeout.as_mins()))
            .collect();
        let expected = [
            (HookMoment::BeforeInstall, "drain.ps1".to_owned(), 30),
            (HookMoment::BeforeInstall, "tell.cmd".to_owned(), 10),
            (HookMoment::AfterHealthy, "resume.ps1".to_owned(), 10),
        ];
        assert_eq!(hooks, expected);
    }

    #[test]
    fn every_preset_names_services_or_probes_and_each_probe_its_question() {
        use HealthPreset::{DomainController, PrintServer, RdsHost, SqlServer};
        for preset in [DomainController, PrintServer, RdsHost, SqlServer] {
            let (services, probes) = resolve_preset(preset);
            assert!(!services.is_empty(), "{preset:?}");
            for probe in probes {
                let field = format!("{:?}", probe.kind);
                let json = serde_json::to_value(&probe).unwrap();
                let asked =
                    json.as_object().unwrap().keys().any(|key| key.eq_ignore_ascii_case(&field));
                assert!(asked, "{json}");
            }
        }
    }
}
