//! Stories of devices that take an update back without anybody's permit, and of those that must not.

use wardring_protocol::Step;
use wardring_seal::{Action, AutonomousRollback, Hook, HookMoment, OutcomeResult};

use super::bench::{Bench, Script, Stand};
use super::*;

const BOOT_LOOP: AutonomousRollback = AutonomousRollback { boot_loop: true, network_lost: None };

/// A device that crashes twice once `KB1` is in force, and that may help itself.
fn crashing() -> Bench {
    let script = Script { crashes: 2, ..Script::default() };
    Bench { autonomous: Some(BOOT_LOOP), ..Bench::new() }.with("KB1", script)
}

fn install(bench: &mut Bench) -> OutcomePayload {
    bench.carry_out_job(bench.job(1, Action::Install))
}

fn end(outcome: &OutcomePayload) -> (OutcomeResult, Option<&str>) {
    (outcome.result, outcome.reason.as_deref())
}

/// Goes on until the update is in force, and no gateway answers from then on.
fn in_force_and_alone(bench: &mut Bench) {
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| bench.is_down);
    bench.cut_off_until_mono_ms = u64::MAX;
}

#[test]
fn a_device_that_crashes_again_and_again_takes_the_update_back_once_and_tells_so() {
    let mut bench = crashing();
    in_force_and_alone(&mut bench);
    let permits = bench.permits_asked;
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = bench.outcomes[0].clone();
    assert_eq!(end(&outcome), (OutcomeResult::RolledBack, Some("BootLoop")), "{}", outcome.message);
    let told =
        "it rolled back by itself (3 boots since the job was accepted, 2 of them after a crash";
    assert!(outcome.message.starts_with(told), "{}", outcome.message);
    assert!(outcome.message.ends_with("removed and verified; the build is 20348.2700"));
    assert!(outcome.started && outcome.message.len() <= 256);
    assert_eq!((bench.removals, bench.reboots_made()), (1, 2), "one restart for each direction");
    assert_eq!(bench.permits_asked, permits, "nobody was asked");
    assert!(bench.states.contains(&"Uninstalling".to_owned()));
    assert_eq!(bench.updates["KB1"].stand, Stand::Offered);

    // The same grant again is answered, not carried out; and the controller's own rollback finds nothing.
    bench.cut_off_until_mono_ms = 0;
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    assert_eq!(bench.outcomes.last(), Some(&outcome));
    let rollback = bench.carry_out_job(bench.job(2, Action::Rollback));
    assert_eq!((rollback.result, bench.removals), (OutcomeResult::RolledBack, 1));
}

#[test]
fn a_device_that_crashes_before_it_can_act_acts_in_the_first_boot_that_holds_long_enough() {
    let mut bench = crashing();
    bench.updates.get_mut("KB1").unwrap().crashes = 9;
    in_force_and_alone(&mut bench);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::RolledBack, "{:?}", bench.outcomes[0]);
    assert_eq!((bench.removals, bench.boot), (1, 12));
}

#[test]
fn a_device_whose_job_does_not_ask_for_it_stays_as_it_is() {
    let mut bench = Bench { autonomous: None, ..crashing() };
    let outcome = install(&mut bench);
    assert_eq!(end(&outcome), (OutcomeResult::Failed, Some("BootLoop")));
    assert_eq!((bench.removals, bench.reboots_made()), (0, 1));
    assert!(!outcome.message.contains("by itself"), "{}", outcome.message);

    let asked = AutonomousRollback { boot_loop: false, network_lost: None };
    let mut bench = Bench { autonomous: Some(asked), ..crashing() };
    assert_eq!(end(&install(&mut bench)), (OutcomeResult::Failed, Some("BootLoop")));
    assert_eq!(bench.removals, 0);
}

#[test]
fn a_domain_controller_or_cluster_node_never_does_it_whatever_the_job_says() {
    for (role, words) in [
        ("DomainController", "it is a domain controller"),
        ("Unknown", "it is a device that cannot tell its roles"),
        ("ClusterNode", "it is a node of a failover cluster"),
    ] {
        let mut bench = Bench { roles: vec!["RdsHost".to_owned(), role.to_owned()], ..crashing() };
        bench.start(false);
        let outcome = install(&mut bench);
        assert_eq!(end(&outcome), (OutcomeResult::Failed, Some("BootLoop")));
        assert!(outcome.message.ends_with(words), "{}", outcome.message);
        assert_eq!((bench.removals, bench.reboots_made()), (0, 1));
    }
}

#[test]
fn a_role_that_only_one_run_of_the_agent_saw_counts_for_the_whole_job() {
    for sees_it_at_first in [true, false] {
        let role = vec!["DomainController".to_owned()];
        let mut bench = crashing();
        if sees_it_at_first {
            bench.roles.clone_from(&role);
            bench.start(false);
        }
        bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
        bench.go_until(|bench| bench.is_down);
        bench.roles = if sees_it_at_first { Vec::new() } else { role };
        bench.go_on();
        bench.roles.clear();
        bench.go_until(|bench| bench.state.job.is_none());
        assert_eq!(end(&bench.outcomes[0]), (OutcomeResult::Failed, Some("BootLoop")));
        assert_eq!(bench.removals, 0, "sees it at first: {sees_it_at_first}");
    }
}

