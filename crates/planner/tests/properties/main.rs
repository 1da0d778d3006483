//! What must always hold, over random fleets, reports and faults. A device's own story (what its
//! agent really did) is the witness; the planner's word about itself is not.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod case;
mod guards;
mod holds;
#[path = "../support/mod.rs"]
mod support;
mod watch;

use case::case;
use jiff::SignedDuration;
use proptest::prelude::*;
use support::{SERVER, World, agent::Script};
use wardring_api::{AwaitingRebootAction, LineState, PermitStep, RolloutPhase};
use wardring_planner::{Action, plan};
use watch::Watch;

const HONEST: &[Script] =
    &[Script::Good, Script::Good, Script::ServiceDown, Script::Silent, Script::AlreadyInstalled];
const NOTHING: &[Script] = &[Script::NotOffered, Script::AlreadyInstalled];
const GOOD: &[Script] = &[Script::Good];

/// Seeds that failed once are run first, from then on. `PROPTEST_CASES` asks for more cases than
/// the 96 that every run of the tests affords.
pub fn config() -> ProptestConfig {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/properties.proptest-regressions");
    let persistence = proptest::test_runner::FileFailurePersistence::Direct(file);
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: if default.cases == 256 { 96 } else { default.cases },
        failure_persistence: Some(Box::new(persistence)),
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn caps_order_proof_and_budgets_hold_under_random_faults(case in case(Script::ALL, 6)) {
        case.run();
    }

    #[test]
    fn two_faults_at_honest_devices_break_nothing(case in case(HONEST, 2)) {
        case.run();
    }

    /// L1.
    #[test]
    fn a_good_run_completes_and_then_writes_nothing(case in case(GOOD, 0)) {
        let (mut world, _) = case.run();
        prop_assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
        let writes = world.writes;
        for _ in 0..200 {
            world.minute(|_| {});
        }
        prop_assert_eq!(world.writes, writes);
    }

    /// S17.
    #[test]
    fn nothing_to_install_never_opens_the_next_stage(mut case in case(NOTHING, 0)) {
        case.stages.push(case.stages[0].clone());
        let (world, _) = case.run();
        let status = world.status("november");
        prop_assert!(status.stages[1..].iter().all(|stage| stage.freeze_id.is_none()));
    }

    /// L4.
    #[test]
    fn no_dead_device_blocks_a_run_past_its_deadlines(case in case(Script::ALL, 4)) {
        let (mut world, _) = case.run();
        world.stops.clear();
        // Every deadline of every stage, one after the other, and that of a rollback, which has as long as
        // a stage and may begin with the last of them.
        for _ in 0..(13 * 60 * (case.stages.len() + 1) / 15) {
            world.now += SignedDuration::from_mins(14);
            world.minute(|_| {});
        }
        let stands = world.rollouts.get("november").is_none_or(|rollout| {
            let status = rollout.status.clone().unwrap_or_default();
            let waits_for_a_person = matches!(
                status.phase,
                Some(RolloutPhase::Completed | RolloutPhase::Aborted | RolloutPhase::Suspended
                    | RolloutPhase::Halted | RolloutPhase::RolledBack)
            );
            let lacks_group = status.waiting_for.iter().any(|all| all.reason == "GroupNotFound");
            (waits_for_a_person || lacks_group) && rollout.metadata.deletion_timestamp.is_none()
        });
        prop_assert!(stands, "{:#?}", world.status("november"));
    }

    /// L5.
    #[test]
    fn a_device_back_after_thirty_days_gets_the_current_job_once(days in 1..60i64) {
        let mut world = World::new();
        world.group("g");
        world.device("laptop", "g", SERVER);
        world.set_online("laptop", false);
        world.rollout("november", "updates: {select: {release: 2026-11}}
stages: [{name: g, group: g, progressDeadline: 100d}]");
        world.settle();
        world.now += SignedDuration::from_hours(days * 24);
        world.settle();
        prop_assert_eq!(world.state("november", "laptop"), Some(LineState::Pending));
        world.set_online("laptop", true);
        for _ in 0..20 {
            world.minute(|_| {});
        }
        prop_assert_eq!(world.state("november", "laptop"), Some(LineState::Succeeded));
        prop_assert_eq!(world.agents["laptop"].begun, 1);
    }

    /// S5: once a stop is written, no install begins and nothing but a finish restarts.
    #[test]
    fn no_permit_leaves_after_a_stop(case in case(GOOD, 0), minute in 1..40u32, stop in 0..4usize) {
        let mut world = case.world();
        for _ in 0..minute {
            world.minute(|_| {});
        }
        let given = world.permits.len();
        match stop {
            0 => world.edit("november", |spec| spec.suspend = Some(true)),
            1 => world.edit("november", |spec| {
                spec.abort = Some(wardring_api::Abort { reason: "enough".to_owned() });
            }),
            2 => world.delete_rollout("november"),
            _ => world.stop("all", "{reason: ward closed}"),
        }
        for _ in 0..30 {
            world.minute(|_| {});
        }
        let finishes = case.on_halt == AwaitingRebootAction::Finish && stop == 1;
        let later: Vec<_> = world.permits[given..]
            .iter()
            .filter(|given| given.rollout == "november")
            .filter(|given| !(finishes && given.step == PermitStep::Reboot))
            .collect();
        prop_assert!(later.is_empty(), "{:?}", later);
    }

    #[test]
    fn the_order_of_the_snapshot_does_not_matter(case in case(Script::ALL, 3), minute in 1..60u32) {
        let mut world = case.world();
        let mut watch = Watch::new(&case);
        for now in 0..minute {
            for (_, fault) in case.faults.iter().filter(|(at, _)| *at == now) {
                case.befall(&mut world, fault, &mut watch);
            }
            world.minute(|_| {});
        }
        world.run_agents();
        let mut snapshot = world.snapshot();
        let straight = plan(&snapshot);
        snapshot.rollouts.reverse();
        snapshot.slices.reverse();
        snapshot.jobs.reverse();
        snapshot.updates.reverse();
        snapshot.holds.reverse();
        let mut rows = snapshot.devices.rows().to_vec();
        rows.reverse();
        let mut groups = snapshot.devices.groups().to_vec();
        groups.reverse();
        snapshot.devices = std::sync::Arc::new(wardring_planner::DeviceTable::new(rows, groups));
        prop_assert_eq!(straight, plan(&snapshot));
    }

    #[test]
    fn planning_after_applying_changes_nothing(case in case(Script::ALL, 5)) {
        let (world, _) = case.run();
        let again = plan(&world.snapshot());
        prop_assert_eq!(again.actions, Vec::<Action>::new());
    }
}
