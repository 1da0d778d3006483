//! After the end of an installation that was proven: what its health checks named is looked at further,
//! slowly and for a bounded time, against the same baseline. A leak shows after hours or days.
//!
//! This only looks and tells. Nothing is restarted or taken back for what it finds: that is for the gates
//! of the rollout, and for people.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use wardring_protocol::{
    HealthFact, MAX_UNHEALTHY, MAX_UNHEALTHY_TEXT, MAX_WATCHES, UnhealthyFact,
};
use wardring_seal::{Action, HealthChecks, JobKey, OutcomeResult, Probe};

use super::{
    Baseline, BootKind, BootRecord, JobRun, Move, ProbeSample, ServiceSample, State, Verdict,
    health, sentence, unlisted,
};

/// How long is looked after the end of a job: longer than a soak is, and not for ever.
const WATCH_FOR: SignedDuration = SignedDuration::from_hours(14 * 24);
/// Looks in a row that make something worse, or well again. At one in five minutes, what a person or a
/// recovery action restarts meanwhile is not called worse.
const IN_A_ROW: u32 = 3;
/// How long nothing may be looked at, for a pause or another job, before what was seen last is too old.
const STALE_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// One installation after which the device is looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    /// Its job.
    pub key: JobKey,
    /// When the job ended.
    pub since: Timestamp,
    /// When looking ends.
    pub until: Timestamp,
    /// What the job named.
    pub checks: HealthChecks,
    /// What the device was like before.
    pub baseline: Option<Baseline>,
    /// Process of each service at the last look, in this boot.
    pub pids: BTreeMap<String, u32>,
    /// What is worse than before, or may be.
    pub doubts: Vec<Doubt>,
    /// Looks in a row that were not answered, as far as they matter.
    pub blind: u32,
    /// Since when nothing is looked at, because of a pause or another job.
    #[serde(default)]
    pub unseen_since: Option<Timestamp>,
    /// Crashes and losses of power since.
    pub restarts: u32,
    /// The boot after the last of them.
    pub last_restart: Option<BootRecord>,
}

/// Something that is worse than before, or may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Doubt {
    /// A probe; else a service.
    pub is_probe: bool,
    /// Its name.
    pub name: String,
    /// What was worse at the last look that found it so.
    pub why: String,
    /// Since when it is called worse, if it is.
    pub worse_since: Option<Timestamp>,
    /// Looks in a row that say otherwise than that.
    pub looks: u32,
}

/// What to look at for one watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookout {
    /// Job of the watch.
    pub key: JobKey,
    /// Services to look at.
    pub services: Vec<String>,
    /// Questions to ask.
    pub probes: Vec<Probe>,
}

/// What was seen for one watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Job of the watch.
    pub key: JobKey,
    /// Each service that was asked for.
    pub services: BTreeMap<String, ServiceSample>,
    /// Each probe that was asked for.
    pub probes: BTreeMap<String, ProbeSample>,
}

impl State {
    /// What is to be looked at now, if anything. Nothing while a job may have services stopped, or an
    /// administrator works on the device.
    pub fn lookouts(&self) -> Vec<Lookout> {
        if self.is_disturbed() {
            return Vec::new();
        }
        self.watches.iter().map(Watch::lookout).collect()
    }

    /// Whether the device is looked at after installations, now or when nothing disturbs any more.
    pub fn is_watched(&self) -> bool {
        !self.watches.is_empty()
    }

    /// How the device is after installations, for a report.
    pub fn health_facts(&self) -> Vec<HealthFact> {
        self.watches.iter().map(Watch::fact).collect()
    }

    /// Whether what does not run now may be on purpose.
    fn is_disturbed(&self) -> bool {
        let disturbs = |job: &JobRun| {
            job.touched || !job.hooks.is_empty() || job.reboots > 0 || job.phase.is_irreversible()
        };
        self.paused.is_some() || self.job.as_ref().is_some_and(disturbs)
    }
}

