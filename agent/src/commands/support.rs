//! `support-bundle`: what the agent knows and did, without secrets, in one archive.

use std::path::PathBuf;

use clap::Args;
use wardring_agent::{bundle, platform::wall_clock};

use super::status::DataFolder;

#[derive(Args)]
pub struct SupportBundle {
    #[command(flatten)]
    data: DataFolder,
    /// The archive to write; wardring-support-TIME.zip in this folder by default.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Writes the bundle and says where.
pub fn write(support: &SupportBundle) -> anyhow::Result<()> {
    let folder = support.data.get()?;
    let out = support.out.clone().unwrap_or_else(|| {
        let time = wall_clock().strftime("%Y%m%dT%H%M%SZ");
        PathBuf::from(format!("wardring-support-{time}.zip"))
    });
    bundle::write(&folder, &device(), &out)?;
    println!(
        "{} holds no keys, tokens or passwords; it holds names of this device.",
        out.display()
    );
    Ok(())
}

#[cfg(windows)]
fn device() -> serde_json::Value {
    wardring_agent::platform::windows::for_support()
}

#[cfg(not(windows))]
fn device() -> serde_json::Value {
    serde_json::Value::Null
}
