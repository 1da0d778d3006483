//! One pass over one namespace: observe → validate → plan → apply → publish. The planner validates
//! and decides; this module reads, writes and remembers what only this leader can know.

mod apply;
mod checks;
mod job;
mod observe;
mod online;
mod pace;
mod takeover;
mod write;
mod write_approval;
mod write_quarantine;
mod write_rollback;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace as KubeNamespace;
use kube::{Api, Client};
use wardring_api::{PatchRolloutStatus, RolloutPhase, conditions, reasons::Reason};
use wardring_planner::{
    Action, ApprovalPolicy, GrantId, Plan, RefusedHold, Snapshot, activities, alerts, check, plan,
};

pub use apply::Stop;

use self::{apply::Basis, write::Writer};
use crate::{
    approvals::Guardian,
    cache::{Cache, Kind},
    clock::ClockWatch,
    events::Events,
    gates::Gates,
    identity::Identity,
    lease::{Office, holds},
    metrics::{Metrics, NamespaceLabels, PassLabels, PhaseLabels, RuleLabels},
    notify::Bulletin,
    presence::Presence,
    stops::Board,
};

/// While a new leader listens to the agents it looks this often: that a gateway has told whom it sees
/// is no event of any namespace.
const LISTEN: SignedDuration = SignedDuration::from_secs(2);

/// The cache is this late at most before a pass looks anyway: a delete that another controller made
/// first, say, never shows up under the version we wait for.
const LATE_CACHE: Duration = Duration::from_secs(5);
/// How long news may put off the question which devices are in contact.
const PUT_OFF: Duration = Duration::from_secs(2);

/// What every pass of a term shares.
#[derive(Clone)]
pub struct Desk {
    /// The API server.
    pub client: Client,
    /// What is known.
    pub cache: Cache,
    /// Who is in contact.
    pub presence: Presence,
    /// Keys.
    pub identity: Identity,
    /// Whether our clock can be trusted.
    pub clock: ClockWatch,
    /// Numbers.
    pub metrics: Metrics,
    /// What EmergencyStops keep back.
    pub board: Board,
    /// What is measured for gates.
    pub gates: Gates,
    /// Whether approvals can be believed.
    pub guardian: Guardian,
    /// What there is to tell.
    pub bulletin: Bulletin,
    /// Kubernetes Events.
    pub events: Events,
    /// Whether we lead.
    pub office: Office,
    /// The term in which this desk works.
    pub term: u64,
    /// Name in the Lease.
    pub holder: String,
}

impl Desk {
    /// Whether the term of this desk still runs.
    pub fn in_office(&self) -> bool {
        holds(&self.office, self.term)
    }

    /// Counter of what people want in the namespace, and of what gates found: both end a plan that is
    /// being carried out.
    pub fn intent(&self, namespace: &str) -> u64 {
        self.cache.intent(namespace) + self.gates.news(namespace)
    }
}

/// What this leader remembers of a namespace between passes. Losing it is safe.
#[derive(Debug, Default)]
pub struct Memory {
    fenced: bool,
    /// The agents presented what they hold, as far as they can be reached.
    has_heard: bool,
    /// Versions of our own writes that the cache must have seen before the next plan.
    waits: BTreeMap<Kind, u64>,
    /// Jobs that we deleted, by device and uid, and that the cache must no longer hold.
    gone: BTreeMap<String, Arc<str>>,
    waiting_since: Option<Instant>,
    verified: observe::Verified,
    uncreated: BTreeSet<GrantId>,
    cannot_create: BTreeMap<GrantId, String>,
    /// UpdateHolds that the API server refuses, by name. A new leader asks for them itself.
    refused_holds: BTreeMap<String, Refusal>,
    phases: BTreeSet<String>,
    /// An approval was not what the plan relied on: look again soon.
    unconfirmed: bool,
    /// Devices whose condition Quarantined was not written, with when that was tried.
    refused_marks: BTreeMap<String, Instant>,
    pace: pace::Pace,
    /// Counter of what people want, as the last plan knew it that was carried out.
    intent: u64,
    /// Since when there are news that no such plan knew.
    news_since: Option<Instant>,
}

impl Memory {
    /// Whether what may be a halt comes before the question which devices are in contact. Where something
    /// fails all the time, people still want to know that.
    fn hurries(&mut self, intent: u64, now: Instant) -> bool {
        if intent == self.intent {
            return false;
        }
        let since = *self.news_since.get_or_insert(now);
        now.saturating_duration_since(since) < PUT_OFF
    }

