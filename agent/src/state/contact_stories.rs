//! Stories of devices that lose the network under an update, and of those that only seem to.

use std::collections::BTreeSet;

use wardring_protocol::PermitAnswer;
use wardring_seal::{Action, AutonomousRollback, Endpoint, NetworkLost, OutcomeResult};

use super::bench::{Bench, Script, Stand, dns, router};
use super::*;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

fn asked() -> AutonomousRollback {
    let network_lost = Some(NetworkLost { after_ms: HOUR_MS, witnesses: Vec::new() });
    AutonomousRollback { boot_loop: false, network_lost }
}

/// A device whose network ends once `KB1` is in force, and that may help itself.
fn cut_off() -> Bench {
    let script = Script { kills_network: true, ..Script::default() };
    Bench { autonomous: Some(asked()), ..Bench::new() }.with("KB1", script)
}

fn phase(bench: &Bench) -> &'static str {
    bench.state.job.as_ref().map_or("Idle", |job| job.phase.word())
}

fn is_silent(bench: &Bench) -> bool {
    bench.state.job.as_ref().is_some_and(|job| {
        matches!(job.phase, Phase::AwaitingContact { .. }) && job.contact.silent_ms > 0
    })
}

fn own_rollback(bench: &Bench) -> bool {
    bench.state.job.as_ref().is_some_and(|job| job.own_rollback.is_some())
}

fn install(bench: &mut Bench) -> OutcomePayload {
    bench.carry_out_job(bench.job(1, Action::Install))
}

fn offer(bench: &mut Bench) {
    bench.take(Event::Offered(Box::new(bench.job(1, Action::Install))));
}

fn end(outcome: &OutcomePayload) -> (OutcomeResult, Option<&str>) {
    (outcome.result, outcome.reason.as_deref())
}

#[test]
fn a_device_whose_network_died_with_the_update_takes_it_back_after_an_hour_and_tells_so() {
    let mut bench = cut_off();
    let outcome = install(&mut bench);
    assert_eq!(end(&outcome), (OutcomeResult::RolledBack, Some("NetworkLost")));
    let told = "it rolled back by itself (nothing on the network has answered for ";
    assert!(outcome.message.starts_with(told), "{}", outcome.message);
    assert!(outcome.message.ends_with("removed and verified; the build is 20348.2700"));
    assert_eq!((bench.removals, bench.reboots_made()), (1, 2), "one restart for each direction");
    assert_eq!(bench.updates["KB1"].stand, Stand::Offered);
    assert!((HOUR_MS..3 * HOUR_MS).contains(&bench.mono_ms), "{}", bench.mono_ms);
    // The same grant again is answered, not carried out.
    offer(&mut bench);
    assert_eq!((bench.outcomes.last(), bench.removals), (Some(&outcome), 1));
}

#[test]
fn a_device_in_contact_ends_its_job_without_any_wait() {
    let mut with = Bench { autonomous: Some(asked()), ..Bench::new() };
    let mut without = Bench::new();
    assert_eq!(install(&mut with).result, OutcomeResult::Succeeded);
    assert_eq!(install(&mut without).result, OutcomeResult::Succeeded);
    assert_eq!(with.mono_ms, without.mono_ms);
}

#[test]
fn only_our_gateways_dead_for_a_day_uninstalls_nothing() {
    for others in [BTreeSet::from([router()]), BTreeSet::from([dns()])] {
        let mut bench = Bench { autonomous: Some(asked()), ..Bench::new() };
        offer(&mut bench);
        bench.go_until(|bench| bench.is_down);
        bench.witnesses = others;
        bench.go_until(|bench| bench.state.job.is_none());
        assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
        assert_eq!(bench.removals, 0);
    }
    // One that answers now and then is enough, also if it did not before.
    let mut bench = cut_off();
    offer(&mut bench);
    bench.go_until(is_silent);
    bench.updates.get_mut("KB1").unwrap().kills_network = false;
    bench.witnesses = BTreeSet::from([Witness::Port { host: "dc-1".to_owned(), port: 389 }]);
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!((bench.outcomes[0].result, bench.removals), (OutcomeResult::Succeeded, 0));
}

#[test]
fn without_anybody_else_than_our_gateways_before_the_installation_it_never_happens() {
    for before in [BTreeSet::new(), BTreeSet::from([Witness::Gateway])] {
        let mut bench = cut_off();
        bench.witnesses = before;
        bench.permits = std::iter::repeat_n(Some(PermitAnswer::Granted), 9).collect();
        bench.witnesses.insert(Witness::Gateway);
        offer(&mut bench);
        bench.go_until(|bench| bench.is_down);
        // Who answers only after it has not been seen alive before.
        bench.witnesses.insert(router());
        bench.go_until(|bench| bench.state.job.is_none());
        assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);
        assert_eq!(bench.removals, 0);
    }
}

