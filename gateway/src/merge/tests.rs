//! Reports in any order, doubled or lost, make the same statuses (S10).

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;
use wardring_api::{
    DeviceRole, DeviceStatus, JobState, MsrcSeverity, PatchJobStatus, Permit, PermitStep,
    ServiceState, conditions, conditions::Truth, reasons::Reason,
};
use wardring_protocol::{
    Facts, Offered, PauseFact, Progress, RebootBehavior, RebootSource, Report, ReportBatch,
    ReportBody, Scan, ServiceFact, Signed,
};
use wardring_seal::{Action, JobKey};

use super::*;
use crate::{runs::Sighting, writes::JobWish};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-11-21T02:00:00Z")
}

fn key(attempt: u32) -> JobKey {
    JobKey {
        rollout_uid: "rollout-1".to_owned(),
        device_id: "e1".to_owned(),
        attempt,
        action: Action::Install,
    }
}

fn facts(hostname: &str) -> Facts {
    Facts { hostname: hostname.to_owned(), ..Facts::default() }
}

fn facts_report(seq: u64, facts: Facts) -> FactsReport {
    FactsReport { seq, facts, boot_id: "boot-1".to_owned(), enrolment_id: "e1".to_owned() }
}

fn progress(seq: u64, state: &str) -> ProgressReport {
    ProgressReport {
        seq,
        heard: now(),
        progress: Progress {
            key: key(1),
            state: state.to_owned(),
            message: format!("step {seq}"),
            updates: Vec::new(),
            boots: Vec::new(),
            unhealthy: Vec::new(),
            changes: Vec::new(),
        },
    }
}

fn outcome(words: &str) -> Signed {
    Signed {
        payload: words.to_owned(),
        signature: "c2ln".to_owned(),
        certificate: "Y2VydA==".to_owned(),
    }
}

fn scanned(result: &str, time: &str, missing: &[&str]) -> Facts {
    Facts {
        last_scan: Some(Scan {
            time: at(time),
            source: "Default".to_owned(),
            result: result.to_owned(),
        }),
        missing: missing.iter().map(|&kb| kb.to_owned()).collect(),
        ..facts("WS-1")
    }
}

fn says(status: &DeviceStatus, kind: &str) -> (String, String) {
    let condition = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

/// One thing that may reach a gateway.
#[derive(Clone, Debug)]
enum Arrival {
    Facts(Box<FactsReport>),
    Progress(Box<ProgressReport>),
    Outcome(Signed),
}

/// What the API server holds after arrivals came through a gateway in this order.
fn store(arrivals: &[Arrival]) -> (DeviceStatus, PatchJobStatus) {
    let (mut device, mut job) = (DeviceStatus::default(), PatchJobStatus::default());
    for arrival in arrivals {
        match arrival {
            Arrival::Facts(report) => {
                let stored = device.report_seq.unwrap_or(0);
                if i64::try_from(report.seq).unwrap() > stored {
                    device = apply_facts(device.conditions, report, now());
                }
            }
            Arrival::Progress(report) => apply_progress(&mut job, 1, report),
            Arrival::Outcome(signed) => apply_outcome(&mut job, 1, signed, now()),
        }
    }
    (device, job)
}

const STATES: [&str; 6] =
    ["Accepted", "Installing", "AwaitingReboot", "Settling", "Done", "Nonsense"];

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let one = prop_oneof![
        ("[A-Z]{1,8}", any::<bool>()).prop_map(|(name, pending)| {
            let mut facts = facts(&name);
            if pending {
                facts.pending_reboot = vec![RebootSource { source: "Cbs".to_owned(), hard: true }];
            }
            Arrival::Facts(Box::new(facts_report(0, facts)))
        }),
        prop::sample::select(&STATES[..])
            .prop_map(|state| Arrival::Progress(Box::new(progress(0, state)))),
        Just(Arrival::Outcome(outcome("{}"))),
    ];
    prop::collection::vec(one, 1..12).prop_map(|mut arrivals| {
        for (index, arrival) in arrivals.iter_mut().enumerate() {
            match arrival {
                Arrival::Facts(report) => report.seq = index as u64 + 1,
                Arrival::Progress(report) => {
                    **report = {
                        let seq = index as u64 + 1;
                        progress(seq, &report.progress.state)
                    }
                }
                Arrival::Outcome(_) => {}
            }
        }
        arrivals
    })
}