    /// Takes note of a plan that was carried out.
    fn planned(&mut self, intent: u64) {
        (self.intent, self.news_since) = (intent, None);
    }
}

/// An UpdateHold that the API server refused.
#[derive(Debug)]
struct Refusal {
    refused: RefusedHold,
    /// When it was last asked for.
    at: Instant,
}

/// How a pass ended.
#[derive(Debug)]
pub enum Pass {
    /// Planned and carried out; when to look again without an event.
    Done(Option<Timestamp>),
    /// Something moved meanwhile; look again at once.
    Again,
    /// The cache has not seen our last writes yet.
    Waiting,
    /// It failed; back off.
    Failed,
}

/// One pass.
pub async fn pass(desk: &Desk, namespace: &str, memory: &mut Memory) -> Pass {
    let began = Instant::now();
    let pass = attempt(desk, namespace, memory).await;
    let result = match &pass {
        Pass::Done(_) => "ok",
        Pass::Again => "conflict",
        Pass::Waiting => "skipped",
        Pass::Failed => "failed",
    };
    desk.metrics.passes.get_or_create(&PassLabels { result }).inc();
    if !matches!(pass, Pass::Waiting) {
        desk.metrics.pass_seconds.observe(began.elapsed().as_secs_f64());
    }
    pass
}

async fn attempt(desk: &Desk, namespace: &str, memory: &mut Memory) -> Pass {
    if !memory.fenced {
        let taken = takeover::take_over(desk, namespace).await;
        if let Err(error) = taken {
            tracing::warn!(
                namespace,
                error = &error as &dyn std::error::Error,
                "failed to take over the namespace"
            );
            return Pass::Failed;
        }
        memory.fenced = true;
    }
    if !has_caught_up(desk, namespace, memory) {
        return Pass::Waiting;
    }
    if let Err(stop) = takeover::raise_to_confirmed(desk, namespace, memory).await {
        return stopped(namespace, &stop);
    }
    memory.pace.begin(Instant::now());
    // Every device of the namespace is asked about, most of which no rollout is about.
    let is_due = !memory.pace.holds_back(online::KEY, online::EVERY);
    if is_due && memory.hurries(desk.intent(namespace), Instant::now()) {
        memory.pace.look_again(Instant::now() + online::EVERY);
    } else if is_due {
        let marked = online::mark(desk, namespace).await;
        if marked != online::Marked::More {
            memory.pace.wrote(online::KEY, online::EVERY, Instant::now());
        }
        if let Some(wait) = marked.looks_again_in() {
            memory.pace.look_again(Instant::now() + wait);
        }
    }
    let terminating = match is_terminating(desk, namespace).await {
        Ok(terminating) => terminating,
        Err(error) => {
            tracing::warn!(namespace, %error, "failed to read the namespace");
            return Pass::Failed;
        }
    };
    let asks = desk.cache.read(namespace, |space| space.is_some_and(|space| space.asks_people()));
    let policy = match asks && !terminating {
        true => desk.guardian.look(namespace).await,
        false => ApprovalPolicy::default(),
    };
    let now = Timestamp::now();
    // Basis, intent and snapshot are read one after the other; whatever changes in between fails its
    // compare-and-swap or stops the plan, so an older basis is safe.
    let intent = desk.intent(namespace);
    let basis = desk.cache.read(namespace, |space| space.map(Basis::of)).unwrap_or_default();
    let Some(snapshot) = observe::observe(desk, namespace, memory, terminating, policy, now) else {
        memory.planned(intent);
        desk.metrics.activities.note(namespace, Vec::new());
        desk.bulletin.note(namespace, Default::default());
        return Pass::Done(held_back(memory));
    };
    // Of what is written down, and not of what the plan is about to write: that is told once it stands.
    desk.bulletin.note(namespace, alerts(&snapshot));
    let plan = plan(&snapshot);
    let violations = check(&snapshot, &plan);
    if !violations.is_empty() {
        return refuse(desk, namespace, memory, basis, &snapshot, &violations).await;
    }
    let next = plan.next_evaluation;
    let listens = snapshot.guards.unheard.as_ref().filter(|_| !snapshot.rollouts.is_empty());
    let listens = listens.and_then(|_| now.checked_add(LISTEN).ok());
    publish_numbers(desk, namespace, memory, &snapshot, &plan);
    desk.board.note(namespace, &plan.stops);
    desk.gates.follow(namespace, &plan.measure);
    forget_settled(memory, &snapshot);
    forget_unwanted_holds(memory, &plan);
    memory.unconfirmed = false;
    match apply::apply(desk, namespace, memory, basis, plan, intent).await {
        Ok(()) => {
            memory.planned(intent);
            let unconfirmed = memory.unconfirmed.then(|| now.checked_add(LISTEN).ok()).flatten();
            let marks = marks_due(memory);
            let due = [next, held_back(memory), listens, unconfirmed, marks];
            Pass::Done(due.into_iter().flatten().min())
        }
        Err(stop) => stopped(namespace, &stop),
    }
}