#[test]
fn who_answered_before_an_earlier_attempt_is_no_witness_of_this_one() {
    let mut bench = Bench { autonomous: Some(asked()), ..Bench::new() };
    bench.updates.get_mut("KB1").unwrap().fails = true;
    assert_eq!(install(&mut bench).result, OutcomeResult::Failed);
    let attempt = bench.state.records.last().unwrap().baseline.clone().unwrap();
    assert!(attempt.witnesses.contains(&router()));

    // The router is gone by now, and our gateways go while the update is being installed.
    bench.updates.get_mut("KB1").unwrap().fails = false;
    bench.witnesses = BTreeSet::from([Witness::Gateway]);
    bench.take(Event::Offered(Box::new(bench.job(2, Action::Install))));
    bench.go_until(|bench| bench.is_down);
    bench.witnesses.clear();
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes.last().unwrap().result, OutcomeResult::Succeeded);
    assert_eq!(bench.removals, 0);
}

#[test]
fn dead_dns_servers_alone_uninstall_nothing() {
    let port = |host: &str| Witness::Port { host: host.to_owned(), port: 389 };
    let story = |listed: &str, before: &[Witness]| {
        let mut bench = Bench { autonomous: Some(asked()), ..Bench::new() };
        let rules = bench.autonomous.as_mut().unwrap().network_lost.as_mut().unwrap();
        rules.witnesses.push(Endpoint { host: listed.to_owned(), port: 389 });
        bench.witnesses = before.iter().cloned().chain([Witness::Gateway, dns()]).collect();
        offer(&mut bench);
        bench.go_until(|bench| bench.is_down);
        // Whatever has a name is not found any more, and the one that has the address is patched, too.
        bench.witnesses.clear();
        bench.go_until(|bench| bench.state.job.is_none());
        (bench.outcomes[0].result, bench.removals)
    };
    let nothing = (OutcomeResult::Succeeded, 0);
    assert_eq!(story("dc-1", &[]), nothing);
    assert_eq!(story("dc-1", &[port("dc-1")]), nothing);
    assert_eq!(story("dc-1", &[port("dc-1"), port("10.0.0.9")]), nothing, "its address then");
    assert_eq!(story("10.0.0.9", &[port("10.0.0.9")]), (OutcomeResult::RolledBack, 1));
    assert_eq!(story("dc-1", &[router()]), (OutcomeResult::RolledBack, 1));
}

#[test]
fn a_lost_network_uninstalls_nothing_where_the_job_does_not_ask_for_it() {
    let boot_loop = AutonomousRollback { boot_loop: true, network_lost: None };
    for autonomous in [None, Some(boot_loop)] {
        let mut bench = Bench { autonomous, ..cut_off() };
        assert_eq!(install(&mut bench).result, OutcomeResult::Succeeded);
        assert_eq!(bench.removals, 0);
    }
}

#[test]
fn a_domain_controller_or_cluster_node_never_does_it_whatever_the_job_says() {
    for role in ["DomainController", "ClusterNode", "Unknown"] {
        let mut bench = Bench { roles: vec![role.to_owned()], ..cut_off() };
        bench.start(false);
        assert_eq!(install(&mut bench).result, OutcomeResult::Succeeded);
        assert_eq!(bench.removals, 0);

        // It became one during the wait.
        let mut bench = cut_off();
        offer(&mut bench);
        bench.go_until(is_silent);
        bench.roles = vec![role.to_owned()];
        bench.start(false);
        bench.go_until(|bench| bench.state.job.is_none());
        assert_eq!((bench.outcomes[0].result, bench.removals), (OutcomeResult::Succeeded, 0));
    }
}

#[test]
fn devices_that_lose_the_network_at_one_moment_do_not_act_at_one_moment() {
    let waited = |run: u32| {
        let mut bench = cut_off();
        offer(&mut bench);
        bench.go_until(|bench| bench.is_down);
        bench.advance(90_000);
        // A run's identity is random.
        bench.state.turn += u64::from(run);
        bench.start(false);
        bench.go_until(own_rollback);
        bench.mono_ms - bench.booted_mono_ms
    };
    let all: BTreeSet<u64> = (0..12).map(waited).collect();
    assert!(all.len() > 6, "{all:?}");
    assert!(all.iter().all(|ms| (HOUR_MS..=2 * HOUR_MS + 20 * MINUTE_MS).contains(ms)), "{all:?}");
}

