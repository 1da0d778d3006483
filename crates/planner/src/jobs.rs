//! Jobs, level-triggered: a Granted line without its job gets one, a job that no grant needs any
//! more goes. What may have begun is never deleted to be rid of it.

use jiff::{SignedDuration, Timestamp};
use wardring_api::{
    ComponentStorePolicy, JobAction, LineState, OnBattery, PatchAuthority, PendingRebootPolicy,
    RollbackPolicy, Span, UnattendedBootPolicy, WindowAction, reasons::Reason,
};

use crate::{
    Action, GrantId, JobEnd, JobOutcome, JobPreflight, JobReboot, JobView, LineChange, NewJob,
    RecallLine, RecordCause, autonomy, barring,
    caps::later,
    checks, damage,
    eligibility::rollback_policy,
    line::{Frozen, Line},
    plan::Lanes,
    supersede,
    validate::{Run, Scene, StageRun, Stop},
    wake::Wake,
    windows,
};

/// How long the job of a silent device stays as lock and mailbox.
const MAILBOX_RETENTION: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Writes what the pass decided about lines: recalls, outcomes and retries.
pub(crate) fn record_lines(run: &Run<'_>, scene: &Scene<'_>, lanes: &mut Lanes) {
    for frozen in run.stages.iter().filter_map(|stage| stage.frozen.as_ref()) {
        for (slice, view) in frozen.slices.iter().enumerate() {
            let from = frozen.starts[slice];
            let to = from + view.lines.len();
            let change = |index: usize| LineChange {
                index: index - from,
                line: frozen.rewritten(index, scene),
            };
            let recalls: Vec<RecallLine> = frozen
                .recalls
                .range(from..to)
                .map(|(&index, &job_attempt)| RecallLine { change: change(index), job_attempt })
                .collect();
            if !recalls.is_empty() {
                let slice = view.name.clone();
                lanes.recalls.push(Action::Recall { slice, lines: recalls });
            }
            for (set, cause, lane) in [
                (&frozen.outcomes, RecordCause::Outcomes, &mut lanes.outcomes),
                (&frozen.retried, RecordCause::Retry, &mut lanes.retries),
                (&frozen.ordered, RecordCause::Order, &mut lanes.orders),
            ] {
                let changes: Vec<LineChange> =
                    set.range(from..to).map(|&index| change(index)).collect();
                if !changes.is_empty() {
                    lane.push(Action::RecordLines { slice: view.name.clone(), cause, changes });
                }
            }
        }
    }
}

/// Makes the jobs that are missing.
pub(crate) fn create(run: &Run<'_>, scene: &Scene<'_>, lanes: &mut Lanes) {
    for stage in &run.stages {
        let Some(frozen) = &stage.frozen else { continue };
        for (index, line) in frozen.lines.iter().enumerate() {
            if !line.is_in_force() || scene.own_job(line, run.uid()).is_some() {
                continue;
            }
            if let Some(old) = scene.any_job(line) {
                if old.rollout_uid != run.uid() {
                    continue;
                }
                // The grant before this one: an uninstall takes the place of a held restart.
                lanes.replaced.push(delete(old, JobEnd::Stale));
            }
            if let Some(job) = job(run, stage, frozen, index, scene) {
                lanes.creations.push(Action::CreateJob(Box::new(job)));
            }
        }
    }
}