/// When counters that were not written in this pass may be.
fn held_back(memory: &Memory) -> Option<Timestamp> {
    let left = memory.pace.due()?.saturating_duration_since(Instant::now());
    Timestamp::now().checked_add(left).ok()
}

/// When a mark that was refused is to be tried again.
fn marks_due(memory: &Memory) -> Option<Timestamp> {
    let first = memory.refused_marks.values().min()?;
    let left = write_quarantine::TRY_AGAIN.saturating_sub(first.elapsed());
    Timestamp::now().checked_add(left).ok()
}

fn stopped(namespace: &str, stop: &Stop) -> Pass {
    match stop {
        Stop::Conflict { .. } | Stop::NewIntent | Stop::Refused { .. } | Stop::Gone { .. } => {
            tracing::debug!(namespace, %stop, "the plan was not finished; planning again");
            Pass::Again
        }
        Stop::TermOver => Pass::Done(None),
        Stop::Api { .. } | Stop::Seal { .. } => {
            tracing::warn!(
                namespace,
                error = stop as &dyn std::error::Error,
                "the plan was not finished; planning again"
            );
            Pass::Failed
        }
    }
}

/// Whether the cache holds everything that this leader wrote.
fn has_caught_up(desk: &Desk, namespace: &str, memory: &mut Memory) -> bool {
    memory.waits.retain(|kind, version| desk.cache.seen(namespace, *kind) < *version);
    let gone = std::mem::take(&mut memory.gone);
    memory.gone = desk.cache.read(namespace, |space| {
        let still = |device: &String, uid: &Arc<str>| {
            space.is_some_and(|space| space.jobs.get(device).is_some_and(|job| job.uid == *uid))
        };
        gone.into_iter().filter(|(device, uid)| still(device, uid)).collect()
    });
    if memory.waits.is_empty() && memory.gone.is_empty() {
        memory.waiting_since = None;
        return true;
    }
    let since = *memory.waiting_since.get_or_insert_with(Instant::now);
    if since.elapsed() < LATE_CACHE {
        return false;
    }
    // A deletion we asked for may have been answered by something else with the same name. Versions
    // we wrote must be seen in any case: planning before that would doubt our own grants.
    memory.gone.clear();
    memory.waits.is_empty()
}

/// A namespace that is being deleted must not wait for our finalizers. Asked for only when a rollout
/// is being deleted.
async fn is_terminating(desk: &Desk, namespace: &str) -> Result<bool, kube::Error> {
    let deleting = desk.cache.read(namespace, |space| {
        space.is_some_and(|space| {
            let is_deleting = |rollout: &wardring_api::PatchRollout| {
                rollout.metadata.deletion_timestamp.is_some()
            };
            space.rollouts.values().any(|stored| is_deleting(&stored.value))
        })
    });
    if !deleting {
        return Ok(false);
    }
    let namespaces: Api<KubeNamespace> = Api::all(desk.client.clone());
    let object = namespaces.get_opt(namespace).await?;
    Ok(object.is_none_or(|object| object.metadata.deletion_timestamp.is_some()))
}

