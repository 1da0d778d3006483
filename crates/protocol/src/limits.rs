//! Limits of every message, checked before anything else looks at it. Texts of devices end up in
//! statuses, logs and pages, so control characters are refused at the door.

use jiff::Timestamp;
use wardring_seal::JobKey;

use crate::{
    Boot, Facts, HealthFact, JobQuery, MAX_OFFERED, MAX_POLL_WAIT_S, MAX_REPORTS, MAX_UNHEALTHY,
    MAX_UNHEALTHY_TEXT, MAX_WATCHES, Offered, PROTOCOL_VERSION, PermitRequest, Progress,
    ReportBatch, ReportBody, UpdateProgress,
};

/// Shortest and longest plausible times of a device's clock: what lies outside is no time at all,
/// and years beyond 9999 cannot be written in RFC 3339.
const EARLIEST: i64 = 0;
const LATEST: i64 = 253_402_300_799;

/// Why a message is refused with 400. Names the field; never repeats its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Written by a newer agent.
    #[error("protocol version {version} is not spoken here; the highest is {PROTOCOL_VERSION}")]
    FutureVersion {
        /// Version of the message.
        version: u32,
    },
    /// A list has too many entries.
    #[error("`{field}` has more than {max} entries")]
    TooMany {
        /// Which list.
        field: &'static str,
        /// Limit.
        max: usize,
    },
    /// A text is too long.
    #[error("`{field}` has more than {max} bytes")]
    TooLong {
        /// Which text.
        field: &'static str,
        /// Limit.
        max: usize,
    },
    /// A text that must not be empty is.
    #[error("`{field}` is empty")]
    Empty {
        /// Which text.
        field: &'static str,
    },
    /// A text contains control characters.
    #[error("`{field}` contains control characters")]
    ControlCharacters {
        /// Which text.
        field: &'static str,
    },
    /// Numbers do not ascend.
    #[error("report numbers must ascend from 1")]
    Order,
    /// A number or time is out of range.
    #[error("`{field}` is out of range")]
    Range {
        /// Which number.
        field: &'static str,
    },
}

/// Checks a batch of reports.
pub fn check_batch(batch: &ReportBatch) -> Result<(), Malformed> {
    if batch.version > PROTOCOL_VERSION {
        return Err(Malformed::FutureVersion { version: batch.version });
    }
    run_and_boot(&batch.agent_run, &batch.boot_id)?;
    time("now", batch.now)?;
    count("reports", &batch.reports, MAX_REPORTS)?;
    let mut last = 0;
    for report in &batch.reports {
        // The number is stored as a signed 64-bit integer.
        if report.seq <= last || i64::try_from(report.seq).is_err() {
            return Err(Malformed::Order);
        }
        last = report.seq;
        match &report.body {
            ReportBody::Facts(facts) => check_facts(facts)?,
            ReportBody::Progress(progress) => check_progress(progress)?,
            ReportBody::Outcome(signed) => {
                filled("outcome.payload", &signed.payload, 16_384)?;
                filled("outcome.signature", &signed.signature, 256)?;
                filled("outcome.certificate", &signed.certificate, 4_096)?;
            }
        }
    }
    Ok(())
}

/// Checks a request for a permit.
pub fn check_permit(request: &PermitRequest) -> Result<(), Malformed> {
    key(&request.key)?;
    run_and_boot(&request.agent_run, &request.boot_id)?;
    text("acceptedIn", &request.accepted_in, 64)?;
    sequence(request.highest_sequence)?;
    time("now", request.now)
}

/// Checks the query of a poll.
pub fn check_poll(query: &JobQuery) -> Result<(), Malformed> {
    run_and_boot(&query.run, &query.boot)?;
    sequence(query.seq)?;
    if query.wait > MAX_POLL_WAIT_S {
        return Err(Malformed::Range { field: "wait" });
    }
    match &query.known {
        Some(known) => filled("known", known, 256),
        None => Ok(()),
    }
}

