//! Before anything is touched: the baseline, what there is to do, and what stands in the way.

use wardring_seal::{Action, OutcomeResult, Preflight, StorePolicy, UpdateKind, UpdateTarget};

use super::end::{BUILD_FAMILY_CHANGED, End};
use super::{
    Baseline, Inspection, JobRun, Move, Phase, RebootWhy, Reversible, ServicingResult, StoreState,
    UpdateState, UpdateStatus, install, permits, proof, reboot, retry, rollback, surroundings,
    unlisted, verify,
};

/// Looks at a device whose Windows is busy before the job is given back.
const MAX_BUSY_CHECKS: u32 = 30;
/// Restarts that may be spent on a pending restart before the installation.
const MAX_FIRST_REBOOTS: u32 = 2;

/// Begins, or begins again after a restart.
pub(super) fn begin(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    if job.is_rollback() {
        // After a restart that clears its way, it looks for what is left to remove.
        return rollback::survey(mv, job);
    }
    mv.enter(&mut job, Phase::Preflight { checks: 0 });
    look(mv, job)
}

/// Looks at the device.
pub(super) fn look(mv: &mut Move, job: JobRun) -> Option<JobRun> {
    verify::look(mv, job)
}

/// Decides, from what the device looks like, whether and how the job goes on.
pub(super) fn inspected(
    mv: &mut Move,
    mut job: JobRun,
    checks: u32,
    seen: Inspection,
) -> Option<JobRun> {
    if let Some(end) = permits::barred(mv, &job) {
        return mv.finish(job, end);
    }
    if seen.busy {
        if checks >= MAX_BUSY_CHECKS {
            let sentence = "Windows installs something else and does not come to rest";
            let end = End::stopped(&job, "PreflightFailed", sentence);
            return mv.finish(job, end);
        }
        let wait = job.payload.health.sample_interval_ms;
        mv.enter(&mut job, Phase::Preflight { checks: checks + 1 });
        "waiting: Windows is installing something else".clone_into(&mut job.message);
        mv.pause(&mut job, wait);
        return Some(job);
    }
    job.message.clear();
    take_baseline(mv, &mut job, &seen);
    let is_ours = mv.upgraded_by(&job.payload.key.rollout_uid);
    if let Some(sentence) = proof::another_windows(&job, &seen, is_ours) {
        // An earlier attempt made it that, or a restart of this one. What somebody else did meanwhile is no
        // failure of the rollout.
        let is_theirs = !is_ours && !job.begun() && job.reboots == 0;
        let result = if is_theirs { OutcomeResult::NotStarted } else { OutcomeResult::Failed };
        return mv.finish(job, End::because(result, BUILD_FAMILY_CHANGED, sentence));
    }
    let before: Vec<UpdateState> = job.updates.iter().map(|update| update.state.clone()).collect();
    sort_updates(&mut job, &seen);
    if job.next_update().is_none() && job.begun() {
        // What a restart was to help has ended meanwhile, one way or the other.
        return install::begin(mv, job);
    }
    if job.next_update().is_none() {
        return nothing_to_do(mv, job, &before, &seen);
    }
    if let Some(sentence) = proof::upgrade_in_disguise(&job, &seen) {
        // Failed, and not given back: a rollout that brings something else than it says must halt.
        let end = End::because(OutcomeResult::Failed, "FeatureUpgrade", sentence);
        return mv.finish(job, end);
    }
    if let Some(end) = obstacle(&job, &seen) {
        return mv.finish(job, end);
    }
    if let Some((reason, what)) = surroundings::bar(&job.payload.preflight, &seen.surroundings)
        && job.payload.key.action == Action::Install
    {
        if !job.begun() {
            return mv.finish(job, End::because(OutcomeResult::NotStarted, reason, what));
        }
        // Another try of what began: it keeps its place and waits, as long as it has time.
        job.message = format!("waiting: {what}");
        mv.enter(&mut job, Phase::Preflight { checks: 0 });
        mv.pause(&mut job, surroundings::LOOK_EVERY_MS);
        return Some(job);
    }
    if job.payload.key.action == Action::Install && needs_restart_first(&job, &seen) {
        return restart_first(mv, job, &seen);
    }
    install::download(mv, job, 0)
}