/// Stores every arrival at least once: some doubled, in any order.
fn shuffled(arrivals: Vec<Arrival>) -> impl Strategy<Value = (Vec<Arrival>, Vec<Arrival>)> {
    let doubled = prop::collection::vec(prop::sample::select(arrivals.clone()), 0..12);
    let original = arrivals.clone();
    doubled
        .prop_flat_map(move |doubled| {
            let all: Vec<_> = original.iter().cloned().chain(doubled).collect();
            Just(all).prop_shuffle()
        })
        .prop_map(move |shuffled| (arrivals.clone(), shuffled))
}

/// Transition times follow arrival, so they may differ; nothing else may.
fn timeless(mut status: DeviceStatus) -> DeviceStatus {
    let instant = now();
    status.conditions.iter_mut().for_each(|c| c.last_transition_time.0 = instant);
    status
}

proptest! {
    #[test]
    fn any_order_and_any_doubling_makes_the_same_statuses(
        (original, shuffled) in arrivals().prop_flat_map(shuffled)
    ) {
        let (device, job) = store(&original);
        let (other_device, other_job) = store(&shuffled);
        prop_assert_eq!(timeless(device), timeless(other_device));
        prop_assert_eq!(job, other_job);
    }

    #[test]
    fn an_outcome_is_final_whatever_comes_after(
        before in arrivals(), after in arrivals()
    ) {
        let first = Arrival::Outcome(outcome("first"));
        let all: Vec<_> = before
            .into_iter()
            .filter(|arrival| !matches!(arrival, Arrival::Outcome(_)))
            .chain([first])
            .chain(after)
            .collect();
        let (_, job) = store(&all);
        prop_assert_eq!(job.outcome.unwrap().payload, "first");
        prop_assert_eq!(job.state, Some(JobState::Done));
    }

    #[test]
    fn what_was_lost_is_made_good_by_the_newest(
        original in arrivals(), keep in prop::collection::vec(any::<bool>(), 12)
    ) {
        // Losing anything but the newest facts and the newest progress changes nothing in the end.
        let last = |wanted: fn(&Arrival) -> bool| original.iter().rposition(wanted);
        let newest = [
            last(|a| matches!(a, Arrival::Facts(_))),
            last(|a| matches!(a, Arrival::Progress(_))),
            original.iter().position(|a| matches!(a, Arrival::Outcome(_))),
        ];
        let kept: Vec<_> = original
            .iter()
            .enumerate()
            .filter(|(index, _)| newest.contains(&Some(*index)) || keep[*index])
            .map(|(_, arrival)| arrival.clone())
            .collect();
        let ((device, job), (other_device, other_job)) = (store(&original), store(&kept));
        prop_assert_eq!(timeless(device), timeless(other_device));
        prop_assert_eq!(job.message, other_job.message);
        prop_assert_eq!(job.outcome, other_job.outcome);
    }

    #[test]
    fn wishes_join_to_the_newest_in_any_order(
        seqs in prop::collection::vec(1u64..50, 1..10)
    ) {
        let mut joined = JobWish::default();
        for &seq in &seqs {
            let progress = Some(progress(seq, "Installing"));
            joined.join(JobWish { progress, ..JobWish::default() });
        }
        prop_assert_eq!(joined.progress.unwrap().seq, *seqs.iter().max().unwrap());
    }
}

proptest! {
    // Long texts take long to make up.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_status_never_grows_beyond_three_kilobytes(
        services in prop::collection::vec("[A-Za-z]{1,256}", 0..64),
        sources in prop::collection::vec("[A-Za-z]{1,256}", 0..32),
        missing in prop::collection::vec("KB[0-9]{7}", 0..300),
        offers in 0_usize..32,
        reason in "\\PC{0,200}",
    ) {
        let pause = Some(PauseFact { reason, since: now(), until: Some(now()) });
        let facts = Facts {
            services: services
                .into_iter()
                .map(|name| ServiceFact { name, state: "Stopped".to_owned() })
                .collect(),
            other_patch_sources: sources,
            pause,
            missing,
            offered: vec![offer("KB5068787", Some("Critical")); offers],
            ..facts("WS-1")
        };
        let status = apply_facts(Vec::new(), &facts_report(1, facts), now());
        prop_assert!(serde_json::to_vec(&status).unwrap().len() <= 3 * 1024);
    }
}

