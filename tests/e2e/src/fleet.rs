//! Many scripted devices in one process, each a whole agent.

use std::{collections::BTreeMap, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use wardring_harness::Process;

use crate::{Installation, binary};

/// A fleet file: which devices there are, and what each one's Windows is.
#[derive(Clone, Debug, Default)]
pub struct FleetFile {
    worlds: BTreeMap<String, Value>,
    devices: Vec<Value>,
}

impl FleetFile {
    /// Adds a scripted Windows under a name; `world` as in the agent's world files.
    pub fn world(&mut self, name: &str, world: Value) {
        self.worlds.insert(name.to_owned(), world);
    }

    /// Adds a device.
    pub fn device(&mut self, name: &str, world: &str, token: &str) {
        self.devices.push(json!({ "name": name, "world": world, "token": token }));
    }

    /// How many devices there are.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

/// A running fleet.
pub struct Fleet {
    /// The process that all its agents share.
    pub process: Process,
    /// Folder with one folder per device.
    pub data: PathBuf,
}

impl Fleet {
    pub(crate) async fn start(
        installation: &Installation,
        namespace: &str,
        file: &FleetFile,
    ) -> Result<Fleet> {
        let folder = installation.folder.join(namespace);
        let data = folder.join("devices");
        std::fs::create_dir_all(&data)
            .with_context(|| format!("failed to make the folder {}", data.display()))?;
        let path = folder.join("fleet.json");
        let content = json!({ "worlds": file.worlds, "devices": file.devices });
        std::fs::write(&path, content.to_string())
            .with_context(|| format!("failed to write {}", path.display()))?;
        let mut command = Command::new(binary("wardring-fleet")?);
        command.arg("--gateway").arg(installation.gateway_urls().join(","));
        command.arg("--fleet").arg(&path).arg("--data-dir").arg(&data);
        let log = folder.join("fleet.log");
        let mut process = Process::spawn(&format!("fleet of {namespace}"), command, &log)?;
        // Each device makes keys and waits for the signer.
        let limit = Duration::from_secs(60) + Duration::from_millis(200) * file.len() as u32;
        process.wait_for_line(limit, "\"ready\":true").await?;
        Ok(Fleet { process, data })
    }
}
