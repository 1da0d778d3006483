//! The writes, one function each. Every one is a compare-and-swap or safe to repeat.

use std::{collections::BTreeMap, sync::Arc};

use kube::{
    Api, Resource,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
    core::NamespaceResourceScope,
};
use serde_json::json;
use wardring_api::{
    Batch, DeviceGroup, DeviceGroupStatus, MaintenanceWindow, MaintenanceWindowStatus, PatchJob,
    PatchLedger, PatchRollout, PatchRolloutSlice, PatchRolloutSliceSpec, PatchRolloutStatus,
    UpdateHold, UpdateHoldSpec, names,
};
use wardring_planner::{LineChange, NewJob, NewSlice, RecallLine, RolloutRef};

use super::{
    Desk, Memory,
    apply::{Basis, Stop},
    job::{is_same_grant, sealed_job},
};
use crate::{
    cache::{CachedJob, Kind, Stored, version_number},
    metrics::WriteLabels,
};

/// Writes into one namespace.
pub struct Writer<'a> {
    /// What everybody shares.
    pub desk: &'a Desk,
    /// The namespace.
    pub namespace: &'a str,
    /// What this leader remembers of it.
    pub memory: &'a mut Memory,
}

/// An UpdateHold that is to be there.
pub struct NewHold {
    /// Object name.
    pub name: String,
    /// Rollout that it follows from.
    pub rollout_uid: String,
    /// What is barred where.
    pub spec: UpdateHoldSpec,
}

/// Why a job was not created.
pub enum JobRefusal {
    /// The API server will never take it.
    ForGood(String),
    /// This time.
    Stop(Stop),
}

