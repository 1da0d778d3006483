//! `status`: rollouts as a tree of stages. It reads PatchRollouts and nothing else.

mod notes;
mod tree;
mod watch;

use std::process::ExitCode;

use anyhow::Result;
use jiff::Timestamp;
use kube::{Api, api::ListParams};
use wardring_api::PatchRollout;

use crate::{
    args::{Format, Status},
    cluster::Cluster,
    output,
    paint::Palette,
};

/// `status [NAME] [-w]`.
pub async fn run(cluster: &Cluster, args: &Status) -> Result<ExitCode> {
    let api: Api<PatchRollout> =
        if args.all_namespaces { cluster.everywhere() } else { cluster.here() };
    let rollouts = match &args.name {
        Some(name) => vec![api.get(name).await?],
        None => api.list(&ListParams::default()).await?.items,
    };
    if args.watch {
        return watch::run(api, args, rollouts).await;
    }
    if rollouts.is_empty() && args.output.is_none() {
        let place = if args.all_namespaces {
            "this cluster".to_owned()
        } else {
            format!("namespace {}", cluster.namespace)
        };
        // As kubectl: nothing found is no error, and standard output stays clean.
        eprintln!("No rollouts found in {place}.");
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", show(args, &rollouts, Palette::of_stdout())?);
    Ok(ExitCode::SUCCESS)
}

/// The rollouts in the format asked for.
fn show(args: &Status, rollouts: &[PatchRollout], palette: Palette) -> Result<String> {
    match (args.output, rollouts) {
        (Some(Format::Name), _) => {
            let lines = rollouts.iter().map(|rollout| output::resource_name(rollout) + "\n");
            Ok(lines.collect())
        }
        (Some(Format::Json | Format::Yaml), [rollout]) if args.name.is_some() => {
            output::document(&output::whole(rollout)?, args.output)
        }
        (Some(Format::Json | Format::Yaml), _) => {
            output::document(&output::list(rollouts)?, args.output)
        }
        (Some(Format::Wide) | None, _) => {
            let view = tree::View {
                wide: args.output == Some(Format::Wide),
                namespaces: args.all_namespaces,
                now: Timestamp::now(),
            };
            Ok(tree::render(rollouts, &view).render(palette))
        }
    }
}
