//! `spec.supersedes`: a rollout takes the place of an older one of its namespace, once its first stage has
//! opened: until then it may still turn out to be unable to do anything. That stage opens by the word of
//! somebody who did not write the rollout, and with it the status keeps whose word that was; what becomes of
//! the approval later changes nothing any more. The older one is halted, like by a failure: nothing begins,
//! what is at work comes to its end and is judged, and rollbacks go on. When it is quiet, it ends, by the same
//! latch as if a person had aborted it; devices that wait for their restart are free then for the newer one,
//! and restart under its limits.

use std::collections::BTreeSet;

use jiff::Timestamp;
use wardring_api::{
    AwaitingRebootAction, Decided, Gate, GateDecision, GatePhase, GateState, JobAction, LineState,
    PatchRollout, PatchRolloutStatus, StageState, Takeover, conditions::whole_seconds,
    reasons::Reason,
};

use crate::{
    EventKind, expedite, explain, freeze,
    halt::{self, Latched},
    line::{Doing, Line, doing},
    rollback,
    validate::{Complaint, Run, Scene},
};

/// Devices that a sentence names.
const NAMED: usize = 5;

/// Whether the rollout ended because another one took its place.
pub(crate) fn is_superseded(status: &PatchRolloutStatus) -> bool {
    let ended = status.aborted.as_ref();
    ended.is_some_and(|latch| latch.reason == Reason::SupersededByRollout.as_str())
}

/// Whether `newer` may take the place of `older`, as far as their ages go. Of two that were made in the same
/// second and name each other, neither may.
pub(crate) fn is_older(older: &PatchRollout, newer: &PatchRollout) -> bool {
    let made = |rollout: &PatchRollout| -> Option<Timestamp> {
        rollout.metadata.creation_timestamp.as_ref().map(|time| time.0)
    };
    let is_mutual = older.spec.supersedes.is_some()
        && older.spec.supersedes == newer.metadata.name
        && made(older) == made(newer);
    older.metadata.uid != newer.metadata.uid && made(older) <= made(newer) && !is_mutual
}

/// Whether the rollout is one that takes the place of `older`: a stage of it has opened, so its devices are
/// known and enough, and it did so by the word of a second person. What became of either since changes
/// nothing. What was begun is brought to its end, also where an older version of ours began it.
pub(crate) fn is_in_command(
    rollout: &PatchRollout,
    status: &PatchRolloutStatus,
    older: &PatchRolloutStatus,
) -> bool {
    let has_begun = older
        .halted
        .as_ref()
        .is_some_and(|latch| latch.reason == Reason::SupersededByRollout.as_str());
    let is_by_two = status
        .takeover
        .as_ref()
        .is_some_and(|takeover| Some(&takeover.rollout) == rollout.spec.supersedes.as_ref());
    rollout.metadata.deletion_timestamp.is_none()
        && rollout.spec.abort.is_none()
        && status.aborted.is_none()
        && has_opened(status)
        && (is_by_two || has_begun)
}

/// Whether a stage that has devices has opened.
fn has_opened(status: &PatchRolloutStatus) -> bool {
    status.stages.iter().any(|stage| {
        !matches!(stage.state, StageState::Pending | StageState::Gated) && stage.counts.total > 0
    })
}