#[test]
fn a_pause_on_the_device_is_shown_as_long_as_it_is_reported() {
    let pause = PauseFact { reason: "disk swap".to_owned(), since: now(), until: None };
    let paused = facts_report(1, Facts { pause: Some(pause), ..facts("WS-1") });
    let status = apply_facts(Vec::new(), &paused, now());
    assert_eq!(status.paused.unwrap().reason, "disk swap");
    let over = apply_facts(Vec::new(), &facts_report(2, facts("WS-1")), now());
    assert_eq!(over.paused, None);
}

#[test]
fn progress_of_an_earlier_attempt_leaves_with_it_and_permits_stay() {
    let mut status = PatchJobStatus::default();
    apply_permit(
        &mut status,
        Permit {
            step: PermitStep::Install,
            at: now(),
            attempt: 1,
            boot_id: "boot-1".to_owned(),
            agent_run: "run-1".to_owned(),
            accepted_in: "run-1".to_owned(),
            expedited: false,
        },
    );
    apply_progress(&mut status, 1, &progress(9, "Installing"));
    apply_progress(&mut status, 2, &progress(3, "Accepted"));
    assert_eq!(status.state, Some(JobState::Accepted));
    assert_eq!(status.report_seq, Some(3));
    assert_eq!(status.permitted.len(), 1);
}

#[test]
fn progress_that_is_written_late_says_when_it_was_heard() {
    let (heard, permitted) = ("2026-11-21T02:00:05Z", "2026-11-21T02:00:06Z");
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    let report = ProgressReport { heard: at(heard), ..progress(2, "Rebooting") };
    let mut status = PatchJobStatus::default();
    apply_progress(&mut status, 1, &report);
    assert_eq!(status.updated_at, Some(at(heard)));
    apply_permit(
        &mut status,
        Permit {
            step: PermitStep::Reboot,
            at: at(permitted),
            attempt: 1,
            boot_id: "boot-1".to_owned(),
            agent_run: "run-1".to_owned(),
            accepted_in: "run-1".to_owned(),
            expedited: false,
        },
    );
    apply_progress(&mut status, 1, &ProgressReport { seq: 3, ..report });
    assert_eq!(status.updated_at, Some(at(permitted)), "a later word stands");
}

#[test]
fn the_first_permit_is_never_forgotten() {
    let mut status = PatchJobStatus::default();
    for number in 0..12 {
        let step = if number == 0 { PermitStep::Install } else { PermitStep::Reboot };
        let agent_run = format!("run-{number}");
        let (boot_id, accepted_in) = ("boot-1".to_owned(), "run-0".to_owned());
        let permit = Permit {
            step,
            at: now(),
            attempt: 1,
            boot_id,
            agent_run,
            accepted_in,
            expedited: false,
        };
        apply_permit(&mut status, permit);
    }
    assert_eq!(status.permitted.len(), 8);
    assert_eq!(status.permitted[0].step, PermitStep::Install);
    assert_eq!(status.permitted[7].agent_run, "run-11");
}

#[test]
fn a_device_that_asks_for_a_step_and_is_refused_is_shown_waiting_once() {
    let mut status = PatchJobStatus::default();
    apply_progress(&mut status, 1, &progress(1, "Installing"));
    assert!(apply_refused_step(&mut status, 1, PermitStep::Reboot, now()));
    assert_eq!(status.state, Some(JobState::AwaitingReboot));
    assert!(!apply_refused_step(&mut status, 1, PermitStep::Reboot, now()));
}

#[test]
fn two_agents_are_found_from_what_different_gateways_recorded() {
    let mut status = PatchJobStatus::default();
    for run in ["a", "a", "b"] {
        note_run(&mut status, 1, run);
    }
    assert_eq!(status.runs, ["a", "b"]);
    assert_eq!(sighting(&status, 1, "b"), Sighting::One, "a restart is one agent");
    assert_eq!(sighting(&status, 1, "a"), Sighting::Suspected);
    note_run(&mut status, 1, "a");
    assert_eq!(sighting(&status, 1, "b"), Sighting::Suspected);
    assert_eq!(sighting(&status, 1, "c"), Sighting::One, "a restart ends the suspicion");
    note_run(&mut status, 1, "b");
    assert_eq!(sighting(&status, 1, "a"), Sighting::Two);
    assert_eq!(sighting(&status, 2, "a"), Sighting::One, "another attempt begins anew");
}

