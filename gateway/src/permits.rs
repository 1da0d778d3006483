//! `POST /v1/permits`: the desk that every irreversible step passes.
//!
//! The rule is the planner's. This module reads everything fresh, appends the permit by
//! compare-and-swap, and only then answers; whatever goes wrong on the way is a refusal.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Resource,
    api::{ListParams, PostParams},
};
use tokio::time;
use wardring_api::{
    Device, DeviceGroup, EmergencyStop, JobAction, MaintenanceWindow, PatchAuthority, PatchJob,
    PatchRollback, PatchRollout, PatchRolloutSlice, Permit, PermitStep, RollbackPolicy, SliceLine,
    Update, UpdateHold, UpdateSpec, conditions, names::GATEWAY_MANAGER, reasons::Reason,
};
use wardring_planner::{
    Circumstances, DeviceRow, DeviceTable, GroupView, HoldView, JobOutcome, JobView, PermitFacts,
    PermitRequest as Asked, PermitVerdict, WindowView, bars_successors, begins_installation,
    missing_group, permit as rule,
};
use wardring_protocol::{PermitAnswer, PermitRequest, Step, check_permit};
use wardring_seal::Action;

use crate::{
    Gateway,
    answer::Refusal,
    body::Message,
    budget::Written,
    cache::path,
    fresh::{self, ReadError},
    identity::Speaker,
    merge::{apply_permit, sighting},
    runs::Sighting,
    stops::Listed,
    writes::{JobSlot, JobWish, WriteError, merged},
};

/// Less than the 15 s after which an agent gives up, so that it learns why. And more than the 10 s that it
/// waits once it has ordered a restart: a gateway that does not get through is silent to it, which takes
/// back nothing, where a refusal would.
const PATIENCE: Duration = Duration::from_secs(12);
/// A turn that comes later than this leaves no time to decide.
const TURN: Duration = Duration::from_secs(11);
/// Conflicts borne; each one means that somebody else changed the job meanwhile.
const TRIES: usize = 5;
/// EmergencyStops are of no namespace: one read serves all who ask at the same time.
const EVERYWHERE: &str = "";
const RETRY_UNDECIDED: SignedDuration = SignedDuration::from_secs(5);
const UNREADABLE: &str = "The gateway could not read or write what the permit depends on.";
const CROWDED: &str =
    "Too many devices ask this gateway for permits at once; it has not come to this one.";

/// Decides on one step of one job.
pub async fn permit(
    State(gateway): State<Arc<Gateway>>,
    speaker: Speaker,
    Message(request): Message<PermitRequest>,
) -> Result<Json<PermitAnswer>, Refusal> {
    check_permit(&request).map_err(|malformed| Refusal::malformed(malformed.to_string()))?;
    if request.key.device_id != speaker.enrolment_id() {
        return Err(Refusal::forbidden("this job is another device's"));
    }
    let seen = gateway.note(&speaker, &request.agent_run, request.highest_sequence);
    let desk = Desk { gateway: &gateway, speaker: &speaker, request: &request, seen };
    let asked = time::Instant::now();
    // Held until the permit is recorded; nothing is read before.
    let Ok(_turn) = time::timeout_at(asked + TURN, gateway.permits.acquire()).await else {
        return Ok(Json(desk.answer(undecided(CROWDED))));
    };
    let verdict = match time::timeout_at(asked + PATIENCE, desk.decide()).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a permit could not be decided"
            );
            undecided(UNREADABLE)
        }
        Err(_) => undecided(UNREADABLE),
    };
    Ok(Json(desk.answer(verdict)))
}

