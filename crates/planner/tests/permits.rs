//! The permit rule: one good request, and every way in which it is refused.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    Abort, AwaitingRebootAction, Decided, DeviceMode, EmergencyStop, GateState, Hold, JobAction,
    Latch, LineState, MaintenanceWindow, PatchRollback, PatchRollout, Permit, PermitStep,
    RollbackWindows, SliceLine, UpdateSpec, reasons::Reason,
};
use wardring_planner::{
    Circumstances, DeviceRow, GroupView, HoldView, JobOutcome, JobView, MAX_PERMITS, PermitFacts,
    PermitRequest, PermitVerdict, StopView, WindowView, approval_hash, approval_parts,
    missing_group, permit, rollback_hash, rollback_parts,
};

/// A request that is granted, to be spoiled in one way at a time.
struct Desk {
    now: Timestamp,
    step: PermitStep,
    action: JobAction,
    job: Option<JobView>,
    line: Option<SliceLine>,
    rollout: Option<PatchRollout>,
    device: Option<DeviceRow>,
    group: Option<&'static str>,
    watches: Option<&'static str>,
    missing: Option<&'static str>,
    forbids: Option<&'static str>,
    asks: Option<&'static str>,
    order: Option<PatchRollback>,
    stops: Vec<Arc<StopView>>,
    holds: Vec<HoldView>,
    updates: Vec<Arc<UpdateSpec>>,
    windows: Vec<Arc<WindowView>>,
    circumstances: Circumstances,
}

const GRANTED: PermitVerdict = PermitVerdict::Granted { repeated: false, expedited: false };

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn latch() -> Option<Latch> {
    Some(Latch {
        reason: "FailureBudgetSpent".to_owned(),
        message: "2 of 20 devices failed.".to_owned(),
        at: at("2026-11-20T22:00:00Z"),
        stage: None,
    })
}

impl Desk {
    fn new(step: PermitStep, action: JobAction) -> Desk {
        let spec = "updates: {kbs: [KB5068787]}\nstages: [{name: test, group: test}]";
        let mut rollout = PatchRollout::new("november", serde_yaml::from_str(spec).unwrap());
        rollout.metadata.uid = Some("uid".to_owned());
        rollout.status = Some(Default::default());
        let job = JobView {
            device: "ws-1".to_owned(),
            rollout: "november".to_owned(),
            rollout_uid: "uid".to_owned(),
            stage: "test".to_owned(),
            slice: "slice".to_owned(),
            enrolment_id: "eid-ws-1".to_owned(),
            attempt: 2,
            sequence: 7,
            action,
            kbs: vec!["KB5068787".to_owned()],
            start_by: at("2026-11-21T02:00:00Z"),
            finish_by: at("2026-11-21T22:00:00Z"),
            created_at: None,
            permitted: Vec::new(),
            state: None,
            updated_at: None,
            message: None,
            unhealthy: Vec::new(),
            repaired: false,
            deleting: false,
            outcome: JobOutcome::None,
        };
        let line = SliceLine {
            attempt: 2,
            state: LineState::Granted,
            action,
            enrolment_id: Some("eid-ws-1".to_owned()),
            sequence: 7,
            ..SliceLine::pending("ws-1")
        };
        Desk {
            now: at("2026-11-20T23:00:00Z"),
            step,
            action,
            job: Some(job),
            line: Some(line),
            rollout: Some(rollout),
            device: Some(DeviceRow::ready("ws-1", "Windows 11 24H2")),
            group: None,
            watches: None,
            missing: None,
            forbids: None,
            asks: None,
            order: None,
            stops: Vec::new(),
            holds: Vec::new(),
            updates: Vec::new(),
            windows: Vec::new(),
            circumstances: Circumstances::GOOD,
        }
    }

    fn install() -> Desk {
        Desk::new(PermitStep::Install, JobAction::Install)
    }

    /// The restart after the installation.
    fn reboot() -> Desk {
        Desk::new(PermitStep::Reboot, JobAction::Install).with(|desk| {
            desk.job().permitted = vec![given(PermitStep::Install, "run-1", "boot-1")];
        })
    }

    /// The restart before it.
    fn reboot_first() -> Desk {
        Desk::new(PermitStep::Reboot, JobAction::Install)
    }

    fn uninstall() -> Desk {
        Desk::new(PermitStep::Uninstall, JobAction::Rollback)
    }

    fn with(mut self, spoil: impl FnOnce(&mut Desk)) -> Desk {
        spoil(&mut self);
        self
    }

    fn job(&mut self) -> &mut JobView {
        self.job.as_mut().unwrap()
    }

    fn line(&mut self) -> &mut SliceLine {
        self.line.as_mut().unwrap()
    }

    fn rollout(&mut self) -> &mut PatchRollout {
        self.rollout.as_mut().unwrap()
    }

    fn device(&mut self) -> &mut DeviceRow {
        self.device.as_mut().unwrap()
    }

    fn ask(&self) -> PermitVerdict {
        permit(&PermitFacts {
            now: self.now,
            request: PermitRequest {
                rollout_uid: "uid",
                enrolment_id: "eid-ws-1",
                attempt: 2,
                action: self.action,
                step: self.step,
                agent_run: "run-1",
                accepted_in: "run-0",
                boot_id: "boot-1",
            },
            job: self.job.as_ref(),
            line: self.line.as_ref(),
            rollout: self.rollout.as_ref(),
            device: self.device.as_ref(),
            reboots_held_by: self.group,
            missing_group: self.missing,
            watched_by: self.watches,
            rollbacks_forbidden_by: self.forbids,
            rollbacks_asked_by: self.asks,
            order: self.order.as_ref(),
            group_windows: &[],
            windows: &self.windows,
            stops: &self.stops,
            holds: &self.holds,
            updates: &self.updates,
            circumstances: self.circumstances,
        })
    }

    fn gated(&mut self, state: &str) {
        let rollout = self.rollout.as_mut().unwrap();
        let name = self.job.as_ref().unwrap().stage.clone();
        let stage = rollout.spec.stages.iter_mut().find(|stage| stage.name == name).unwrap();
        stage.gates =
            serde_yaml::from_str("during: [{name: health, type: DeviceHealth, deviceHealth: {}}]")
                .unwrap();
        let status = serde_yaml::from_str(&format!(
            "{{name: {name}, state: Open, counts: {{}}, gates: [{{name: health, phase: During, state: {state}, \
             since: '2026-11-20T22:00:00Z', startedAt: '2026-11-20T22:00:00Z', definition: v1, \
             message: It fails.}}]}}"
        ));
        rollout.status.get_or_insert_default().stages = vec![status.unwrap()];
    }

