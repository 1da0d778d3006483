//! The permit rule: one good request, and every way in which it is refused.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod holds;
mod rollbacks;
mod windows;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    Abort, AwaitingRebootAction, DeviceMode, Hold, JobAction, Latch, LineState, PatchRollback,
    PatchRollout, Permit, PermitStep, SliceLine, UpdateSpec, reasons::Reason,
};
use wardring_planner::{
    Circumstances, DeviceRow, HoldView, JobOutcome, JobView, MAX_PERMITS, PermitFacts,
    PermitRequest, PermitVerdict, StopView, WindowView, permit,
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
        uninstalls_nothing: false,
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