/// A plan that breaks a safety rule is a bug of ours. It is not applied, and the rollouts say so.
async fn refuse(
    desk: &Desk,
    namespace: &str,
    memory: &mut Memory,
    mut basis: Basis,
    snapshot: &Snapshot,
    violations: &[wardring_planner::Violation],
) -> Pass {
    for violation in violations {
        let labels = RuleLabels { rule: violation.rule.to_owned() };
        desk.metrics.plan_violations.get_or_create(&labels).inc();
        tracing::error!(
            namespace,
            rule = violation.rule,
            "a plan broke a safety rule and is not applied: {}",
            violation.message
        );
    }
    let words = violations
        .first()
        .map(|violation| format!("the plan breaks {}: {}", violation.rule, violation.message))
        .unwrap_or_default();
    let mut writer = Writer::new(desk, namespace, memory);
    for rollout in &snapshot.rollouts {
        let mut status = rollout.status.clone().unwrap_or_default();
        mark_refused(&mut status, &words, rollout.metadata.generation, snapshot.now);
        if rollout.status.as_ref() == Some(&status) {
            continue;
        }
        let id = wardring_planner::RolloutRef {
            name: rollout.metadata.name.clone().unwrap_or_default(),
            uid: rollout.metadata.uid.clone().unwrap_or_default(),
        };
        if let Err(stop) = writer.write_status(&mut basis, &id, status).await {
            tracing::warn!(namespace, %stop, "failed to say that a plan was refused");
        }
    }
    Pass::Failed
}

fn mark_refused(
    status: &mut PatchRolloutStatus,
    words: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    let is_done = matches!(status.phase, Some(RolloutPhase::Completed | RolloutPhase::Aborted));
    if is_done {
        return;
    }
    let list = &mut status.conditions;
    let reason = Reason::PlanRefused;
    let message =
        format!("{words}; nothing is granted. Please report this with the controller's log.");
    conditions::set(list, conditions::STALLED, true.into(), reason, &message, generation, now);
    conditions::set(list, conditions::READY, false.into(), reason, &message, generation, now);
}

fn publish_numbers(
    desk: &Desk,
    namespace: &str,
    memory: &mut Memory,
    snapshot: &Snapshot,
    plan: &Plan,
) {
    let mut phases: BTreeMap<String, i64> =
        memory.phases.iter().map(|phase| (phase.clone(), 0)).collect();
    let mut in_flight = 0;
    for rollout in &plan.rollouts {
        if let Some(phase) = rollout.status.phase {
            *phases.entry(format!("{phase:?}")).or_default() += 1;
        }
        in_flight += rollout
            .status
            .stages
            .iter()
            .map(|stage| i64::from(stage.counts.in_progress))
            .sum::<i64>();
    }
    for (phase, count) in &phases {
        let labels = PhaseLabels { namespace: namespace.to_owned(), phase: phase.clone() };
        desk.metrics.rollouts.get_or_create(&labels).set(*count);
    }
    memory.phases = phases.into_keys().collect();
    let labels = NamespaceLabels { namespace: namespace.to_owned() };
    desk.metrics.devices_in_flight.get_or_create(&labels).set(in_flight);
    desk.metrics.activities.note(namespace, activities(snapshot, plan));
    let jobs = snapshot.jobs.iter().map(|job| job.device.clone()).collect();
    desk.presence.set_jobs(namespace, jobs);
}

/// Forgets the UpdateHolds that no plan asks for any more: they are there, or nothing follows from them.
fn forget_unwanted_holds(memory: &mut Memory, plan: &Plan) {
    let wanted: BTreeSet<&str> = plan.actions.iter().filter_map(Action::hold).collect();
    memory.refused_holds.retain(|name, _| wanted.contains(&**name));
}

/// Forgets what the record has overtaken, so that memory does not grow with the fleet.
fn forget_settled(memory: &mut Memory, snapshot: &Snapshot) {
    if memory.uncreated.is_empty() && memory.cannot_create.is_empty() {
        return;
    }
    let mut open = BTreeSet::new();
    for slice in &snapshot.slices {
        for line in &slice.lines {
            if line.is_in_force() {
                open.insert((slice.rollout_uid.as_str(), line.device.as_str(), line.attempt));
            }
        }
    }
    let is_open = |grant: &GrantId| {
        open.contains(&(grant.rollout_uid.as_str(), grant.device.as_str(), grant.attempt))
    };
    memory.uncreated.retain(&is_open);
    memory.cannot_create.retain(|grant, _| is_open(grant));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_comes_before_the_question_who_is_in_contact_but_not_for_ever() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        assert!(!memory.hurries(0, now), "nothing is new");
        assert!(memory.hurries(1, now));
        let soon = now + Duration::from_secs(1);
        assert!(memory.hurries(1, soon), "no plan was carried out yet");
        assert!(memory.hurries(2, soon));
        let late = now + PUT_OFF;
        assert!(!memory.hurries(3, late), "somebody may have come or gone");
        assert!(
            !memory.hurries(4, late),
            "no plan is carried out, and people still ask who is there"
        );
        memory.planned(4);
        assert!(!memory.hurries(4, late));
        assert!(memory.hurries(5, late));
    }
}