fn job(
    run: &Run<'_>,
    stage: &StageRun<'_>,
    frozen: &Frozen<'_>,
    index: usize,
    scene: &Scene<'_>,
) -> Option<NewJob> {
    let (rules, line) = (&stage.rules, frozen.lines[index]);
    let record = frozen.rewritten(index, scene);
    let row = scene.row(&line)?;
    let spec = &run.rollout.spec;
    let granted_at = line.at?;
    let grant = GrantId {
        rollout_uid: run.uid().to_owned(),
        device: record.device.clone(),
        attempt: line.attempt,
    };
    let repaired = !line.granted_now && !scene.snapshot.uncreated.contains(&grant);
    let table = scene.table;
    let groups = || {
        let position = table.find(&row.name);
        let list = position.map_or(&[][..], |position| table.groups_of(position));
        list.iter().map(|&group| &table.groups()[group as usize].spec)
    };
    let span = |span: Option<Span>, default: Span| span.unwrap_or(default).duration();
    if repaired && line.is_downloading() {
        return None;
    }
    let (last_start, counts_from) = by_windows(run, stage, &line, granted_at, scene);
    Some(NewJob {
        device: record.device,
        rollout: run.id.clone(),
        stage: stage.spec.name.clone(),
        slice: frozen.slices[frozen.locate(index).0].name.clone(),
        enrolment_id: record.enrolment_id?,
        attempt: line.attempt,
        sequence: line.sequence,
        action: line.action,
        updates: run
            .status
            .resolved_updates
            .iter()
            .filter(|update| row.product.as_deref() == Some(update.product.as_str()))
            .cloned()
            .collect(),
        source: spec.updates.source,
        accept_eula: spec.updates.accept_eula,
        start_by: later(granted_at, rules.start_within.min(rules.device_deadline)).min(last_start),
        finish_by: later(counts_from, rules.device_deadline),
        preflight: JobPreflight {
            reboot_first: spec.preflight.pending_reboot == PendingRebootPolicy::RebootFirst,
            min_free_disk_gb: spec.preflight.min_free_disk_gb.unwrap_or(0),
            require_reversible: spec.preflight.require_reversible,
            ignore_attended_boot: spec.preflight.unattended_boot == UnattendedBootPolicy::Ignore,
            ignore_battery: spec.preflight.on_battery == OnBattery::Ignore,
            // They mean nothing where nothing is installed, and an agent that does not know them would
            // refuse the rollback with them.
            component_store: match line.action {
                JobAction::Install => spec.preflight.component_store,
                JobAction::Download | JobAction::Rollback => ComponentStorePolicy::default(),
            },
            sole_source: line.action == JobAction::Install
                && groups().any(|group| group.patch_authority == PatchAuthority::Exclusive),
        },
        health: checks::health(&spec.health, groups()),
        reboot: JobReboot {
            countdown: span(spec.reboot.countdown, Span::from_mins(1)),
            message: spec.reboot.message.clone(),
            stuck_after: rules.reboot_deadline,
            wait: span(spec.reboot.deadline, Span::from_hours(2)),
            // What has failed is not put off, and an agent that asks nobody would refuse the rollback.
            deferrals: match line.action {
                JobAction::Install => spec.reboot.deferrals.unwrap_or(0),
                JobAction::Download | JobAction::Rollback => 0,
            },
            force: spec.reboot.force,
            active_hours: spec.reboot.active_hours.clone(),
        },
        hooks: if line.action == JobAction::Download {
            Vec::new()
        } else {
            checks::hooks(groups())
        },
        autonomy: autonomy::of(
            spec.autonomous_rollback.as_ref(),
            line.action,
            &row.roles,
            rollback_policy(line.row as usize, table) != RollbackPolicy::Allow,
        ),
        repaired,
    })
}

/// What windows mean for a grant: when it begins at the latest, and from when on its time counts. A
/// window that closed since the grant ends the one at once and moves the other.
fn by_windows(
    run: &Run<'_>,
    stage: &StageRun<'_>,
    line: &Line,
    granted_at: Timestamp,
    scene: &Scene<'_>,
) -> (Timestamp, Timestamp) {
    let (begins, hours) = match line.action {
        JobAction::Rollback if !windows::rollbacks_wait(run) => {
            return (Timestamp::MAX, granted_at);
        }
        // To fetch what a window lets it install is its purpose.
        JobAction::Download => return (Timestamp::MAX, granted_at),
        JobAction::Rollback => (WindowAction::Uninstall, stage.hours.without_haste()),
        JobAction::Install => (WindowAction::Install, stage.hours),
    };
    let agenda = windows::agenda(scene, hours, line.row as usize);
    // What installs in haste has to wait for a window with its restart when the haste is taken back meanwhile.
    let calm = windows::agenda(scene, hours.without_haste(), line.row as usize);
    let counts_from = match calm.is_free() {
        true => granted_at,
        false => calm.counts_from(granted_at, stage.rules.device_deadline),
    };
    if agenda.is_free() {
        return (Timestamp::MAX, counts_from);
    }
    // The cutoff is for the first step; further updates of the job may begin until the end.
    let last_start = agenda.begun().may_begin(begins, granted_at).unwrap_or(granted_at);
    (last_start, counts_from)
}

