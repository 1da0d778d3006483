//! Orders that ask, and halts, stops and retries.

use super::*;

#[test]
fn an_order_that_waits_halts_what_is_under_way_at_once() {
    let mut world = world();
    world.settle();
    while world.state("november", "test-1") != Some(LineState::Succeeded) {
        world.minute(|_| {});
    }
    world.permits.clear();
    ordered(&mut world, "0");
    minutes(&mut world, 90);
    let rollout = world.status("november");
    assert_eq!(rollout.halted.unwrap().reason, "RollbackOrdered");
    let begun = world.permits.iter().filter(|given| given.step != PermitStep::Reboot);
    assert_eq!(begun.count(), 0, "nothing is installed any more, and nothing taken back");
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 120);
    assert_eq!(uninstalls(&world).len(), 2);
}

#[test]
fn a_retry_between_small_orders_makes_them_no_smaller() {
    let mut world = completed();
    for (number, device) in ["test-1", "ward-1", "ward-2"].into_iter().enumerate() {
        order(&mut world, device, "2", &format!(", devices: [{device}]"));
        minutes(&mut world, 60);
        let is_beyond = number == 2;
        assert_eq!(uninstalls(&world).len(), number + usize::from(!is_beyond), "{device}");
        if is_beyond {
            assert_eq!(phase(&world, device), RollbackPhase::Waiting);
            break;
        }
        // Somebody lifts the bar, and the rollout brings the updates again.
        world.holds.clear();
        world.now += SignedDuration::from_mins(1);
        world.retry("november");
        minutes(&mut world, 90);
        assert_eq!(world.state("november", device), Some(LineState::Succeeded));
        assert_eq!(world.status("november").rolled_back_before, number as u32 + 1);
    }
}

/// Two devices are taken back within the share, and somebody asks for a retry.
fn retried() -> World {
    let mut world = completed();
    order(&mut world, "one", "2", ", devices: [test-1, ward-1]");
    minutes(&mut world, 60);
    assert_eq!(uninstalls(&world).len(), 2);
    world.holds.clear();
    world.now += SignedDuration::from_mins(1);
    world.retry("november");
    world
}

/// Carries out the first `writes` writes of the next plan.
fn cut(world: &mut World, writes: usize) {
    let plan = world.plan();
    plan.actions.iter().take(writes).for_each(|action| world.apply(action));
}

#[test]
fn a_retry_that_is_cut_anywhere_makes_no_order_smaller() {
    let mut halves = 0;
    for (pass, writes) in (0..3).flat_map(|pass| (0..5).map(move |writes| (pass, writes))) {
        for again in ["the same", "another stamp", "taken out"] {
            let mut world = retried();
            for _ in 0..pass {
                cut(&mut world, usize::MAX);
            }
            cut(&mut world, writes);
            let name = format!("{again} after {writes} writes of pass {pass}");
            let begun = count(&world, LineState::Pending) > 0;
            halves += usize::from(begun && world.status("november").halted.is_some());
            world.now += SignedDuration::from_secs(1);
            match again {
                "another stamp" => world.retry("november"),
                "taken out" => {
                    world.rollouts.get_mut("november").unwrap().metadata.annotations = None;
                }
                _ => {}
            }
            minutes(&mut world, 90);
            let status = world.status("november");
            let taken = count(&world, LineState::RolledBack) as u32;
            assert_eq!(status.rolled_back_before + taken, 2, "{name}");
            assert!(status.rolled_back_anew <= taken, "{name}");
            order(&mut world, "two", "2", ", devices: [ward-2]");
            minutes(&mut world, 60);
            assert_eq!(phase(&world, "two"), RollbackPhase::Waiting, "{name}");
            assert_eq!(world.state("november", "ward-2"), Some(LineState::Succeeded), "{name}");
        }
    }
    assert!(halves > 0, "no cut was between the lines and the status");
}

#[test]
fn a_stop_in_the_moment_in_which_an_order_would_begin_comes_first_and_the_order_after_it() {
    for end in [false, true] {
        let mut world = asked();
        // What an earlier order marked is marked still.
        order(&mut world, "one", "4", ", devices: [ward-1]");
        minutes(&mut world, 60);
        decide(&mut world, Decided::Approve, "bob");
        counted(&mut world);
        world.edit("november", |spec| match end {
            true => spec.abort = Some(serde_yaml::from_str("{reason: r}").unwrap()),
            false => spec.suspend = Some(true),
        });
        world.settle();
        let status = world.status("november");
        assert!(status.aborted.is_some() || status.suspended.is_some());
        if !end {
            minutes(&mut world, 60);
            assert_eq!(uninstalls(&world), ["ward-1"], "it stands still");
            world.edit("november", |spec| spec.suspend = Some(false));
        }
        minutes(&mut world, 120);
        assert_eq!(count(&world, LineState::RolledBack), 5, "abort: {end}");
    }
}

