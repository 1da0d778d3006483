//! After the installation or removal: Windows at rest, the proof, and health against the baseline.

use wardring_seal::{OutcomeResult, UpdateTarget};

use super::end::{BUILD_FAMILY_CHANGED, End};
use super::{
    Ask, Inspection, JobRun, Move, Phase, ProbeSample, RebootWhy, ServiceSample, ServicingResult,
    UpdateState, Verdict, boots, changes, contact, health, install, pause, permits, proof, reboot,
    unlisted, wake,
};

/// Good samples in a row that make a verdict.
const GOOD_SAMPLES: u32 = 3;
/// Samples after which a device that neither passes nor breaks is called broken.
const MAX_SAMPLES: u32 = 40;
/// Looks at a device that does not come to rest.
const MAX_SETTLE_CHECKS: u32 = 40;
/// Changes of a service's process that count as flapping. One or two are what a late installer or a
/// recovery action does; each begins the good looks anew.
const FLAPPING: u32 = 3;
/// Longest wait between two restart attempts, unless the rollout looks less often than that.
const MAX_BACKOFF_MS: u64 = 120_000;

/// Waits for Windows to come to rest: delayed services start minutes after a boot. Every boot and
/// every run of the agent begins the wait anew, so what is judged is a boot that held.
pub(super) fn settle(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    mv.enter(&mut job, Phase::Settling { checks: 0 });
    let hold_ms = hold_ms(&job);
    mv.pause(&mut job, hold_ms);
    Some(job)
}

/// How long the boot must hold before it is judged. After a crash that is longer than the boots of
/// any loop: three good samples between two crashes prove nothing.
fn hold_ms(job: &JobRun) -> u64 {
    let settle_ms = job.payload.health.settle_ms;
    let past_a_loop = u64::try_from(boots::SHORT_UPTIME.as_millis()).unwrap_or(u64::MAX);
    if job.strikes == 0 { settle_ms } else { settle_ms.max(past_a_loop) }
}

/// Pause before a device whose Windows is at work is looked at again: longer every time, since
/// servicing after a boot may take hours on a slow machine.
pub(super) fn busy_pause(job: &JobRun, checks: u32) -> u64 {
    job.payload.health.sample_interval_ms.saturating_mul(u64::from(checks.clamp(1, 10)))
}

/// Looks at the device.
pub(super) fn look(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    let health = &job.payload.health;
    // What is there to remove has nothing to do with health, and probes may wait for a dead network.
    let (mut services, probes) = match job.phase {
        Phase::Surveying { .. } => (Vec::new(), Vec::new()),
        _ => (health.services.clone(), health.probes.clone()),
    };
    if job.phase.is_proof() {
        services.extend(unlisted::watched(&job).cloned());
    }
    let witnesses = contact::named(&job).filter(|_| matches!(job.phase, Phase::Preflight { .. }));
    let updates = job.payload.updates.clone();
    let ask = Ask::Inspect { updates, services, probes, witnesses };
    mv.ask(&mut job, ask, wake::LOOK_LIMIT_MS);
    Some(job)
}

/// The device could not be looked at. Not seeing is never good: it is tried again, and in the end
/// the job fails for it. A look that took long counts as many, by its `weight`.
pub(super) fn blind(mv: &mut Move, mut job: JobRun, why: &str, weight: u32) -> Option<JobRun> {
    let again = match &job.phase {
        Phase::Preflight { checks } => Phase::Preflight { checks: checks + weight },
        Phase::Surveying { checks } => Phase::Surveying { checks: checks + weight },
        Phase::Settling { checks } => Phase::Settling { checks: checks + weight },
        Phase::Verifying { samples, .. } => Phase::Verifying { good: 0, samples: samples + weight },
        other => other.clone(),
    };
    let (Phase::Preflight { checks: looks }
    | Phase::Surveying { checks: looks }
    | Phase::Settling { checks: looks }
    | Phase::Verifying { samples: looks, .. }) = again
    else {
        return Some(job);
    };
    let sentence = format!("cannot inspect the device: {why}");
    if looks >= MAX_SAMPLES || permits::barred(mv, &job).is_some() {
        let reason = if job.is_answerable() { "InstallFailed" } else { "PreflightFailed" };
        let end = End::stopped(&job, reason, sentence);
        return if job.phase.is_proof() {
            contact::before_the_end(mv, job, end, false)
        } else {
            mv.finish(job, end)
        };
    }
    job.message = sentence;
    mv.enter(&mut job, again);
    let wait = job.payload.health.sample_interval_ms;
    mv.pause(&mut job, wait);
    Some(job)
}