    fn verdict(&self) -> &'static str {
        match self.ask() {
            PermitVerdict::Granted { repeated: false, .. } => "granted",
            PermitVerdict::Granted { repeated: true, .. } => "granted again",
            PermitVerdict::Refused { .. } => "refused",
            PermitVerdict::Ended { .. } => "ended",
        }
    }

    fn reason(&self) -> Option<Reason> {
        match self.ask() {
            PermitVerdict::Granted { .. } => None,
            PermitVerdict::Refused { reason, retry_after, message } => {
                assert!(retry_after > SignedDuration::ZERO && message.ends_with('.'), "{message}");
                Some(reason)
            }
            PermitVerdict::Ended { reason, message } => {
                assert!(message.ends_with('.'), "{message}");
                Some(reason)
            }
        }
    }
}

fn given(step: PermitStep, run: &str, boot: &str) -> Permit {
    Permit {
        step,
        at: at("2026-11-20T22:59:00Z"),
        attempt: 2,
        boot_id: boot.to_owned(),
        agent_run: run.to_owned(),
        accepted_in: "run-0".to_owned(),
        expedited: false,
    }
}

#[test]
fn a_good_request_is_granted_for_every_step() {
    for desk in [Desk::install(), Desk::reboot(), Desk::uninstall()] {
        assert_eq!(desk.verdict(), "granted");
    }
    assert_eq!(Desk::new(PermitStep::Reboot, JobAction::Rollback).verdict(), "granted");
}

#[test]
fn every_obstacle_refuses_or_ends_with_its_reason() {
    type Spoil = fn(&mut Desk);
    let table: &[(&str, Reason, Spoil)] = &[
        ("refused", Reason::ApiUnavailable, |desk| desk.circumstances.api_read = false),
        ("refused", Reason::ClockSkew, |desk| desk.circumstances.clock_trusted = false),
        ("refused", Reason::RestoredFromBackup, |desk| {
            desk.circumstances.restored_from_backup = true;
        }),
        ("refused", Reason::NoLeader, |desk| desk.circumstances.leader_fresh = false),
        ("refused", Reason::TwoAgents, |desk| desk.circumstances.second_live_run = true),
        ("ended", Reason::Deleting, |desk| desk.circumstances.namespace_deleting = true),
        ("ended", Reason::NoSuchJob, |desk| desk.job = None),
        ("ended", Reason::NoSuchJob, |desk| desk.job().rollout_uid = "other".to_owned()),
        ("ended", Reason::NoSuchJob, |desk| desk.job().enrolment_id = "other".to_owned()),
        ("ended", Reason::NoSuchJob, |desk| desk.job().attempt = 1),
        ("ended", Reason::NoSuchJob, |desk| desk.job().action = JobAction::Download),
        ("ended", Reason::NoSuchJob, |desk| desk.job().deleting = true),
        ("ended", Reason::Replaced, |desk| desk.device = None),
        ("ended", Reason::Replaced, |desk| desk.device().enrolment_id = Some("new".into())),
        ("refused", Reason::Quarantined, |desk| desk.device().quarantined = true),
        ("refused", Reason::ObserveMode, |desk| desk.device().mode = DeviceMode::Observe),
        ("refused", Reason::Paused, |desk| {
            desk.device().paused = Some(Box::new(Hold { reason: String::new(), until: None }))
        }),
        ("refused", Reason::DeviceHeld, |desk| {
            desk.device().hold = Some(Box::new(Hold { reason: "surgery".to_owned(), until: None }));
        }),
        ("refused", Reason::NotGranted, |desk| desk.line = None),
        ("refused", Reason::NotGranted, |desk| desk.line().state = LineState::Pending),
        ("refused", Reason::NotGranted, |desk| desk.line().state = LineState::Unreachable),
        ("refused", Reason::NotGranted, |desk| desk.line().attempt = 1),
        ("refused", Reason::NotGranted, |desk| desk.line().enrolment_id = None),
        ("refused", Reason::NotGranted, |desk| desk.line().action = JobAction::Download),
        ("ended", Reason::NotGranted, |desk| desk.line().attempt = 3),
        ("ended", Reason::NoSuchJob, |desk| desk.rollout = None),
        ("ended", Reason::NoSuchJob, |desk| {
            desk.rollout().metadata.uid = Some("other".to_owned());
        }),
        ("ended", Reason::AbortedByPerson, |desk| {
            desk.rollout().spec.abort = Some(Abort { reason: "enough".to_owned() });
        }),
        ("ended", Reason::AbortedByPerson, |desk| {
            desk.rollout().status.as_mut().unwrap().aborted = latch();
        }),
        ("refused", Reason::SuspendedByPerson, |desk| desk.rollout().spec.suspend = Some(true)),
        ("refused", Reason::SuspendedByPerson, |desk| {
            desk.rollout().status.as_mut().unwrap().suspended = latch();
        }),
        ("ended", Reason::FinishByPassed, |desk| desk.now = at("2026-11-21T22:00:00Z")),
    ];
    for make in [Desk::install, Desk::reboot, Desk::uninstall] {
        for (row, (verdict, reason, spoil)) in table.iter().enumerate() {
            let desk = make().with(spoil);
            assert_eq!((desk.verdict(), desk.reason()), (*verdict, Some(*reason)), "row {row}");
        }
    }
}

#[test]
fn a_hold_that_has_run_out_holds_nothing() {
    let until = Some(at("2026-11-20T22:00:00Z"));
    let hold = Some(Box::new(Hold { reason: "surgery".to_owned(), until }));
    assert_eq!(Desk::install().with(|desk| desk.device().hold = hold).verdict(), "granted");
}

#[test]
fn a_halt_stops_installs_and_restarts_but_no_rollback() {
    let halted =
        |desk: Desk| desk.with(|desk| desk.rollout().status.as_mut().unwrap().halted = latch());
    assert_eq!(halted(Desk::install()).reason(), Some(Reason::RolloutStopped));
    assert_eq!(halted(Desk::reboot()).reason(), Some(Reason::RolloutStopped));
    assert_eq!(halted(Desk::uninstall()).verdict(), "granted");
    let finish = halted(Desk::reboot()).with(|desk| {
        desk.rollout().spec.on_halt.installed_awaiting_reboot = AwaitingRebootAction::Finish;
    });
    assert_eq!(finish.verdict(), "granted");
    let finish = halted(Desk::install()).with(|desk| {
        desk.rollout().spec.on_halt.installed_awaiting_reboot = AwaitingRebootAction::Finish;
    });
    assert_eq!(finish.verdict(), "refused", "finishing is for what is installed");
}