/// Why a permit could not be decided.
#[derive(Debug, thiserror::Error)]
enum DeskError {
    #[error("failed to read what the permit depends on")]
    Read(#[from] ReadError),
    #[error("failed to read what the permit depends on")]
    List(#[source] kube::Error),
    #[error("failed to record the permit")]
    Record(#[source] kube::Error),
    #[error("the job changes too fast to record a permit")]
    Conflicts,
}

struct Desk<'a> {
    gateway: &'a Gateway,
    speaker: &'a Speaker,
    request: &'a PermitRequest,
    seen: Sighting,
}

/// Everything the rule looks at, as just read.
struct Read {
    job: Option<PatchJob>,
    slice: Option<Arc<fresh::Fresh<PatchRolloutSlice>>>,
    rollout: Option<Arc<fresh::Fresh<PatchRollout>>>,
    device: Option<Device>,
    groups: Arc<Vec<DeviceGroup>>,
    windows: Arc<Vec<Arc<WindowView>>>,
    namespace: Arc<fresh::Fresh<Namespace>>,
    stops: Arc<Listed>,
    holds: Arc<Vec<HoldView>>,
    updates: Arc<Vec<Arc<UpdateSpec>>>,
    order: Option<PatchRollback>,
    clock_trusted: bool,
}

impl Read {
    fn slice(&self) -> Option<&PatchRolloutSlice> {
        self.slice.as_ref()?.object.as_ref()
    }

    fn rollout(&self) -> Option<&PatchRollout> {
        self.rollout.as_ref()?.object.as_ref()
    }

    /// One that is not there any more was deleted.
    fn namespace_deleting(&self) -> bool {
        let namespace = self.namespace.object.as_ref();
        namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some())
    }
}

impl Desk<'_> {
    async fn decide(&self) -> Result<PermitVerdict, DeskError> {
        for _ in 0..TRIES {
            let mut read = self.read().await?;
            let verdict = self.rule(&read, Timestamp::now());
            if !matches!(verdict, PermitVerdict::Granted { .. }) {
                return Ok(verdict);
            }
            self.look_again(&mut read).await?;
            let now = Timestamp::now();
            let verdict = self.rule(&read, now);
            let (job, expedited) = match (&verdict, read.job) {
                (&PermitVerdict::Granted { repeated: false, expedited }, Some(job)) => {
                    (job, expedited)
                }
                _ => return Ok(verdict),
            };
            if self.record(job, now, expedited).await? {
                return Ok(verdict);
            }
        }
        Err(DeskError::Conflicts)
    }

    /// Every read begins after the permit was asked for. What a whole stage asks about is read once for
    /// all who ask at the same time.
    async fn read(&self) -> Result<Read, DeskError> {
        let Gateway { client, slices, rollouts, groups, windows, namespaces, stops, holds, .. } =
            self.gateway;
        let (namespace, name) = (&*self.speaker.device.namespace, &*self.speaker.device.name);
        let (job, device, home) = tokio::join!(
            fresh::read::<PatchJob>(client, namespace, name),
            fresh::read::<Device>(client, namespace, name),
            namespaces.read(namespace, async || fresh::read_namespace(client, namespace).await),
        );
        let (fresh::Fresh { object: job, clock_trusted }, device) = (job?, device?.object);
        let home = home?;
        let Some(job) = job else {
            return Ok(Read {
                job: None,
                slice: None,
                rollout: None,
                device,
                groups: Arc::default(),
                windows: Arc::default(),
                namespace: home,
                stops: Arc::default(),
                holds: Arc::default(),
                updates: Arc::default(),
                order: None,
                clock_trusted,
            });
        };
        let step = step_of(self.request.step);
        let begins = begins_installation(step, &JobView::new(&job, JobOutcome::None));
        let (slice, rollout) = (&job.spec.slice, &job.spec.rollout);
        let (of_slice, of_rollout) = (path(namespace, slice), path(namespace, rollout));
        let everything = ListParams::default();
        let api: Api<DeviceGroup> = Api::namespaced(client.clone(), namespace);
        let (slice, rollout, groups, windows, stops, holds) = tokio::join!(
            slices.read(&of_slice, async || { fresh::read(client, namespace, slice).await }),
            rollouts.read(&of_rollout, async || { fresh::read(client, namespace, rollout).await }),
            groups.read(namespace, async || {
                // Without a resource version this is a consistent read too.
                api.list(&everything).await.map(|list| list.items)
            }),
            windows.read(namespace, async || {
                let all: Api<MaintenanceWindow> = Api::namespaced(client.clone(), namespace);
                let found = all.list(&everything).await?;
                Ok::<_, kube::Error>(
                    found.iter().map(|window| Arc::new(WindowView::new(window))).collect(),
                )
            }),
            stops.read(EVERYWHERE, async || {
                let all: Api<EmergencyStop> = Api::all(client.clone());
                all.list(&everything).await.map(|list| Listed::new(&list))
            }),
            async {
                // They bar what would begin, and nothing else waits for them.
                if !begins {
                    return Ok(Arc::default());
                }
                holds
                    .read(namespace, async || {
                        let all: Api<UpdateHold> = Api::namespaced(client.clone(), namespace);
                        let found = all.list(&everything).await?;
                        Ok::<_, kube::Error>(found.iter().map(HoldView::new).collect())
                    })
                    .await
            },
        );
        let holds = holds.map_err(DeskError::List)?;
        let rollout = rollout?;
        let order = match ordered(&job, rollout.object.as_ref()) {
            Some(name) => fresh::read::<PatchRollback>(client, namespace, name).await?.object,
            None => None,
        };
        let updates = self.catalogue(device.as_ref(), &holds).await?;
        Ok(Read {
            holds,
            updates,
            slice: Some(slice?),
            order,
            rollout: Some(rollout),
            device,
            groups: groups.map_err(DeskError::List)?,
            windows: windows.map_err(DeskError::List)?,
            namespace: home,
            stops: stops.map_err(DeskError::List)?,
            clock_trusted,
            job: Some(job),
        })
    }

