//! `plan`: what would become of a rollout, by the controller's own decisions. Nothing is written: a
//! manifest is shown to the API server as a dry run, so that it is checked as it would be.

mod manifest;
mod read;
mod told;

use anyhow::{Result, bail};
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use wardring_api::PatchRollout;
use wardring_planner::{Assumptions, forecast};

use crate::{
    args::{Format, Plan},
    cluster::Cluster,
    output::{document, resource_name},
    paint::Palette,
};

/// `plan NAME`, `plan -f FILE`.
pub async fn run(cluster: &Cluster, args: &Plan) -> Result<()> {
    let mut remarks = Vec::new();
    let mut rollout: PatchRollout = match (&args.name, &args.file) {
        (Some(name), _) => cluster.here().get(name).await?,
        (None, Some(file)) => manifest::shown(cluster, file, &mut remarks).await?,
        (None, None) => bail!("name a rollout, or give the manifest of one with -f FILE"),
    };
    resume(&mut rollout, &mut remarks);
    let assumptions = Assumptions {
        install: args.install_time.duration(),
        restart: args.restart_time.duration(),
        all_online: args.all_online,
        ..Assumptions::default()
    };
    let namespace = rollout.namespace().unwrap_or_else(|| cluster.namespace.clone());
    // A dry run that makes an object need not give it a uid.
    let uid = rollout.meta_mut().uid.get_or_insert_with(|| "planned".to_owned()).clone();
    let name = resource_name(&rollout);
    let snapshot =
        read::snapshot(cluster, &namespace, rollout, Timestamp::now(), &mut remarks).await?;
    let Some(forecast) = forecast(&snapshot, &uid, &assumptions) else {
        bail!("{name} is being deleted: nothing of it starts any more");
    };
    let told = told::Told { name, namespace, assumptions, remarks, forecast };
    match args.output {
        Some(Format::Name) => println!("{}", told.name),
        Some(Format::Json | Format::Yaml) => print!("{}", document(&told.document(), args.output)?),
        Some(Format::Wide) => print!("{}", told.text(true, Palette::of_stdout())),
        None => print!("{}", told.text(false, Palette::of_stdout())),
    }
    Ok(())
}

/// A rollout is often applied suspended, looked at, and resumed: what counts is what comes then.
fn resume(rollout: &mut PatchRollout, remarks: &mut Vec<String>) {
    let is_latched = rollout.status.as_ref().is_some_and(|status| status.suspended.is_some());
    if rollout.spec.suspend == Some(true) || is_latched {
        rollout.spec.suspend = Some(false);
        remarks.push("It is suspended; this is what happens once it is resumed.".to_owned());
    }
}