/// Windows was looked at after the settle time.
pub(super) fn settled(
    mv: &mut Move,
    mut job: JobRun,
    checks: u32,
    seen: Inspection,
) -> Option<JobRun> {
    if seen.busy && checks >= MAX_SETTLE_CHECKS {
        // Going on would restart Windows in the middle of its work, or judge what is half done.
        let sentence = "Windows is still at work on its updates and does not come to rest";
        let end = End::failed(&job, "InstallFailed", sentence);
        return mv.finish(job, end);
    }
    if seen.busy {
        let wait = busy_pause(&job, checks);
        mv.enter(&mut job, Phase::Settling { checks: checks + 1 });
        "waiting: Windows is still at work on its updates".clone_into(&mut job.message);
        mv.pause(&mut job, wait);
        return Some(job);
    }
    job.message.clear();
    let in_same_boot = job.installed_in_boot.as_deref() == Some(mv.state.boot.as_str());
    if !seen.hard_pending.is_empty() || (job.reboot_required && in_same_boot) {
        // Windows may need a second restart for one update.
        return reboot::count_down(mv, job, RebootWhy::Finish, false, 0);
    }
    fill_interrupted(&mut job, &seen);
    if let Some(end) = unproven(mv, &job, &seen) {
        return mv.finish(job, end);
    }
    mv.enter(&mut job, Phase::Verifying { good: 0, samples: 0 });
    look(mv, job)
}

/// An installation that a restart interrupted is what the device now shows.
fn fill_interrupted(job: &mut JobRun, seen: &Inspection) {
    if job.is_rollback() {
        return;
    }
    for (run, target) in job.updates.iter_mut().zip(&job.payload.updates) {
        if run.state != UpdateState::Running {
            continue;
        }
        let is_there = proof::is_present(target, seen);
        let code = if is_there { 2 } else { 5 };
        let packages = Vec::new();
        run.state = UpdateState::Ended(ServicingResult {
            code,
            hresult: 0,
            reboot_required: is_there,
            packages,
        });
        if !is_there {
            let what = "was interrupted by a restart and is not installed";
            install::note_trouble(&mut job.trouble, &run.kb, what);
        }
    }
}

/// The end of a job whose proof fails, if it does.
fn unproven(mv: &Move, job: &JobRun, seen: &Inspection) -> Option<End> {
    let targets = job.updates.iter().zip(&job.payload.updates);
    if job.is_rollback() {
        let mut left = targets
            .filter(|(run, target)| job.takes_back(&run.kb) && !proof::is_absent(target, seen));
        let (run, _) = left.next()?;
        let sentence = format!("{} is still installed; the build is {}", run.kb, seen.build);
        return Some(End::because(OutcomeResult::RollbackFailed, "InstallFailed", sentence));
    }
    // Before anything else: of another Windows, every other word means something else.
    let is_ours = mv.upgraded_by(&job.payload.key.rollout_uid);
    if let Some(sentence) = proof::another_windows(job, seen, is_ours) {
        return Some(End::because(OutcomeResult::Failed, BUILD_FAMILY_CHANGED, sentence));
    }
    let claims = |state: &UpdateState| match state {
        UpdateState::Ended(result) => result.is_success(),
        UpdateState::Skipped(word) => job.already && word == "AlreadyInstalled",
        _ => false,
    };
    let is_missing = |target: &UpdateTarget| !proof::is_present(target, seen);
    let missing = targets.clone().find(|(run, target)| claims(&run.state) && is_missing(target));
    if let Some((run, target)) = missing {
        let wanted = target.target_build.as_deref().unwrap_or("installed");
        let sentence = format!(
            "{} was installed, and Windows took it back: expected {wanted}, found {}",
            run.kb, seen.build
        );
        return Some(End::of(OutcomeResult::RevertedByWindows, sentence));
    }
    let any_claim = job.updates.iter().any(|run| claims(&run.state));
    let trouble = job.trouble.as_ref().filter(|_| !any_claim)?;
    Some(End::because(OutcomeResult::Failed, &trouble.reason, trouble.message.clone()))
}

