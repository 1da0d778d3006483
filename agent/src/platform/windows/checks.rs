//! Probes that only Windows can answer, and hooks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;
use wardring_seal::{Check, Hook, Probe};

use super::device::Windows;
use crate::ffi;
use crate::platform::witnesses::{self, Ways};
use crate::platform::{Checks, Network};
use crate::probes::{self, Local};
use crate::state::{ProbeSample, Witness};

/// From here on Windows hands ports out by itself (Microsoft Learn, "The default dynamic port range
/// for TCP/IP has changed").
const FIRST_DYNAMIC: u16 = 49_152;
/// Ports that are kept.
const MAX_PORTS: usize = 256;

/// Windows as the one who answers.
struct ThisWindows;

impl Checks for Windows {
    async fn probe(&self, probes: &[Probe]) -> BTreeMap<String, ProbeSample> {
        probes::ask(probes, &Arc::new(ThisWindows)).await
    }

    fn ports(&self) -> BTreeSet<u16> {
        let known = ffi::listening_ports().into_iter().filter(|port| *port < FIRST_DYNAMIC);
        known.take(MAX_PORTS).collect()
    }

    async fn run_hook(&self, hook: &Hook) -> Result<(), String> {
        let (folder, hook): (PathBuf, Hook) = (self.hooks().to_owned(), hook.clone());
        let (tx, rx) = oneshot::channel();
        // A thread of its own: a hook may take hours, and must not keep the agent from ending.
        let running = std::thread::Builder::new().name("hook".to_owned()).spawn(move || {
            // Nobody listens any more when the agent ends.
            let _ = tx.send(crate::hooks::run(&folder, &hook));
        });
        running.map_err(|error| format!("cannot run it: {error}"))?;
        rx.await.unwrap_or_else(|_| Err("nobody can tell how it ended".to_owned()))
    }
}

impl Network for Windows {
    async fn answering(&self, named: &BTreeSet<Witness>) -> BTreeSet<Witness> {
        let around = ffi::neighbours();
        let mut asked = named.clone();
        asked.extend(around.routers.into_iter().map(|address| Witness::Router { address }));
        asked.extend(around.dns.into_iter().map(|address| Witness::Dns { address }));
        let is_elsewhere = witnesses::is_elsewhere;
        witnesses::answering(asked, Ways { router: ffi::answers_echo, is_elsewhere }).await
    }
}

impl Local for ThisWindows {
    fn answer(&self, check: &Check) -> Result<(), String> {
        match check {
            Check::Process { image } => process(image),
            Check::Disk { drive, min_free_gb } => disk(drive.as_deref(), *min_free_gb),
            Check::EventLog { log, provider, ids, within_ms, max } => {
                events(log, provider, ids, *within_ms, *max)
            }
            Check::Smb { share } => self::share(share),
            _ => Err("this is no question to Windows".to_owned()),
        }
    }
}

fn process(image: &str) -> Result<(), String> {
    let running = ffi::process_images().map_err(|error| format!("cannot list them: {error}"))?;
    let is_it = |name: &String| name.eq_ignore_ascii_case(image);
    if running.iter().any(is_it) { Ok(()) } else { Err(format!("no process {image} runs")) }
}

fn disk(drive: Option<&str>, min_free_gb: u32) -> Result<(), String> {
    let failed = |error| format!("Windows does not tell how much space is left: {error}");
    let folder = match drive {
        Some(drive) => PathBuf::from(format!("{drive}\\")),
        None => ffi::system_folder().map_err(failed)?,
    };
    let free_gb = ffi::free_bytes(&folder).map_err(failed)? >> 30;
    if free_gb >= u64::from(min_free_gb) {
        return Ok(());
    }
    Err(format!("{free_gb} GB are free where {min_free_gb} are wanted"))
}

fn events(log: &str, provider: &str, ids: &[u16], within_ms: u64, max: u32) -> Result<(), String> {
    // What Windows and its services said while they went down is not held against them.
    let since_ms = within_ms.min(ffi::uptime_ms());
    let query = super::events_query(provider, ids, since_ms)?;
    let count = usize::try_from(max).unwrap_or(usize::MAX).saturating_add(1);
    let found = ffi::newest_events(log, &query, count)
        .map_err(|error| format!("the log {log} cannot be read: {error}"))?;
    if found.len() < count {
        return Ok(());
    }
    Err(format!("more than {max} events of {provider} within {} min", since_ms / 60_000))
}

/// The device asks itself, so no other one learns who it is. A share that is there and closed to
/// SYSTEM is there.
fn share(share: &str) -> Result<(), String> {
    let path = format!(r"\\localhost\{share}\");
    match std::fs::read_dir(Path::new(&path)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(format!("the share {share} cannot be listed: {error}")),
    }
}
