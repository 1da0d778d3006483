//! `explain`: sentences about one rollout or one device, from what the controller and the gateways wrote.

mod device;
mod rollout;

use anyhow::Result;
use wardring_api::{Device, PatchJob, PatchRollout, PatchRolloutSlice};

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
            let device = cluster.here::<Device>().get(&args.name).await?;
            let job = cluster.here::<PatchJob>().get_opt(&args.name).await?;
            // A slice holds a hundred devices: few objects even for a large fleet.
            let slices = cluster.here::<PatchRolloutSlice>().list(&Default::default()).await?;
            device::sentences(&device, job.as_ref(), &slices.items)
        }
    };
    for sentence in sentences {
        println!("{}", printable(&sentence));
    }
    Ok(())
}
