//! Verbs that change one object: each one is a single field, written under the plugin's field manager.
//! What a verb says is decided by the object: nothing is confirmed that did not happen.

use std::{fmt::Debug, time::Duration};

use anyhow::{Result, bail};
use jiff::Timestamp;
use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::Condition};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::json;
use wardring_api::{
    Device, PatchJob, PatchRollout,
    conditions::{ONLINE, QUARANTINED, is_true},
    names::{RELEASE_ANNOTATION, RETRY_ANNOTATION},
};
use wardring_planner::is_damage;

use crate::{
    args::{Abort, Release, Rollout},
    cluster::Cluster,
    hold,
    output::{done, resource_name},
    standing::Standing,
    table,
};

/// Longest wait for the look before a write: whoever stops a rollout in need must not wait for it.
const LOOK: Duration = Duration::from_secs(5);

/// `suspend NAME`. Only what is certainly over is refused: in doubt it writes.
pub async fn suspend(cluster: &Cluster, args: &Rollout) -> Result<()> {
    let before: Option<PatchRollout> = look(cluster, &args.name).await;
    let mut did = "suspended; `kubectl wardring resume` lets it go on";
    if let Some(rollout) = &before {
        let standing = Standing::of(rollout);
        if standing.is_over() {
            bail!("{} is {standing}; there is nothing to suspend", resource_name(rollout));
        }
        if standing == Standing::Suspended {
            did = "is suspended already";
        }
    }
    let change = json!({ "spec": { "suspend": true } });
    let rollout: PatchRollout = cluster.merge(&args.name, &change).await?;
    done(&rollout, did, args.output)
}

/// `resume NAME`. The suspension latches, so it must be taken back in so many words.
pub async fn resume(cluster: &Cluster, args: &Rollout) -> Result<()> {
    let before: Option<PatchRollout> = look(cluster, &args.name).await;
    let mut did = "resumed";
    if let Some(rollout) = &before {
        if Standing::of(rollout) == Standing::Aborted {
            bail!("{} is Aborted; make a new rollout", resource_name(rollout));
        }
        if !Standing::may_be_suspended(rollout) {
            did = "is not suspended";
        }
    }
    let change = json!({ "spec": { "suspend": false } });
    let rollout: PatchRollout = cluster.merge(&args.name, &change).await?;
    done(&rollout, did, args.output)
}

/// `abort NAME --reason TEXT`.
pub async fn abort(cluster: &Cluster, args: &Abort) -> Result<()> {
    let before: Option<PatchRollout> = look(cluster, &args.name).await;
    match before.as_ref().map(|rollout| (rollout, Standing::of(rollout))) {
        // The first reason stands in it for good.
        Some((rollout, Standing::Aborted)) => {
            return done(rollout, "is aborted already", args.output);
        }
        Some((rollout, Standing::Completed)) => {
            bail!("{} is Completed; there is nothing to abort", resource_name(rollout))
        }
        _ => {}
    }
    let change = json!({ "spec": { "abort": { "reason": args.reason } } });
    let rollout: PatchRollout = cluster.merge(&args.name, &change).await?;
    done(&rollout, "aborted; a new run needs a new rollout", args.output)
}

/// `retry NAME`.
pub async fn retry(cluster: &Cluster, args: &Rollout) -> Result<()> {
    let before: Option<PatchRollout> = look(cluster, &args.name).await;
    if let Some(rollout) = &before {
        if Standing::of(rollout) == Standing::Aborted {
            bail!("{} is Aborted; make a new rollout", resource_name(rollout));
        }
        if !Standing::may_have_failed(rollout) {
            bail!("{} has no failed devices; nothing to retry", resource_name(rollout));
        }
    }
    let rollout: PatchRollout = cluster.merge(&args.name, &stamp(RETRY_ANNOTATION)).await?;
    done(&rollout, "asked to retry its failed devices", args.output)
}

