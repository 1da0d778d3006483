//! Carries out a plan: one compare-and-swap per action, in order, against the versions the plan was
//! made from. It chooses nothing; what it cannot do is left to the next pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use wardring_api::{DeviceGroupStatus, PatchApproval, PatchRollback, PatchRollout};
use wardring_planner::{Action, GrantId, NewJob, Plan, RecordCause, RefusedHold, SliceView};

use super::{
    Desk, Memory, Refusal,
    pace::{GROUP_EVERY, ROLLOUT_EVERY, is_only_load, is_only_progress},
    write::{NewHold, Writer},
    write_quarantine::Mark,
};
use crate::cache::{CachedJob, Kind, Namespace, Stored};

/// Creates and deletes of one kind that go side by side. The API server gives a client about as much
/// with 16 as with more, and other clients keep their share.
const SIDE_BY_SIDE: usize = 16;

/// How long an UpdateHold that the API server refused is not asked for again: hundreds of them may be
/// refused by one quota, and passes follow one another within a second.
const ASK_AGAIN: Duration = Duration::from_secs(25);

/// The versions a plan was made from, moved on by the plan's own writes.
#[derive(Debug, Default)]
pub struct Basis {
    /// Rollouts by name.
    pub rollouts: BTreeMap<String, Stored<PatchRollout>>,
    /// Slices by name, as the plan saw them.
    pub slices: BTreeMap<String, Stored<SliceView>>,
    /// Slices that the plan's own writes moved on: version and lines.
    pub rewritten: BTreeMap<String, (u64, Vec<String>)>,
    /// Jobs by device.
    pub jobs: BTreeMap<String, Stored<CachedJob>>,
    /// PatchRollbacks by name.
    pub orders: BTreeMap<String, Stored<PatchRollback>>,
    /// PatchApprovals by name.
    pub approvals: BTreeMap<String, Stored<PatchApproval>>,
    /// Version of the ledger.
    pub ledger: Option<u64>,
    /// Rollouts whose status the plan wrote: the version it has since, by uid.
    pub statuses: BTreeMap<String, u64>,
}

impl Basis {
    /// What the cache holds now; taken in the same moment as the snapshot.
    pub fn of(space: &Namespace) -> Basis {
        Basis {
            rollouts: space.rollouts.clone(),
            slices: space.slices.clone(),
            rewritten: BTreeMap::new(),
            jobs: space.jobs.clone(),
            orders: space.rollbacks.clone(),
            approvals: space.approvals.clone(),
            ledger: space.ledger.as_ref().map(|ledger| ledger.version),
            statuses: BTreeMap::new(),
        }
    }

    /// Version and lines of a slice, the plan's own writes included.
    pub fn slice(&self, name: &str) -> Option<(u64, Vec<String>)> {
        self.rewritten.get(name).cloned().or_else(|| {
            let slice = self.slices.get(name)?;
            let lines = slice.value.lines.iter().map(ToString::to_string).collect();
            Some((slice.version, lines))
        })
    }
}

/// Why a plan was not carried out to its end.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// Somebody else wrote first; the next pass sees what.
    #[error("another writer was faster with {what}")]
    Conflict {
        /// Kind and name.
        what: String,
    },
    /// The API server refused or did not answer: whether it wrote is unknown.
    #[error("failed to {action}")]
    Api {
        /// What we were doing.
        action: String,
        /// The client's error.
        #[source]
        source: kube::Error,
    },
    /// The job could not be sealed.
    #[error("failed to seal the job of {device}")]
    Seal {
        /// The device.
        device: String,
        /// The cause.
        #[source]
        source: wardring_seal::KeyError,
    },
    /// The office is lost.
    #[error("the term of this leader is over")]
    TermOver,
    /// People changed their mind meanwhile: a halt must not wait behind a thousand grants.
    #[error("what people want changed while the plan was being carried out")]
    NewIntent,
    /// The API server refuses what the rest of the plan may rest on; the next plan knows it.
    #[error("the API server refuses {what}")]
    Refused {
        /// Kind and name.
        what: String,
    },
    /// The plan names something that its own basis does not hold.
    #[error("the plan names {what}, which is gone")]
    Gone {
        /// Kind and name.
        what: String,
    },
}