#[test]
fn start_by_bounds_what_begins_and_not_the_restart() {
    let late = |desk: Desk| desk.with(|desk| desk.now = at("2026-11-21T02:00:00Z"));
    assert_eq!(late(Desk::install()).reason(), Some(Reason::TooLate));
    assert_eq!(late(Desk::uninstall()).reason(), Some(Reason::TooLate));
    assert_eq!(late(Desk::reboot()).verdict(), "granted");
}

fn hold(spec: &str) -> HoldView {
    let spec = serde_yaml::from_str(spec).unwrap();
    HoldView { name: "printing".to_owned(), created_at: None, spec }
}

#[test]
fn a_bar_refuses_what_would_install_and_lets_restarts_and_rollbacks_go() {
    let spec = "{kbs: [KB5068787], reason: It breaks printing}";
    let barred = |desk: Desk| desk.with(|desk| desk.holds = vec![hold(spec)]);
    let PermitVerdict::Refused { reason, message, .. } = barred(Desk::install()).ask() else {
        panic!("the desk permits what is barred");
    };
    assert_eq!(reason, Reason::UpdateHeld);
    assert_eq!(message, "UpdateHold printing bars KB5068787: It breaks printing.");
    assert_eq!(barred(Desk::reboot()).verdict(), "granted");
    assert_eq!(barred(Desk::uninstall()).verdict(), "granted");
    // Nothing ends for good while it may not begin, and what was permitted before is not permitted again.
    let late = barred(Desk::install()).with(|desk| desk.now = at("2026-11-21T02:00:00Z"));
    assert_eq!(late.reason(), Some(Reason::UpdateHeld));
    assert_eq!(barred(Desk::reboot_first()).reason(), Some(Reason::UpdateHeld));
    assert_eq!(Desk::reboot_first().verdict(), "granted");
    let made_again = barred(Desk::reboot_first()).with(|desk| desk.job().repaired = true);
    assert_eq!(made_again.verdict(), "granted", "it may be installed");
    // Of several updates the first may be in: the rest is left out, and that one restarted.
    let again = barred(Desk::install())
        .with(|desk| desk.job().permitted = vec![given(PermitStep::Install, "run-1", "boot-1")]);
    assert_eq!((again.verdict(), again.reason()), ("ended", Some(Reason::TooLate)));
}

#[test]
fn a_stage_whose_group_is_gone_permits_nothing_but_the_end_of_a_rollback_that_began() {
    let missing = |desk: Desk| desk.with(|desk| desk.missing = Some("prod"));
    let after_rollback = Desk::new(PermitStep::Reboot, JobAction::Rollback);
    for desk in [Desk::install(), Desk::reboot(), Desk::uninstall(), after_rollback] {
        let desk = missing(desk).with(|desk| desk.now = at("2026-11-22T02:00:00Z"));
        assert_eq!(
            desk.reason(),
            Some(Reason::GroupNotFound),
            "and nothing ends for good meanwhile"
        );
        let PermitVerdict::Refused { message, .. } = desk.ask() else { panic!("it ended") };
        assert!(
            message.starts_with("Stage test names DeviceGroup prod, which does not"),
            "{message}"
        );
    }
    let begun = missing(Desk::uninstall())
        .with(|desk| desk.job().permitted = vec![given(PermitStep::Uninstall, "run-1", "boot-1")]);
    assert_eq!(begun.verdict(), "granted again");
}

#[test]
fn the_group_that_is_missing_is_the_one_of_the_job_s_stage() {
    let mut desk = Desk::install();
    let missing = |desk: &Desk, groups: &[&str]| {
        missing_group(desk.rollout.as_ref(), desk.job.as_ref(), groups).map(str::to_owned)
    };
    assert_eq!(missing(&desk, &["prod"]), Some("test".to_owned()));
    assert_eq!(missing(&desk, &["prod", "test"]), None);
    desk.rollout().spec.stages[0].group = None;
    assert_eq!(missing(&desk, &[]), None, "it selects by labels");
}

#[test]
fn a_group_with_limits_that_is_not_counted_yet_holds_restarts() {
    let group = |limits: &str, devices: u32| {
        let spec = format!("{{selector: {{matchLabels: {{ward: '3'}}}}{limits}}}");
        let mut view = GroupView {
            name: "ward".to_owned(),
            spec: serde_yaml::from_str(&spec).unwrap(),
            status: Default::default(),
        };
        view.status.devices = devices;
        view.holds_reboots_of(&BTreeMap::new())
    };
    for limits in [", maxUnavailable: 1", ", antiAffinity: [{key: pair, max: 1}]"] {
        assert!(group(limits, 0), "{limits}: it may have been made a moment ago");
        assert!(!group(limits, 2), "{limits}");
    }
    assert!(!group("", 0), "nothing is counted for it");
}

#[test]
fn a_group_that_only_watches_lets_nothing_be_installed_and_lets_restarts_and_rollbacks_go() {
    let watched = |desk: Desk| desk.with(|desk| desk.watches = Some("hr"));
    let told = watched(Desk::install()).ask();
    assert!(matches!(told, PermitVerdict::Refused { ref message, .. } if message.contains("hr")));
    assert_eq!(watched(Desk::install()).reason(), Some(Reason::PatchAuthority));
    assert_eq!(watched(Desk::reboot_first()).reason(), Some(Reason::PatchAuthority));
    assert_eq!(watched(Desk::reboot()).verdict(), "granted");
    assert_eq!(watched(Desk::uninstall()).verdict(), "granted");
}

#[test]
fn a_bar_concerns_the_devices_and_the_updates_that_it_names() {
    let labelled = |spec: &str| {
        Desk::install().with(|desk| {
            desk.holds = vec![hold(spec)];
            desk.device().labels = Arc::new(BTreeMap::from([("ward".into(), "3".into())]));
        })
    };
    for (spec, verdict) in [
        ("{kbs: [KB5068791], reason: r}", "granted"),
        ("{kbs: [KB5068791, KB5068787], reason: r}", "refused"),
        ("{kbs: [KB5068787], reason: r, devices: [ws-1, ws-2]}", "refused"),
        ("{kbs: [KB5068787], reason: r, devices: [ws-2]}", "granted"),
        ("{kbs: [KB5068787], reason: r, selector: {matchLabels: {ward: '3'}}}", "refused"),
        ("{kbs: [KB5068787], reason: r, selector: {matchLabels: {ward: '4'}}}", "granted"),
        (
            "{kbs: [KB5068787], reason: r, devices: [ws-1], selector: {matchLabels: {ward: '4'}}}",
            "granted",
        ),
    ] {
        assert_eq!(labelled(spec).verdict(), verdict, "{spec}");
    }
}

