//! What the controller would look at, read under the user's own identity.

use std::{fmt::Debug, sync::Arc};

use anyhow::Result;
use jiff::Timestamp;
use kube::{Api, Resource, ResourceExt, api::ListParams, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;
use wardring_api::{
    Device, DeviceGroup, EmergencyStop, LineState, MaintenanceWindow, PatchJob, PatchRollback,
    PatchRollout, PatchRolloutSlice, Update, UpdateHold, conditions, reasons::Reason,
};
use wardring_planner::{
    DeviceRow, DeviceTable, GroupView, Guards, HoldView, JobOutcome, JobView, LedgerView,
    SliceView, Snapshot, StopView, WindowView,
};

use crate::cluster::{Cluster, pages};

/// The namespace as it is, with this rollout in it.
pub async fn snapshot(
    cluster: &Cluster,
    namespace: &str,
    rollout: PatchRollout,
    now: Timestamp,
    remarks: &mut Vec<String>,
) -> Result<Snapshot> {
    let place = Place { cluster, namespace };
    let name = rollout.name_any();
    let mut rollouts = place.all(|other: PatchRollout| other).await?;
    remarks.extend(rollouts.iter().find_map(grants_nothing));
    rollouts.retain(|other| other.name_any() != name);
    rollouts.push(rollout);
    // Devices are the many: each becomes a row as it comes.
    let rows = place.all(|device: Device| DeviceRow::new(&device)).await?;
    let groups = place.all(|group: DeviceGroup| GroupView::new(&group)).await?;
    let slices = place.all(|slice: PatchRolloutSlice| Arc::new(SliceView::new(&slice))).await?;
    let jobs = place.all(|job: PatchJob| job).await?;
    remarks.extend(uncounted(&jobs, &slices));
    Ok(Snapshot {
        namespace: namespace.to_owned(),
        now,
        guards: Guards::default(),
        ledger: LedgerView { present: true, ..LedgerView::default() },
        rollouts: rollouts.into_iter().map(Arc::new).collect(),
        slices,
        // Whether an answer is the device's own only the controller can tell.
        jobs: jobs.iter().map(|job| Arc::new(JobView::new(job, JobOutcome::None))).collect(),
        devices: Arc::new(DeviceTable::new(rows, groups)),
        updates: place.all(|update: Update| Arc::new(update.spec)).await?,
        holds: place
            .all(|hold: UpdateHold| HoldView {
                name: hold.name_any(),
                created_at: hold.metadata.creation_timestamp.as_ref().map(|time| time.0),
                spec: hold.spec,
            })
            .await?,
        orders: place.all(|order: PatchRollback| Arc::new(order)).await?,
        // What is asked, the forecast takes to be approved.
        approvals: Vec::new(),
        approval_policy: Default::default(),
        nonce: String::new(),
        windows: place.all(|all: MaintenanceWindow| Arc::new(WindowView::new(&all))).await?,
        stops: stops(cluster, remarks).await?,
        measurements: Vec::new(),
        uncreated: Default::default(),
        cannot_create: Default::default(),
        refused_holds: Default::default(),
    })
}

struct Place<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
}

impl Place<'_> {
    async fn all<K, T>(&self, view: impl Fn(K) -> T) -> Result<Vec<T>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        Ok(pages(&self.cluster.within(self.namespace), ListParams::default(), view).await?)
    }
}

/// They are of no namespace, and not everybody may read those.
async fn stops(cluster: &Cluster, remarks: &mut Vec<String>) -> Result<Vec<Arc<StopView>>> {
    let api: Api<EmergencyStop> = cluster.everywhere();
    let view = |stop: EmergencyStop| Arc::new(StopView::new(&stop));
    match pages(&api, ListParams::default(), view).await {
        Ok(stops) => Ok(stops),
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            remarks.push(
                "You may not read EmergencyStops, so it is as if there were none.".to_owned(),
            );
            Ok(Vec::new())
        }
        Err(error) => Err(error.into()),
    }
}

/// What keeps the controller from granting anything in the namespace, as it said itself.
fn grants_nothing(rollout: &PatchRollout) -> Option<String> {
    let guards = [Reason::RestoredFromBackup, Reason::ClockSkew].map(Reason::as_str);
    let conditions = &rollout.status.as_ref()?.conditions;
    let stalled = conditions.iter().find(|all| all.type_ == conditions::STALLED)?;
    let is_guarded = stalled.status == "True" && guards.contains(&stalled.reason.as_str());
    is_guarded.then(|| {
        format!("The controller grants nothing now; this is for once it does: {}", stalled.message)
    })
}

/// Answers that the controller is about to count.
fn uncounted(jobs: &[PatchJob], slices: &[Arc<SliceView>]) -> Option<String> {
    let is_granted = |device: &str| {
        let mut lines = slices.iter().flat_map(|slice| &slice.lines);
        lines.any(|line| line.device == device && line.state == LineState::Granted)
    };
    let is_answered = |job: &&PatchJob| {
        job.status.as_ref().is_some_and(|status| status.outcome.is_some())
            && is_granted(&job.name_any())
    };
    match jobs.iter().filter(is_answered).count() {
        0 => None,
        count => Some(format!(
            "{count} of the devices at work have answered, which is not counted yet; look again in a moment."
        )),
    }
}