impl<'a> Writer<'a> {
    /// A writer.
    pub fn new(desk: &'a Desk, namespace: &'a str, memory: &'a mut Memory) -> Writer<'a> {
        Writer { desk, namespace, memory }
    }

    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.desk.client.clone(), self.namespace)
    }

    /// The next pass waits until the cache has seen this version.
    pub fn memory_wait(&mut self, kind: Kind, version: u64) {
        let wait = self.memory.waits.entry(kind).or_default();
        *wait = version.max(*wait);
    }

    pub(super) fn wrote(&mut self, kind: Kind, verb: &'static str, meta: &ObjectMeta) -> u64 {
        self.count(kind, verb);
        let version = meta.resource_version.as_deref().map_or(0, version_number);
        self.memory_wait(kind, version);
        version
    }

    fn count(&self, kind: Kind, verb: &'static str) {
        let labels = WriteLabels { kind: kind.as_str(), verb };
        self.desk.metrics.writes.get_or_create(&labels).inc();
    }

    fn failed(&self, kind: Kind, name: &str, verb: &'static str, source: kube::Error) -> Stop {
        match &source {
            kube::Error::Api(status) if status.is_conflict() => {
                let labels = WriteLabels { kind: kind.as_str(), verb };
                self.desk.metrics.conflicts.get_or_create(&labels).inc();
                Stop::Conflict { what: format!("{} {name}", kind.as_str()) }
            }
            kube::Error::Api(status) if status.is_not_found() => {
                Stop::Gone { what: format!("{} {name}", kind.as_str()) }
            }
            _ => Stop::Api { action: format!("{verb} {} {name}", kind.as_str()), source },
        }
    }

    /// Adds or removes our finalizer.
    pub async fn set_finalizer(
        &mut self,
        basis: &mut Basis,
        rollout: &RolloutRef,
        present: bool,
    ) -> Result<(), Stop> {
        let stored = rollout_in(basis, rollout)?;
        let mut finalizers = stored.value.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|one| one != names::FINALIZER);
        if present {
            finalizers.push(names::FINALIZER.to_owned());
        }
        let patch = json!({"metadata": {
            "resourceVersion": stored.version.to_string(),
            "uid": rollout.uid,
            "finalizers": finalizers,
        }});
        let api = self.api::<PatchRollout>();
        match api.patch(&rollout.name, &params(), &Patch::Merge(&patch)).await {
            Ok(object) => {
                self.wrote(Kind::Rollout, "patch", &object.metadata);
                keep_rollout(basis, object);
                Ok(())
            }
            Err(error) => Err(self.failed(Kind::Rollout, &rollout.name, "patch", error)),
        }
    }

    /// Replaces the whole status.
    pub async fn write_status(
        &mut self,
        basis: &mut Basis,
        rollout: &RolloutRef,
        status: PatchRolloutStatus,
    ) -> Result<(), Stop> {
        let stored = rollout_in(basis, rollout)?;
        let mut object = PatchRollout::clone(&stored.value);
        object.metadata.resource_version = Some(stored.version.to_string());
        object.status = Some(status);
        let api = self.api::<PatchRollout>();
        match api.replace_status(&rollout.name, &post(), &object).await {
            Ok(object) => {
                self.wrote(Kind::Rollout, "status", &object.metadata);
                keep_rollout(basis, object);
                Ok(())
            }
            Err(error) => Err(self.failed(Kind::Rollout, &rollout.name, "status", error)),
        }
    }

    /// Creates a slice; one with the same freeze id is the same slice.
    pub async fn create_slice(&self, slice: NewSlice) -> Result<u64, Stop> {
        let labels = BTreeMap::from([
            (names::ROLLOUT_LABEL.to_owned(), slice.rollout.name.clone()),
            (names::ROLLOUT_UID_LABEL.to_owned(), slice.rollout.uid.clone()),
            (names::STAGE_LABEL.to_owned(), slice.stage.clone()),
        ]);
        let mut object = PatchRolloutSlice::new(
            &slice.name,
            PatchRolloutSliceSpec {
                rollout: slice.rollout.name,
                rollout_uid: slice.rollout.uid,
                stage: slice.stage,
                index: slice.index,
                of: slice.of,
                freeze_id: slice.freeze_id.clone(),
                lines: slice.lines.iter().map(ToString::to_string).collect(),
            },
        );
        object.metadata.labels = Some(labels);
        let api = self.api::<PatchRolloutSlice>();
        match api.create(&post(), &object).await {
            Ok(object) => {
                self.count(Kind::Slice, "create");
                Ok(version_of(&object.metadata))
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let existing = api
                    .get(&slice.name)
                    .await
                    .map_err(|error| self.failed(Kind::Slice, &slice.name, "create", error))?;
                if existing.spec.freeze_id == slice.freeze_id {
                    Ok(version_of(&existing.metadata))
                } else {
                    Err(Stop::Conflict { what: format!("PatchRolloutSlice {}", slice.name) })
                }
            }
            Err(error) => Err(self.failed(Kind::Slice, &slice.name, "create", error)),
        }
    }

    /// Raises the ledger's sequence with the batch that is about to be granted.
    pub async fn open_batch(&mut self, basis: &mut Basis, batch: Batch) -> Result<(), Stop> {
        let version = basis.ledger.ok_or_else(|| Stop::Gone { what: "PatchLedger".to_owned() })?;
        let patch = json!({
            "metadata": {"resourceVersion": version.to_string()},
            "status": {"sequence": batch.sequence, "holder": self.desk.holder, "batch": batch},
        });
        let api = self.api::<PatchLedger>();
        match api.patch_status(names::LEDGER_NAME, &params(), &Patch::Merge(&patch)).await {
            Ok(object) => {
                basis.ledger = Some(self.wrote(Kind::Ledger, "status", &object.metadata));
                Ok(())
            }
            Err(error) => Err(self.failed(Kind::Ledger, names::LEDGER_NAME, "status", error)),
        }
    }

    /// Rewrites lines of a slice.
    pub async fn record_lines(
        &mut self,
        basis: &mut Basis,
        slice: &str,
        changes: Vec<LineChange>,
    ) -> Result<(), Stop> {
        let gone = || Stop::Gone { what: format!("PatchRolloutSlice {slice}") };
        let (version, mut lines) = basis.slice(slice).ok_or_else(gone)?;
        for change in &changes {
            *lines.get_mut(change.index).ok_or_else(gone)? = change.line.to_string();
        }
        let patch = json!({
            "metadata": {"resourceVersion": version.to_string()},
            "spec": {"lines": lines},
        });
        let api = self.api::<PatchRolloutSlice>();
        match api.patch(slice, &params(), &Patch::Merge(&patch)).await {
            Ok(object) => {
                let version = self.wrote(Kind::Slice, "patch", &object.metadata);
                basis.rewritten.insert(slice.to_owned(), (version, lines));
                Ok(())
            }
            Err(error) => Err(self.failed(Kind::Slice, slice, "patch", error)),
        }
    }

    /// Takes back grants: the job goes first, by its exact version, so that a permit and a recall
    /// exclude each other.
    pub async fn recall(
        &mut self,
        basis: &mut Basis,
        slice: &str,
        lines: Vec<RecallLine>,
    ) -> Result<(), Stop> {
        let mut changes = Vec::with_capacity(lines.len());
        for line in lines {
            let device = line.change.line.device.clone();
            let Some(attempt) = line.job_attempt else {
                changes.push(line.change);
                continue;
            };
            let known = basis.jobs.get(&device).filter(|job| job.value.view.attempt == attempt);
            let Some(known) = known else { continue };
            let uid = known.uid.clone();
            if self.delete_job(&device, known).await? {
                self.memory.gone.insert(device, uid);
                changes.push(line.change);
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.record_lines(basis, slice, changes).await
    }

    /// Creates a job and answers its version.
    pub async fn create_job(&self, job: &NewJob) -> Result<u64, JobRefusal> {
        let object = sealed_job(&self.desk.identity, self.namespace, job).map_err(|source| {
            JobRefusal::Stop(Stop::Seal { device: job.device.clone(), source })
        })?;
        let api = self.api::<PatchJob>();
        match api.create(&post(), &object).await {
            Ok(object) => {
                self.count(Kind::Job, "create");
                Ok(version_of(&object.metadata))
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let existing = api.get_opt(&job.device).await.map_err(|error| {
                    JobRefusal::Stop(self.failed(Kind::Job, &job.device, "create", error))
                })?;
                match existing {
                    Some(existing) if is_same_grant(&existing, job) => {
                        Ok(version_of(&existing.metadata))
                    }
                    _ => Err(JobRefusal::Stop(Stop::Conflict {
                        what: format!("PatchJob {}", job.device),
                    })),
                }
            }
            Err(kube::Error::Api(status)) if is_for_good(&status) => {
                Err(JobRefusal::ForGood(status.message.clone()))
            }
            Err(error) => {
                Err(JobRefusal::Stop(self.failed(Kind::Job, &job.device, "create", error)))
            }
        }
    }

    /// Deletes a job by uid and version. `false`: it is another one by now, or changed.
    pub async fn delete_job(&self, device: &str, job: &Stored<CachedJob>) -> Result<bool, Stop> {
        let api = self.api::<PatchJob>();
        self.delete(api, Kind::Job, device, &job.uid, job.version).await
    }

    /// Deletes a slice by uid and version; what fails is left to a later pass.
    pub async fn delete_slice(&mut self, basis: &Basis, name: &str) {
        let Some(slice) = basis.slices.get(name) else { return };
        let version = basis.rewritten.get(name).map_or(slice.version, |(version, _)| *version);
        let api = self.api::<PatchRolloutSlice>();
        if let Err(stop) = self.delete(api, Kind::Slice, name, &slice.uid, version).await {
            tracing::warn!(
                namespace = self.namespace,
                slice = name,
                error = &stop as &dyn std::error::Error,
                "a slice was not deleted"
            );
        }
    }

    async fn delete<K>(
        &self,
        api: Api<K>,
        kind: Kind,
        name: &str,
        uid: &Arc<str>,
        version: u64,
    ) -> Result<bool, Stop>
    where
        K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_string()),
                resource_version: Some(version.to_string()),
            }),
            ..DeleteParams::default()
        };
        match api.delete(name, &params).await {
            Ok(_) => {
                self.count(kind, "delete");
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                let labels = WriteLabels { kind: kind.as_str(), verb: "delete" };
                self.desk.metrics.conflicts.get_or_create(&labels).inc();
                Ok(false)
            }
            Err(source) => {
                Err(Stop::Api { action: format!("delete {} {name}", kind.as_str()), source })
            }
        }
    }

    /// Creates an UpdateHold; one by that name is the same bar.
    pub async fn create_hold(&self, hold: &NewHold) -> Result<u64, Stop> {
        let NewHold { name, rollout_uid, spec } = hold;
        let mut object = UpdateHold::new(name, spec.clone());
        object.metadata.labels =
            Some(BTreeMap::from([(names::ROLLOUT_UID_LABEL.to_owned(), rollout_uid.clone())]));
        match self.api::<UpdateHold>().create(&post(), &object).await {
            Ok(object) => {
                self.count(Kind::Hold, "create");
                Ok(version_of(&object.metadata))
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(0),
            Err(error) => Err(self.failed(Kind::Hold, name, "create", error)),
        }
    }

    /// Writes a group's status; what fails is left to a later pass.
    pub async fn write_group_status(&mut self, group: &str, status: DeviceGroupStatus) {
        let patch = json!({"status": status});
        let api = self.api::<DeviceGroup>();
        match api.patch_status(group, &params(), &Patch::Merge(&patch)).await {
            Ok(object) => {
                self.wrote(Kind::Group, "status", &object.metadata);
            }
            Err(error) => {
                tracing::warn!(namespace = self.namespace, group, %error, "a group's status was not written");
            }
        }
    }
}