#[test]
fn what_contains_a_barred_update_is_refused_where_the_bar_says_so() {
    let containing = |include: &str, product: &str| {
        Desk::install().with(|desk| {
            let spec = format!("{{kbs: [KB5060001], reason: r, includeSuperseding: {include}}}");
            desk.holds = vec![hold(&spec)];
            let known = |kb: &str, by: &str| {
                let text = format!(
                    "{{kb: {kb}, title: t, product: {product}, kind: Quality, release: 2026-11, \
                     supersededBy: {by}}}"
                );
                Arc::new(serde_yaml::from_str(&text).unwrap())
            };
            desk.updates = vec![known("KB5060001", "KB5060002"), known("KB5060002", "KB5068787")];
            let resolved = "{product: Windows 11 24H2, kb: KB5068787, kind: Quality}";
            desk.rollout().status.as_mut().unwrap().resolved_updates =
                vec![serde_yaml::from_str(resolved).unwrap()];
        })
    };
    assert_eq!(containing("Hold", "Windows 11 24H2").reason(), Some(Reason::UpdateHeld));
    let forgotten = containing("Hold", "Windows 11 24H2").with(|desk| desk.device().product = None);
    assert_eq!(forgotten.reason(), Some(Reason::UpdateHeld), "it may be of any product");
    assert_eq!(containing("Hold", "Windows 11 23H2").verdict(), "granted", "of another product");
    assert_eq!(containing("Warn", "Windows 11 24H2").verdict(), "granted");
}

#[test]
fn held_reboots_hold_reboots_only() {
    let held = |desk: Desk| desk.with(|desk| desk.group = Some("database"));
    assert_eq!(held(Desk::reboot()).reason(), Some(Reason::RebootsHeld));
    assert_eq!(held(Desk::install()).verdict(), "granted");
}

#[test]
fn a_deleted_rollout_permits_nothing_even_to_finish() {
    let json = serde_json::json!("2026-11-20T22:30:00Z");
    for make in [Desk::install, Desk::reboot, Desk::uninstall] {
        let desk = make().with(|desk| {
            let rollout = desk.rollout();
            rollout.metadata.deletion_timestamp = serde_json::from_value(json.clone()).unwrap();
            rollout.spec.on_halt.installed_awaiting_reboot = AwaitingRebootAction::Finish;
        });
        assert_eq!((desk.verdict(), desk.reason()), ("ended", Some(Reason::Deleting)));
    }
}

#[test]
fn a_namespace_that_goes_permits_nothing_even_to_finish_or_again() {
    for make in [Desk::install, Desk::reboot, Desk::uninstall] {
        let desk = make().with(|desk| {
            desk.circumstances.namespace_deleting = true;
            desk.rollout().spec.on_halt.installed_awaiting_reboot = AwaitingRebootAction::Finish;
            desk.job().permitted = vec![given(desk.step, "run-1", "boot-1")];
        });
        assert_eq!((desk.verdict(), desk.reason()), ("ended", Some(Reason::Deleting)));
    }
}

#[test]
fn a_step_that_the_job_does_not_ask_for_is_ended() {
    let wrong = Desk::new(PermitStep::Uninstall, JobAction::Install);
    assert_eq!((wrong.verdict(), wrong.reason()), ("ended", Some(Reason::NoSuchJob)));
    assert_eq!(Desk::new(PermitStep::Install, JobAction::Rollback).verdict(), "ended");
    assert_eq!(Desk::new(PermitStep::Reboot, JobAction::Download).verdict(), "ended");
}

#[test]
fn a_download_is_permitted_nothing_whatever_its_line_says() {
    for step in [PermitStep::Install, PermitStep::Reboot, PermitStep::Uninstall] {
        let ahead = Desk::new(step, JobAction::Download).with(|desk| {
            (desk.line().state, desk.line().reason) =
                (LineState::Pending, Some(Reason::Downloading));
        });
        assert!(ahead.line.as_ref().is_some_and(SliceLine::is_downloading));
        for desk in [Desk::new(step, JobAction::Download), ahead] {
            assert_eq!((desk.verdict(), desk.reason()), ("ended", Some(Reason::NoSuchJob)));
        }
    }
}

#[test]
fn the_same_run_may_ask_again_and_another_gets_its_own_permit() {
    let mine = given(PermitStep::Install, "run-1", "boot-1");
    let other = given(PermitStep::Install, "run-0", "boot-1");
    let desk = Desk::install().with(|desk| desk.job().permitted = vec![mine]);
    assert_eq!(desk.verdict(), "granted again");
    let desk = Desk::install().with(|desk| desk.job().permitted = vec![other]);
    assert_eq!(desk.verdict(), "granted");
}

#[test]
fn one_that_accepted_the_job_beside_the_one_that_was_permitted_gets_nothing() {
    for make in [Desk::install, Desk::reboot, Desk::uninstall] {
        let first = given(make().step, "run-0", "boot-1");
        let theirs = Permit { accepted_in: "run-of-the-copy".to_owned(), ..first };
        let desk = make().with(|desk| desk.job().permitted = vec![theirs.clone()]);
        assert_eq!((desk.verdict(), desk.reason()), ("refused", Some(Reason::TwoAgents)));
        // Neither an earlier attempt nor one that nobody noted says anything about this one.
        let unnoted = Permit { accepted_in: String::new(), ..theirs.clone() };
        let desk = make().with(|desk| desk.job().permitted = vec![unnoted]);
        assert_eq!(desk.verdict(), "granted");
        let earlier = Permit { attempt: 1, ..theirs };
        let desk = make().with(|desk| desk.job().permitted = vec![earlier]);
        assert_eq!(desk.verdict(), "granted");
    }
}

#[test]
fn permits_run_out() {
    let used: Vec<Permit> = (0..MAX_PERMITS)
        .map(|boot| given(PermitStep::Reboot, "run-1", &format!("old-{boot}")))
        .collect();
    let desk = Desk::reboot().with(|desk| desk.job().permitted = used.clone());
    assert_eq!((desk.verdict(), desk.reason()), ("ended", Some(Reason::BootLoop)));
    // What was given before may still be repeated: the answer may have been lost.
    let desk = Desk::reboot().with(|desk| {
        desk.job().permitted = used;
        desk.job().permitted[0] = given(PermitStep::Reboot, "run-1", "boot-1");
    });
    assert_eq!(desk.verdict(), "granted again");
}

