//! Verbs that change one object: each one is a single field, written under the plugin's field manager.

use anyhow::Result;
use jiff::Timestamp;
use serde_json::json;
use wardring_api::{
    Device, PatchRollout,
    names::{RELEASE_ANNOTATION, RETRY_ANNOTATION},
};

use crate::{
    args::{Abort, Release, Released, Rollout},
    cluster::Cluster,
    output::done,
};

/// `suspend NAME`.
pub async fn suspend(cluster: &Cluster, args: &Rollout) -> Result<()> {
    let rollout: PatchRollout =
        cluster.merge(&args.name, &json!({ "spec": { "suspend": true } })).await?;
    done(&rollout, "suspended; `kubectl wardring resume` lets it go on", args.output)
}

/// `resume NAME`. The suspension latches, so it must be taken back in so many words.
pub async fn resume(cluster: &Cluster, args: &Rollout) -> Result<()> {
    let rollout: PatchRollout =
        cluster.merge(&args.name, &json!({ "spec": { "suspend": false } })).await?;
    done(&rollout, "resumed", args.output)
}

/// `abort NAME --reason TEXT`.
pub async fn abort(cluster: &Cluster, args: &Abort) -> Result<()> {
    let change = json!({ "spec": { "abort": { "reason": args.reason } } });
    let rollout: PatchRollout = cluster.merge(&args.name, &change).await?;
    done(&rollout, "aborted; a new run needs a new rollout", args.output)
}

/// `retry NAME`.
pub async fn retry(cluster: &Cluster, args: &Rollout) -> Result<()> {
    let rollout: PatchRollout = cluster.merge(&args.name, &stamp(RETRY_ANNOTATION)).await?;
    done(&rollout, "asked to retry its failed devices", args.output)
}

/// `release device NAME`.
pub async fn release(cluster: &Cluster, args: &Release) -> Result<()> {
    match args.kind {
        Released::Device => {
            let device: Device = cluster.merge(&args.name, &stamp(RELEASE_ANNOTATION)).await?;
            done(&device, "released; its job is given up", args.output)
        }
    }
}

/// An annotation whose every new value counts once.
fn stamp(annotation: &str) -> serde_json::Value {
    json!({ "metadata": { "annotations": { annotation: Timestamp::now().to_string() } } })
}