#[test]
fn a_batch_is_reduced_to_the_newest_of_each_kind() {
    let body = |state: &str| ReportBody::Progress(progress(0, state).progress);
    let batch = ReportBatch {
        version: 1,
        agent_run: "run-1".to_owned(),
        boot_id: "boot-1".to_owned(),
        now: now(),
        uptime_ms: 0,
        reports: vec![
            Report { seq: 1, body: ReportBody::Facts(Box::new(facts("OLD"))) },
            Report { seq: 2, body: body("Accepted") },
            Report { seq: 3, body: body("Installing") },
            Report { seq: 4, body: ReportBody::Facts(Box::new(facts("NEW"))) },
            Report { seq: 5, body: ReportBody::Outcome(outcome("not a payload")) },
        ],
    };
    let reduced = reduce(batch, now());
    assert_eq!(reduced.facts, Some((4, facts("NEW"))));
    let newest: BTreeMap<_, _> = [(key(1), ProgressReport { seq: 3, ..progress(3, "Installing") })]
        .map(|(key, mut report)| {
            report.progress.message = "step 0".to_owned();
            (key, report)
        })
        .into();
    assert_eq!(reduced.progress, newest);
    assert_eq!((reduced.outcomes.len(), reduced.unreadable), (0, 1));
}

#[test]
fn up_to_date_says_what_is_missing_and_is_unknown_when_nobody_looked_lately() {
    let judge = |facts| {
        let status = apply_facts(Vec::new(), &facts_report(1, facts), now());
        says(&status, conditions::UP_TO_DATE)
    };
    let word =
        |truth: Truth, reason: Reason| (truth.as_str().to_owned(), reason.as_str().to_owned());
    let (yesterday, long_ago) = ("2026-11-20T02:00:00Z", "2026-11-18T02:00:00Z");
    let (fine, failed) = ("0x00000000", "0x8024402C");
    assert_eq!(judge(facts("WS-1")), word(Truth::Unknown, Reason::ScanTooOld));
    let never_mind = scanned(fine, long_ago, &[]);
    assert_eq!(judge(never_mind), word(Truth::Unknown, Reason::ScanTooOld));
    assert_eq!(judge(scanned(failed, yesterday, &[])), word(Truth::Unknown, Reason::ScanFailed));
    let missing = scanned(fine, yesterday, &["KB5068787"]);
    assert_eq!(judge(missing), word(Truth::False, Reason::UpdatesMissing));
    assert_eq!(judge(scanned(fine, yesterday, &[])), word(Truth::True, Reason::NothingMissing));
}

#[test]
fn a_scan_that_grows_old_in_silence_becomes_unknown_once() {
    let facts = scanned("0x00000000", "2026-11-20T02:00:00Z", &[]);
    let status = apply_facts(Vec::new(), &facts_report(1, facts), now());
    assert_eq!(judge_age(&status, now()), None);
    let later = at("2026-11-23T02:00:00Z");
    let aged = judge_age(&status, later).unwrap();
    assert_eq!(says(&aged, conditions::UP_TO_DATE).0, "Unknown");
    assert_eq!(judge_age(&aged, later), None);
}

#[test]
fn what_does_not_run_is_listed_first_and_a_word_nobody_knows_is_not_running() {
    let service =
        |name: &str, state: &str| ServiceFact { name: name.to_owned(), state: state.to_owned() };
    let facts = Facts {
        services: vec![service("W32Time", "Running"), service("MSSQLSERVER", "Exploded")],
        ..facts("SQL-1")
    };
    let status = apply_facts(Vec::new(), &facts_report(1, facts), now());
    assert_eq!(status.services[0].state, ServiceState::Stopped);
    // Some services stop by design: only a baseline says what should run.
    assert_eq!(says(&status, conditions::HEALTHY), ("Unknown".to_owned(), "NotWatched".to_owned()));
}

fn offer(kb: &str, severity: Option<&str>) -> Offered {
    Offered {
        kb: kb.to_owned(),
        classification: Some("Security Updates".to_owned()),
        msrc_severity: severity.map(str::to_owned),
        size_bytes: 432_013_313,
        uninstallable: true,
        reboot: RebootBehavior::Always,
        released: Some(at("2026-11-10T18:00:00Z")),
    }
}