fn stop(spec: &str) -> Arc<StopView> {
    let spec = serde_yaml::from_str(spec).unwrap();
    Arc::new(StopView::new(&EmergencyStop::new("erp-down", spec)))
}

#[test]
fn an_emergency_stop_refuses_every_step_of_an_installation_and_says_why() {
    for make in [Desk::install, Desk::reboot] {
        let desk = make().with(|desk| {
            desk.stops = vec![stop("reason: \"the ERP\\ndoes not answer\"")];
            // What a halt lets finish, and what was permitted before, is stopped all the same.
            desk.rollout().spec.on_halt.installed_awaiting_reboot = AwaitingRebootAction::Finish;
            desk.job().permitted = vec![given(desk.step, "run-1", "boot-1")];
        });
        let PermitVerdict::Refused { reason, message, retry_after } = desk.ask() else {
            panic!("{:?}", desk.ask());
        };
        assert_eq!(reason, Reason::EmergencyStop);
        assert_eq!(message, "EmergencyStop erp-down is in force: the ERP does not answer.");
        assert!(retry_after <= SignedDuration::from_secs(30), "a lift is noticed soon");
    }
}

#[test]
fn an_emergency_stop_concerns_its_kbs_and_its_devices_only() {
    let verdict = |spec: &str| {
        let desk = Desk::install().with(|desk| {
            desk.stops = vec![stop(spec)];
            let labels = BTreeMap::from([("ward".to_owned(), "3".to_owned())]);
            desk.device().labels = Arc::new(labels);
        });
        desk.verdict()
    };
    assert_eq!(verdict("{reason: r, kbs: [KB5068787]}"), "refused");
    assert_eq!(verdict("{reason: r, kbs: [KB1111111]}"), "granted");
    assert_eq!(verdict("{reason: r, selector: {matchLabels: {ward: '3'}}}"), "refused");
    assert_eq!(verdict("{reason: r, selector: {matchLabels: {ward: '4'}}}"), "granted");
    let both = "{reason: r, kbs: [KB1111111], selector: {matchLabels: {ward: '3'}}}";
    assert_eq!(verdict(both), "granted");
}

#[test]
fn a_rollback_goes_on_under_an_emergency_stop_unless_it_names_rollbacks() {
    for step in [PermitStep::Uninstall, PermitStep::Reboot] {
        let under = |spec: &str| {
            let desk = Desk::new(step, JobAction::Rollback);
            let desk = desk.with(|desk| desk.stops = vec![stop(spec)]);
            desk.verdict()
        };
        assert_eq!(under("reason: r"), "granted");
        assert_eq!(under("{reason: r, kbs: [KB5068787]}"), "granted");
        assert_eq!(under("{reason: r, rollbacks: Stop}"), "refused");
    }
}

#[test]
fn nothing_ends_for_good_while_an_emergency_stop_keeps_it_waiting() {
    let late = |make: fn() -> Desk| {
        make().with(|desk| {
            desk.now = at("2026-11-22T00:00:00Z");
            desk.stops = vec![stop("reason: r")];
        })
    };
    for make in [Desk::install, Desk::reboot] {
        assert_eq!(late(make).verdict(), "refused");
    }
    // A person's abort is no deadline.
    let desk = late(Desk::install).with(|desk| {
        desk.rollout().spec.abort = Some(Abort { reason: "wrong month".to_owned() });
    });
    assert_eq!(desk.reason(), Some(Reason::AbortedByPerson));
}

const TONIGHT: &str =
    "schedule: {once: {from: 2026-11-20T22:00:00Z, until: 2026-11-20T23:30:00Z}}, type: Allow";

fn window(spec: &str) -> Arc<WindowView> {
    let spec = serde_yaml::from_str(&format!("{{{spec}}}")).unwrap();
    Arc::new(WindowView::new(&MaintenanceWindow::new("tonight", spec)))
}

/// A desk whose stage names a window, at an instant, for a device that was permitted to install before.
fn in_window(step: PermitStep, action: JobAction, spec: &str, now: &str, installed: &str) -> Desk {
    let mut desk = Desk::new(step, action);
    desk.now = at(now);
    desk.windows = vec![window(spec)];
    desk.rollout().spec.stages[0].windows = vec!["tonight".to_owned()];
    if !installed.is_empty() {
        let permit = Permit {
            step: PermitStep::Install,
            at: at(installed),
            attempt: 2,
            boot_id: "boot-0".to_owned(),
            agent_run: "run-0".to_owned(),
            accepted_in: "run-0".to_owned(),
            expedited: false,
        };
        desk.job().permitted = vec![permit];
    }
    desk
}

#[test]
fn nothing_begins_outside_its_window_and_what_installed_may_finish_for_a_while() {
    use JobAction::{Install, Rollback};
    use PermitStep::{Install as Installs, Reboot, Uninstall};
    let plain = TONIGHT.to_owned();
    let with = |more: &str| format!("{TONIGHT}, {more}");
    let freeze = TONIGHT.replace("type: Allow", "type: Deny, reason: r");
    let (inside, installed) = ("2026-11-20T23:00:00Z", "2026-11-20T23:15:00Z");
    let (half_an_hour, two_hours) = ("2026-11-21T00:00:00Z", "2026-11-21T01:30:00Z");
    for (step, action, spec, now, installed, expected) in [
        (Installs, Install, plain.clone(), inside, "", "granted"),
        (Installs, Install, plain.clone(), "2026-11-20T21:59:59Z", "", "OutsideWindow"),
        (Installs, Install, plain.clone(), "2026-11-20T23:29:59Z", "", "granted"),
        (Installs, Install, plain.clone(), "2026-11-20T23:30:00Z", "", "WindowNeverOpens"),
        (Installs, Install, with("startCutoff: 45m"), inside, "", "WindowNeverOpens"),
        (Reboot, Install, with("startCutoff: 45m"), inside, inside, "granted"),
        // The cutoff is for the beginning: the next update of the same job goes on.
        (Installs, Install, with("startCutoff: 45m"), inside, "2026-11-20T22:10:00Z", "granted"),
        (
            Installs,
            Install,
            with("startCutoff: 45m"),
            half_an_hour,
            "2026-11-20T22:10:00Z",
            "WindowNeverOpens",
        ),
        (Installs, Install, with("allows: [Reboot]"), inside, "", "WindowNeverOpens"),
        // After the end: within the limit of the window in which it installed.
        (Reboot, Install, plain.clone(), half_an_hour, installed, "granted"),
        (Reboot, Install, plain.clone(), two_hours, installed, "WindowNeverOpens"),
        (Reboot, Install, with("overrun: {limit: 3h}"), two_hours, installed, "granted"),
        (
            Reboot,
            Install,
            with("overrun: {action: Hold}"),
            half_an_hour,
            installed,
            "WindowNeverOpens",
        ),
        (Reboot, Install, with("allows: [Install]"), half_an_hour, installed, "WindowNeverOpens"),
        // It did not install in it: the restart before the installation is a beginning.
        (Reboot, Install, plain.clone(), half_an_hour, "", "WindowNeverOpens"),
        (Reboot, Install, plain.clone(), half_an_hour, "2026-11-20T21:00:00Z", "WindowNeverOpens"),
        // A freeze.
        (Installs, Install, freeze.clone(), inside, "", "Frozen"),
        (Reboot, Install, freeze.clone(), inside, "2026-11-20T21:30:00Z", "Frozen"),
        // Rollbacks mend devices.
        (Uninstall, Rollback, freeze.clone(), inside, "", "granted"),
        (Reboot, Rollback, freeze, inside, "", "granted"),
        (Uninstall, Rollback, plain, two_hours, "", "granted"),
    ] {
        let desk = in_window(step, action, &spec, now, installed);
        let desk = match spec.contains("Deny") {
            // A freeze needs no naming.
            true => desk.with(|desk| desk.rollout().spec.stages[0].windows.clear()),
            false => desk,
        };
        let said = desk.reason().map_or(desk.verdict(), Reason::as_str);
        assert_eq!(said, expected, "{step:?} {action:?} at {now}, installed {installed}: {spec}");
    }
}