/// `release device NAME`. A person's hold goes first; only without one is it the job that is given up, and
/// with it the quarantine of a device that an update left damaged.
pub async fn release(cluster: &Cluster, args: &Release) -> Result<()> {
    let device: Option<Device> = look(cluster, &args.name).await;
    if let Some(device) = device.as_ref().filter(|_| !args.job)
        && hold::release_device(cluster, device, args.output).await?
    {
        return Ok(());
    }
    // A release counts only for a job that exists when it is asked for.
    let job: Result<Option<PatchJob>, _> = cluster.here().get_opt(&args.name).await;
    if matches!(job, Ok(None)) {
        let device = cluster.here::<Device>().get(&args.name).await?;
        match quarantine(&device) {
            Some(condition) if is_damage(&condition.status, &condition.reason) => {}
            Some(condition) => bail!(
                "{} has no job, and is quarantined for a reason that no release lifts: {}",
                resource_name(&device),
                table::printable(&condition.message)
            ),
            None => bail!("{} has no job; nothing to release", resource_name(&device)),
        }
    }
    if let (Ok(Some(job)), Some(device)) = (&job, &device)
        && is_at_work(job, device)
    {
        bail!(
            "{} is in contact and at work; a release gives up a machine that will not come back (`kubectl wardring explain device {}` tells what it does)",
            resource_name(device),
            args.name
        );
    }
    let device: Device = cluster.merge(&args.name, &stamp(RELEASE_ANNOTATION)).await?;
    let told = match quarantine(&device) {
        Some(all) if is_damage(&all.status, &all.reason) => "released; it is quarantined no longer",
        _ => "released; its job is given up",
    };
    done(&device, told, args.output)
}

/// The condition Quarantined, if it is True.
fn quarantine(device: &Device) -> Option<&Condition> {
    let mut all = device.status.iter().flat_map(|status| &status.conditions);
    all.find(|condition| condition.type_ == QUARANTINED && condition.status == "True")
}

/// Whether a device that began its job is in contact and has not answered: its job has an end without
/// anybody's help.
fn is_at_work(job: &PatchJob, device: &Device) -> bool {
    let has_begun = job
        .status
        .as_ref()
        .is_some_and(|status| !status.permitted.is_empty() && status.outcome.is_none());
    let status = device.status.as_ref();
    let is_online = status.is_some_and(|status| is_true(&status.conditions, ONLINE));
    has_begun && is_online
}

/// The object before the write. What cannot be read now is left to the write, which tells why.
async fn look<K>(cluster: &Cluster, name: &str) -> Option<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let api = cluster.here::<K>();
    tokio::time::timeout(LOOK, api.get(name)).await.ok()?.ok()
}

/// An annotation whose every new value counts once.
fn stamp(annotation: &str) -> serde_json::Value {
    json!({ "metadata": { "annotations": { annotation: Timestamp::now().to_string() } } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(permitted: serde_json::Value) -> PatchJob {
        let permitted = json!({ "state": "Installing", "permitted": permitted });
        serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "PatchJob",
            "metadata": { "name": "srv-01" },
            "spec": {
                "sealed": { "payload": "", "signature": "", "keyId": "", "certificate": "" },
                "rollout": "november", "rolloutUid": "u", "stage": "test", "slice": "s",
                "enrolmentId": "e", "attempt": 1, "sequence": 1, "action": "Install",
                "kbs": ["KB5068787"],
                "startBy": "2026-11-21T04:00:00Z", "finishBy": "2026-11-21T06:00:00Z",
            },
            "status": permitted,
        }))
        .unwrap()
    }

    fn device(online: &str) -> Device {
        serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "Device",
            "metadata": { "name": "srv-01" }, "spec": {},
            "status": { "conditions": [{
                "type": "Online", "status": online, "reason": "InProgress", "message": "",
                "lastTransitionTime": "2026-11-21T02:00:00Z",
            }] },
        }))
        .unwrap()
    }

    #[test]
    fn only_a_device_in_contact_that_has_begun_is_at_work() {
        let begun = job(json!([{
            "step": "Install", "at": "2026-11-21T02:00:00Z", "attempt": 1, "bootId": "b",
            "agentRun": "r",
        }]));
        assert!(is_at_work(&begun, &device("True")));
        assert!(!is_at_work(&begun, &device("False")), "a machine that will not come back");
        assert!(!is_at_work(&job(json!([])), &device("True")), "nothing of it has begun");
    }
}
