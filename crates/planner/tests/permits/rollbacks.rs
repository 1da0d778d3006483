//! Rollbacks at the desk: by a person's order, by an approval, and where groups forbid or ask.

use std::sync::Arc;

use wardring_api::{
    Decided, GateState, LineState, MaintenanceWindow, PatchRollback, Permit, PermitStep,
    RollbackWindows, reasons::Reason,
};
use wardring_planner::{
    PermitVerdict, WindowView, order_hash, order_parts, rollback_hash, rollback_parts,
};

use crate::{Desk, GRANTED, latch};

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
        status.stages.push(wardring_api::StageStatus {
            state: wardring_api::StageState::Open,
            ..wardring_api::StageStatus::default()
        });
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

/// An order that asks a second person above two devices, on a rollout of eight of which so many are rolled back.
fn asking(rolled_back: u32) -> Desk {
    ordered().with(|desk| {
        let order = desk.order.as_mut().unwrap();
        order.spec.approval_above = Some(wardring_api::Cap::Count(2));
        order.spec.authors = vec!["alice".to_owned()];
        let status = desk.rollout().status.as_mut().unwrap();
        status.stages.push(wardring_api::StageStatus {
            state: wardring_api::StageState::Open,
            ..wardring_api::StageStatus::default()
        });
        let stage = status.stages.last_mut().unwrap();
        (stage.counts.total, stage.counts.rolled_back) = (8, rolled_back);
    })
}

/// bob approved the order for up to so many devices, as the controller writes it.
fn approved(desk: &mut Desk, up_to: u32) {
    let rollout = desk.rollout().clone();
    let order = desk.order.as_mut().unwrap();
    let status = format!(
        "{{approval: {{state: Passed, since: '2026-11-20T22:00:00Z', upTo: {up_to}, asked: {{round: 1, nonce: n, \
         policy: p, request: r, expiresAt: '2099-01-01T00:00:00Z', decided: {{decision: Approve, by: bob, reason: r, \
         at: '2026-11-20T22:00:00Z', approval: a, uid: u}}}}}}}}"
    );
    order.status = Some(serde_yaml::from_str(&status).unwrap());
    let parts = order_parts(order, &rollout).unwrap();
    order.status.as_mut().unwrap().approval.as_mut().unwrap().asked.parts = parts;
    let of = order.status.as_ref().unwrap().approval.as_ref().unwrap().asked.clone();
    let hash = order_hash(order, &rollout, &of);
    order.status.as_mut().unwrap().approval.as_mut().unwrap().asked.hash = hash;
}

#[test]
fn what_an_order_takes_beyond_its_share_is_permitted_by_a_second_person_on_exactly_it_only() {
    assert_eq!(asking(1).ask(), GRANTED, "within the share");
    assert_eq!(refused(&asking(2)), Reason::RollbackAwaitsApproval);
    // A retry made nothing of what was taken back undone.
    let retried = asking(0).with(|desk| {
        desk.rollout().status.as_mut().unwrap().rolled_back_before = 2;
    });
    assert_eq!(refused(&retried), Reason::RollbackAwaitsApproval);
    // A controller that does not know the field begins it; the order says how many it marked.
    let unasked = asking(0).with(|desk| {
        let order = desk.order.as_mut().unwrap();
        order.status = Some(serde_yaml::from_str("{counts: {total: 3}}").unwrap());
    });
    assert_eq!(refused(&unasked), Reason::RollbackAwaitsApproval);

    assert_eq!(asking(3).with(|desk| approved(desk, 4)).ask(), GRANTED);
    let beyond = asking(4).with(|desk| approved(desk, 4));
    assert_eq!(refused(&beyond), Reason::RollbackAwaitsApproval);
    fn known(desk: &mut Desk) -> &mut wardring_api::OrderApproval {
        let order = desk.order.as_mut().unwrap();
        order.status.as_mut().unwrap().approval.as_mut().unwrap()
    }
    let spoils: [fn(&mut Desk); 9] = [
        |desk| known(desk).state = GateState::Waiting,
        |desk| known(desk).asked.decided.as_mut().unwrap().decision = Decided::Reject,
        |desk| known(desk).asked.decided = None,
        |desk| known(desk).up_to = 500,
        |desk| known(desk).asked.nonce = "m".to_owned(),
        |desk| known(desk).asked.expires_at = Some(desk.now),
        |desk| desk.order.as_mut().unwrap().spec.authors.push("bob".to_owned()),
        |desk| desk.order.as_mut().unwrap().spec.reason = "another".to_owned(),
        |desk| desk.order.as_mut().unwrap().spec.devices = vec!["ward-9".to_owned()],
    ];
    for (index, spoil) in spoils.into_iter().enumerate() {
        let spoiled = asking(3).with(|desk| approved(desk, 4)).with(spoil);
        assert_eq!(refused(&spoiled), Reason::RollbackAwaitsApproval, "{index}");
    }
    let rejected = asking(0).with(|desk| {
        approved(desk, 4);
        known(desk).state = GateState::Failed;
    });
    assert_eq!(refused(&rejected), Reason::RollbackRejected);
}
