//! What a device says about its health after installations, and what is believed of it.

use jiff::Timestamp;
use wardring_api::{DeviceStatus, UnhealthyKind, conditions};
use wardring_protocol::{
    Boot, Facts, HealthFact, MAX_UNHEALTHY, MAX_WATCHES, RebootSource, ServiceFact, UnhealthyFact,
};

use super::{FactsReport, apply_facts};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn since(rollout_uid: &str) -> HealthFact {
    HealthFact {
        rollout_uid: rollout_uid.to_owned(),
        attempt: 1,
        since: at("2026-11-20T02:00:00Z"),
        blind: false,
        names_nothing: false,
        unhealthy: Vec::new(),
        restarts: 0,
        last_restart: None,
    }
}

fn worse(kind: &str, name: &str) -> UnhealthyFact {
    UnhealthyFact {
        kind: kind.to_owned(),
        name: name.to_owned(),
        why: "it was Running, is Stopped".to_owned(),
        since: at("2026-11-21T01:00:00Z"),
    }
}

fn crashed(restarts: u32) -> HealthFact {
    let at = at("2026-11-21T01:30:00.5Z");
    let boot = Boot { boot_id: "boot-2".to_owned(), at, kind: "Crash".to_owned() };
    HealthFact { restarts, last_restart: Some(boot), ..since("a") }
}

fn status(health: Vec<HealthFact>) -> DeviceStatus {
    status_of(Facts { health, ..Facts::default() })
}

fn status_of(facts: Facts) -> DeviceStatus {
    let (boot_id, enrolment_id) = ("boot-1".to_owned(), "e1".to_owned());
    let report = FactsReport { seq: 1, facts, boot_id, enrolment_id };
    apply_facts(Vec::new(), &report, at("2026-11-21T02:00:00Z"))
}

/// Status, reason and message of the condition Healthy.
fn healthy(health: Vec<HealthFact>) -> (String, String, String) {
    let conditions = status(health).conditions;
    let found = conditions.into_iter().find(|found| found.type_ == conditions::HEALTHY).unwrap();
    (found.status, found.reason, found.message)
}

#[test]
fn healthy_says_what_is_worse_than_before_and_why() {
    let down = |all: Vec<UnhealthyFact>| HealthFact { unhealthy: all, ..since("a") };
    let spooler = || worse("Service", "Spooler");
    let web = || worse("Probe", "web");
    for (health, truth, reason, message) in [
        (vec![], "Unknown", "NotWatched", "No health checks are looked at now."),
        (vec![since("a")], "True", "AsBefore", "What health checks named is as before."),
        (
            vec![down(vec![spooler()])],
            "False",
            "ServiceDown",
            "Worse than before: Spooler (it was Running, is Stopped).",
        ),
        (
            vec![since("b"), down(vec![web(), spooler(), worse("Service", "W3SVC")])],
            "False",
            "ServiceDown",
            "Worse than before: probe web (it was Running, is Stopped), Spooler (it was Running, is \
             Stopped) and 1 more.",
        ),
        (
            vec![down(vec![web()]), down(vec![web()])],
            "False",
            "ProbeFailed",
            "Worse than before: probe web (it was Running, is Stopped).",
        ),
        (
            vec![since("b"), crashed(1)],
            "False",
            "UnexpectedRestart",
            "It crashed or lost power, and came back at 2026-11-21T01:30:00Z.",
        ),
        (
            vec![HealthFact { blind: true, ..since("a") }],
            "Unknown",
            "NotWatched",
            "Services and probes are not looked at: the agent cannot, is paused, or another job is at work \
             for more than an hour.",
        ),
        (
            vec![HealthFact { names_nothing: true, ..since("a") }],
            "Unknown",
            "NotWatched",
            "Health checks named no service and no probe: only crashes are counted.",
        ),
        (
            vec![HealthFact { names_nothing: true, ..since("b") }, since("a")],
            "True",
            "AsBefore",
            "What health checks named is as before.",
        ),
        (
            vec![HealthFact { names_nothing: true, ..crashed(1) }],
            "False",
            "UnexpectedRestart",
            "It crashed or lost power, and came back at 2026-11-21T01:30:00Z.",
        ),
        (
            vec![HealthFact { unhealthy: vec![spooler()], blind: true, ..crashed(3) }],
            "False",
            "ServiceDown",
            "Worse than before: Spooler (it was Running, is Stopped). It crashed or lost power 3 times, \
             and came back at 2026-11-21T01:30:00Z.",
        ),
    ] {
        let expected = (truth.to_owned(), reason.to_owned(), message.to_owned());
        assert_eq!(healthy(health.clone()), expected, "{health:?}");
    }
}