fn check_facts(facts: &Facts) -> Result<(), Malformed> {
    text("hostname", &facts.hostname, 255)?;
    for (field, value) in
        [("fqdn", &facts.fqdn), ("serial", &facts.serial), ("model", &facts.model)]
    {
        text(field, value.as_deref().unwrap_or_default(), 255)?;
    }
    text("product", &facts.product, 255)?;
    text("build", &facts.build, 64)?;
    text("agentVersion", &facts.agent_version, 64)?;
    text("agentUpdateFailed", facts.agent_update_failed.as_deref().unwrap_or_default(), 255)?;
    text("componentStore", facts.component_store.as_deref().unwrap_or_default(), 32)?;
    texts("addresses", &facts.addresses, 64, 64)?;
    texts("roles", &facts.roles, 32, 64)?;
    texts("installed", &facts.installed, 1_024, 64)?;
    texts("missing", &facts.missing, 512, 64)?;
    texts("failed", &facts.failed, 512, 64)?;
    count("offered", &facts.offered, MAX_OFFERED)?;
    facts.offered.iter().try_for_each(check_offered)?;
    texts("otherPatchSources", &facts.other_patch_sources, 32, 256)?;
    if let Some(pause) = &facts.pause {
        text("pause.reason", &pause.reason, 512)?;
        time("pause.since", pause.since)?;
        pause.until.map_or(Ok(()), |until| time("pause.until", until))?;
    }
    if let Some(scan) = &facts.last_scan {
        time("lastScan.time", scan.time)?;
        text("lastScan.source", &scan.source, 64)?;
        text("lastScan.result", &scan.result, 10)?;
    }
    count("pendingReboot", &facts.pending_reboot, 32)?;
    for source in &facts.pending_reboot {
        filled("pendingReboot.source", &source.source, 64)?;
    }
    count("services", &facts.services, 256)?;
    for service in &facts.services {
        filled("services.name", &service.name, 256)?;
        filled("services.state", &service.state, 32)?;
    }
    count("health", &facts.health, MAX_WATCHES)?;
    facts.health.iter().try_for_each(check_health)
}

fn check_health(health: &HealthFact) -> Result<(), Malformed> {
    filled("health.rolloutUid", &health.rollout_uid, 64)?;
    time("health.since", health.since)?;
    count("health.unhealthy", &health.unhealthy, MAX_UNHEALTHY)?;
    for found in &health.unhealthy {
        filled("health.unhealthy.kind", &found.kind, 32)?;
        filled("health.unhealthy.name", &found.name, MAX_UNHEALTHY_TEXT)?;
        text("health.unhealthy.why", &found.why, MAX_UNHEALTHY_TEXT)?;
        time("health.unhealthy.since", found.since)?;
    }
    health.last_restart.as_ref().map_or(Ok(()), check_boot)
}

fn check_offered(offered: &Offered) -> Result<(), Malformed> {
    filled("offered.kb", &offered.kb, 64)?;
    text("offered.classification", offered.classification.as_deref().unwrap_or_default(), 64)?;
    text("offered.msrcSeverity", offered.msrc_severity.as_deref().unwrap_or_default(), 32)?;
    offered.released.map_or(Ok(()), |released| time("offered.released", released))
}

fn check_progress(progress: &Progress) -> Result<(), Malformed> {
    key(&progress.key)?;
    filled("progress.state", &progress.state, 32)?;
    text("progress.message", &progress.message, 1_024)?;
    texts("progress.unhealthy", &progress.unhealthy, 64, 256)?;
    texts("progress.changes", &progress.changes, 64, 256)?;
    count("progress.updates", &progress.updates, 64)?;
    progress.updates.iter().try_for_each(check_update)?;
    count("progress.boots", &progress.boots, 32)?;
    progress.boots.iter().try_for_each(check_boot)
}

fn check_update(update: &UpdateProgress) -> Result<(), Malformed> {
    filled("updates.kb", &update.kb, 10)?;
    text("updates.hresult", update.hresult.as_deref().unwrap_or_default(), 10)?;
    text("updates.name", update.name.as_deref().unwrap_or_default(), 256)?;
    if (0..=5).contains(&update.operation_result_code) {
        Ok(())
    } else {
        Err(Malformed::Range { field: "updates.operationResultCode" })
    }
}

fn check_boot(boot: &Boot) -> Result<(), Malformed> {
    filled("boots.bootId", &boot.boot_id, 64)?;
    filled("boots.kind", &boot.kind, 32)?;
    time("boots.at", boot.at)
}

fn key(key: &JobKey) -> Result<(), Malformed> {
    filled("key.rolloutUid", &key.rollout_uid, 64)?;
    filled("key.deviceId", &key.device_id, 64)
}

fn run_and_boot(run: &str, boot: &str) -> Result<(), Malformed> {
    filled("agentRun", run, 64)?;
    filled("bootId", boot, 64)
}

fn sequence(sequence: i64) -> Result<(), Malformed> {
    if sequence < 0 { Err(Malformed::Range { field: "highestSequence" }) } else { Ok(()) }
}

fn time(field: &'static str, at: Timestamp) -> Result<(), Malformed> {
    if (EARLIEST..=LATEST).contains(&at.as_second()) {
        Ok(())
    } else {
        Err(Malformed::Range { field })
    }
}

fn count<T>(field: &'static str, list: &[T], max: usize) -> Result<(), Malformed> {
    if list.len() > max { Err(Malformed::TooMany { field, max }) } else { Ok(()) }
}