#[test]
fn clean_restarts_by_a_technician_and_unexplained_ones_uninstall_nothing() {
    for kind in [BootKind::Foreign, BootKind::Unknown] {
        let mut bench = Bench { autonomous: Some(BOOT_LOOP), ..Bench::new() };
        in_force_and_alone(&mut bench);
        for _ in 0..4 {
            bench.go_on();
            if bench.state.job.is_some() {
                bench.boot_now(kind);
            }
        }
        bench.go_until(|bench| bench.state.job.is_none() && !bench.is_down);
        let outcome = &bench.outcomes[0];
        assert_eq!(end(outcome), (OutcomeResult::Failed, Some("BootLoop")), "{kind:?}");
        assert!(outcome.message.contains("does not roll back by itself"), "{}", outcome.message);
        assert_eq!(bench.removals, 0, "{kind:?}");
        assert!(bench.is_in_force("KB1"));
    }
}

#[test]
fn losses_of_power_count_like_crashes_and_one_crash_is_bad_luck() {
    let mut bench = Bench { autonomous: Some(BOOT_LOOP), ..Bench::new() };
    in_force_and_alone(&mut bench);
    bench.go_on();
    bench.boot_now(BootKind::Dirty);
    bench.go_on();
    assert!(bench.state.job.as_ref().unwrap().own_rollback.is_none());
    bench.boot_now(BootKind::Dirty);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::RolledBack);

    let script = Script { crashes: 1, ..Script::default() };
    let mut bench = Bench { autonomous: Some(BOOT_LOOP), ..Bench::new() }.with("KB1", script);
    assert_eq!(install(&mut bench).result, OutcomeResult::Succeeded);
    assert_eq!(bench.removals, 0);
}

#[test]
fn crashes_from_before_the_installation_uninstall_nothing() {
    let mut bench = crashing();
    bench.updates.get_mut("KB1").unwrap().crashes = 0;
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.boot_now(BootKind::Crash);
    bench.go_on();
    bench.boot_now(BootKind::Crash);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(end(&bench.outcomes[0]), (OutcomeResult::NotStarted, Some("BootLoop")));
    assert_eq!(bench.removals, 0);
}

#[test]
fn only_what_this_job_installed_is_taken_back() {
    let there = Script { stand: Stand::InForce, ..Script::default() };
    let mut bench = crashing().with("KB2", there);
    let outcome = install(&mut bench);
    assert_eq!(outcome.result, OutcomeResult::RolledBack, "{}", outcome.message);
    assert_eq!(bench.removals, 1);
    assert!(bench.is_in_force("KB2"));
}

#[test]
fn what_somebody_else_installed_right_before_this_job_stays() {
    let taken = Script { is_taken: true, ..Script::default() };
    let mut bench = crashing().with("KB2", taken.clone());
    let outcome = install(&mut bench);
    assert_eq!(outcome.result, OutcomeResult::RolledBack, "{}", outcome.message);
    assert_eq!(bench.removals, 1);
    assert!(bench.is_in_force("KB2"));

    let mut bench = crashing().with("KB1", Script { crashes: 2, ..taken });
    let outcome = install(&mut bench);
    assert_eq!(end(&outcome), (OutcomeResult::Failed, Some("BootLoop")));
    assert!(outcome.message.ends_with("this job installed nothing"), "{}", outcome.message);
    assert_eq!(bench.removals, 0);
}

#[test]
fn a_device_that_people_took_back_or_whose_time_is_over_uninstalls_nothing() {
    let mut observed = crashing();
    in_force_and_alone(&mut observed);
    observed.take(Event::ModeSet(Mode::Observe));
    let mut late = crashing();
    in_force_and_alone(&mut late);
    late.wall += jiff::SignedDuration::from_hours(25);
    for (mut bench, why) in
        [(observed, "it is in mode Observe"), (late, "the time of the job is over")]
    {
        bench.go_until(|bench| bench.state.job.is_none());
        let outcome = &bench.outcomes[0];
        assert_eq!(end(outcome), (OutcomeResult::Failed, Some("BootLoop")));
        assert!(outcome.message.ends_with(why), "{}", outcome.message);
        assert_eq!(bench.removals, 0);
    }
}

#[test]
fn a_device_that_crashes_on_after_the_removal_is_left_to_people() {
    let mut bench = crashing();
    in_force_and_alone(&mut bench);
    bench.go_until(|bench| bench.removals == 1);
    for _ in 0..20 {
        bench.go_until(|bench| bench.state.job.is_none() || phase(bench) == "Settling");
        if bench.state.job.is_none() {
            break;
        }
        bench.boot_now(BootKind::Crash);
        bench.go_on();
    }
    let outcome = &bench.outcomes[0];
    assert_eq!(end(outcome), (OutcomeResult::RollbackFailed, Some("BootLoop")));
    assert!(outcome.message.contains("it did so once"), "{}", outcome.message);
    assert_eq!(bench.removals, 1);
}

