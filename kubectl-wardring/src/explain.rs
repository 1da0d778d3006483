//! `explain`: sentences about one rollout or one device, from what the controller and the gateways wrote.

mod device;
mod rollout;

use anyhow::Result;
use jiff::Timestamp;
use kube::api::ListParams;
use serde_json::json;
use wardring_api::{
    Device, DeviceGroup, EmergencyStop, MaintenanceWindow, PatchJob, PatchRollout,
    PatchRolloutSlice, UpdateHold,
};

use crate::{
    args::{Explain, Explained, Format},
    cluster::Cluster,
    output::{document, resource_name},
    table::printable,
};

/// `explain rollout|device NAME`.
pub async fn run(cluster: &Cluster, args: &Explain) -> Result<()> {
    let (name, sentences) = match args.kind {
        Explained::Rollout => {
            let rollout = cluster.here::<PatchRollout>().get(&args.name).await?;
            (resource_name(&rollout), rollout::sentences(&rollout))
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
                windows: cluster.here::<MaintenanceWindow>().list(&all).await?.items,
                // They are of no namespace, and not everybody may read those. The rollout tells of them too.
                stops: match cluster.everywhere::<EmergencyStop>().list(&all).await {
                    Ok(list) => list.items,
                    Err(kube::Error::Api(status)) if status.is_forbidden() => Vec::new(),
                    Err(error) => return Err(error.into()),
                },
            };
            (resource_name(&case.device), device::sentences(&case, Timestamp::now()))
        }
    };
    match args.output {
        Some(Format::Name) => println!("{name}"),
        Some(Format::Json | Format::Yaml) => {
            // What belongs to the sentence before it is indented on a terminal only.
            let sentences: Vec<&str> = sentences.iter().map(|sentence| sentence.trim()).collect();
            let explanation = json!({ "object": name, "sentences": sentences });
            print!("{}", document(&explanation, args.output)?);
        }
        Some(Format::Wide) | None => {
            for sentence in sentences {
                println!("{}", printable(&sentence));
            }
        }
    }
    Ok(())
}
