//! Small fleets under every fault the simulator knows: no seed breaks a rule, and one seed always
//! tells the same story.

use wardring_sim::{Setup, simulate};

/// Seeds per run: enough to meet every fault many times, within half a minute on one core.
const SEEDS: u64 = 60;

fn setup(seed: u64) -> Setup {
    Setup { seed, devices: 6, faults: true, people: true, cuts: false, prints: false }
}

#[test]
fn no_fault_makes_a_fleet_break_a_rule() {
    let mut begun = 0;
    for seed in 0..SEEDS {
        let verdict = simulate(setup(seed));
        begun += verdict.begun.values().sum::<u32>();
        assert!(
            verdict.broken.is_empty(),
            "seed {seed} breaks {:?}; replay: cargo run -p wardring-sim -- --devices 6 --seed {seed} --trace",
            verdict.broken
        );
    }
    assert!(begun > 100, "fleets that do nothing break no rule: only {begun} acts began");
}

/// S5 by the clock alone: whatever the cluster says meanwhile, nobody hears it.
#[test]
fn a_device_that_loses_the_network_begins_nothing_after_its_permits_life() {
    let mut cut_off = 0;
    for seed in 0..20 {
        let verdict = simulate(Setup { people: false, cuts: true, ..setup(seed) });
        cut_off += verdict.cut_off;
        assert!(
            verdict.broken.is_empty(),
            "seed {seed} breaks {:?}; replay: cargo run -p wardring-sim -- --devices 6 --seed {seed} --no-people --cuts --trace",
            verdict.broken
        );
    }
    assert!(cut_off > 20, "only {cut_off} permits were live when their devices were cut off");
}

#[test]
fn a_calm_fleet_without_people_completes_its_rollouts() {
    for seed in 0..5 {
        let verdict = simulate(Setup { faults: false, people: false, ..setup(seed) });
        assert!(verdict.broken.is_empty(), "seed {seed}: {:?}", verdict.broken);
        assert!(verdict.phases.iter().all(Option::is_some), "seed {seed}: {:?}", verdict.phases);
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in [1, 9, 17] {
        let (one, other) = (simulate(setup(seed)), simulate(setup(seed)));
        assert_eq!((one.hash, one.lines, one.lasted), (other.hash, other.lines, other.lasted));
    }
    assert_ne!(simulate(setup(1)).hash, simulate(setup(2)).hash);
}