#[test]
fn an_agent_that_lies_or_talks_nonsense_makes_its_device_no_better_and_its_status_no_larger() {
    let name = |number: usize| format!("{number:02}{}", "ß".repeat(63));
    let longest = || HealthFact {
        rollout_uid: "u".repeat(64),
        attempt: u32::MAX,
        since: at("9999-12-30T22:00:00.123456789Z"),
        blind: true,
        names_nothing: false,
        unhealthy: (0..MAX_UNHEALTHY).map(|number| worse("Demon", &name(number))).collect(),
        restarts: u32::MAX,
        last_restart: crashed(1).last_restart,
    };
    let services =
        (0..200).map(|number| ServiceFact { name: name(number), state: "Stopped".to_owned() });
    let facts = Facts {
        health: (0..MAX_WATCHES + 3).map(|_| longest()).collect(),
        services: services.collect(),
        other_patch_sources: (0..32).map(name).collect(),
        // The rest is as full as a busy server's.
        hostname: "h".repeat(63),
        addresses: (0..8).map(|number| format!("2001:db8:{number}::17")).collect(),
        missing: (0..16).map(|number| format!("KB50687{number:02}")).collect(),
        pending_reboot: (0..12)
            .map(|number| RebootSource { source: name(number), hard: true })
            .collect(),
        ..Facts::default()
    };
    let status = status_of(facts);
    assert!(serde_json::to_vec(&status).unwrap().len() <= 3 * 1024);
    assert_eq!(status.health.len(), MAX_WATCHES);
    for since in &status.health {
        assert!(!since.unhealthy.is_empty(), "what is worse does not become well for want of room");
        assert_eq!(since.unhealthy[0].kind, UnhealthyKind::Service, "a word nobody knows");
        assert!(since.unhealthy[0].name.len() <= 64 && since.blind && since.restarts == u32::MAX);
    }
    let text = serde_json::to_value(&status.conditions).unwrap().to_string();
    assert!(text.contains("ServiceDown"), "{text}");
}

/// So many restarts, of which the last was of this kind.
fn restarted(restarts: u32, kind: &str) -> HealthFact {
    let mut fact = crashed(restarts);
    fact.last_restart.as_mut().unwrap().kind = kind.to_owned();
    fact
}

#[test]
fn one_loss_of_power_is_told_and_not_counted() {
    for (restarts, kind, counted) in [
        (1, "Dirty", 0),
        (2, "Dirty", 2),
        (1, "Crash", 1),
        (2, "Crash", 2),
        // A kind that we do not know is no loss of power.
        (1, "Meteor", 1),
    ] {
        let status = status(vec![restarted(restarts, kind)]);
        let told = (status.health[0].restarts, status.health[0].last_restart.is_some());
        assert_eq!(told, (counted, counted > 0), "{restarts} {kind}");
    }
    let told = healthy(vec![restarted(1, "Dirty")]);
    let message = "What health checks named is as before. It lost power once.";
    assert_eq!(told, ("True".to_owned(), "AsBefore".to_owned(), message.to_owned()));
    let untimed = HealthFact { last_restart: None, ..crashed(1) };
    assert_eq!(status(vec![untimed]).health[0].restarts, 1);
}

#[test]
fn a_restart_is_not_later_than_its_report() {
    let mut ahead = crashed(1);
    ahead.last_restart.as_mut().unwrap().at = at("2031-01-01T00:00:00Z");
    let told = status(vec![ahead]);
    assert_eq!(told.health[0].last_restart, Some(at("2026-11-21T02:00:00Z")));
}