/// Carries out `plan`. On `Err` a prefix of it was carried out, and what its statuses say was told all
/// the same: no later plan knows that there is something to tell.
pub async fn apply(
    desk: &Desk,
    namespace: &str,
    memory: &mut Memory,
    mut basis: Basis,
    plan: Plan,
    intent: u64,
) -> Result<(), Stop> {
    let (mut events, mut actions) = (Vec::new(), Vec::with_capacity(plan.actions.len()));
    for action in plan.actions {
        match action {
            Action::Emit(event) => events.push(event),
            other => actions.push(other),
        }
    }
    let end = carry_out(desk, namespace, memory, &mut basis, actions, intent).await;
    for event in events {
        // Where the status was not written, the next plan tells it.
        if let Some(version) = basis.statuses.get(&event.rollout.uid) {
            desk.events.emit(namespace, *version, event).await;
        }
    }
    end
}

async fn carry_out(
    desk: &Desk,
    namespace: &str,
    memory: &mut Memory,
    basis: &mut Basis,
    actions: Vec<Action>,
    intent: u64,
) -> Result<(), Stop> {
    let mut writer = Writer::new(desk, namespace, memory);
    let mut actions = actions.into_iter().peekable();
    let mut unconfirmed: BTreeSet<String> = BTreeSet::new();
    while let Some(action) = actions.next() {
        goes_on(&writer, intent)?;
        match action {
            Action::AddFinalizer(rollout) => writer.set_finalizer(basis, &rollout, true).await?,
            Action::RemoveFinalizer(rollout) => {
                writer.set_finalizer(basis, &rollout, false).await?;
            }
            Action::WriteStatus { rollout, .. } if unconfirmed.contains(&rollout.uid) => {}
            Action::WriteStatus { rollout, status } => {
                let stored = basis.rollouts.get(&rollout.name);
                let before = stored.and_then(|stored| stored.value.status.as_ref());
                let is_progress = before.is_some_and(|before| is_only_progress(before, &status));
                if is_progress && writer.memory.pace.holds_back(&rollout.uid, ROLLOUT_EVERY) {
                    continue;
                }
                writer.write_status(basis, &rollout, *status).await?;
                let version = basis.rollouts.get(&rollout.name).map_or(0, |now| now.version);
                basis.statuses.insert(rollout.uid.clone(), version);
                writer.memory.pace.wrote(&rollout.uid, ROLLOUT_EVERY, Instant::now());
            }
            Action::CreateSlice(first) => {
                let mut slices = vec![*first];
                while let Some(Action::CreateSlice(_)) = actions.peek() {
                    if let Some(Action::CreateSlice(next)) = actions.next() {
                        slices.push(*next);
                    }
                }
                let shared = &writer;
                let made: Vec<_> = stream::iter(slices)
                    .map(|slice| async move { shared.create_slice(slice).await })
                    .buffer_unordered(SIDE_BY_SIDE)
                    .collect()
                    .await;
                for result in made {
                    let version = result?;
                    writer.memory_wait(Kind::Slice, version);
                }
            }
            Action::OpenBatch { expected_sequence: _, batch } => {
                writer.open_batch(basis, batch).await?;
            }
            // Marks and bars of what was to begin by a word that is none.
            Action::RecordLines { slice, cause: RecordCause::Order, .. }
                if unconfirmed.contains(&rollout_uid_of(desk, namespace, &slice)) => {}
            Action::RecordLines { slice, cause, changes } => {
                let granted: Vec<GrantId> = if cause == RecordCause::Grants {
                    let uid = rollout_uid_of(desk, namespace, &slice);
                    changes
                        .iter()
                        .map(|change| GrantId {
                            rollout_uid: uid.clone(),
                            device: change.line.device.clone(),
                            attempt: change.line.attempt,
                        })
                        .collect()
                } else {
                    Vec::new()
                };
                writer.record_lines(basis, &slice, changes).await?;
                // From here on we know that no create request was ever sent for these grants.
                writer.memory.uncreated.extend(granted);
            }
            Action::Recall { slice, lines } => writer.recall(basis, &slice, lines).await?,
            Action::CreateJob(first) => {
                let mut jobs = vec![*first];
                while let Some(Action::CreateJob(_)) = actions.peek() {
                    if let Some(Action::CreateJob(next)) = actions.next() {
                        jobs.push(*next);
                    }
                }
                create_jobs(&mut writer, jobs, intent).await?;
            }
            Action::DeleteJob { device, attempt, rollout_uid, why } => {
                let mut jobs = vec![(device, attempt, rollout_uid)];
                while let Some(Action::DeleteJob { .. }) = actions.peek() {
                    if let Some(Action::DeleteJob { device, attempt, rollout_uid, .. }) =
                        actions.next()
                    {
                        jobs.push((device, attempt, rollout_uid));
                    }
                }
                tracing::debug!(namespace, count = jobs.len(), ?why, "deleting jobs");
                delete_jobs(&mut writer, basis, jobs, intent).await?;
            }
            Action::DeleteSlice { name } => writer.delete_slice(basis, &name).await,
            Action::CreateHold { rollout_uid, .. } if unconfirmed.contains(&rollout_uid) => {}
            Action::CreateHold { name, rollout_uid, spec } => {
                let mut holds = vec![NewHold { name, rollout_uid, spec: *spec }];
                while let Some(Action::CreateHold { .. }) = actions.peek() {
                    if let Some(Action::CreateHold { name, rollout_uid, spec }) = actions.next()
                        && !unconfirmed.contains(&rollout_uid)
                    {
                        holds.push(NewHold { name, rollout_uid, spec: *spec });
                    }
                }
                create_holds(&mut writer, holds).await?;
            }
            Action::WriteQuarantine { device, quarantined, reason, message, since } => {
                let mut marks = vec![Mark { device, quarantined, reason, message, since }];
                while let Some(Action::WriteQuarantine { .. }) = actions.peek() {
                    if let Some(Action::WriteQuarantine {
                        device,
                        quarantined,
                        reason,
                        message,
                        since,
                    }) = actions.next()
                    {
                        marks.push(Mark { device, quarantined, reason, message, since });
                    }
                }
                writer.write_quarantines(marks).await;
            }
            Action::WriteGroupStatus { group, status } => {
                let key = format!("group {group}");
                let is_load = is_known_load(desk, namespace, &group, &status);
                if is_load && writer.memory.pace.holds_back(&key, GROUP_EVERY) {
                    continue;
                }
                writer.write_group_status(&group, status).await;
                writer.memory.pace.wrote(&key, GROUP_EVERY, Instant::now());
            }
            Action::WriteWindowStatus { window, status } => {
                writer.write_window_status(&window, status).await;
            }
            // It tells what the rollout's status was to say, or rests on the word itself.
            Action::WriteRollbackStatus { uid, rollout_uid, .. }
                if unconfirmed.contains(&uid)
                    || rollout_uid.as_ref().is_some_and(|of| unconfirmed.contains(of)) => {}
            Action::WriteRollbackStatus { rollback, uid, status, .. } => {
                writer.write_rollback_status(basis, &rollback, &uid, &status).await;
            }
            Action::ConfirmApproval(used) => {
                if let Err(stop) = writer.confirm_approval(basis, &used).await {
                    // Only what relies on it is left out: nobody's word holds up other rollouts.
                    let (rollout, approval) = (&used.rollout.name, &used.name);
                    tracing::warn!(
                        namespace,
                        rollout,
                        approval,
                        error = &stop as &dyn std::error::Error,
                        "an approval is not (any more) what the plan relies on"
                    );
                    unconfirmed.insert(used.rollout.uid.clone());
                    unconfirmed.extend(used.subject.order.as_ref().map(|order| order.uid.clone()));
                    writer.memory.unconfirmed = true;
                }
            }
            Action::CreateApproval(new) => writer.create_approval(*new).await,
            // What became of it is told once it stands.
            Action::WriteApprovalStatus { .. } if !unconfirmed.is_empty() => {}
            Action::WriteApprovalStatus { name, uid, status } => {
                writer.write_approval_status(&name, &uid, &status).await;
            }
            Action::DeleteApproval { name, uid } => writer.delete_approval(&name, &uid).await,
            // Told at the end, however it comes about.
            Action::Emit(_) => {}
        }
    }
    Ok(())
}

