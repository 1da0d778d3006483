//! Windows and freezes at the desk, and haste that leaves windows out.

use std::sync::Arc;

use wardring_api::{
    JobAction, MaintenanceWindow, Permit, PermitStep, RollbackWindows, reasons::Reason,
};
use wardring_planner::{MAX_PERMITS, PermitVerdict, WindowView, approval_hash, approval_parts};

use crate::{Desk, GRANTED, at, given};

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
    // A note that an older gateway or CRD drops uses up no more permits, and never the restart's.
    assert_eq!(again(outside, false, 2).ask(), said(true, true));
    for (others, repeated) in [(MAX_PERMITS - 3, false), (MAX_PERMITS - 2, true)] {
        let desk = again(outside, false, 1).with(|desk| {
            let other = given(PermitStep::Install, "run-0", "boot-1");
            desk.job().permitted.extend(vec![other; others]);
        });
        assert_eq!(desk.ask(), said(repeated, true), "{others} of other runs");
    }
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
