//! Fixtures, and what they demand of an API server.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use kube::{
    Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde::Deserialize;
use serde_json::{Value, json};
use wardring_api::{
    Device, DeviceGroup, EmergencyStop, EnrollmentRequest, EnrollmentToken, GateProvider,
    MaintenanceWindow, Notifier, PatchApproval, PatchJob, PatchLedger, PatchRollback, PatchRollout,
    PatchRolloutSlice, Update, UpdateHold,
};

use crate::cluster::objects_of;

/// What the API server answers to the last step of a fixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// It takes it.
    Accept,
    /// It refuses it, with the fixture's message.
    Reject,
}

/// One file below `fixtures/`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fixture {
    /// Path below `fixtures/`.
    #[serde(skip)]
    pub name: String,
    /// The answer to the last step.
    pub expect: Expect,
    /// Part of the refusal; for an accepted successor, part of the message of the rule that it passes.
    #[serde(default)]
    pub message: Option<String>,
    /// The object as it is created (one of no namespace with a name that no other fixture has); its status, if it has one, is written right after.
    pub first: Value,
    /// What changes afterwards (JSON merge patch): the status through its subresource, or the rest.
    #[serde(default)]
    pub then: Option<Value>,
}

/// Every fixture, by name.
pub fn fixtures() -> Result<Vec<Fixture>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut fixtures = Vec::new();
    for kind in children(&root)? {
        for file in children(&kind)? {
            let text = fs::read_to_string(&file)?;
            let name = file.strip_prefix(&root)?.with_extension("").display().to_string();
            let fixture: Fixture = serde_yaml::from_str(&text)
                .with_context(|| format!("failed to read fixture {name}"))?;
            ensure!(
                fixture.expect == Expect::Accept || fixture.message.is_some(),
                "fixture {name} is refused without a message"
            );
            fixtures.push(Fixture { name, ..fixture });
        }
    }
    Ok(fixtures)
}

fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<PathBuf>, std::io::Error>>()?;
    paths.sort();
    Ok(paths)
}

impl Fixture {
    /// Kind of the object.
    pub fn kind(&self) -> &str {
        self.first["kind"].as_str().unwrap_or_default()
    }

    /// Whether the fixture is about two successive versions.
    pub fn is_transition(&self) -> bool {
        self.then.is_some()
    }

    /// Plays the fixture in `namespace` and compares the answer with the expected one.
    pub async fn check(&self, client: &Client, namespace: &str) -> Result<()> {
        let refused = self.play(client, namespace).await?;
        match (self.expect, refused) {
            (Expect::Accept, None) => self.decode(client, namespace).await,
            (Expect::Accept, Some(answer)) => bail!("{}: refused: {answer}", self.name),
            (Expect::Reject, None) => bail!("{}: accepted", self.name),
            (Expect::Reject, Some(answer)) => {
                let message = self.message.as_deref().unwrap_or_default();
                ensure!(answer.contains(message), "{}: refused for: {answer}", self.name);
                Ok(())
            }
        }
    }

    /// Reads the object back as our processes would: one that they cannot read blinds their watches.
    async fn decode(&self, client: &Client, namespace: &str) -> Result<()> {
        let api = objects_of(client, namespace, self.kind())?;
        let name = self.first["metadata"]["name"].as_str().unwrap_or_default();
        let stored = serde_json::to_value(api.get(name).await?)?;
        read(self.kind(), stored).with_context(|| format!("{}: stored, but unreadable", self.name))
    }

    /// Plays every step and returns the refusal of the last one; an earlier refusal is an error.
    pub async fn play(&self, client: &Client, namespace: &str) -> Result<Option<String>> {
        let api = objects_of(client, namespace, self.kind())?;
        let mut first = self.first.clone();
        let status = first.as_object_mut().and_then(|object| object.remove("status"));
        let name = first["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let changes = status.map(|status| json!({ "status": status })).into_iter();
        let changes = changes.chain(self.then.clone());

        let object: DynamicObject = serde_json::from_value(first)?;
        let mut refused = refusal(api.create(&PostParams::default(), &object).await)?;
        for change in changes {
            if let Some(answer) = refused {
                bail!("{}: refused before the last step: {answer}", self.name);
            }
            let (params, patch) = (PatchParams::default(), Patch::Merge(&change));
            refused = if change.get("status").is_some() {
                refusal(api.patch_status(&name, &params, &patch).await)?
            } else {
                refusal(api.patch(&name, &params, &patch).await)?
            };
        }
        Ok(refused)
    }
}

fn read(kind: &str, stored: Value) -> Result<()> {
    fn as_type<T: serde::de::DeserializeOwned>(stored: Value) -> Result<()> {
        serde_json::from_value::<T>(stored)?;
        Ok(())
    }
    match kind {
        "PatchRollout" => as_type::<PatchRollout>(stored),
        "PatchRolloutSlice" => as_type::<PatchRolloutSlice>(stored),
        "PatchJob" => as_type::<PatchJob>(stored),
        "PatchLedger" => as_type::<PatchLedger>(stored),
        "Device" => as_type::<Device>(stored),
        "DeviceGroup" => as_type::<DeviceGroup>(stored),
        "Update" => as_type::<Update>(stored),
        "UpdateHold" => as_type::<UpdateHold>(stored),
        "MaintenanceWindow" => as_type::<MaintenanceWindow>(stored),
        "Notifier" => as_type::<Notifier>(stored),
        "EmergencyStop" => as_type::<EmergencyStop>(stored),
        "GateProvider" => as_type::<GateProvider>(stored),
        "PatchRollback" => as_type::<PatchRollback>(stored),
        "PatchApproval" => as_type::<PatchApproval>(stored),
        "EnrollmentToken" => as_type::<EnrollmentToken>(stored),
        "EnrollmentRequest" => as_type::<EnrollmentRequest>(stored),
        _ => bail!("there is no kind {kind:?}"),
    }
}

/// The words of a refusal; any other failure stays one.
fn refusal(answer: kube::Result<DynamicObject>) -> Result<Option<String>> {
    match answer {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if [400, 403, 422].contains(&status.code) => {
            Ok(Some(status.message.clone()))
        }
        Err(error) => Err(error.into()),
    }
}
