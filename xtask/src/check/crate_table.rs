//! Who may know whom: the dependency table of the design, checked against what cargo resolves.
//!
//! The table is what keeps decisions free of clocks and clients, and the agent free of Kubernetes. Only
//! what is linked into a crate counts; a test may know more.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{cargo, output};

/// One row of the table.
struct Row {
    name: &'static str,
    /// Crates of ours it may name as dependencies.
    may_use: &'static [&'static str],
    /// Crates it must not reach, at whatever depth.
    never: &'static [&'static str],
}

const API: &str = "wardring-api";
const SEAL: &str = "wardring-seal";
const PLANNER: &str = "wardring-planner";
const PROTOCOL: &str = "wardring-protocol";
const CONTROLLER: &str = "wardring-controller";
const GATEWAY: &str = "wardring-gateway";
const AGENT: &str = "wardring-agent";
const SIM: &str = "wardring-sim";
const PLUGIN: &str = "kubectl-wardring";

const TABLE: &[Row] = &[
    Row { name: API, may_use: &[], never: &[SEAL, "tokio", "kube-client"] },
    Row { name: SEAL, may_use: &[], never: &[API, "tokio", "kube", "kube-client"] },
    Row {
        name: PLANNER,
        may_use: &[API],
        never: &[PROTOCOL, SEAL, "tokio", "kube-client", "futures", "rand", "reqwest"],
    },
    Row { name: PROTOCOL, may_use: &[SEAL], never: &[API, "kube", "kube-client"] },
    Row { name: CONTROLLER, may_use: &[PLANNER, API, SEAL], never: &[PROTOCOL, AGENT] },
    Row { name: GATEWAY, may_use: &[PLANNER, API, SEAL, PROTOCOL], never: &[CONTROLLER, AGENT] },
    Row { name: PLUGIN, may_use: &[PLANNER, API], never: &[PROTOCOL, SEAL] },
    Row {
        name: AGENT,
        may_use: &[PROTOCOL, SEAL],
        never: &[API, PLANNER, "kube", "kube-core", "kube-client", "k8s-openapi"],
    },
    Row {
        name: SIM,
        may_use: &[PLANNER, API, SEAL, PROTOCOL, AGENT, GATEWAY],
        never: &["kube-client"],
    },
];

/// Fails with every breach of the table.
pub fn check() -> Result<()> {
    let metadata = output(&mut cargo(&["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata = serde_json::from_str(&metadata).context("failed to read cargo's metadata")?;
    let direct = direct_dependencies(&metadata)?;
    let mut complaints = Vec::new();
    for row in TABLE {
        let reached = reached_from(row.name)?;
        complaints.extend(breaches(row, &direct, &reached));
    }
    complaints.extend(users_of_sim(&direct));
    if !complaints.is_empty() {
        bail!("the crates know more than the table allows:\n  {}", complaints.join("\n  "));
    }
    Ok(())
}

/// The breaches of one row.
fn breaches(
    row: &Row,
    direct: &BTreeMap<String, BTreeSet<String>>,
    reached: &BTreeSet<String>,
) -> Vec<String> {
    let Some(dependencies) = direct.get(row.name) else {
        return vec![format!("{} is in the table and not in the workspace", row.name)];
    };
    let ours = dependencies.iter().filter(|name| direct.contains_key(*name));
    let foreign = ours
        .filter(|name| !row.may_use.contains(&name.as_str()))
        .map(|name| format!("{} uses {name}; of ours it may use {:?}", row.name, row.may_use));
    let forbidden = row.never.iter().filter(|name| reached.contains(**name)).map(|name| {
        format!("{} reaches {name}; see `cargo tree -p {} -i {name}`", row.name, row.name)
    });
    foreign.chain(forbidden).collect()
}

/// The simulator is for tests: nothing that ships may link it.
fn users_of_sim(direct: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    TABLE
        .iter()
        .filter(|row| direct.get(row.name).is_some_and(|names| names.contains(SIM)))
        .map(|row| format!("{} ships and links {SIM}, which is for tests only", row.name))
        .collect()
}

/// Per crate of the workspace, what its manifest names outside of `[dev-dependencies]`.
fn direct_dependencies(metadata: &Value) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let packages = metadata["packages"].as_array().context("cargo's metadata has no packages")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().into_iter().flatten();
            let linked = dependencies
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]));
            (text(&package["name"]), linked.collect())
        })
        .collect())
}

/// Every crate that `name` links, with the features that it alone asks for: the workspace as a whole
/// turns on more (the controller's client, for one), which says nothing about this crate.
fn reached_from(name: &str) -> Result<BTreeSet<String>> {
    let tree = output(&mut cargo(&[
        "tree",
        "--package",
        name,
        "--edges",
        "normal,build",
        "--target",
        "all",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    Ok(names.filter(|reached| *reached != name).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_planner_that_reaches_an_async_runtime_is_named() {
        let row = Row { name: PLANNER, may_use: &[API], never: &["tokio"] };
        let direct = BTreeMap::from([(PLANNER.to_owned(), names(&[API, "jiff"]))]);

        assert_eq!(breaches(&row, &direct, &names(&[API, "jiff"])), Vec::<String>::new());
        let found = breaches(&row, &direct, &names(&[API, "jiff", "tokio"]));

        assert_eq!(
            found,
            ["wardring-planner reaches tokio; see `cargo tree -p wardring-planner -i tokio`"]
        );
    }

    #[test]
    fn a_crate_of_ours_outside_the_row_is_named_and_a_dev_dependency_is_not() {
        let metadata = serde_json::json!({ "packages": [
            { "name": PLANNER, "dependencies": [
                { "name": API, "kind": null },
                { "name": SEAL, "kind": null },
                { "name": SIM, "kind": "dev" },
            ] },
            { "name": API, "dependencies": [] },
            { "name": SEAL, "dependencies": [] },
            { "name": SIM, "dependencies": [] },
        ] });
        let row = Row { name: PLANNER, may_use: &[API], never: &[] };

        let found = breaches(&row, &direct_dependencies(&metadata).unwrap(), &BTreeSet::new());

        assert_eq!(
            found,
            ["wardring-planner uses wardring-seal; of ours it may use [\"wardring-api\"]"]
        );
    }
}