/// Finds out whose place is taken, and says where a name leads nowhere or where nobody else was asked.
pub(crate) fn find(runs: &mut [Run<'_>]) {
    for newer in 0..runs.len() {
        let Some(name) = runs[newer].rollout.spec.supersedes.clone() else { continue };
        let older = runs
            .iter()
            .position(|run| run.id.name == name && is_older(run.rollout, runs[newer].rollout));
        let run = &runs[newer];
        let has_frozen = run.before.stages.iter().any(|stage| stage.freeze_id.is_some());
        let has_opened = has_opened(&run.before);
        let complaint = match older {
            Some(older) if is_in_command(run.rollout, &run.before, &runs[older].before) => {
                runs[older].successor = Some(newer);
                continue;
            }
            // An older version of ours let it open. Where it has ended itself meanwhile, it is in nobody's way.
            Some(older) if has_opened && run.before.takeover.is_none() => {
                (goes_on(&runs[older]) && goes_on(run)).then(|| unapproved(&name))
            }
            Some(_) if !has_opened && !asks_two(run) => Some(unasked(&name)),
            Some(_) => None,
            // Later it may be deleted, or made anew for another purpose.
            None if has_frozen => None,
            None => Some(not_found(&name)),
        };
        if let Some(complaint) = complaint {
            runs[newer].complaint.get_or_insert(complaint);
        }
    }
}

/// Whether the rollout is not over: it hands out its updates, or holds devices and may be resumed.
fn goes_on(run: &Run<'_>) -> bool {
    let is_over = run.before.aborted.is_some() || run.rollout.spec.abort.is_some();
    !is_over && !run.is_deleting() && !halt::is_completed(run)
}

/// Whether nothing of the rollout begins before somebody else than its authors has agreed.
fn asks_two(run: &Run<'_>) -> bool {
    run.stages.first().is_some_and(|stage| expedite::for_two(stage.spec).next().is_some())
}

/// Notes whose place the rollout takes, and by whose word, in the write that opens its first stage.
pub(crate) fn begin(run: &mut Run<'_>, scene: &Scene<'_>) -> Result<(), Complaint> {
    let Some(older) = run.rollout.spec.supersedes.clone() else { return Ok(()) };
    if run.status.takeover.is_some() {
        return Ok(());
    }
    let approvals = approvals(run).ok_or_else(|| unasked(&older))?;
    let by = names(&approvals);
    run.status.takeover =
        Some(Takeover { rollout: older.clone(), approvals, at: whole_seconds(scene.now) });
    let note = format!("It takes the place of rollout {older}, as {by} approved.");
    run.emit(EventKind::Normal, Reason::InProgress, note);
    Ok(())
}

/// What people other than the authors said to the opening of the first stage, if all who are asked agreed.
fn approvals(run: &Run<'_>) -> Option<Vec<GateDecision>> {
    let (stage, status) = (run.stages.first()?.spec, run.status.stages.first()?);
    let said = |gate: &Gate| {
        let mut all = status.gates.iter();
        let known =
            all.find(|known| known.phase == GatePhase::Before && known.name == gate.name)?;
        let asked = known.approval.as_ref().filter(|_| known.state == GateState::Passed)?;
        let said = asked.decided.clone().filter(|said| said.decision == Decided::Approve)?;
        let is_author = run.rollout.spec.authors.contains(&said.by);
        (!is_author).then_some(said)
    };
    let all: Option<Vec<GateDecision>> = expedite::for_two(stage).map(said).collect();
    all.filter(|all| !all.is_empty())
}

fn names(approvals: &[GateDecision]) -> String {
    let names: Vec<&str> = approvals.iter().map(|said| said.by.as_str()).collect();
    names.join(" and ")
}

/// By whose word the rollout takes another one's place, as a part of a sentence.
fn by_whom(newer: &Run<'_>) -> String {
    let takeover = newer.before.takeover.as_ref();
    takeover.map_or(String::new(), |all| format!(", as {} approved", names(&all.approvals)))
}

/// Halts rollouts whose place another one took, and ends those that have become quiet.
pub(crate) fn latch(runs: &mut [Run<'_>], latched: &mut [Latched], scene: &Scene<'_>) {
    if scene.guard.is_some() {
        return;
    }
    for older in 0..runs.len() {
        let Some(newer) = runs[older].successor else { continue };
        let run = &runs[older];
        let is_over = run.is_deleting() || run.status.aborted.is_some() || halt::is_completed(run);
        if is_over || run.before.halted.is_none() && run.status.halted.is_some() {
            continue;
        }
        if run.status.halted.is_none() {
            halt(runs, older, newer, scene);
            latched[older].stopped = true;
        } else if is_quiet(run, scene) {
            end(runs, older, newer, scene);
            latched[older].stopped = true;
        }
    }
}

/// Whether nothing is at work, is being taken back or is about to be: what is left are devices that never
/// began, and those that a halt holds.
fn is_quiet(run: &Run<'_>, scene: &Scene<'_>) -> bool {
    let finishes =
        run.rollout.spec.on_halt.installed_awaiting_reboot == AwaitingRebootAction::Finish;
    let is_held = |line: &Line| {
        let job = scene.own_job(line, run.uid());
        !finishes
            && line.action == JobAction::Install
            && job.is_some_and(|job| doing(job) == Doing::AwaitingReboot)
    };
    let mut lines = run.stages.iter().flat_map(|stage| &stage.frozen).flat_map(|all| &all.lines);
    let is_still = lines.all(|line| line.state != LineState::Granted || is_held(line));
    is_still && !rollback::is_running(run) && !rollback::is_due(run, scene)
}

fn not_found(name: &str) -> Complaint {
    Complaint::new(
        Reason::SupersedesNotFound,
        format!(
            "`supersedes` names rollout {name}, and this namespace has none of that name that is older. \
             Nothing starts; make a new rollout with the right name, or without `supersedes`."
        ),
    )
}

/// Nobody else than the authors is asked before the first device is taken.
fn unasked(older: &str) -> Complaint {
    Complaint::new(
        Reason::SupersedesUnapproved,
        format!(
            "It would end rollout {older}, and that needs a second person. Nothing starts; give its first stage \
             an enforced gate of type Approval in `gates.before`, without `authorMayApprove`, or make it anew \
             with one."
        ),
    )
}

fn unapproved(older: &str) -> Complaint {
    Complaint::new(
        Reason::SupersedesUnapproved,
        format!(
            "It would end rollout {older}, and began before a second person was needed for that. Nothing more \
             is granted while both go on; abort rollout {older} yourself, or abort this one and make a new one whose \
             first stage has a gate of type Approval."
        ),
    )
}

fn halt(runs: &mut [Run<'_>], older: usize, newer: usize, scene: &Scene<'_>) {
    let left = left_out(&runs[older], &runs[newer], scene);
    let message = format!(
        "Rollout {} takes its place{}: nothing begins here any more, and what is at work comes to its end.{}",
        runs[newer].id.name,
        by_whom(&runs[newer]),
        told(&left)
    );
    let kind = if left.is_empty() { EventKind::Normal } else { EventKind::Warning };
    let run = &mut runs[older];
    let latch = halt::latched(run, Reason::SupersededByRollout, &message, scene);
    run.status.halted = Some(latch);
    run.stop = halt::stop_of(run);
    run.emit(kind, Reason::SupersededByRollout, message);
}

fn end(runs: &mut [Run<'_>], older: usize, newer: usize, scene: &Scene<'_>) {
    let left = left_out(&runs[older], &runs[newer], scene);
    let (name, by) = (&runs[newer].id.name, by_whom(&runs[newer]));
    let message = format!("Rollout {name} took its place{by}.{}", told(&left));
    let run = &mut runs[older];
    let latch = halt::latched(run, Reason::SupersededByRollout, &message, scene);
    run.status.aborted = Some(latch);
    run.stop = halt::stop_of(run);
    run.emit(EventKind::Normal, Reason::SupersededByRollout, message);
}

/// Devices that are left out, as a further sentence.
fn told(left: &BTreeSet<&str>) -> String {
    if left.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = left.iter().take(NAMED).copied().collect();
    let more = left.len().checked_sub(NAMED).filter(|more| *more > 0);
    format!(
        " Left out: {} had not begun and {} not updated by that one: {}{}.",
        explain::devices(left.len()),
        if left.len() == 1 { "is" } else { "are" },
        names.join(", "),
        more.map_or(String::new(), |more| format!(" and {more} more"))
    )
}

/// Devices that were still to be updated by the older rollout and that the newer one does not update: no
/// stage of it has them or may take them, or it has no update for their Windows.
fn left_out<'a>(older: &Run<'_>, newer: &Run<'_>, scene: &Scene<'a>) -> BTreeSet<&'a str> {
    let rows = scene.table.rows();
    let mut left = BTreeSet::new();
    for (position, stage) in older.stages.iter().enumerate() {
        match &stage.frozen {
            Some(frozen) => {
                let begun = |line: &Line| {
                    scene.own_job(line, older.uid()).is_some_and(|job| job.may_have_begun())
                };
                let waits = |line: &&Line| match line.state {
                    LineState::Granted => !begun(line),
                    _ => line.waits(&stage.rules),
                };
                let waiting = frozen.lines.iter().filter(waits);
                left.extend(waiting.filter_map(|line| scene.row(line)).map(|row| &*row.name));
            }
            None => {
                let members = freeze::members(older, position, scene).unwrap_or_default();
                left.extend(members.into_iter().map(|row| &*rows[row].name));
            }
        }
    }
    let covers = |row: usize| {
        let mut updates = newer.status.resolved_updates.iter();
        updates.any(|update| rows[row].product.as_deref() == Some(&*update.product))
    };
    for (position, stage) in newer.stages.iter().enumerate() {
        match &stage.frozen {
            Some(frozen) => {
                // It may have come far by the time in which the older one has become quiet.
                let takes = |line: &&Line| {
                    let is_proven =
                        matches!(line.state, LineState::Succeeded | LineState::AlreadyInstalled);
                    is_proven || line.state == LineState::Granted || line.waits(&stage.rules)
                };
                for line in frozen.lines.iter().filter(takes) {
                    if let Some(row) = scene.row(line).filter(|_| covers(line.row as usize)) {
                        left.remove(&*row.name);
                    }
                }
            }
            None => {
                for row in freeze::members(newer, position, scene).unwrap_or_default() {
                    if covers(row) {
                        left.remove(&*rows[row].name);
                    }
                }
            }
        }
    }
    left
}