/// One sample of health.
pub(super) fn sampled(
    mv: &mut Move,
    mut job: JobRun,
    good: u32,
    samples: u32,
    seen: Inspection,
) -> Option<JobRun> {
    // Windows may still take it back while we watch.
    if let Some(end) = unproven(mv, &job, &seen) {
        return mv.finish(job, end);
    }
    let samples = samples + 1;
    job.changes =
        job.baseline.as_ref().map(|baseline| changes::changes(baseline, &seen)).unwrap_or_default();
    let (mut broken, waiting) = judge(&mut job, &seen);
    if broken.is_empty() && samples >= MAX_SAMPLES {
        broken = waiting.clone();
    }
    job.unhealthy =
        broken.iter().chain(&waiting).map(|(name, why)| format!("{name}: {why}")).collect();
    if !broken.is_empty() && mv.state.paused.is_some() {
        // Somebody works on the device, and what he stopped is his: it is neither started nor counted.
        mv.enter(&mut job, Phase::Verifying { good: 0, samples: samples - 1 });
        pause::holds(mv, &mut job);
        return Some(job);
    }
    if !broken.is_empty() {
        return repair(mv, job, samples, &broken);
    }
    job.message.clear();
    let good = if waiting.is_empty() { good + 1 } else { 0 };
    if good >= GOOD_SAMPLES {
        return healthy(mv, job, &seen);
    }
    let wait = job.payload.health.sample_interval_ms;
    mv.enter(&mut job, Phase::Verifying { good, samples });
    mv.pause(&mut job, wait);
    Some(job)
}

type Named = Vec<(String, String)>;

/// Services that are broken, and what may still come by itself — services that start, probes that
/// fail —, each with the reason.
fn judge(job: &mut JobRun, seen: &Inspection) -> (Named, Named) {
    let (mut broken, mut waiting) = (Named::new(), Named::new());
    let listed = job.payload.health.services.iter().map(|name| (name, true));
    let others = unlisted::watched(job).map(|name| (name, false));
    let others = others.filter(|_| unlisted::are_judged(job));
    let named: Vec<(String, bool)> =
        listed.chain(others).map(|(name, is_listed)| (name.clone(), is_listed)).collect();
    for (name, is_listed) in &named {
        let after = seen.services.get(name).cloned().unwrap_or_else(ServiceSample::missing);
        let before = job.baseline.as_ref().map(|baseline| baseline.service(name));
        let changes = count_processes(&mut job.pids, name, &after);
        // What did not run before, or stops by design, may come and go.
        let changes = changes.filter(|_| health::is_due(before.as_ref(), &after));
        let verdict = if *is_listed {
            health::judge(before.as_ref(), &after)
        } else {
            unlisted::judge(&after)
        };
        match verdict {
            Verdict::Good if changes.is_some_and(|changes| changes >= FLAPPING) => {
                broken.push((name.clone(), "it starts again and again".to_owned()));
            }
            // Three looks see two changes at most: good looks at three processes prove that it dies,
            // not that it runs.
            Verdict::Good if changes.is_some() => {
                waiting.push((name.clone(), "it was started anew since the last look".to_owned()));
            }
            Verdict::Good => {}
            Verdict::Wait => waiting.push((name.clone(), "it is still starting".to_owned())),
            Verdict::Broken(why) => broken.push((name.clone(), why)),
        }
    }
    for probe in &job.payload.health.probes {
        let unasked = ProbeSample::Failed("it was not asked".to_owned());
        let after = seen.probes.get(&probe.name).unwrap_or(&unasked);
        // What answers may still be starting, and nothing can be restarted for it: time decides.
        if let Err(why) = health::judge_probe(job.baseline.as_ref(), &probe.name, after) {
            waiting.push((format!("probe {}", probe.name), why));
        }
    }
    (broken, waiting)
}

