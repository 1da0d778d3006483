//! What people and groups hold at the desk: barred updates, devices that others patch, restarts, and everything.

use std::{collections::BTreeMap, sync::Arc};

use jiff::SignedDuration;
use wardring_api::{
    Abort, AwaitingRebootAction, EmergencyStop, JobAction, PermitStep, reasons::Reason,
};
use wardring_planner::{GroupView, HoldView, PermitVerdict, StopView, missing_group};

use crate::{Desk, at, given};

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