#[test]
fn what_windows_took_back_first_is_reverted_and_not_claimed() {
    let mut bench = crashing();
    in_force_and_alone(&mut bench);
    bench.go_until(|bench| bench.state.job.as_ref().is_some_and(|job| job.own_rollback.is_some()));
    // Windows' recovery removed it "to recover from a startup failure".
    bench.updates.get_mut("KB1").unwrap().stand = Stand::NotOffered;
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::RevertedByWindows);
    assert_eq!(bench.removals, 0);
}

#[test]
fn what_cannot_be_removed_stays_and_is_told() {
    let script = Script { crashes: 2, uninstallable: false, ..Script::default() };
    let mut bench = crashing().with("KB1", script);
    let outcome = install(&mut bench);
    assert_eq!(end(&outcome), (OutcomeResult::NotReversible, Some("BootLoop")));
    assert_eq!(bench.removals, 0);
}

#[test]
fn hooks_before_acts_are_left_out_and_those_for_a_healthy_device_run() {
    let hook = |moment: HookMoment| Hook {
        moment,
        program: format!("{}.cmd", moment.as_str()),
        timeout_ms: 300_000,
    };
    let all = [HookMoment::BeforeInstall, HookMoment::BeforeReboot, HookMoment::AfterHealthy];
    let mut bench = Bench { hooks: all.map(hook).to_vec(), ..crashing() };
    let outcome = install(&mut bench);
    assert_eq!(outcome.result, OutcomeResult::RolledBack, "{}", outcome.message);
    assert_eq!(bench.hooks_run, ["beforeInstall.cmd", "beforeReboot.cmd", "afterHealthy.cmd"]);
}

#[test]
fn an_agent_that_dies_at_any_journal_write_still_takes_it_back_once() {
    let story = |die_at: usize| {
        let mut bench = crashing();
        in_force_and_alone(&mut bench);
        let mut written = 0;
        while bench.state.job.is_some() {
            written += 1;
            if written == die_at && !bench.is_down {
                bench.without_effects();
                bench.start(false);
            } else {
                bench.go_on();
            }
        }
        (bench, written)
    };
    let (_, writes) = story(usize::MAX);
    for die_at in 1..=writes {
        let (bench, _) = story(die_at);
        let outcome = &bench.outcomes[0];
        assert_eq!(outcome.result, OutcomeResult::RolledBack, "died at write {die_at}");
        assert!(bench.removals <= 2, "died at write {die_at}");
        assert!(outcome.reboots <= 3, "died at write {die_at}: {}", outcome.reboots);
        assert_eq!(bench.updates["KB1"].stand, Stand::Offered);
    }
}

fn phase(bench: &Bench) -> &'static str {
    bench.state.job.as_ref().map_or("Idle", |job| job.phase.word())
}

#[test]
fn a_day_without_any_gateway_uninstalls_nothing() {
    let mut bench = Bench { autonomous: Some(BOOT_LOOP), ..Bench::new() };
    in_force_and_alone(&mut bench);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded, "the device itself is well");

    // Before the restart nobody can permit it, and the day goes by.
    let mut bench = Bench { autonomous: Some(BOOT_LOOP), ..Bench::new() };
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| phase(bench) == "AwaitingReboot");
    bench.cut_off_until_mono_ms = bench.mono_ms + 25 * 3_600_000;
    while bench.state.job.is_some() {
        bench.go_on();
    }
    assert_eq!(end(&bench.outcomes[0]), (OutcomeResult::Failed, Some("FinishByPassed")));
    assert_eq!((bench.removals, bench.reboots_made()), (0, 0));
}

#[test]
fn nobody_grants_an_installation_in_place_of_a_gateway() {
    let mut bench = crashing();
    bench.cut_off_until_mono_ms = 3_600_000;
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
    bench.go_until(|bench| bench.mono_ms > 3_000_000);
    assert_eq!((phase(&bench), bench.installs_begun()), ("AwaitingInstall", 0));
    assert!(bench.permits_held.iter().all(|(step, _)| *step == Step::Install));
}

#[test]
fn a_rollback_takes_nothing_back_by_itself() {
    let mut bench = crashing();
    bench.updates.get_mut("KB1").unwrap().crashes = 0;
    assert_eq!(install(&mut bench).result, OutcomeResult::Succeeded);
    let rollback = bench.job(2, Action::Rollback);
    assert!(rollback.autonomous_rollback.is_some());
    bench.take(Event::Offered(Box::new(rollback)));
    bench.go_until(|bench| bench.removals == 1);
    bench.go_until(|bench| phase(bench) == "Settling");
    for _ in 0..2 {
        bench.boot_now(BootKind::Crash);
        bench.go_on();
    }
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = bench.outcomes.last().unwrap();
    assert_eq!(end(outcome), (OutcomeResult::RollbackFailed, Some("BootLoop")));
    assert!(!outcome.message.contains("by itself"), "{}", outcome.message);
}