impl Watch {
    fn new(job: &JobRun, now: Timestamp) -> Watch {
        let baseline = job.baseline.clone().map(|mut baseline| {
            // Neither is judged.
            baseline.ports.clear();
            baseline.witnesses.clear();
            if !unlisted::are_judged(job) {
                baseline.automatic.clear();
            }
            baseline
        });
        Watch {
            key: job.payload.key.clone(),
            since: now,
            until: end_of_watch(now),
            checks: job.payload.health.clone(),
            baseline,
            pids: BTreeMap::new(),
            doubts: Vec::new(),
            blind: 0,
            unseen_since: None,
            restarts: 0,
            last_restart: None,
        }
    }

    /// Services by name, each with whether the job named it.
    fn services(&self) -> impl Iterator<Item = (&String, bool)> {
        let listed = &self.checks.services;
        let is_other =
            |name: &&String| !listed.iter().any(|known| known.eq_ignore_ascii_case(name));
        let others = self.baseline.iter().flat_map(|baseline| &baseline.automatic);
        let others = others.filter(is_other).map(|name| (name, false));
        listed.iter().map(|name| (name, true)).chain(others)
    }

    fn lookout(&self) -> Lookout {
        Lookout {
            key: self.key.clone(),
            services: self.services().map(|(name, _)| name.clone()).collect(),
            probes: self.checks.probes.clone(),
        }
    }

    fn fact(&self) -> HealthFact {
        let worse = self.doubts.iter().filter_map(|doubt| {
            let kind = if doubt.is_probe { "Probe" } else { "Service" }.to_owned();
            let (name, why) = (short(&doubt.name), short(&doubt.why));
            doubt.worse_since.map(|since| UnhealthyFact { kind, name, why, since })
        });
        HealthFact {
            rollout_uid: self.key.rollout_uid.clone(),
            attempt: self.key.attempt,
            since: self.since,
            blind: self.blind >= IN_A_ROW,
            names_nothing: self.services().next().is_none() && self.checks.probes.is_empty(),
            unhealthy: worse.take(MAX_UNHEALTHY).collect(),
            restarts: self.restarts,
            last_restart: self.last_restart.as_ref().map(BootRecord::report),
        }
    }

    /// What this look finds worse than before: whether it is a probe, its name, and why.
    fn judge(&mut self, look: &Look) -> Vec<(bool, String, String)> {
        let mut worse = Vec::new();
        let named: Vec<(String, bool)> =
            self.services().map(|(name, is_listed)| (name.clone(), is_listed)).collect();
        for (name, is_listed) in named {
            let after = look.services.get(&name).cloned().unwrap_or_else(ServiceSample::missing);
            let before = self.baseline.as_ref().map(|baseline| baseline.service(&name));
            // Who was seen stopped was started by somebody: that is no flapping, but a recovery.
            let last = match after.pid {
                Some(pid) => self.pids.insert(name.clone(), pid),
                None => self.pids.remove(&name),
            };
            let is_new = last.is_some() && after.pid.is_some() && last != after.pid;
            let flaps = is_new && health::is_due(before.as_ref(), &after);
            let verdict = match is_listed {
                true => health::judge(before.as_ref(), &after),
                false => unlisted::judge(&after),
            };
            let why = match verdict {
                Verdict::Good if flaps => "it was started anew since the last look".to_owned(),
                Verdict::Good => continue,
                Verdict::Wait => "it is still starting".to_owned(),
                Verdict::Broken(why) => why,
            };
            worse.push((false, name, why));
        }
        for probe in &self.checks.probes {
            let unasked = ProbeSample::Failed("it was not asked".to_owned());
            let after = look.probes.get(&probe.name).unwrap_or(&unasked);
            if let Err(why) = health::judge_probe(self.baseline.as_ref(), &probe.name, after) {
                worse.push((true, probe.name.clone(), why));
            }
        }
        worse
    }

    /// What was seen before is no row with what comes.
    fn begin_rows(&mut self) {
        self.doubts.retain(|doubt| doubt.worse_since.is_some());
        self.doubts.iter_mut().for_each(|doubt| doubt.looks = 0);
    }