#[test]
fn the_wait_begins_anew_with_every_boot_and_every_answer_and_not_with_the_agent() {
    let mut bench = cut_off();
    offer(&mut bench);
    bench.go_until(is_silent);
    bench.go_until(|bench| bench.mono_ms - bench.heard_mono_ms >= HOUR_MS);
    bench.boot_now(BootKind::Foreign);
    let booted = bench.mono_ms;
    bench.go_until(own_rollback);
    assert!(bench.mono_ms - booted >= HOUR_MS);

    // An agent that dies every half hour comes to an end all the same.
    let mut bench = cut_off();
    offer(&mut bench);
    bench.go_until(is_silent);
    let (begun, mut died) = (bench.mono_ms, 0);
    while !own_rollback(&bench) {
        let until = bench.mono_ms + 30 * MINUTE_MS;
        bench.go_until(|bench| bench.mono_ms >= until || own_rollback(bench));
        if !own_rollback(&bench) {
            bench.start(false);
            died += 1;
        }
        assert!(bench.mono_ms - begun < 5 * HOUR_MS, "{died}");
    }
    assert!(died >= 1);
}

#[test]
fn a_moved_clock_and_a_device_that_slept_bring_nothing_forward() {
    let mut bench = cut_off();
    let mut job = bench.job(1, Action::Install);
    job.finish_by += SignedDuration::from_hours(100);
    bench.take(Event::Offered(Box::new(job)));
    bench.go_until(is_silent);
    bench.wall += SignedDuration::from_hours(9);
    let begun = bench.mono_ms;
    // It sleeps for hours at a time, and hears nothing for a minute between.
    for _ in 0..4 {
        bench.advance(5 * HOUR_MS);
        bench.go_on();
        bench.go_on();
    }
    bench.wall -= SignedDuration::from_hours(20);
    assert!(is_silent(&bench) && !own_rollback(&bench));
    bench.go_until(own_rollback);
    assert!(bench.mono_ms - begun - 20 * HOUR_MS >= 40 * MINUTE_MS);
}

#[test]
fn an_answer_right_before_the_removal_calls_it_off_and_the_job_ends_as_it_would_have() {
    let mut bench = cut_off();
    offer(&mut bench);
    bench.go_until(own_rollback);
    bench.updates.get_mut("KB1").unwrap().kills_network = false;
    bench.go_until(|bench| bench.state.job.is_none());
    let outcome = &bench.outcomes[0];
    assert_eq!(end(outcome), (OutcomeResult::Succeeded, None), "{}", outcome.message);
    assert_eq!((bench.removals, bench.reboots_made()), (0, 1));
}

#[test]
fn a_boot_right_before_the_removal_begins_the_wait_anew() {
    let mut bench = cut_off();
    offer(&mut bench);
    bench.go_until(own_rollback);
    bench.boot_now(BootKind::Foreign);
    bench.go_on();
    assert!(!own_rollback(&bench));
    let booted = bench.mono_ms;
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!(bench.outcomes[0].result, OutcomeResult::RolledBack);
    assert!(bench.mono_ms - booted > HOUR_MS);
}

#[test]
fn once_a_removal_was_ordered_no_answer_stops_it_half_way() {
    let mut bench = cut_off().with("KB2", Script { kills_network: true, ..Script::default() });
    offer(&mut bench);
    bench.go_until(|bench| bench.removals == 1);
    for script in bench.updates.values_mut() {
        script.kills_network = false;
    }
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!((bench.outcomes[0].result, bench.removals), (OutcomeResult::RolledBack, 2));
}

#[test]
fn a_device_on_its_battery_is_carried_around_and_uninstalls_nothing() {
    let mut bench = cut_off();
    offer(&mut bench);
    bench.go_until(is_silent);
    bench.around = Surroundings { power: Power::Battery(Some(80)), ..Surroundings::CLEAR };
    while bench.state.job.is_some() {
        bench.go_on();
    }
    assert_eq!((bench.removals, bench.outcomes.len()), (0, 1));
    let outcome = &bench.outcomes[0];
    assert_eq!(outcome.result, OutcomeResult::Succeeded);
    let why = "it does not roll back by itself: the time of the job is over";
    assert!(outcome.message.ends_with(why), "{}", outcome.message);
}

#[test]
fn people_who_took_the_device_back_and_the_end_of_its_time_keep_it_from_it() {
    let mut observed = cut_off();
    offer(&mut observed);
    observed.go_until(is_silent);
    observed.take(Event::ModeSet(Mode::Observe));
    let mut late = cut_off();
    offer(&mut late);
    late.go_until(is_silent);
    late.wall += SignedDuration::from_hours(25);
    for (mut bench, why) in
        [(observed, "it is in mode Observe"), (late, "the time of the job is over")]
    {
        bench.go_until(|bench| bench.state.job.is_none());
        let outcome = &bench.outcomes[0];
        assert_eq!(outcome.result, OutcomeResult::Succeeded);
        assert!(outcome.message.ends_with(why), "{}", outcome.message);
        assert_eq!(bench.removals, 0);
    }
}