const HASTE: &str = "{reason: CVE-2026-1234, ignoreWindows: true}";

/// The same with a rollout that is in a hurry, which nobody approved.
fn wished(desk: Desk) -> Desk {
    desk.with(|desk| desk.rollout().spec.expedite = Some(serde_yaml::from_str(HASTE).unwrap()))
}

/// The same, approved by somebody else than its author.
fn hurried(desk: Desk) -> Desk {
    wished(desk).with(|desk| {
        let rollout = desk.rollout();
        rollout.spec.authors = vec!["alice".to_owned()];
        rollout.spec.stages[0].gates =
            serde_yaml::from_str("before: [{name: sign-off, type: Approval}]").unwrap();
        let gate = "{name: sign-off, phase: Before, state: Passed, since: '2026-11-20T21:00:00Z', startedAt: '2026-11-20T21:00:00Z', \
                    definition: v1, approval: {round: 1, nonce: n, decided: {decision: Approve, \
                    by: bob, reason: r, at: '2026-11-20T21:00:00Z', approval: a, uid: u}}}";
        let stage =
            format!("{{name: test, state: Open, counts: {{}}, freezeId: v1, gates: [{gate}]}}");
        let status = rollout.status.as_mut().unwrap();
        status.plan_hash = Some("v1:0".to_owned());
        status.stages = vec![serde_yaml::from_str(&stage).unwrap()];
        let parts = approval_parts(rollout, "test").unwrap();
        let mut asked =
            rollout.status.as_ref().unwrap().stages[0].gates[0].approval.clone().unwrap();
        asked.parts = parts;
        asked.hash = approval_hash(rollout, "test", "sign-off", &asked);
        rollout.status.as_mut().unwrap().stages[0].gates[0].approval = Some(asked);
    })
}

#[test]
fn the_desk_says_that_an_installation_begins_by_haste_alone_and_when_that_has_to_be_noted() {
    let (inside, outside) = ("2026-11-20T23:00:00Z", "2026-11-21T00:30:00Z");
    let asks = |now: &str| in_window(PermitStep::Install, JobAction::Install, TONIGHT, now, "");
    let said = |repeated: bool, expedited: bool| PermitVerdict::Granted { repeated, expedited };
    assert_eq!(hurried(asks(outside)).ask(), said(false, true));
    assert_eq!(hurried(asks(inside)).ask(), said(false, false), "it would begin without");
    assert_eq!(wished(asks(outside)).reason(), Some(Reason::WindowNeverOpens));

    // The same run asks again: because the answer was lost, or before the next update of the job.
    let again = |now: &str, expedited: bool, count: usize| {
        hurried(asks(now)).with(|desk| {
            let first = Permit { expedited, ..given(PermitStep::Install, "run-1", "boot-1") };
            desk.job().permitted = vec![first; count];
        })
    };
    assert_eq!(again(outside, true, 1).ask(), said(true, true));
    assert_eq!(again(inside, true, 1).ask(), said(true, false));
    assert_eq!(again(inside, false, 1).ask(), said(true, false));
    assert_eq!(again(outside, false, 1).ask(), said(false, true), "the first began in its window");
    assert_eq!(again(outside, false, MAX_PERMITS).ask(), said(true, true), "there is no room");
}

#[test]
fn a_restart_follows_from_how_the_installation_was_permitted_and_not_from_what_is_written_now() {
    let installed = "2026-11-20T21:00:00Z";
    let waits = || {
        let now = "2026-11-21T01:30:00Z";
        wished(in_window(PermitStep::Reboot, JobAction::Install, TONIGHT, now, installed))
    };
    let noted = || waits().with(|desk| desk.job().permitted[0].expedited = true);
    assert_eq!(waits().reason(), Some(Reason::WindowNeverOpens), "nobody approved the haste");
    assert_eq!(noted().ask(), GRANTED, "somebody did, when it installed");

    let moved = noted().with(|desk| {
        desk.windows = vec![window(&TONIGHT.replace("22:00:00Z", "20:00:00Z"))];
    });
    assert_eq!(moved.ask(), GRANTED);
    let doubled = noted().with(|desk| {
        let other = given(PermitStep::Install, "run-0", "boot-2");
        desk.job().permitted.push(other);
    });
    assert_eq!(doubled.ask(), GRANTED, "another run asked again, in a window");

    type Spoil = fn(&mut Desk);
    let spoils: &[(Reason, Spoil)] = &[
        (Reason::WindowNeverOpens, |desk| desk.rollout().spec.expedite = None),
        (Reason::WindowNeverOpens, |desk| {
            desk.rollout().spec.expedite.as_mut().unwrap().ignore_windows = false;
        }),
        (Reason::WindowNeverOpens, |desk| desk.job().permitted[0].attempt = 1),
        (Reason::WindowNeverOpens, |desk| desk.job().permitted[0].step = PermitStep::Reboot),
        (Reason::Frozen, |desk| {
            let freeze = TONIGHT.replace("type: Allow", "type: Deny, reason: r");
            desk.windows = vec![window(&freeze.replace("23:30:00Z", "23:59:00Z"))];
            desk.now = at("2026-11-20T23:45:00Z");
        }),
    ];
    for (row, (reason, spoil)) in spoils.iter().enumerate() {
        assert_eq!(noted().with(spoil).reason(), Some(*reason), "row {row}");
    }
}

