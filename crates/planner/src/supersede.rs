//! `spec.supersedes`: a rollout takes the place of another one of its namespace. Two writes, each durable
//! before the next: the older one is told that it gives way, then the newer one that it took over; before
//! that, nothing of the newer one starts. Both are latches. Nothing lifts them, whatever becomes of the
//! other rollout: what gave way must not come back because somebody tidied up.
//!
//! What the older one has begun comes to its end there, and counts there: its budgets, its halt and its
//! rollbacks are its own business as before. The newer one has its own stages, and waits for a device
//! that is at work for the older one as for any other rollout's.

use std::collections::BTreeSet;

use wardring_api::{Handover, conditions::clip, conditions::whole_seconds, reasons::Reason};

use crate::{
    EventKind, explain, freeze, gates,
    halt::{self, Latched},
    validate::{Complaint, Run, Scene, Stop},
};

/// Devices that a sentence names.
const NAMED: usize = 5;

/// Whether nothing of the run may start because the rollout that it names has not given way yet.
pub(crate) fn waits(run: &Run<'_>) -> bool {
    run.rollout.spec.supersedes.is_some() && run.status.took_over.is_none()
}

/// Tells rollouts to give way, and those they give way to that they did.
pub(crate) fn latch(runs: &mut [Run<'_>], latched: &mut [Latched], scene: &Scene<'_>) {
    if scene.guard.is_some() {
        return;
    }
    for index in 0..runs.len() {
        let Some(name) = runs[index].rollout.spec.supersedes.clone() else { continue };
        if matches!(runs[index].stop, Some(Stop::Deleting | Stop::Aborted)) {
            continue;
        }
        let is_new = waits(&runs[index]);
        if is_new && let Some(complaint) = complaint(runs, index, &name) {
            runs[index].complaint.get_or_insert(complaint);
            continue;
        }
        let Some(older) = runs.iter().position(|run| run.id.name == name) else { continue };
        if older == index || !is_ready(&runs[index], scene) {
            continue;
        }
        if !has_given_way(&runs[older]) {
            give_way(runs, older, index, scene);
            latched[older].stopped = true;
        } else if is_new && gave_way_before(&runs[older]) {
            take_over(runs, older, index, scene);
        }
    }
}

/// What is wrong with the name: nobody has it, it is the rollout's own, or the names lead back to it.
fn complaint(runs: &[Run<'_>], index: usize, name: &str) -> Option<Complaint> {
    let own = &runs[index].id.name;
    let find = |name: &str| runs.iter().find(|run| run.id.name == name);
    if find(name).is_none() {
        return Some(Complaint::new(
            Reason::SupersedesNotFound,
            format!(
                "`supersedes` names rollout {name}, and this namespace has none of that name. Nothing \
                 starts; correct the name, or take `supersedes` away if there is nothing to take over."
            ),
        ));
    }
    if runs[index].status.superseded_by.is_some() {
        return None;
    }
    let mut way = vec![own.as_str()];
    let mut next = Some(name);
    while let Some(run) = next.and_then(find) {
        way.push(&run.id.name);
        if run.id.name == *own {
            return Some(Complaint::new(
                Reason::SupersedesInCircle,
                format!(
                    "`supersedes` leads back to this rollout ({}). Nothing of them starts; take it away \
                     from one of them.",
                    clip(&way.join(" supersedes "), 400)
                ),
            ));
        }
        // Who gave way already waits for nobody, and a circle without this rollout is not its own.
        let is_end = run.status.superseded_by.is_some() || way.len() > runs.len();
        next = run.rollout.spec.supersedes.as_deref().filter(|_| !is_end);
    }
    None
}

/// Whether the newer rollout can do what it is there for. Until it can, the older one goes on.
fn is_ready(run: &Run<'_>, scene: &Scene<'_>) -> bool {
    if run.status.took_over.is_some() || run.status.superseded_by.is_some() {
        return true;
    }
    let is_sound = |position| {
        freeze::missing_group(run, position, scene).is_none()
            && gates::unreadable(run, position).is_none()
    };
    run.complaint.is_none()
        && run.stop.is_none()
        && run.before.plan_hash.is_some()
        && run.has_finalizer()
        && (0..run.stages.len()).all(is_sound)
}

/// Whether nothing new starts in the rollout any more, for good.
fn has_given_way(run: &Run<'_>) -> bool {
    run.status.superseded_by.is_some() || is_over(run)
}

/// The same as it is written: a controller that dies now must not start two at once.
fn gave_way_before(run: &Run<'_>) -> bool {
    run.before.superseded_by.is_some() || (is_over(run) && run.status.aborted == run.before.aborted)
}

fn is_over(run: &Run<'_>) -> bool {
    run.is_deleting() || run.status.aborted.is_some() || halt::is_completed(run)
}

fn handover(run: &Run<'_>, message: &str, scene: &Scene<'_>) -> Handover {
    Handover {
        rollout: run.id.name.clone(),
        uid: run.id.uid.clone(),
        at: whole_seconds(scene.now),
        message: clip(message, 1024),
    }
}

fn give_way(runs: &mut [Run<'_>], older: usize, newer: usize, scene: &Scene<'_>) {
    let left = left_out(&runs[older], &runs[newer], scene);
    let mut message = format!(
        "Rollout {} supersedes it: what has begun comes to its end, and nothing new starts.",
        runs[newer].id.name
    );
    if !left.is_empty() {
        let names: Vec<&str> = left.iter().take(NAMED).copied().collect();
        let more = left.len().checked_sub(NAMED).filter(|more| *more > 0);
        message.push_str(&format!(
            " {} of it {} in no stage of that one: {}{}.",
            explain::devices(left.len()),
            if left.len() == 1 { "is" } else { "are" },
            names.join(", "),
            more.map_or(String::new(), |more| format!(" and {more} more"))
        ));
    }
    let kind = if left.is_empty() { EventKind::Normal } else { EventKind::Warning };
    let handover = handover(&runs[newer], &message, scene);
    let run = &mut runs[older];
    run.status.superseded_by = Some(handover);
    run.stop = halt::stop_of(run);
    run.emit(kind, Reason::SupersededByRollout, message);
}

/// Devices that had not begun in the older rollout and that no stage of the newer one selects.
fn left_out<'a>(older: &Run<'_>, newer: &Run<'_>, scene: &Scene<'a>) -> BTreeSet<&'a str> {
    let mut left = BTreeSet::new();
    for (position, stage) in older.stages.iter().enumerate() {
        match &stage.frozen {
            Some(frozen) => {
                let waiting = frozen.lines.iter().filter(|line| line.waits(&stage.rules));
                left.extend(waiting.filter_map(|line| scene.row(line)).map(|row| &*row.name));
            }
            None => {
                let members = freeze::members(older, position, scene).unwrap_or_default();
                left.extend(members.into_iter().map(|row| &*scene.table.rows()[row].name));
            }
        }
    }
    for (position, stage) in newer.stages.iter().enumerate() {
        let lines = stage.frozen.iter().flat_map(|frozen| &frozen.lines);
        for row in lines.filter_map(|line| scene.row(line)) {
            left.remove(&*row.name);
        }
        for row in freeze::members(newer, position, scene).unwrap_or_default() {
            left.remove(&*scene.table.rows()[row].name);
        }
    }
    left
}

fn take_over(runs: &mut [Run<'_>], older: usize, newer: usize, scene: &Scene<'_>) {
    let (name, before) = (&runs[older].id.name, &runs[older].before);
    let sum = |count: fn(&wardring_api::StageCounts) -> u32| {
        before.stages.iter().map(|stage| count(&stage.counts)).sum::<u32>()
    };
    let (working, done) = (sum(|all| all.in_progress), sum(|all| all.succeeded));
    let mut message = format!(
        "It took over from rollout {name}, of which {} succeeded and {working} {} at work.",
        explain::devices(done as usize),
        if working == 1 { "was" } else { "were" }
    );
    if let Some(halt) = &before.halted {
        message.push_str(&format!(" That one was halted: {}", halt.message));
    }
    let handover = handover(&runs[older], &message, scene);
    let run = &mut runs[newer];
    run.status.took_over = Some(handover);
    run.gating = true;
    run.emit(EventKind::Normal, Reason::TookOver, message);
}