impl Writer<'_> {
    /// Writes a window's status; what fails is left to a later pass.
    pub async fn write_window_status(&mut self, window: &str, status: MaintenanceWindowStatus) {
        // What the schedule no longer has must go, too.
        let patch = json!({"status": {
            "observedGeneration": status.observed_generation,
            "open": status.open,
            "nextOpen": status.next_open,
            "nextClose": status.next_close,
            "conditions": status.conditions,
        }});
        let api = self.api::<MaintenanceWindow>();
        match api.patch_status(window, &params(), &Patch::Merge(&patch)).await {
            Ok(object) => {
                self.wrote(Kind::Window, "status", &object.metadata);
            }
            Err(error) => {
                tracing::warn!(namespace = self.namespace, window, %error, "a window's status was not written");
            }
        }
    }
}

fn rollout_in(basis: &Basis, rollout: &RolloutRef) -> Result<Stored<PatchRollout>, Stop> {
    basis
        .rollouts
        .get(&rollout.name)
        .filter(|stored| *stored.uid == *rollout.uid)
        .cloned()
        .ok_or_else(|| Stop::Gone { what: format!("PatchRollout {}", rollout.name) })
}

fn keep_rollout(basis: &mut Basis, mut object: PatchRollout) {
    object.metadata.managed_fields = None;
    let name = object.metadata.name.clone().unwrap_or_default();
    let stored = Stored {
        uid: Arc::from(object.metadata.uid.as_deref().unwrap_or_default()),
        version: version_of(&object.metadata),
        value: Arc::new(object),
    };
    basis.rollouts.insert(name, stored);
}

fn version_of(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().map_or(0, version_number)
}

/// Answers that will not change by asking again: the object itself is refused.
fn is_for_good(status: &kube::core::Status) -> bool {
    matches!(status.code, 400 | 413 | 422)
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(names::CONTROLLER_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(names::CONTROLLER_MANAGER.to_owned()),
        ..PostParams::default()
    }
}