/// How often the service's process changed since we began to watch, if it changed since the last look.
fn count_processes(
    pids: &mut std::collections::BTreeMap<String, (u32, u32)>,
    name: &str,
    sample: &ServiceSample,
) -> Option<u32> {
    let pid = sample.pid?;
    let (last, changes) = pids.entry(name.to_owned()).or_insert((pid, 0));
    let is_changed = *last != pid;
    *last = pid;
    *changes += u32::from(is_changed);
    is_changed.then_some(*changes)
}

/// Restarts a broken service, or gives up when one of them has no attempt left.
fn repair(mv: &mut Move, mut job: JobRun, samples: u32, broken: &Named) -> Option<JobRun> {
    let attempts = job.payload.health.restart_attempts;
    let made = |name: &String| job.remediations.get(name).copied().unwrap_or(0);
    let is_hopeless = broken.iter().any(|(name, _)| made(name) >= attempts);
    let Some((service, _)) = broken.first().filter(|_| !is_hopeless && samples < MAX_SAMPLES)
    else {
        let names: Vec<String> =
            broken.iter().map(|(name, why)| format!("{name} ({why})")).collect();
        let tries = broken.iter().map(|(name, _)| made(name)).max().unwrap_or(0);
        let names = names.join(", ");
        let sentence = match tries {
            0 => format!("not healthy: {names}"),
            tries => format!("not healthy after {tries} restart attempts: {names}"),
        };
        let is_probe = |(name, _): &(String, String)| name.starts_with("probe ");
        let all_probes = broken.iter().all(is_probe);
        let reason = if all_probes { "ProbeFailed" } else { "ServiceDown" };
        let end = End::failed(&job, reason, sentence);
        return contact::before_the_end(mv, job, end, false);
    };
    *job.remediations.entry(service.clone()).or_default() += 1;
    // Our own restart changes the process, and those of all that depend on it; that is no flapping.
    job.pids.clear();
    job.message =
        format!("restarting {service}, attempt {} of {attempts}", job.remediations[service]);
    mv.enter(&mut job, Phase::Remediating { service: service.clone(), samples });
    let ask = Ask::RestartService { service: service.clone() };
    mv.ask(&mut job, ask, wake::SERVICE_LIMIT_MS);
    Some(job)
}

/// The restart of a service ended; the next sample tells whether it helped. What did not help at once
/// gets more time before each further attempt.
pub(super) fn restarted(
    mv: &mut Move,
    mut job: JobRun,
    samples: u32,
    result: Result<(), String>,
) -> Option<JobRun> {
    job.message = result.err().unwrap_or_default();
    let made = match &job.phase {
        Phase::Remediating { service, .. } => job.remediations.get(service).copied().unwrap_or(1),
        _ => 1,
    };
    let wait = backoff(job.payload.health.sample_interval_ms, made);
    mv.enter(&mut job, Phase::Verifying { good: 0, samples });
    mv.pause(&mut job, wait);
    Some(job)
}

/// Pause after so many restart attempts: one interval, two, four, …
fn backoff(interval_ms: u64, made: u32) -> u64 {
    let longest = MAX_BACKOFF_MS.max(interval_ms);
    interval_ms.saturating_mul(1 << made.saturating_sub(1).min(8)).min(longest)
}

/// Three good samples in a row, and the proof with each of them.
fn healthy(mv: &mut Move, job: JobRun, seen: &Inspection) -> Option<JobRun> {
    let mut restarts = match job.reboots {
        0 => "no restart".to_owned(),
        1 => "1 restart".to_owned(),
        count => format!("{count} restarts"),
    };
    if job.strikes > 0 {
        restarts.push_str("; it crashed or lost power once since, and has held for 10 minutes");
    }
    let end = if job.is_rollback() {
        let sentence = format!("removed and verified; the build is {}", seen.build);
        End::of(OutcomeResult::RolledBack, sentence)
    } else if job.already {
        let sentence = "an earlier attempt installed it, and the device is healthy now";
        End::of(OutcomeResult::AlreadyInstalled, sentence)
    } else if let Some(trouble) = &job.trouble {
        End::because(OutcomeResult::Failed, &trouble.reason, trouble.message.clone())
    } else {
        let sentence = format!("installed and proven; the build is {}, {restarts}", seen.build);
        End::of(OutcomeResult::Succeeded, sentence)
    };
    contact::before_the_end(mv, job, end, true)
}