fn texts(field: &'static str, list: &[String], most: usize, max: usize) -> Result<(), Malformed> {
    count(field, list, most)?;
    list.iter().try_for_each(|item| filled(field, item, max))
}

fn filled(field: &'static str, value: &str, max: usize) -> Result<(), Malformed> {
    if value.is_empty() { Err(Malformed::Empty { field }) } else { text(field, value, max) }
}

fn text(field: &'static str, value: &str, max: usize) -> Result<(), Malformed> {
    if value.len() > max {
        Err(Malformed::TooLong { field, max })
    } else if value.chars().any(is_control) {
        Err(Malformed::ControlCharacters { field })
    } else {
        Ok(())
    }
}

/// Control characters, and the invisible ones that turn a line around or hide parts of it.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Report, Signed, UnhealthyFact};

    fn batch(reports: Vec<Report>) -> ReportBatch {
        ReportBatch {
            version: PROTOCOL_VERSION,
            agent_run: "run-1".to_owned(),
            boot_id: "boot-1".to_owned(),
            now: "2026-11-21T02:00:00Z".parse().unwrap(),
            uptime_ms: 1,
            reports,
        }
    }

    fn facts(facts: Facts) -> ReportBatch {
        batch(vec![Report { seq: 1, body: ReportBody::Facts(Box::new(facts)) }])
    }

    fn offered() -> Offered {
        Offered { kb: "KB5068787".to_owned(), ..Offered::default() }
    }

    fn boot(kind: &str) -> Boot {
        let at = "2026-11-21T02:00:00Z".parse().unwrap();
        Boot { boot_id: "x".repeat(64), at, kind: kind.to_owned() }
    }

    fn health() -> HealthFact {
        let since = "2026-11-21T02:00:00Z".parse().unwrap();
        HealthFact {
            rollout_uid: "x".repeat(64),
            attempt: u32::MAX,
            since,
            blind: true,
            names_nothing: false,
            unhealthy: vec![UnhealthyFact {
                kind: "x".repeat(32),
                name: "x".repeat(MAX_UNHEALTHY_TEXT),
                why: "x".repeat(MAX_UNHEALTHY_TEXT),
                since,
            }],
            restarts: u32::MAX,
            last_restart: Some(boot("Crash")),
        }
    }

    #[test]
    fn the_longest_facts_about_health_leave_room_for_everything_else_in_a_report() {
        let longest = HealthFact {
            unhealthy: vec![health().unhealthy[0].clone(); MAX_UNHEALTHY],
            ..health()
        };
        let full = facts(Facts { health: vec![longest; MAX_WATCHES], ..Facts::default() });
        assert_eq!(check_batch(&full), Ok(()));
        assert!(serde_json::to_vec(&full).unwrap().len() < crate::MAX_BODY / 4);
        let older = r#"{"hostname":"x","product":"","build":"","agentVersion":""}"#;
        assert!(serde_json::from_str::<Facts>(older).unwrap().health.is_empty());
    }

    #[test]
    fn the_longest_facts_about_offers_leave_room_for_everything_else_in_a_report() {
        let longest = Offered {
            kb: "K".repeat(64),
            classification: Some("x".repeat(64)),
            msrc_severity: Some("x".repeat(32)),
            size_bytes: u64::MAX,
            released: Some("2026-11-21T02:00:00.123456789Z".parse().unwrap()),
            ..Offered::default()
        };
        let full = facts(Facts { offered: vec![longest; MAX_OFFERED], ..Facts::default() });
        assert_eq!(check_batch(&full), Ok(()));
        assert!(serde_json::to_vec(&full).unwrap().len() < crate::MAX_BODY / 4);
        let older = r#"{"hostname":"x","product":"","build":"","agentVersion":""}"#;
        assert!(serde_json::from_str::<Facts>(older).unwrap().offered.is_empty());
    }

    #[test]
    fn a_newer_protocol_version_is_refused_by_number() {
        let newer = ReportBatch { version: PROTOCOL_VERSION + 1, ..batch(vec![]) };
        assert_eq!(check_batch(&newer), Err(Malformed::FutureVersion { version: 2 }));
    }

    #[test]
    fn control_and_direction_characters_are_refused_and_not_repeated() {
        for evil in ["a\u{1b}[31mb", "a\nb", "a\0b", "a\u{202e}b", "a\u{7f}b", "a\u{85}b"] {
            let error =
                check_batch(&facts(Facts { hostname: evil.to_owned(), ..Facts::default() }))
                    .unwrap_err();
            assert_eq!(error, Malformed::ControlCharacters { field: "hostname" });
            assert!(!error.to_string().contains(evil));
        }
        assert_eq!(
            check_batch(&facts(Facts { product: "Größe ✓".to_owned(), ..Facts::default() })),
            Ok(())
        );
    }

    #[test]
    fn lists_and_texts_have_limits() {
        let many = Facts { roles: vec!["x".to_owned(); 33], ..Facts::default() };
        assert_eq!(check_batch(&facts(many)), Err(Malformed::TooMany { field: "roles", max: 32 }));
        let many = Facts { offered: vec![offered(); MAX_OFFERED + 1], ..Facts::default() };
        let too_many = Malformed::TooMany { field: "offered", max: MAX_OFFERED };
        assert_eq!(check_batch(&facts(many)), Err(too_many));
        for (evil, field) in [
            (Offered { kb: String::new(), ..offered() }, "offered.kb"),
            (
                Offered { classification: Some("x".repeat(65)), ..offered() },
                "offered.classification",
            ),
            (
                Offered { msrc_severity: Some("a\u{202e}b".to_owned()), ..offered() },
                "offered.msrcSeverity",
            ),
            (
                Offered { released: Some("-000044-03-15T00:00:00Z".parse().unwrap()), ..offered() },
                "offered.released",
            ),
        ] {
            let error = check_batch(&facts(Facts { offered: vec![evil], ..Facts::default() }));
            assert!(error.unwrap_err().to_string().contains(field), "{field}");
        }
        let many = Facts { health: vec![health(); MAX_WATCHES + 1], ..Facts::default() };
        let too_many = Malformed::TooMany { field: "health", max: MAX_WATCHES };
        assert_eq!(check_batch(&facts(many)), Err(too_many));
        let found = |found: UnhealthyFact| HealthFact { unhealthy: vec![found], ..health() };
        let fine = || health().unhealthy[0].clone();
        let ancient = || "-000044-03-15T00:00:00Z".parse().unwrap();
        for (evil, field) in [
            (HealthFact { rollout_uid: String::new(), ..health() }, "health.rolloutUid"),
            (HealthFact { since: ancient(), ..health() }, "health.since"),
            (HealthFact { unhealthy: vec![fine(); MAX_UNHEALTHY + 1], ..health() }, "unhealthy"),
            (found(UnhealthyFact { name: "a\u{202e}b".to_owned(), ..fine() }), "unhealthy.name"),
            (found(UnhealthyFact { kind: "x".repeat(33), ..fine() }), "unhealthy.kind"),
            (
                found(UnhealthyFact { why: "x".repeat(MAX_UNHEALTHY_TEXT + 1), ..fine() }),
                "unhealthy.why",
            ),
            (found(UnhealthyFact { since: ancient(), ..fine() }), "unhealthy.since"),
            (HealthFact { last_restart: Some(boot("\n")), ..health() }, "boots.kind"),
        ] {
            let error = check_batch(&facts(Facts { health: vec![evil], ..Facts::default() }));
            assert!(error.unwrap_err().to_string().contains(field), "{field}");
        }
        let long = Facts { build: "9".repeat(65), ..Facts::default() };
        assert_eq!(check_batch(&facts(long)), Err(Malformed::TooLong { field: "build", max: 64 }));
        let outcome = |seq| Report {
            seq,
            body: ReportBody::Outcome(Signed {
                payload: "{}".to_owned(),
                signature: "c2ln".to_owned(),
                certificate: "Y2VydA==".to_owned(),
            }),
        };
        let many = (1..=33).map(outcome).collect();
        assert_eq!(
            check_batch(&batch(many)),
            Err(Malformed::TooMany { field: "reports", max: MAX_REPORTS })
        );
        assert_eq!(check_batch(&batch(vec![outcome(2), outcome(2)])), Err(Malformed::Order));
        assert_eq!(check_batch(&batch(vec![outcome(0)])), Err(Malformed::Order));
        assert_eq!(check_batch(&batch(vec![outcome(u64::MAX)])), Err(Malformed::Order));
    }

    #[test]
    fn a_poll_cannot_wait_for_ever_or_present_nonsense() {
        let fine = JobQuery {
            run: "r".to_owned(),
            boot: "b".to_owned(),
            wait: MAX_POLL_WAIT_S,
            ..JobQuery::default()
        };
        assert_eq!(check_poll(&fine), Ok(()));
        let longer = JobQuery { wait: MAX_POLL_WAIT_S + 1, ..fine.clone() };
        assert_eq!(check_poll(&longer), Err(Malformed::Range { field: "wait" }));
        let negative = JobQuery { seq: -1, ..fine.clone() };
        assert_eq!(check_poll(&negative), Err(Malformed::Range { field: "highestSequence" }));
        let nobody = JobQuery { run: String::new(), ..fine };
        assert_eq!(check_poll(&nobody), Err(Malformed::Empty { field: "agentRun" }));
    }
}