/// Whether a device has installed and waits for its restart.
fn waits(world: &World) -> bool {
    world.jobs.values().any(|job| job.state == Some(wardring_api::JobState::AwaitingReboot))
}

/// A rollout that has what waits for its restart uninstalled at a halt, and a device that does.
fn installed() -> World {
    let mut world = world();
    world.edit("november", |spec| {
        spec.on_halt = serde_yaml::from_str("{installedAwaitingReboot: Uninstall}").unwrap();
    });
    world.settle();
    for _ in 0..60 {
        if waits(&world) {
            return world;
        }
        world.minute(|_| {});
    }
    panic!("no device waits for its restart");
}

#[test]
fn the_halt_of_a_plain_order_uninstalls_what_every_halt_does_and_that_of_one_that_asks_does_not() {
    // Nothing of the rollout is on ward-1 yet: whatever is taken back is so by way of the halt.
    for (above, uninstalled) in [("", 2), (", approvalAbove: '100%'", 0), (", approvalAbove: 0", 0)]
    {
        let mut world = installed();
        let spec =
            format!("{{rollout: november, reason: r, authors: [alice], devices: [ward-1]{above}}}");
        world.order("erp-down", &spec);
        world.settle();
        assert_eq!(world.status("november").halted.unwrap().reason, "RollbackOrdered", "{above}");
        minutes(&mut world, 90);
        assert_eq!(uninstalls(&world).len(), uninstalled, "{above}");
        assert_eq!(world.holds.is_empty(), uninstalled == 0, "{above}");
        // Nor does whoever deletes it have them uninstalled.
        world.orders.clear();
        minutes(&mut world, 90);
        assert_eq!(uninstalls(&world).len(), uninstalled, "{above}");
        assert_eq!(waits(&world), uninstalled == 0, "{above}");
    }
}

#[test]
fn an_order_that_waits_takes_nothing_back_by_way_of_its_halt() {
    let mut world = installed();
    ordered(&mut world, "0");
    // The halt is there before the device asks for its restart.
    world.settle();
    assert!(waits(&world) && world.status("november").halted.is_some());
    minutes(&mut world, 60);
    assert!(waits(&world), "it waits for its restart still");
    assert!(uninstalls(&world).is_empty());
    assert!(world.holds.is_empty());
    // Nor does somebody's no take anything back.
    decide(&mut world, Decided::Reject, "carol");
    minutes(&mut world, 60);
    assert_eq!(phase(&world, "erp-down"), RollbackPhase::Incomplete);
    assert!(uninstalls(&world).is_empty());
}

#[test]
fn a_retry_waits_for_an_order_that_waits_and_is_carried_out_once_that_is_gone() {
    let mut world = world();
    world.settle();
    while world.state("november", "test-1") != Some(LineState::Succeeded) {
        world.minute(|_| {});
    }
    ordered(&mut world, "0");
    minutes(&mut world, 60);
    world.retry("november");
    let stamp = world.now.to_string();
    minutes(&mut world, 30);
    assert!(world.status("november").halted.is_some());
    assert_ne!(world.status("november").last_handled_retry.as_ref(), Some(&stamp));
    let waits = world.status("november").waiting_for;
    let told = waits.iter().find(|all| all.reason == "RollbackAwaitsApproval").unwrap();
    assert!(told.message.contains("The retry that somebody asked for waits"), "{}", told.message);
    decide(&mut world, Decided::Reject, "carol");
    minutes(&mut world, 90);
    assert_eq!(world.status("november").last_handled_retry, Some(stamp));
    assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
}

#[test]
fn a_retry_of_the_rollout_answers_nothing_that_an_order_asks() {
    let mut world = asked();
    world.now += SignedDuration::from_mins(1);
    world.retry("november");
    minutes(&mut world, 30);
    assert!(world.permits.is_empty());
    assert_eq!(asking(&world).state, GateState::Waiting);
}

#[test]
fn an_order_on_an_aborted_rollout_asks_as_well() {
    let mut world = completed();
    world.edit("november", |spec| {
        spec.abort = Some(serde_yaml::from_str("{reason: r}").expect("an end"));
    });
    minutes(&mut world, 2);
    assert!(world.status("november").aborted.is_some());
    ordered(&mut world, "0");
    minutes(&mut world, 30);
    assert!(world.permits.is_empty());
    decide(&mut world, Decided::Approve, "bob");
    minutes(&mut world, 120);
    assert_eq!(count(&world, LineState::RolledBack), 5);
}