/// Takes the baseline, as long as nothing was touched. An earlier attempt of the same rollout that
/// was not rolled back left its own: what it broke must not become the new normal. A restart that
/// clears the way for the installation belongs to the job, as do the hooks that take the device out of
/// service, so the baseline is from before them. Who answers is of this attempt alone: whoever answered
/// weeks ago may be gone by now, and his silence would tell nothing about the update.
fn take_baseline(mv: &Move, job: &mut JobRun, seen: &Inspection) {
    let is_prepared = !job.boots.is_empty() || !job.hooks.is_empty();
    if job.touched || (job.baseline.is_some() && is_prepared) {
        return;
    }
    let earlier = mv.record_of(&job.payload.key.rollout_uid);
    let own = || Baseline {
        at: mv.now.wall,
        build: seen.build.clone(),
        services: seen.services.clone(),
        automatic: unlisted::remembered(&seen.automatic, &job.payload.health.services),
        probes: seen.probes.clone(),
        ports: seen.ports.clone(),
        witnesses: seen.witnesses.clone(),
    };
    let mut baseline = earlier.and_then(|record| record.baseline.clone()).unwrap_or_else(own);
    // Between two attempts its owner upgraded it: what the first one broke is still broken, but the build
    // is the new Windows' from now on.
    if proof::is_another(&baseline.build, &seen.build)
        && !mv.upgraded_by(&job.payload.key.rollout_uid)
    {
        baseline.build.clone_from(&seen.build);
    }
    baseline.witnesses.clone_from(&seen.witnesses);
    job.baseline = Some(baseline);
}

/// Sets for each update whether there is something to do.
fn sort_updates(job: &mut JobRun, seen: &Inspection) {
    for index in 0..job.updates.len() {
        if matches!(job.updates[index].state, UpdateState::Running | UpdateState::Ended(_)) {
            continue;
        }
        let is_tried = retry::number(job, index) > 0;
        let state = match word(&job.payload.updates[index], seen) {
            None => UpdateState::Waiting,
            // The restart finished what its last try had begun; it is to be proven like any other.
            Some("AlreadyInstalled") if is_tried => UpdateState::Ended(ServicingResult {
                code: 2,
                hresult: 0,
                reboot_required: false,
                packages: Vec::new(),
            }),
            Some(word) if retry::give_up(job, index, word) => continue,
            Some(word) => UpdateState::Skipped(word.to_owned()),
        };
        job.updates[index].state = state;
    }
}

/// Why there is nothing to do about an update, if so.
fn word(target: &UpdateTarget, seen: &Inspection) -> Option<&'static str> {
    let status = proof::status(target, seen);
    match status {
        UpdateStatus::NotApplicable => Some("NotApplicable"),
        _ if proof::is_for_older_windows(target, seen) => Some("NotApplicable"),
        _ if proof::is_present(target, seen) && status != UpdateStatus::Superseded => {
            Some("AlreadyInstalled")
        }
        UpdateStatus::Superseded => Some("Superseded"),
        UpdateStatus::NotOffered => Some("NotOffered"),
        UpdateStatus::Offered(_)
        | UpdateStatus::PendingReboot(_)
        | UpdateStatus::Removing
        // The installer's word without the proof: something must still happen.
        | UpdateStatus::Installed(_) => None,
    }
}

/// Nothing to install is never a success: the words say what was found instead.
fn nothing_to_do(
    mv: &mut Move,
    mut job: JobRun,
    before: &[UpdateState],
    seen: &Inspection,
) -> Option<JobRun> {
    let words: Vec<&str> = job
        .updates
        .iter()
        .filter_map(|update| match &update.state {
            UpdateState::Skipped(word) => Some(word.as_str()),
            _ => None,
        })
        .collect();
    let count = |word: &str| words.iter().filter(|found| **found == word).count();
    let (present, all) = (count("AlreadyInstalled"), words.len());
    let end = if count("NotOffered") > 0 {
        End::of(OutcomeResult::NotOffered, listed(&job, "NotOffered", "not offered here"))
    } else if present == 0 && count("Superseded") > 0 {
        End::of(OutcomeResult::Superseded, listed(&job, "Superseded", "replaced by newer updates"))
    } else if present == 0 {
        let sentence = format!("none of the {all} updates is for {}", seen.product);
        End::of(OutcomeResult::NotApplicable, sentence)
    } else if before.contains(&UpdateState::Waiting) {
        let sentence = format!("somebody else installed it meanwhile; the build is {}", seen.build);
        End::of(OutcomeResult::PatchedOutside, sentence)
    } else if let Some(record) = mv.record_of(&job.payload.key.rollout_uid).cloned()
        && job.payload.key.action == Action::Install
    {
        // An earlier attempt of ours installed it and did not end well: only a device that is as
        // healthy as before that attempt is done.
        job.already = true;
        job.installed_in_boot = record.installed_in_boot;
        job.reboot_required = record.reboot_required;
        return verify::settle(mv, job);
    } else {
        let sentence = format!("it was installed before; the build is {}", seen.build);
        End::of(OutcomeResult::AlreadyInstalled, sentence)
    };
    mv.finish(job, end)
}