    /// Takes a look into account.
    fn take(&mut self, look: &Look, now: Timestamp) {
        self.blind = 0;
        let mut worse = self.judge(look);
        for doubt in &mut self.doubts {
            let found = worse
                .iter()
                .position(|(is_probe, name, _)| (*is_probe, name) == (doubt.is_probe, &doubt.name));
            let is_worse = found.is_some();
            // What is called worse keeps its words: others with every look would be told with each of them.
            if let Some((_, _, why)) = found.map(|at| worse.swap_remove(at))
                && doubt.worse_since.is_none()
            {
                doubt.why = why;
            }
            if is_worse == doubt.worse_since.is_some() {
                doubt.looks = 0;
                continue;
            }
            doubt.looks += 1;
            if doubt.looks >= IN_A_ROW {
                doubt.looks = 0;
                doubt.worse_since = is_worse.then_some(now);
            }
        }
        self.doubts.retain(|doubt| doubt.worse_since.is_some() || doubt.looks > 0);
        let new = worse.into_iter().map(|(is_probe, name, why)| Doubt {
            is_probe,
            name,
            why,
            worse_since: None,
            looks: 1,
        });
        self.doubts.extend(new);
    }
}

/// The text as a report may carry it.
fn short(text: &str) -> String {
    let mut text = sentence(text);
    text.truncate(text.floor_char_boundary(MAX_UNHEALTHY_TEXT));
    text
}

/// When looking ends that begins now.
fn end_of_watch(now: Timestamp) -> Timestamp {
    now.checked_add(WATCH_FOR).unwrap_or(Timestamp::MAX)
}

/// A job ended: from here on it is looked how the device is, or the end itself says enough.
pub(super) fn ended(mv: &mut Move, job: &JobRun, result: OutcomeResult) {
    let key = &job.payload.key;
    let is_install = key.action == Action::Install && !job.is_rollback();
    let is_proven = result == OutcomeResult::Succeeded
        || result == OutcomeResult::AlreadyInstalled && job.already;
    if key.action == Action::Download || !(is_proven || job.begun()) {
        return;
    }
    mv.state.watches.retain(|watch| watch.key.rollout_uid != key.rollout_uid);
    if is_install && is_proven {
        mv.state.watches.push(Watch::new(job, mv.now.wall));
        let surplus = mv.state.watches.len().saturating_sub(MAX_WATCHES);
        mv.state.watches.drain(..surplus);
    }
}

/// The device booted. What came while another job was at work is that job's to answer for, and what came
/// while an administrator worked on the device is his.
pub(super) fn booted(mv: &mut Move, boot: &BootRecord) {
    let is_hard = matches!(boot.kind, BootKind::Crash | BootKind::Dirty);
    let counts = is_hard && !mv.state.is_disturbed();
    for watch in &mut mv.state.watches {
        // Windows started every service anew.
        watch.pids.clear();
        watch.begin_rows();
        if counts {
            watch.restarts = watch.restarts.saturating_add(1);
            watch.last_restart = Some(boot.clone());
        }
    }
}

/// The device was looked at, did not let itself be looked at, or it was time to and nothing was asked. What
/// is seen while something disturbs is not judged; a job may have begun since it was asked.
pub(super) fn looked(mv: &mut Move, looks: Result<Vec<Look>, String>) {
    let now = mv.now.wall;
    let is_disturbed = mv.state.is_disturbed();
    for watch in &mut mv.state.watches {
        // A clock that was set back must not make it longer.
        watch.until = watch.until.min(end_of_watch(now));
        if is_disturbed {
            let since = watch.unseen_since.map_or(now, |since| since.min(now));
            watch.unseen_since = Some(since);
            if now.duration_since(since) >= STALE_AFTER {
                watch.blind = IN_A_ROW;
            }
            continue;
        }
        if watch.unseen_since.take().is_some() {
            watch.begin_rows();
        }
        let look = looks.as_ref().ok().map(|looks| looks.iter().find(|look| look.key == watch.key));
        match look {
            Some(Some(look)) => watch.take(look, now),
            // It began after the question.
            Some(None) => {}
            None => watch.blind = IN_A_ROW.min(watch.blind + 1),
        }
    }
    mv.state.watches.retain(|watch| now < watch.until);
}