#[test]
fn a_rollback_that_respects_windows_waits_for_one_that_allows_it() {
    let now = "2026-11-20T23:00:00Z";
    for (spec, step, expected) in [
        (TONIGHT.to_owned(), PermitStep::Uninstall, "WindowNeverOpens"),
        (TONIGHT.to_owned(), PermitStep::Reboot, "granted"),
        (format!("{TONIGHT}, allows: [Uninstall]"), PermitStep::Uninstall, "granted"),
        (format!("{TONIGHT}, allows: [Uninstall]"), PermitStep::Reboot, "WindowNeverOpens"),
    ] {
        let desk = in_window(step, JobAction::Rollback, &spec, now, "").with(|desk| {
            desk.rollout().spec.on_failure.windows = RollbackWindows::Respect;
        });
        let said = desk.reason().map_or(desk.verdict(), Reason::as_str);
        assert_eq!(said, expected, "{step:?} {spec}");
    }
}

#[test]
fn a_device_asks_again_when_the_window_opens_but_soon_enough_to_see_an_edit() {
    let wait = |now: &str| {
        let desk = in_window(PermitStep::Install, JobAction::Install, TONIGHT, now, "");
        match desk.ask() {
            PermitVerdict::Refused { retry_after, .. } => retry_after.as_secs(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(wait("2026-11-20T12:00:00Z"), 300);
    assert_eq!(wait("2026-11-20T21:58:00Z"), 120);
    assert_eq!(wait("2026-11-20T21:59:59Z"), 30);
}

#[test]
fn a_gate_that_fails_or_cannot_be_measured_lets_nothing_begin_and_lets_restarts_finish() {
    for (state, reason) in [("Failed", Reason::GateFailed), ("Error", Reason::GateError)] {
        let desk = Desk::install().with(|desk| desk.gated(state));
        assert_eq!(desk.reason(), Some(reason));
        let desk = Desk::reboot().with(|desk| desk.gated(state));
        assert_eq!(desk.verdict(), "granted", "half installed is the worst place to be");
        let desk = Desk::uninstall().with(|desk| desk.gated(state));
        assert_eq!(desk.verdict(), "granted");
    }
    let desk = Desk::install().with(|desk| desk.gated("Waiting"));
    assert_eq!(desk.verdict(), "granted");
}

/// Uninstalls on a person's order that stands.
fn ordered() -> Desk {
    let mut desk = Desk::uninstall();
    desk.line().ordered = true;
    let mut order = PatchRollback::new(
        "erp-down",
        serde_yaml::from_str("{rollout: november, reason: r}").unwrap(),
    );
    order.metadata.uid = Some("order".to_owned());
    desk.order = Some(order);
    let status = desk.rollout().status.as_mut().unwrap();
    status.halted = latch();
    let rollback = "{scope: Device, stage: test, startedAt: '2026-11-20T22:00:00Z', order: {name: erp-down, uid: order}}";
    status.rollback = Some(serde_yaml::from_str(rollback).unwrap());
    desk
}

#[test]
fn what_a_person_ordered_begins_only_while_the_order_stands() {
    assert_eq!(ordered().ask(), GRANTED);
    let refused = |desk: &Desk| match desk.ask() {
        PermitVerdict::Refused { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    let gone = ordered().with(|desk| desk.order = None);
    assert_eq!(refused(&gone), Reason::RollbackWithdrawn);
    let another = ordered().with(|desk| {
        desk.order.as_mut().unwrap().metadata.uid = Some("made anew".to_owned());
    });
    assert_eq!(refused(&another), Reason::RollbackWithdrawn);
    let going = ordered().with(|desk| {
        let time = wardring_api::conditions::whole_seconds(desk.now);
        desk.order.as_mut().unwrap().metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time));
    });
    assert_eq!(refused(&going), Reason::RollbackWithdrawn);

    // What has begun comes to its end, and what follows from failures needs no order.
    let begun = ordered().with(|desk| {
        desk.order = None;
        desk.step = PermitStep::Reboot;
        let permit = permit_of(desk, PermitStep::Uninstall);
        desk.job().permitted.push(permit);
    });
    assert_eq!(begun.ask(), GRANTED);
    let automatic = ordered().with(|desk| {
        desk.order = None;
        let status = desk.rollout().status.as_mut().unwrap();
        status.rollback.as_mut().unwrap().order = None;
    });
    assert_eq!(automatic.ask(), GRANTED);
}

#[test]
fn an_order_on_an_aborted_rollout_permits_its_own_devices_and_in_its_own_windows_only() {
    let aborted =
        || ordered().with(|desk| desk.rollout().status.as_mut().unwrap().aborted = latch());
    assert_eq!(aborted().ask(), GRANTED);
    let unmarked = aborted().with(|desk| desk.line().ordered = false);
    assert!(matches!(unmarked.ask(), PermitVerdict::Ended { reason: Reason::AbortedByPerson, .. }));

    // The rollout waits for windows with what failed; the order does not.
    let freeze = "{type: Deny, allows: [Install], reason: r, schedule: {once: {from: '2026-11-01T00:00:00Z', until: '2026-12-31T00:00:00Z'}}}";
    let frozen = ordered().with(|desk| {
        let window = MaintenanceWindow::new("freeze", serde_yaml::from_str(freeze).unwrap());
        desk.windows = vec![Arc::new(WindowView::new(&window))];
        desk.rollout().spec.on_failure.windows = RollbackWindows::Respect;
    });
    assert_eq!(frozen.ask(), GRANTED);
    let unmarked = frozen.with(|desk| desk.line().ordered = false);
    assert!(matches!(unmarked.ask(), PermitVerdict::Refused { reason: Reason::Frozen, .. }));
}

#[test]
fn a_group_that_forbids_rollbacks_lets_none_begin_and_those_that_began_end() {
    let forbidden = ordered().with(|desk| desk.forbids = Some("theatre"));
    match forbidden.ask() {
        PermitVerdict::Refused { reason, message, .. } => {
            assert_eq!(reason, Reason::RollbackForbidden);
            assert!(message.contains("theatre"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let begun = ordered().with(|desk| {
        desk.forbids = Some("theatre");
        desk.step = PermitStep::Reboot;
        let permit = permit_of(desk, PermitStep::Uninstall);
        desk.job().permitted.push(permit);
    });
    assert_eq!(begun.ask(), GRANTED);
    let install = Desk::install().with(|desk| desk.forbids = Some("theatre"));
    assert_eq!(install.ask(), GRANTED);
}

/// A permit that the job has.
fn permit_of(desk: &Desk, step: PermitStep) -> Permit {
    Permit {
        step,
        at: desk.now,
        attempt: 2,
        boot_id: "boot-0".to_owned(),
        agent_run: "run-1".to_owned(),
        accepted_in: "run-0".to_owned(),
        expedited: false,
    }
}

fn refused(desk: &Desk) -> Reason {
    match desk.ask() {
        PermitVerdict::Refused { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

/// A rollback that follows from failures, of a run of twenty devices that goes to two without asking.
fn automatic(taken: u32) -> Desk {
    Desk::uninstall().with(|desk| {
        let rollout = desk.rollout();
        rollout.spec.on_failure =
            serde_yaml::from_str("{action: Rollback, approvalAbove: 10%}").unwrap();
        let status = rollout.status.as_mut().unwrap();
        status.plan_hash = Some("v1:0".to_owned());
        status.stages.push(wardring_api::StageStatus::default());
        let stage = status.stages.last_mut().unwrap();
        (stage.counts.total, stage.counts.rolled_back) = (20, taken);
    })
}

/// Somebody approved a rollback of up to eight devices.
fn approve(desk: &mut Desk) {
    let rollout = desk.rollout();
    rollout.status.as_mut().unwrap().rollback_approval = Some(
        serde_yaml::from_str(
            "{state: Passed, since: '2026-11-20T22:00:00Z', scope: Device, upTo: 8, asked: {round: 1, nonce: n, \
             expiresAt: '2026-11-27T22:00:00Z', decided: {decision: Approve, by: bob, reason: r, \
             at: '2026-11-20T22:00:00Z', approval: a, uid: u}}}",
        )
        .unwrap(),
    );
    let parts = rollback_parts(rollout).unwrap();
    let mut next = rollout.status.clone().unwrap().rollback_approval.unwrap();
    next.asked.parts = parts;
    next.asked.hash = rollback_hash(rollout, &next.asked);
    rollout.status.as_mut().unwrap().rollback_approval = Some(next);
}

#[test]
fn a_rollback_beyond_the_share_is_permitted_by_an_approval_of_exactly_that_only() {
    assert_eq!(automatic(1).ask(), GRANTED);
    assert_eq!(refused(&automatic(2)), Reason::RollbackAwaitsApproval);
    // Those that could not be taken back count, too.
    let failed = automatic(1).with(|desk| {
        desk.rollout().status.as_mut().unwrap().stages[0].counts.rollback_failed = 1;
    });
    assert_eq!(refused(&failed), Reason::RollbackAwaitsApproval);
    let begun = automatic(2).with(|desk| {
        desk.step = PermitStep::Reboot;
        let permit = permit_of(desk, PermitStep::Uninstall);
        desk.job().permitted.push(permit);
    });
    assert_eq!(begun.ask(), GRANTED, "what has begun comes to its end");

    assert_eq!(automatic(7).with(approve).ask(), GRANTED);
    assert_eq!(refused(&automatic(8).with(approve)), Reason::RollbackAwaitsApproval);
    fn known(desk: &mut Desk) -> &mut wardring_api::RollbackApproval {
        desk.rollout().status.as_mut().unwrap().rollback_approval.as_mut().unwrap()
    }
    let spoils: [fn(&mut Desk); 7] = [
        |desk| known(desk).state = GateState::Waiting,
        |desk| known(desk).asked.decided.as_mut().unwrap().decision = Decided::Reject,
        |desk| known(desk).asked.decided = None,
        |desk| known(desk).up_to = 500,
        |desk| known(desk).asked.nonce = "m".to_owned(),
        |desk| desk.rollout().spec.authors.push("bob".to_owned()),
        |desk| known(desk).asked.expires_at = Some(desk.now),
    ];
    for (index, spoil) in spoils.into_iter().enumerate() {
        let spoiled = automatic(7).with(approve).with(spoil);
        assert_eq!(refused(&spoiled), Reason::RollbackAwaitsApproval, "{index}");
    }
}

#[test]
fn a_healthy_device_is_not_rolled_back_while_a_person_is_asked_or_said_no_also_within_the_share() {
    fn with(state: GateState, was: LineState) -> Desk {
        automatic(0).with(approve).with(|desk| {
            let known = desk.rollout().status.as_mut().unwrap().rollback_approval.as_mut();
            known.unwrap().state = state;
            desk.line().was = Some(was);
        })
    }
    for state in [GateState::Failed, GateState::Waiting, GateState::Error] {
        let healthy = with(state, LineState::Succeeded);
        assert_eq!(refused(&healthy), Reason::RollbackAwaitsApproval, "{state:?}");
        assert_eq!(with(state, LineState::Failed).ask(), GRANTED, "what is broken is mended");
    }
    assert_eq!(with(GateState::Passed, LineState::Succeeded).ask(), GRANTED);
    // Another group asks, and the share is kept: this device goes by itself.
    let beside = with(GateState::Waiting, LineState::Succeeded).with(|desk| {
        let known = desk.rollout().status.as_mut().unwrap().rollback_approval.as_mut();
        known.unwrap().groups = vec!["theatre".to_owned()];
    });
    assert_eq!(beside.ask(), GRANTED);
}

#[test]
fn a_device_whose_group_asks_is_rolled_back_by_an_approval_or_an_order_only() {
    let asks = automatic(0).with(|desk| desk.asks = Some("theatre"));
    match asks.ask() {
        PermitVerdict::Refused { reason, message, .. } => {
            assert_eq!(reason, Reason::RollbackAwaitsApproval);
            assert!(message.contains("Group theatre asks"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(asks.with(approve).ask(), GRANTED);
    let ordered = || ordered().with(|desk| desk.asks = Some("theatre"));
    assert_eq!(ordered().ask(), GRANTED);
    // An order means its own devices alone.
    let unmarked = ordered().with(|desk| desk.line().ordered = false);
    assert_eq!(refused(&unmarked), Reason::RollbackAwaitsApproval);
    let install = Desk::install().with(|desk| desk.asks = Some("theatre"));
    assert_eq!(install.ask(), GRANTED);
}