/// Deletes the jobs that no grant needs any more.
pub(crate) fn sweep(runs: &[Run<'_>], scene: &Scene<'_>, lanes: &mut Lanes, wake: &mut Wake) {
    let mut known = vec![false; scene.jobs.len()];
    for run in runs {
        let gave_way = supersede::is_superseded(&run.status);
        for frozen in run.stages.iter().filter_map(|stage| stage.frozen.as_ref()) {
            for (index, line) in frozen.lines.iter().enumerate() {
                let Some(job) = scene.any_job(line) else { continue };
                if job.rollout_uid != run.uid() || job.deleting {
                    continue;
                }
                known[line.job as usize] = true;
                // A recall deletes the job itself.
                if frozen.recalls.contains_key(&index)
                    || barring::is_unbarred(run, frozen, index, scene)
                {
                    continue;
                }
                let why = if damage::is_damaged(run, line, scene) {
                    let is_said = !damage::is_unsaid(run, line, scene);
                    is_said.then(|| given_up(line, job, wake)).flatten()
                } else {
                    end_of(line, job, gave_way, scene, wake)
                };
                if let Some(why) = why {
                    lanes.deletions.push(delete(job, why));
                }
            }
        }
        if run.complaint.as_ref().is_some_and(|complaint| complaint.reason == Reason::RecordLost) {
            // Without its record nobody can say which of the run's jobs are needed.
            for (position, job) in scene.jobs.iter().enumerate() {
                // With a download nothing can have begun.
                let is_unsure = job.action != JobAction::Download;
                known[position] |= is_unsure && job.rollout_uid == run.uid();
            }
        }
    }
    for (job, _) in scene.jobs.iter().zip(known).filter(|(job, known)| !known && !job.deleting) {
        let is_over = job.outcome != JobOutcome::None || wake.is_due(job.finish_by);
        if is_over || !job.may_have_begun() {
            lanes.deletions.push(delete(job, JobEnd::Garbage));
        }
    }
}

/// Why a job of the line's own rollout is not needed any more.
fn end_of(
    line: &Line,
    job: &JobView,
    gave_way: bool,
    scene: &Scene<'_>,
    wake: &mut Wake,
) -> Option<JobEnd> {
    if line.is_in_force() {
        // A job of an earlier attempt is replaced where the new one is made.
        return None;
    }
    if job.attempt < line.attempt {
        let may_report = job.may_have_begun() && job.outcome == JobOutcome::None;
        return (!may_report || wake.is_due(job.finish_by)).then_some(JobEnd::Stale);
    }
    let is_gone = matches!(line.reason, Some(Reason::Replaced | Reason::Released));
    match line.state {
        LineState::Pending | LineState::NotStarted if scene.leftover(line) => {
            (line.state == LineState::NotStarted && job.outcome != JobOutcome::None)
                .then_some(JobEnd::Done)
        }
        LineState::Pending | LineState::NotStarted => Some(JobEnd::Garbage),
        LineState::Unreachable | LineState::RollbackFailed if is_gone => Some(JobEnd::Released),
        LineState::Unreachable | LineState::RollbackFailed => {
            // The one that took its place waits for the device, and nothing begins by a job that is over.
            // What could not be taken back stays locked until a person has looked at it.
            let is_silent = line.state == LineState::Unreachable;
            if gave_way && is_silent && wake.is_due(job.finish_by) {
                return Some(JobEnd::Garbage);
            }
            given_up(line, job, wake)
        }
        _ if is_gone => Some(JobEnd::Released),
        _ => Some(JobEnd::Done),
    }
}

/// The end of a job that stays as lock and mailbox.
fn given_up(line: &Line, job: &JobView, wake: &mut Wake) -> Option<JobEnd> {
    let since = job.created_at.or(line.at)?;
    wake.is_due(later(since, MAILBOX_RETENTION)).then_some(JobEnd::Garbage)
}

fn delete(job: &JobView, why: JobEnd) -> Action {
    Action::DeleteJob {
        device: job.device.clone(),
        attempt: job.attempt,
        rollout_uid: job.rollout_uid.clone(),
        why,
    }
}

/// Whether nothing of a deleted rollout can start or report any more, so that it may go. Jobs of
/// devices that fell silent stay without it.
pub(crate) fn is_released(run: &Run<'_>, scene: &Scene<'_>) -> bool {
    if run.stop != Some(Stop::Deleting) {
        return false;
    }
    let lines = run.stages.iter().flat_map(|stage| &stage.frozen).flat_map(|all| &all.lines);
    let mut running = lines.filter(|line| line.moved || line.is_in_force());
    if running.next().is_some() {
        return false;
    }
    // What is left may only be a mailbox: begun, and given up by its line. An answer that verifies
    // has moved its line above.
    let mut left = scene.jobs.iter().filter(|job| job.rollout_uid == run.uid());
    left.all(|job| {
        let (line, is_over) = (line_of(run, job), scene.now >= job.finish_by);
        match line.filter(|line| damage::is_damaged(run, line, scene)) {
            // Nothing else would remember it. It may be found before anything was permitted.
            Some(line) => is_over || !damage::is_unsaid(run, &line, scene),
            None => job.may_have_begun() && (is_over || line.is_some_and(is_given_up)),
        }
    })
}

fn is_given_up(line: Line) -> bool {
    matches!(line.state, LineState::Unreachable | LineState::RollbackFailed)
}

/// The line of the job's device, in the slice that the job names.
fn line_of(run: &Run<'_>, job: &JobView) -> Option<Line> {
    run.stages.iter().filter_map(|stage| stage.frozen.as_ref()).find_map(|frozen| {
        let slice = frozen.slices.iter().position(|slice| slice.name == job.slice)?;
        let lines = &frozen.slices[slice].lines;
        let position = lines.iter().position(|line| line.device == job.device)?;
        Some(frozen.lines[frozen.starts[slice] + position])
    })
}
