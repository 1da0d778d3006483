//! `pause` and `resume`: an administrator of the device keeps the agent from beginning anything.

use std::path::Path;

use clap::Args;
use jiff::Timestamp;
use wardring_agent::pause::{self, Pause as Mark};
use wardring_agent::platform::wall_clock;
use wardring_agent::status;

use super::status::DataFolder;

#[derive(Args)]
pub struct Pause {
    #[command(flatten)]
    data: DataFolder,
    /// Why; people read it at the Device in the cluster.
    #[arg(long, default_value = "")]
    reason: String,
    /// When it ends by itself, such as 2027-01-31T06:00:00Z; without one, `resume` ends it.
    #[arg(long)]
    until: Option<Timestamp>,
}

#[derive(Args)]
pub struct Resume {
    #[command(flatten)]
    data: DataFolder,
}

/// Pauses the agent.
pub fn pause(asked: &Pause) -> anyhow::Result<()> {
    let folder = asked.data.get()?;
    check(&folder)?;
    let mark = Mark::new(&asked.reason, asked.until, wall_clock())?;
    mark.set(&folder)?;
    println!(
        "Paused: no download, installation, removal or restart begins until `wardring-agent resume`."
    );
    if let Some(until) = asked.until {
        println!("It ends by itself at {until}.");
    }
    let read = status::read(&folder)?;
    let job = &read.document["journal"]["job"];
    if let Some(rollout) = job["rollout"].as_str() {
        let phase = job["phase"].as_str().unwrap_or("-");
        println!(
            "There is a job of rollout {rollout} ({phase}). A step of it that runs is brought to its end; a \
             restart that was ordered is taken back if Windows still can. See `wardring-agent status`."
        );
    }
    Ok(())
}

/// Lets the agent go on.
pub fn resume(asked: &Resume) -> anyhow::Result<()> {
    let folder = asked.data.get()?;
    check(&folder)?;
    if pause::lift(&folder)? {
        println!("The agent goes on; a job that waited here does within seconds.");
    } else {
        println!("The agent was not paused.");
    }
    Ok(())
}

/// What lies in a folder that others may write to is not an administrator's word.
#[cfg(windows)]
fn check(folder: &Path) -> anyhow::Result<()> {
    Ok(wardring_agent::folder::check(folder)?)
}

#[cfg(not(windows))]
fn check(_folder: &Path) -> anyhow::Result<()> {
    Ok(())
}