fn listed(job: &JobRun, word: &str, what: &str) -> String {
    let with_word = |update: &&super::UpdateRun| update.state == UpdateState::Skipped(word.into());
    let kbs: Vec<&str> =
        job.updates.iter().filter(with_word).map(|update| update.kb.as_str()).collect();
    format!("{what}: {}", kbs.join(", "))
}

/// What the rollout does not want to begin with on this device.
fn obstacle(job: &JobRun, seen: &Inspection) -> Option<End> {
    let rules = &job.payload.preflight;
    let stopped = |reason, sentence: String| Some(End::stopped(job, reason, sentence));
    let needed = rules.min_free_disk_gb;
    let lacks = match seen.free_disk_gb {
        Some(free) if free < needed => Some(format!("the drive of Windows has {free} GB free")),
        None if needed > 0 => {
            Some("Windows does not tell how much of its drive is free".to_owned())
        }
        _ => None,
    };
    if let Some(lacks) = lacks {
        return stopped("LowDiskSpace", format!("{lacks}, {needed} GB are required"));
    }
    if let Some((reason, sentence)) = unsound(rules, seen.component_store.as_ref()) {
        return stopped(reason, sentence);
    }
    if let Some(other) = seen.other_patch_sources.first().filter(|_| rules.sole_source) {
        let sentence = format!("something else patches the device, too: {other}");
        return stopped("PatchAuthority", sentence);
    }
    if !rules.require_reversible {
        return None;
    }
    let mut waiting = job.updates.iter().filter(|update| update.state == UpdateState::Waiting);
    let sentence = waiting.find_map(|update| {
        let kb = &update.kb;
        match seen.updates.get(kb)? {
            UpdateStatus::Offered(reversible) | UpdateStatus::PendingReboot(reversible) => {
                match reversible {
                    Reversible::Expected => None,
                    Reversible::No => Some(format!("{kb} cannot be removed again")),
                    Reversible::Unknown => {
                        Some(format!("it is not known whether {kb} can be removed again"))
                    }
                }
            }
            _ => None,
        }
    })?;
    stopped("NotReversible", format!("{sentence}, and the rollout demands it"))
}

/// Why nothing is begun with this component store, if so: reason word and sentence.
fn unsound(rules: &Preflight, store: Option<&StoreState>) -> Option<(&'static str, String)> {
    let damaged = |can: &str| {
        let sentence = format!("Windows' component store is damaged and {can} be repaired");
        Some(("ComponentStoreDamaged", sentence))
    };
    let unknown = |why: &str| {
        let sentence = format!("it is not known whether Windows' component store is sound: {why}");
        (rules.component_store == StorePolicy::Require)
            .then_some(("ComponentStoreUnknown", sentence))
    };
    match store {
        _ if rules.component_store == StorePolicy::Ignore => None,
        Some(StoreState::Healthy) => None,
        Some(StoreState::Repairable) => damaged("can"),
        Some(StoreState::Damaged) => damaged("cannot"),
        Some(StoreState::Unknown(why)) => unknown(why),
        None => unknown("nobody looked"),
    }
}

fn needs_restart_first(job: &JobRun, seen: &Inspection) -> bool {
    let waits = |kb: &str| {
        matches!(
            seen.updates.get(kb),
            Some(UpdateStatus::PendingReboot(_) | UpdateStatus::Removing)
        )
    };
    !seen.hard_pending.is_empty() || job.updates.iter().any(|update| waits(&update.kb))
}

fn restart_first(mv: &mut Move, job: JobRun, seen: &Inspection) -> Option<JobRun> {
    let sources = seen.hard_pending.join(", ");
    let is_named = |target: &UpdateTarget| target.kind == UpdateKind::FeatureUpdate;
    if let Some(upgrade) = &seen.pending_upgrade
        && !job.payload.updates.iter().any(is_named)
    {
        let sentence = format!(
            "Windows waits for a restart that would finish an upgrade to another version, which the rollout \
             does not name: {upgrade}; restart the device yourself if that is wanted"
        );
        let end = End::stopped(&job, "PendingReboot", sentence);
        return mv.finish(job, end);
    }
    if !job.payload.preflight.reboot_first {
        let sentence = format!("Windows waits for a restart already ({sources})");
        let end = End::stopped(&job, "PendingReboot", sentence);
        return mv.finish(job, end);
    }
    if job.reboots >= MAX_FIRST_REBOOTS {
        let sentence =
            format!("Windows still waits for a restart after {} of them ({sources})", job.reboots);
        return mv.finish(job, End::because(OutcomeResult::Failed, "PreflightFailed", sentence));
    }
    reboot::count_down(mv, job, RebootWhy::First, false, 0)
}
