//! `explain`: sentences about one rollout or one device, from what the controller and the gateways wrote.

mod device;
mod rollout;

use anyhow::Result;
use jiff::Timestamp;
use kube::api::ListParams;
use wardring_api::{Device, DeviceGroup, PatchJob, PatchRollout, PatchRolloutSlice, UpdateHold};

use crate::{
    args::{Explain, Explained},
    cluster::Cluster,
    table::printable,
};

/// `explain rollout|device NAME`.
pub async fn run(cluster: &Cluster, args: &Explain) -> Result<()> {
    let sentences = match args.kind {
        Explained::Rollout => {
            rollout::sentences(&cluster.here::<PatchRollout>().get(&args.name).await?)
        }
        Explained::Device => {
            let all = ListParams::default();
            // A slice holds a hundred devices: few objects even for a large fleet.
            let case = device::Case {
                device: cluster.here::<Device>().get(&args.name).await?,
                job: cluster.here::<PatchJob>().get_opt(&args.name).await?,
                slices: cluster.here::<PatchRolloutSlice>().list(&all).await?.items,
                rollouts: cluster.here::<PatchRollout>().list(&all).await?.items,
                groups: cluster.here::<DeviceGroup>().list(&all).await?.items,
                holds: cluster.here::<UpdateHold>().list(&all).await?.items,
            };
            device::sentences(&case, Timestamp::now())
        }
    };
    for sentence in sentences {
        println!("{}", printable(&sentence));
    }
    Ok(())
}
