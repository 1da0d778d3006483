//! Many scripted devices in one process, each a whole agent.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

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
    folder: PathBuf,
    name: String,
    devices: u32,
    starts: u32,
}

impl Fleet {
    pub(crate) async fn start(
        installation: &Installation,
        namespace: &str,
        name: &str,
        file: &FleetFile,
    ) -> Result<Fleet> {
        let folder = installation.folder.join(namespace).join(name);
        let data = folder.join("devices");
        std::fs::create_dir_all(&data)
            .with_context(|| format!("failed to make the folder {}", data.display()))?;
        let path = folder.join("fleet.json");
        let content = json!({ "worlds": file.worlds, "devices": file.devices });
        std::fs::write(&path, content.to_string())
            .with_context(|| format!("failed to write {}", path.display()))?;
        let name = format!("{name} of {namespace}");
        let process = spawn(&name, &folder, &installation.gateway_urls(), 1)?;
        let devices = file.len() as u32;
        let mut fleet = Fleet { process, data, folder, name, devices, starts: 1 };
        fleet.ready().await?;
        Ok(fleet)
    }

    /// Ends all agents at once, as a crash would, if they have not ended, and starts them again with
    /// what they know. The devices themselves live on meanwhile.
    pub async fn restart(&mut self, gateways: &[String]) -> Result<()> {
        if self.process.is_running() {
            self.process.kill()?;
        }
        self.starts += 1;
        self.process = spawn(&self.name, &self.folder, gateways, self.starts)?;
        self.ready().await
    }

    async fn ready(&mut self) -> Result<()> {
        // Each device makes keys and waits for the signer.
        let limit = Duration::from_secs(60) + Duration::from_millis(200) * self.devices;
        self.process.wait_for_line(limit, "\"ready\":true").await?;
        Ok(())
    }
}

fn spawn(name: &str, folder: &Path, gateways: &[String], start: u32) -> Result<Process> {
    let mut command = Command::new(binary("wardring-fleet")?);
    command.arg("--gateway").arg(gateways.join(","));
    command.arg("--fleet").arg(folder.join("fleet.json"));
    command.arg("--data-dir").arg(folder.join("devices"));
    // A log of its own, so that an earlier start's `ready` is not taken for this one's.
    Process::spawn(name, command, &folder.join(format!("fleet-{start}.log")))
}