    /// Reads once more what every halt is written into: lists may have taken a tenth of a second, and these
    /// take milliseconds. EmergencyStops that came since are known by the watch. What would be granted has to
    /// be granted both times: somebody may have gone from one guard to another meanwhile, as from a
    /// suspension to a freeze.
    async fn look_again(&self, read: &mut Read) -> Result<(), DeskError> {
        let Gateway { client, slices, rollouts, .. } = self.gateway;
        let Some(job) = &read.job else { return Ok(()) };
        let namespace = &*self.speaker.device.namespace;
        let (slice, rollout) = (&*job.spec.slice, &*job.spec.rollout);
        let (of_slice, of_rollout) = (path(namespace, slice), path(namespace, rollout));
        let (slice, rollout) = tokio::join!(
            slices.read(&of_slice, async || fresh::read(client, namespace, slice).await),
            rollouts.read(&of_rollout, async || fresh::read(client, namespace, rollout).await),
        );
        (read.slice, read.rollout) = (Some(slice?), Some(rollout?));
        self.gateway.followed_stops.add_newer(&mut read.stops);
        Ok(())
    }

    /// The Updates of the namespace, where one of the holds bars on the device what took a barred one's place:
    /// they are many, and few holds ask for them.
    async fn catalogue(
        &self,
        device: Option<&Device>,
        holds: &[HoldView],
    ) -> Result<Arc<Vec<Arc<UpdateSpec>>>, DeskError> {
        let asks = |device: &Device| bars_successors(holds, &DeviceRow::new(device));
        if !device.is_some_and(asks) {
            return Ok(Arc::default());
        }
        let (client, namespace) = (&self.gateway.client, &self.speaker.device.namespace);
        let read = self.gateway.updates.read(namespace, async || {
            let all: Api<Update> = Api::namespaced(client.clone(), namespace);
            let found = all.list(&ListParams::default()).await?;
            Ok::<_, kube::Error>(found.into_iter().map(|update| Arc::new(update.spec)).collect())
        });
        read.await.map_err(DeskError::List)
    }

