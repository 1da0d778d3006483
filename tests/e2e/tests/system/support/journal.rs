//! What really happened to the devices, by the journal of their scripted Windows.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use wardring_e2e::Fleet;

/// Everything that happened to one device, oldest first: `install`, `uninstall`, `reboot`, `boot`,
/// `restartService`.
pub fn acts(fleet: &Fleet, device: &str) -> Result<Vec<Value>> {
    acts_in(&fleet.data.join(device))
}

/// The same, from the device's folder.
pub fn acts_in(folder: &Path) -> Result<Vec<Value>> {
    // What only lies on its disk did nothing to the device.
    Ok(written(folder)?.into_iter().filter(|act| act["event"] != "download").collect())
}

/// Updates that the device fetched.
pub fn downloads(fleet: &Fleet, device: &str) -> Result<usize> {
    let written = written(&fleet.data.join(device))?;
    Ok(written.iter().filter(|act| act["event"] == "download").count())
}

fn written(folder: &Path) -> Result<Vec<Value>> {
    let path = folder.join("world-journal.jsonl");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        // Nothing happened yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("failed to read {path:?}")),
    };
    // The last line may be half written.
    let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    Ok(lines.collect())
}

/// How often something happened to a device.
pub fn count(fleet: &Fleet, device: &str, event: &str) -> Result<usize> {
    Ok(acts(fleet, device)?.iter().filter(|act| act["event"] == event).count())
}

/// Devices to which nothing may have happened, and what did.
pub fn touched<'a>(
    fleet: &Fleet,
    devices: impl IntoIterator<Item = &'a String>,
) -> Result<Vec<String>> {
    let mut touched = Vec::new();
    for device in devices {
        let acts = acts(fleet, device)?;
        touched.extend(acts.iter().map(|act| format!("{device}: {act}")));
    }
    Ok(touched)
}