/// Creates UpdateHolds side by side. One that the API server refuses, for a quota or a policy of somebody,
/// ends the plan the first time, because what follows from it may rest on the bar. The next plan knows it
/// and goes on without, and asks for it again now and then.
async fn create_holds(writer: &mut Writer<'_>, holds: Vec<NewHold>) -> Result<(), Stop> {
    let is_due = |hold: &NewHold| {
        let asked = writer.memory.refused_holds.get(&hold.name);
        asked.is_none_or(|refused| refused.at.elapsed() >= ASK_AGAIN)
    };
    let due: Vec<NewHold> = holds.into_iter().filter(is_due).collect();
    let shared = &*writer;
    let created: Vec<_> = stream::iter(due)
        .map(|hold| async move {
            let created = shared.create_hold(&hold).await;
            (hold, created)
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .collect()
        .await;
    let mut end = Ok(());
    for (hold, created) in created {
        let words = match created {
            Ok(version) => {
                writer.memory.refused_holds.remove(&hold.name);
                writer.memory_wait(Kind::Hold, version);
                continue;
            }
            Err(Stop::Api { source: kube::Error::Api(refusal), .. }) => refusal.message.clone(),
            Err(stop) => {
                end = Err(stop);
                continue;
            }
        };
        tracing::error!(
            namespace = writer.namespace,
            hold = hold.name,
            words,
            "an UpdateHold is refused; it is asked for again"
        );
        let (what, at) = (format!("UpdateHold {}", hold.name), Instant::now());
        let refused = RefusedHold { rollout_uid: hold.rollout_uid, words };
        let known = writer.memory.refused_holds.insert(hold.name, Refusal { refused, at });
        if known.is_none() && end.is_ok() {
            end = Err(Stop::Refused { what });
        }
    }
    end
}

/// Whether a group's status says the same as the stored one but for its counters.
fn is_known_load(desk: &Desk, namespace: &str, group: &str, status: &DeviceGroupStatus) -> bool {
    desk.cache.read(namespace, |space| {
        let stored = space.and_then(|space| space.groups.get(group));
        stored.is_some_and(|stored| is_only_load(&stored.value.status, status))
    })
}

fn rollout_uid_of(desk: &Desk, namespace: &str, slice: &str) -> String {
    desk.cache.read(namespace, |space| {
        space
            .and_then(|space| space.slices.get(slice))
            .map(|slice| slice.value.rollout_uid.clone())
            .unwrap_or_default()
    })
}

/// Creates jobs side by side. A job that fails does not stop the others; what failed is tried again
/// by the next pass, or ends its line if the refusal is for good.
async fn create_jobs(writer: &mut Writer<'_>, jobs: Vec<NewJob>, intent: u64) -> Result<(), Stop> {
    for job in &jobs {
        // Whatever becomes of the request: from now on we cannot know that none was sent.
        writer.memory.uncreated.remove(&grant_of(job));
    }
    let shared = &*writer;
    let results: Vec<_> = stream::iter(jobs)
        .map(|job| async move {
            // A halt that arrives while a thousand jobs are being created stops the rest of them.
            if goes_on(shared, intent).is_err() {
                return (job, None);
            }
            let created = shared.create_job(&job).await;
            (job, Some(created))
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .collect()
        .await;
    let mut skipped = false;
    let mut first_error = None;
    for (job, result) in results {
        match result {
            None => {
                // Not sent after all.
                if !job.repaired {
                    writer.memory.uncreated.insert(grant_of(&job));
                }
                skipped = true;
            }
            Some(Ok(version)) => writer.memory_wait(Kind::Job, version),
            Some(Err(super::write::JobRefusal::ForGood(words))) => {
                writer.memory.cannot_create.insert(grant_of(&job), words);
            }
            Some(Err(super::write::JobRefusal::Stop(stop))) => {
                tracing::warn!(
                    namespace = writer.namespace,
                    device = job.device,
                    error = &stop as &dyn std::error::Error,
                    "a job was not created; the next pass tries again"
                );
                first_error.get_or_insert(stop);
            }
        }
    }
    if skipped {
        return Err(if writer.desk.in_office() { Stop::NewIntent } else { Stop::TermOver });
    }
    first_error.map_or(Ok(()), Err)
}

fn grant_of(job: &NewJob) -> GrantId {
    GrantId {
        rollout_uid: job.rollout.uid.clone(),
        device: job.device.clone(),
        attempt: job.attempt,
    }
}

/// Deletes jobs side by side. What is not deleted is named by the next plan again.
async fn delete_jobs(
    writer: &mut Writer<'_>,
    basis: &Basis,
    jobs: Vec<(String, u32, String)>,
    intent: u64,
) -> Result<(), Stop> {
    let shared = &*writer;
    let gone: Vec<_> = stream::iter(jobs)
        .map(|(device, attempt, rollout_uid)| async move {
            // A halt does not wait until a whole stage is swept.
            goes_on(shared, intent).ok()?;
            let known = basis.jobs.get(&device).filter(|job| {
                job.value.view.attempt == attempt && job.value.view.rollout_uid == rollout_uid
            })?;
            match shared.delete_job(&device, known).await {
                Ok(true) => Some((device, known.uid.clone())),
                Ok(false) => None,
                Err(stop) => {
                    tracing::warn!(
                        namespace = shared.namespace,
                        device,
                        error = &stop as &dyn std::error::Error,
                        "a job was not deleted; the next pass tries again"
                    );
                    None
                }
            }
        })
        .buffer_unordered(SIDE_BY_SIDE)
        .collect()
        .await;
    for (device, uid) in gone.into_iter().flatten() {
        writer.memory.gone.insert(device, uid);
    }
    goes_on(writer, intent)
}

/// Whether the plan is carried on: we lead, and people want what they wanted when it was made.
fn goes_on(writer: &Writer<'_>, intent: u64) -> Result<(), Stop> {
    match writer.desk.in_office() {
        false => Err(Stop::TermOver),
        true if writer.desk.intent(writer.namespace) != intent => Err(Stop::NewIntent),
        true => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use jiff::Timestamp;
    use kube::Client;
    use serde_json::{Value, json};
    use tokio::sync::watch;
    use wardring_api::{PatchRolloutStatus, UpdateHold, reasons::Reason};
    use wardring_planner::{JobEnd, RolloutRef};
    use wardring_seal::Authority;

    use super::*;
    use crate::{
        approvals::Guardian,
        cache::Cache,
        clock::ClockWatch,
        events::{
            Events,
            tests::{Told, api_server, event, notes, refusal},
        },
        gates::Gates,
        identity::Identity,
        lease::Term,
        metrics::Metrics,
        presence::Presence,
    };

    const CLINIC: &str = "clinic";
    const NOTE: &str = "The rollback is complete.";

    pub(in crate::pass) fn desk(client: Client, cache: &Cache) -> Desk {
        let authority = Authority::create(Timestamp::now()).unwrap();
        let jobs = authority.issue_job_signer(Timestamp::now()).unwrap();
        let until = Instant::now() + Duration::from_secs(600);
        Desk {
            events: Events::new(client.clone(), "controller-1"),
            guardian: Guardian::new(client.clone(), "wardring-system", &[]),
            client,
            cache: cache.clone(),
            presence: Presence::new(Duration::from_secs(30)),
            identity: Identity::new(authority, jobs),
            clock: ClockWatch::default(),
            metrics: Metrics::new(),
            gates: Gates::new(Default::default(), cache.clone(), Metrics::new()),
            board: Default::default(),
            bulletin: Default::default(),
            office: watch::channel(Some(Term { number: 1, until })).1,
            term: 1,
            holder: "controller-1".to_owned(),
        }
    }

    fn rollout(version: u64) -> Value {
        json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchRollout",
            "metadata": {
                "name": "november", "namespace": CLINIC, "uid": "u-1",
                "resourceVersion": version.to_string(),
            },
            "spec": { "updates": { "kbs": ["KB5068787"] }, "stages": [] },
        })
    }

    /// A person's bar.
    fn hold() -> UpdateHold {
        serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "UpdateHold",
            "metadata": { "name": "surgery", "namespace": CLINIC, "resourceVersion": "9" },
            "spec": { "kbs": ["KB5068787"], "reason": "Surgery." },
        }))
        .unwrap()
    }

    /// Carries out the end of a rollback: a status, a bar, and what is told of them.
    async fn roll_back(client: Client, cache: &Cache) -> Result<(), Stop> {
        roll_back_with(client, cache, &mut Memory::default()).await
    }

    async fn roll_back_with(
        client: Client,
        cache: &Cache,
        memory: &mut Memory,
    ) -> Result<(), Stop> {
        let stored: PatchRollout = serde_json::from_value(rollout(1)).unwrap();
        let stored = Stored { uid: "u-1".into(), version: 1, value: stored.into() };
        let basis = Basis {
            rollouts: BTreeMap::from([("november".to_owned(), stored)]),
            ..Basis::default()
        };
        let id = RolloutRef { name: "november".to_owned(), uid: "u-1".to_owned() };
        let bar = |name: &str| Action::CreateHold {
            name: name.to_owned(),
            rollout_uid: id.uid.clone(),
            spec: Box::new(hold().spec),
        };
        let status = Box::new(PatchRolloutStatus::default());
        let actions = vec![
            Action::WriteStatus { rollout: id.clone(), status: status.clone() },
            bar("november-1"),
            bar("november-2"),
            Action::WriteStatus { rollout: id.clone(), status },
            Action::Emit(event(Reason::RollbackSucceeded, NOTE)),
        ];
        let plan = Plan { actions, ..Plan::default() };
        let desk = desk(client, cache);
        apply(&desk, CLINIC, memory, basis, plan, desk.intent(CLINIC)).await
    }

    /// An API server that takes every status, and answers to a bar what `bar` does.
    fn played(bar: impl Fn(Value) -> (u16, Value) + Send + Sync + 'static) -> (Client, Told) {
        api_server(move |path, body| match path {
            path if path.ends_with("/status") => (200, rollout(2)),
            _ => bar(body),
        })
    }

    #[tokio::test]
    async fn what_a_written_status_says_is_told_although_people_want_something_else_by_now() {
        let cache = Cache::default();
        let shared = cache.clone();
        let (client, told) = played(move |body| {
            shared.apply(hold());
            (201, body)
        });
        let end = roll_back(client, &cache).await;
        assert!(matches!(end, Err(Stop::NewIntent)), "{end:?}");
        assert_eq!(notes(&told), [NOTE]);
    }

    #[tokio::test]
    async fn what_a_written_status_says_is_told_although_a_later_write_failed() {
        let (client, told) = played(|_| refusal(500, "InternalError"));
        let end = roll_back(client, &Cache::default()).await;
        assert!(matches!(end, Err(Stop::Refused { .. })), "{end:?}");
        assert_eq!(notes(&told), [NOTE]);
    }

    #[tokio::test]
    async fn update_holds_that_are_refused_are_all_known_to_the_next_plan_which_goes_on_without() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let (client, told) = played(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            refusal(403, "exceeded quota: bars")
        });
        let cache = Cache::default();
        let mut memory = Memory::default();
        let end = roll_back_with(client.clone(), &cache, &mut memory).await;
        assert!(matches!(end, Err(Stop::Refused { .. })), "{end:?}");
        let refused: Vec<&String> = memory.refused_holds.keys().collect();
        assert_eq!(refused, ["november-1", "november-2"]);
        let words = &memory.refused_holds["november-1"].refused.words;
        assert!(words.contains("exceeded quota"), "{words}");
        assert_eq!(notes(&told), [NOTE], "what stands is told");

        // The next plan is carried out to its end, and does not ask again at once.
        roll_back_with(client.clone(), &cache, &mut memory).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        let later = |memory: &mut Memory| {
            memory.refused_holds.values_mut().for_each(|refusal| refusal.at -= ASK_AGAIN);
        };
        later(&mut memory);
        roll_back_with(client, &cache, &mut memory).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 4);

        // Once the quota is raised, they are made and forgotten.
        let (client, _) = played(|body| (201, body));
        later(&mut memory);
        roll_back_with(client, &cache, &mut memory).await.unwrap();
        assert!(memory.refused_holds.is_empty());
    }

    #[tokio::test]
    async fn an_update_hold_whose_fate_nobody_knows_ends_the_plan() {
        let (client, _) = played(|_| refusal(409, "Conflict"));
        let mut memory = Memory::default();
        let end = roll_back_with(client, &Cache::default(), &mut memory).await;
        assert!(end.is_err() && memory.refused_holds.is_empty(), "{end:?}");
    }

    #[tokio::test]
    async fn what_was_not_written_is_not_told() {
        let (client, told) = api_server(|_, _| refusal(409, "Conflict"));
        let end = roll_back(client, &Cache::default()).await;
        assert!(matches!(end, Err(Stop::Conflict { .. })), "{end:?}");
        assert!(notes(&told).is_empty());
    }

    fn job(device: &str) -> Stored<CachedJob> {
        let job = serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchJob",
            "metadata": { "name": device },
            "spec": {
                "sealed": { "payload": "", "signature": "", "keyId": "k", "certificate": "" },
                "rollout": "november", "rolloutUid": "u-1", "stage": "test", "slice": "november-1",
                "enrolmentId": "e-1", "attempt": 1, "sequence": 7, "action": "Install",
                "kbs": ["KB5068787"],
                "startBy": "2026-11-21T06:00:00Z", "finishBy": "2026-11-22T02:00:00Z",
            },
        }))
        .unwrap();
        Stored { uid: "j-1".into(), version: 3, value: CachedJob::new(&job).into() }
    }

    #[tokio::test]
    async fn what_people_want_does_not_wait_until_a_stage_is_swept() {
        let names: Vec<String> = (0..10 * SIDE_BY_SIDE).map(|at| format!("ws-{at:03}")).collect();
        let jobs = names.iter().map(|name| (name.clone(), job(name))).collect();
        let basis = Basis { jobs, ..Basis::default() };
        let delete = |name: &String| Action::DeleteJob {
            device: name.clone(),
            attempt: 1,
            rollout_uid: "u-1".to_owned(),
            why: JobEnd::Done,
        };
        let plan = Plan { actions: names.iter().map(delete).collect(), ..Plan::default() };
        let (cache, deleted) = (Cache::default(), Arc::new(AtomicUsize::new(0)));
        let (shared, count) = (cache.clone(), deleted.clone());
        let (client, _) = api_server(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            shared.apply(hold());
            (200, json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }))
        });
        let desk = desk(client, &cache);
        let mut memory = Memory::default();
        let end = apply(&desk, CLINIC, &mut memory, basis, plan, desk.intent(CLINIC)).await;
        assert!(matches!(end, Err(Stop::NewIntent)), "{end:?}");
        let deleted = deleted.load(Ordering::SeqCst);
        assert!((1..=SIDE_BY_SIDE).contains(&deleted), "{deleted}");
        assert_eq!(memory.gone.len(), deleted, "the rest is left to the next plan");
    }
}