    fn rule(&self, read: &Read, now: Timestamp) -> PermitVerdict {
        let job = read.job.as_ref().map(|job| JobView::new(job, JobOutcome::None));
        let device = read.device.as_ref().map(DeviceRow::new);
        let line = read.slice().and_then(|slice| line_of(slice, &self.speaker.device.name));
        let groups = device.as_ref().map(|row| groups_of(row, &read.groups)).unwrap_or_default();
        let holds =
            |row: &DeviceRow| groups.iter().find(|group| group.holds_reboots_of(&row.labels));
        let held = device.as_ref().and_then(holds);
        let watches =
            groups.iter().find(|group| group.spec.patch_authority == PatchAuthority::Observe);
        let asks = groups.iter().find(|group| group.spec.rollback == RollbackPolicy::Ask);
        let forbids = groups.iter().find(|group| group.spec.rollback == RollbackPolicy::Forbid);
        let lists: Vec<&[String]> = groups.iter().map(|group| &*group.spec.windows).collect();
        let key = &self.request.key;
        rule(&PermitFacts {
            now,
            request: Asked {
                rollout_uid: &key.rollout_uid,
                enrolment_id: self.speaker.enrolment_id(),
                attempt: key.attempt,
                action: action_of(key.action),
                step: step_of(self.request.step),
                agent_run: &self.request.agent_run,
                accepted_in: &self.request.accepted_in,
                boot_id: &self.request.boot_id,
            },
            job: job.as_ref(),
            line: line.as_ref(),
            rollout: read.rollout(),
            device: device.as_ref(),
            reboots_held_by: held.map(|group| group.name.as_str()),
            missing_group: missing_group(
                read.rollout(),
                job.as_ref(),
                read.groups.iter().filter_map(|group| group.metadata.name.as_deref()),
            ),
            watched_by: watches.map(|group| group.name.as_str()),
            rollbacks_forbidden_by: forbids.map(|group| group.name.as_str()),
            rollbacks_asked_by: asks.map(|group| group.name.as_str()),
            order: read.order.as_ref(),
            group_windows: &lists,
            windows: &read.windows,
            stops: &read.stops.stops,
            holds: &read.holds,
            updates: &read.updates,
            circumstances: Circumstances {
                leader_fresh: self.gateway.leader.is_fresh(),
                api_read: true,
                second_live_run: self.has_second_run(read),
                clock_trusted: read.clock_trusted,
                restored_from_backup: self.was_restored(read),
                namespace_deleting: read.namespace_deleting(),
            },
        })
    }

    fn has_second_run(&self, read: &Read) -> bool {
        let status = read.job.as_ref().and_then(|job| job.status.as_ref());
        let recorded = status.map_or(Sighting::One, |status| {
            sighting(status, self.request.key.attempt, &self.request.agent_run)
        });
        if recorded == Sighting::Two {
            self.gateway.quarantine(self.speaker);
        }
        self.seen != Sighting::One || recorded != Sighting::One
    }