#[test]
fn a_device_that_is_sick_without_its_network_helps_itself_too() {
    let script = Script { kills_network: true, stops_service: true, ..Script::default() };
    let mut bench = cut_off().with("KB1", script);
    let outcome = install(&mut bench);
    assert_eq!(end(&outcome), (OutcomeResult::RolledBack, Some("NetworkLost")));
    assert_eq!(bench.removals, 1);
    // With its network it is the controller's.
    let script = Script { stops_service: true, ..Script::default() };
    let outcome = install(&mut cut_off().with("KB1", script));
    assert_eq!(end(&outcome), (OutcomeResult::Failed, Some("ServiceDown")));
}

#[test]
fn a_network_that_does_not_come_back_after_the_removal_is_no_reason_for_another_one() {
    let mut bench = cut_off();
    offer(&mut bench);
    bench.go_until(|bench| bench.removals == 1);
    bench.is_unplugged = true;
    bench.go_until(|bench| bench.state.job.is_none());
    assert_eq!((bench.outcomes[0].result, bench.removals), (OutcomeResult::RolledBack, 1));
}

#[test]
fn ports_of_the_rollout_and_those_who_answered_before_are_asked_and_the_rollback_asks_no_probe() {
    let port = Endpoint { host: "dc-1".to_owned(), port: 389 };
    let mut bench = cut_off();
    bench.probes.insert("web".to_owned(), ProbeSample::Good);
    let rules = bench.autonomous.as_mut().unwrap().network_lost.as_mut().unwrap();
    rules.witnesses.push(port);
    offer(&mut bench);
    let named = Witness::Port { host: "dc-1".to_owned(), port: 389 };
    let looks = |bench: &Bench, wanted: &BTreeSet<Witness>| {
        bench.asked.iter().any(|(_, _, ask)| match ask {
            Ask::Inspect { witnesses: Some(asked), .. } => asked == wanted,
            Ask::SeekContact { witnesses } => witnesses == wanted,
            _ => false,
        })
    };
    assert!(looks(&bench, &BTreeSet::from([named.clone()])), "{:?}", bench.asked);
    let all = BTreeSet::from([named, Witness::Gateway, router(), dns()]);
    bench.go_until(|bench| looks(bench, &all));
    bench.go_until(|bench| own_rollback(bench) && phase(bench) == "Uninstalling");
    let asks_health = |(_, _, ask): &(u64, u64, Ask)| matches!(ask, Ask::Inspect { probes, services, .. } if !probes.is_empty() || !services.is_empty());
    assert!(!bench.asked.iter().any(asks_health), "{:?}", bench.asked);
}

#[test]
fn an_agent_that_dies_at_any_journal_write_still_takes_it_back_once() {
    let story = |die_at: usize| {
        let mut bench = cut_off();
        offer(&mut bench);
        bench.go_until(|bench| bench.is_down);
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
    assert!(writes > 100, "{writes}");
    for die_at in 1..=writes {
        let (bench, _) = story(die_at);
        let outcome = &bench.outcomes[0];
        assert_eq!(outcome.result, OutcomeResult::RolledBack, "died at write {die_at}");
        assert!(bench.removals <= 2, "died at write {die_at}");
        assert!(outcome.reboots <= 3, "died at write {die_at}: {}", outcome.reboots);
    }
}

#[test]
fn a_look_that_never_ends_is_no_silence() {
    let mut bench = cut_off();
    offer(&mut bench);
    bench.go_until(is_silent);
    bench.is_silent = true;
    for _ in 0..3_000 {
        if bench.state.job.is_none() || !bench.go_on() {
            break;
        }
    }
    assert_eq!((bench.outcomes.len(), bench.removals), (1, 0));
    assert_eq!(bench.outcomes[0].result, OutcomeResult::Succeeded);

    // Right before the removal, too.
    let mut bench = cut_off();
    offer(&mut bench);
    bench.go_until(|bench| own_rollback(bench) && phase(bench) == "Uninstalling");
    let asks = |(_, _, ask): &(u64, u64, Ask)| matches!(ask, Ask::SeekContact { .. });
    bench.go_until(|bench| bench.asked.iter().any(asks));
    bench.is_silent = true;
    bench.go_on();
    assert!(!own_rollback(&bench), "{:?}", bench.state.job);
}
