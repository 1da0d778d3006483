//! A rollout that is not applied yet, or not as it is in the file.

use std::{io::Read, path::Path};

use anyhow::{Context, Result, bail};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde::Deserialize;
use serde_json::Value;
use wardring_api::PatchRollout;

use crate::cluster::Cluster;

/// Whom `kubectl apply --server-side` writes as.
const KUBECTL: &str = "kubectl";

/// The rollout of the file as the API server would store it: with its defaults, and refused where a
/// `kubectl apply` of it would be.
pub async fn shown(
    cluster: &Cluster,
    file: &Path,
    remarks: &mut Vec<String>,
) -> Result<PatchRollout> {
    let text = read(file)?;
    let (wanted, others) = parse(&text).with_context(|| in_file(file))?;
    if !others.is_empty() {
        remarks.push(format!(
            "Only the rollout of the file is looked at; as they are in the cluster, not in the file: {}.",
            others.join(", ")
        ));
    }
    let word = |pointer| wanted.pointer(pointer).and_then(Value::as_str);
    let namespace = match word("/metadata/namespace") {
        Some(own) if cluster.is_named && own != cluster.namespace => bail!(
            "{} is for namespace {own}, and --namespace says {}; leave one of them out",
            in_file(file),
            cluster.namespace
        ),
        Some(own) => own.to_owned(),
        None => cluster.namespace.clone(),
    };
    let Some(name) = word("/metadata/name") else {
        bail!("{}: the rollout has no metadata.name", in_file(file));
    };
    let api: Api<PatchRollout> = cluster.within(&namespace);
    if api.get_opt(name).await?.is_some() {
        remarks.push("It exists; this is what happens once the file is applied.".to_owned());
    }
    let params = PatchParams {
        dry_run: true,
        force: true,
        field_manager: Some(KUBECTL.to_owned()),
        ..PatchParams::default()
    };
    Ok(api.patch(name, &params, &Patch::Apply(&wanted)).await?)
}

fn in_file(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The one rollout of a text of YAML documents, and what else there is, by kind and name.
fn parse(text: &str) -> Result<(Value, Vec<String>)> {
    let (mut rollout, mut others) = (None, Vec::new());
    for part in serde_yaml::Deserializer::from_str(text) {
        let document = Value::deserialize(part)?;
        if document.is_null() {
            continue;
        }
        let word = |pointer| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (kind, name) = (word("/kind").to_owned(), word("/metadata/name").to_owned());
        if kind != PatchRollout::kind(&()) {
            others.push(format!("{kind} {name}").trim().to_owned());
            continue;
        }
        let version = word("/apiVersion").to_owned();
        if version != PatchRollout::api_version(&()) {
            bail!(
                "{name} is of {version}, and this plugin knows {}",
                PatchRollout::api_version(&())
            );
        }
        if rollout.replace(document).is_some() {
            bail!("there is more than one PatchRollout; plan them one by one");
        }
    }
    match rollout {
        Some(rollout) => Ok((rollout, others)),
        None => bail!("there is no PatchRollout"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLLOUT: &str = "
apiVersion: wardring.dev/v1alpha1
kind: PatchRollout
metadata: {name: november}
spec:
  updates: {select: {release: 2026-11}}
  stages: [{name: test, group: test}]
";

    #[test]
    fn the_rollout_is_found_among_what_a_manifest_holds() {
        let group = "kind: DeviceGroup\nmetadata: {name: test}\n";
        let (rollout, others) = parse(&format!("{group}---{ROLLOUT}---\n")).unwrap();
        assert_eq!(rollout["metadata"]["name"], "november");
        assert_eq!(others, ["DeviceGroup test"]);
    }

    #[test]
    fn none_two_another_version_and_garbage_are_refused() {
        let refused = |text: &str| parse(text).unwrap_err().to_string();
        assert!(refused("").contains("there is no PatchRollout"));
        assert!(refused(&format!("{ROLLOUT}---{ROLLOUT}")).contains("more than one"));
        let other = refused(&ROLLOUT.replace("v1alpha1", "v9"));
        assert!(other.contains("wardring.dev/v9"), "{other}");
        assert!(!refused("kind: [").is_empty());
    }
}
