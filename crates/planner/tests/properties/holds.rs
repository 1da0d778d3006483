//! What people bar and hold while a run is under way, and whenever a controller dies meanwhile.

use proptest::{collection::vec, prelude::*};
use wardring_api::{
    JobAction, LineState, PatchAuthority, PermitStep, RolloutPhase, reasons::Reason,
};

use crate::{
    config,
    support::{SERVER, World},
};

/// What holds for some minutes.
#[derive(Clone, Debug)]
struct Spell {
    barred: bool,
    watched: bool,
    minutes: u32,
    /// Writes after which a controller dies in the first minute.
    dies_after: Option<usize>,
}

fn spell() -> impl Strategy<Value = Spell> {
    let free = 0..4_u8;
    (free, any::<bool>(), 1..9_u32, prop::option::of(0..6_usize)).prop_map(
        |(what, both, minutes, dies_after)| Spell {
            barred: what == 1 || (what == 2 && both),
            watched: what == 2,
            minutes,
            dies_after,
        },
    )
}

fn world() -> World {
    let mut world = World::new();
    world.group("g0");
    for number in 0..4 {
        world.device(&format!("d0-{number}"), "g0", SERVER);
    }
    let stage = "{name: g0, group: g0, maxConcurrency: 2}";
    world.rollout(
        "november",
        &format!("{{updates: {{select: {{release: 2026-11}}}}, stages: [{stage}]}}"),
    );
    world
}

fn set(world: &mut World, spell: &Spell) {
    world.holds.clear();
    if spell.barred {
        world.bar("printing", "{kbs: [KB5068787], reason: It breaks printing}");
    }
    world.group("g0").spec.patch_authority =
        if spell.watched { PatchAuthority::Observe } else { PatchAuthority::default() };
}

/// Whether somebody could begin who has not begun.
fn may_begin(world: &World) -> Option<String> {
    let lines = world.lines().into_iter().map(|(.., line)| line);
    let mut open = lines.filter(|line| {
        let job = world.jobs.get(&line.device);
        line.state == LineState::Granted
            && line.action == JobAction::Install
            && !job.is_some_and(|job| job.may_have_begun())
            // Nobody knows whether the job that is gone had begun; the desk holds this one.
            && line.reason != Some(Reason::NoSuchJob)
    });
    open.next().map(|line| line.to_string())
}

proptest! {
    #![proptest_config(config())]

    /// S14, also between two writes; and L1: it costs nothing, so everything ends well in the end.
    #[test]
    fn nothing_begins_that_is_barred_or_held(tape in vec(spell(), 2..24)) {
        let mut world = world();
        for spell in &tape {
            set(&mut world, spell);
            for minute in 0..spell.minutes {
                let given = world.permits.len();
                if let Some(writes) = spell.dies_after.filter(|_| minute == 0) {
                    world.crash_after(writes, |_| {});
                }
                world.minute(|_| {});
                let begun = world.permits[given..].iter().filter(|all| all.step == PermitStep::Install);
                if spell.barred || spell.watched {
                    prop_assert_eq!(begun.count(), 0, "{:?}", spell);
                }
                if spell.barred || spell.watched {
                    prop_assert_eq!(may_begin(&world), None, "{:?}", spell);
                }
            }
        }
        set(&mut world, &Spell { barred: false, watched: false, minutes: 0, dies_after: None });
        for _ in 0..200 {
            world.minute(|_| {});
        }
        prop_assert_eq!(world.status("november").phase, Some(RolloutPhase::Completed));
        let tries = world.lines().into_iter().map(|(.., line)| line.tries);
        prop_assert!(tries.max() <= Some(1));
    }
}