#[test]
fn what_is_offered_is_told_gravest_first_and_in_words_that_are_known() {
    let mut facts = facts("WS-1");
    facts.offered = vec![offer("KB5000001", None), offer("KB5000002", Some("Terrible"))];
    facts.offered.extend((3..10).map(|n| offer(&format!("KB500000{n}"), Some("Low"))));
    facts.offered.push(offer("KB5000010", Some("Critical")));
    let status = apply_facts(Vec::new(), &facts_report(1, facts), now());
    assert_eq!(status.offered.len(), 8);
    assert_eq!(
        serde_json::to_value(&status.offered[0]).unwrap(),
        serde_json::json!({
            "kb": "KB5000010", "classification": "Security Updates", "msrcSeverity": "Critical",
            "sizeMb": 413, "released": "2026-11-10", "uninstallable": true, "reboot": "Always",
        })
    );
    assert!(
        status.offered[1..].iter().all(|update| update.msrc_severity == Some(MsrcSeverity::Low))
    );
}

#[test]
fn what_is_offered_makes_room_for_what_is_broken() {
    let mut facts = facts("WS-1");
    let service = |index: u32, state: &str| ServiceFact {
        name: format!("{index:02}-{}", "x".repeat(100)),
        state: state.to_owned(),
    };
    facts.offered = vec![offer("KB5000001", None); 8];
    facts.services = (0..11).map(|index| service(index, "Stopped")).collect();
    facts.services.extend((11..32).map(|index| service(index, "Running")));
    let status = apply_facts(Vec::new(), &facts_report(1, facts), now());
    assert_eq!(status.services.len(), 11, "those that run made room first");
    assert!(status.services.iter().all(|service| service.state == ServiceState::Stopped));
    assert!((1..8).contains(&status.offered.len()), "{} are left", status.offered.len());
}

#[test]
fn conditions_of_others_survive_facts() {
    let mut old = Vec::new();
    let online = Reason::InProgress;
    conditions::set(&mut old, conditions::ONLINE, Truth::True, online, "here", None, now());
    quarantine(&mut old, "e1", now());
    let status = apply_facts(old.clone(), &facts_report(1, facts("WS-1")), now());
    for condition in old {
        assert!(status.conditions.contains(&condition), "{}", condition.type_);
    }
}

#[test]
fn a_new_enrolment_ends_the_quarantine_of_two_agents_and_no_other() {
    let mut old = Vec::new();
    quarantine(&mut old, "e1", now());
    let renewed = FactsReport { enrolment_id: "e2".to_owned(), ..facts_report(1, facts("WS-1")) };
    assert!(!is_quarantined(&apply_facts(old, &renewed, now()).conditions));

    let mut damaged = Vec::new();
    let reason = Reason::RollbackFailed;
    conditions::set(&mut damaged, conditions::QUARANTINED, Truth::True, reason, "bad", None, now());
    assert!(is_quarantined(&apply_facts(damaged, &renewed, now()).conditions));
}

#[test]
fn the_fingerprint_sees_facts_and_nothing_else() {
    let mut status = apply_facts(Vec::new(), &facts_report(1, facts("WS-1")), now());
    let seen = fingerprint(&status);
    let later = at("2026-12-01T00:00:00Z");
    let online = Reason::InProgress;
    conditions::set(
        &mut status.conditions,
        conditions::ONLINE,
        Truth::True,
        online,
        "",
        None,
        later,
    );
    let again = apply_facts(status.conditions, &facts_report(7, facts("WS-1")), later);
    assert_eq!(fingerprint(&again), seen);
    let other = apply_facts(again.conditions, &facts_report(8, facts("WS-2")), later);
    assert_ne!(fingerprint(&other), seen);
}

#[test]
fn a_role_that_this_gateway_does_not_know_is_told_as_unknown_and_not_left_out() {
    let words = ["RdsHost", "QuorumWitness", "Unknown"].map(str::to_owned).to_vec();
    let facts = Facts { roles: words, ..facts("WS-1") };
    let status = apply_facts(Vec::new(), &facts_report(1, facts), now());
    assert_eq!(status.identity.unwrap().roles, [DeviceRole::RdsHost, DeviceRole::Unknown]);
}