    /// The controller said so, or this very agent holds a newer job than the API server knows.
    fn was_restored(&self, read: &Read) -> bool {
        let reason = Reason::RestoredFromBackup.as_str();
        let status = read.rollout().and_then(|rollout| rollout.status.as_ref());
        let said = status.is_some_and(|status| {
            let is_it = |condition: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                condition.type_ == conditions::STALLED && condition.reason == reason
            };
            status.conditions.iter().find(is_it).is_some_and(|stalled| stalled.status == "True")
        });
        let known = read.job.as_ref().map_or(i64::MAX, |job| job.spec.sequence);
        said || self.request.highest_sequence > known
    }

    /// Appends the permit; false if the job changed since it was read.
    async fn record(
        &self,
        mut job: PatchJob,
        now: Timestamp,
        expedited: bool,
    ) -> Result<bool, DeskError> {
        let device = &self.speaker.device;
        let api: Api<PatchJob> = Api::namespaced(self.gateway.client.clone(), &device.namespace);
        let slot = self.slot();
        let riding = self.gateway.writer.ride(&slot);
        let attempt = job.spec.attempt;
        let run = Some(self.request.agent_run.clone());
        let wish = JobWish { run, awaited: None, ..riding.wish() };
        let mut status = merged(job.status.take().unwrap_or_default(), attempt, &wish, now);
        apply_permit(
            &mut status,
            Permit {
                step: step_of(self.request.step),
                at: now,
                attempt,
                boot_id: self.request.boot_id.clone(),
                agent_run: self.request.agent_run.clone(),
                accepted_in: self.request.accepted_in.clone(),
                expedited,
            },
        );
        job.status = Some(status);
        job.meta_mut().managed_fields = None;
        let began = time::Instant::now();
        let params =
            PostParams { field_manager: Some(GATEWAY_MANAGER.to_owned()), ..Default::default() };
        let written = api.replace_status(&device.name, &params, &job).await;
        self.gateway.writer.count("permit", Written::After(began.elapsed()));
        riding.settle(&self.gateway.writer, slot, written.is_ok());
        match written {
            Ok(job) => {
                self.gateway.cache.put_job(job);
                Ok(true)
            }
            // Changed, deleted, or made anew: look again.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(error) => Err(DeskError::Record(error)),
        }
    }

    fn slot(&self) -> JobSlot {
        let device = &self.speaker.device;
        (path(&device.namespace, &device.name), self.request.key.clone())
    }

    fn answer(&self, verdict: PermitVerdict) -> PermitAnswer {
        let step = step_of(self.request.step);
        let word = match self.request.step {
            Step::Install => "install",
            Step::Reboot => "reboot",
            Step::Uninstall => "uninstall",
        };
        let metrics = &self.gateway.metrics;
        match verdict {
            PermitVerdict::Granted { .. } => {
                metrics.permit(word, "granted");
                PermitAnswer::Granted
            }
            PermitVerdict::Ended { reason, message } => {
                metrics.permit(word, "ended");
                PermitAnswer::Ended { reason: reason.as_str().to_owned(), message }
            }
            PermitVerdict::Refused { reason, message, retry_after } => {
                metrics.permit(word, "refused");
                self.note_awaited(step);
                // It is not the device's clock that is off.
                let fault = self.gateway.clock.fault().filter(|_| reason == Reason::ClockSkew);
                let message = fault.unwrap_or(message);
                let retry_ms = u64::try_from(retry_after.as_millis()).unwrap_or(1_000);
                PermitAnswer::Refused { reason: reason.as_str().to_owned(), message, retry_ms }
            }
        }
    }

    /// Shows that the device waits, even if its own report of it was lost.
    fn note_awaited(&self, step: PermitStep) {
        let run = Some(self.request.agent_run.clone());
        let wish = JobWish { awaited: Some((step, Timestamp::now())), run, ..JobWish::default() };
        let delay = self.gateway.settings.progress_delay;
        match self.gateway.writer.job(self.slot(), wish, delay) {
            // Nobody waits for it.
            Ok(_) | Err(WriteError::Full) => {}
            Err(error) => tracing::debug!(%error, "a waiting step was not noted"),
        }
    }
}

fn undecided(message: &str) -> PermitVerdict {
    PermitVerdict::Refused {
        reason: Reason::ApiUnavailable,
        message: message.to_owned(),
        retry_after: RETRY_UNDECIDED,
    }
}

fn line_of(slice: &PatchRolloutSlice, device: &str) -> Option<SliceLine> {
    // A malformed line gives no permit, like none.
    slice
        .spec
        .lines
        .iter()
        .filter_map(|text| text.parse::<SliceLine>().ok())
        .find(|line| line.device == device)
}

/// The PatchRollback that a job which takes back follows from, if it is one's. Read after the rollout that
/// names it: one that is deleted in between counts as deleted.
fn ordered<'a>(job: &PatchJob, rollout: Option<&'a PatchRollout>) -> Option<&'a str> {
    let rollback = rollout?.status.as_ref()?.rollback.as_ref()?;
    let is_rollback = job.spec.action == JobAction::Rollback;
    rollback.ordered().filter(|_| is_rollback).map(|order| order.name.as_str())
}

/// The groups that select the device.
fn groups_of(device: &DeviceRow, groups: &[DeviceGroup]) -> Vec<GroupView> {
    let groups = groups.iter().map(GroupView::new).collect();
    let table = DeviceTable::new(vec![device.clone()], groups);
    let mine = table.groups_of(0).iter();
    mine.map(|&group| table.groups()[usize::from(group)].clone()).collect()
}

fn action_of(action: Action) -> JobAction {
    match action {
        Action::Download => JobAction::Download,
        Action::Install => JobAction::Install,
        Action::Rollback => JobAction::Rollback,
    }
}

fn step_of(step: Step) -> PermitStep {
    match step {
        Step::Install => PermitStep::Install,
        Step::Reboot => PermitStep::Reboot,
        Step::Uninstall => PermitStep::Uninstall,
    }
}
