//! `status -w`: the tree again whenever something changed.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use tokio::time::{Instant, sleep_until};
use wardring_api::{PatchRollout, RolloutPhase};

use super::show;
use crate::{
    args::{Format, Status},
    output,
    paint::Palette,
};

/// A rollout changes its counters many times a second; nobody reads that fast.
const REDRAW: Duration = Duration::from_millis(250);

/// Shows `rollouts`, then every change, until the one that is named ends.
pub async fn run(
    api: Api<PatchRollout>,
    args: &Status,
    rollouts: Vec<PatchRollout>,
) -> Result<ExitCode> {
    let mut known: BTreeMap<_, _> =
        rollouts.into_iter().map(|rollout| (key(&rollout), rollout)).collect();
    let config = match &args.name {
        Some(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
        None => watcher::Config::default(),
    };
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut screen = Screen::new(args);
    loop {
        screen.draw(&known)?;
        if let Some(code) = ended(args, &known) {
            return Ok(code);
        }
        // Everything that happens within one redraw is drawn once.
        let redraw = Instant::now() + REDRAW;
        let Some(event) = events.try_next().await? else { return Ok(ExitCode::SUCCESS) };
        apply(&mut known, event);
        loop {
            tokio::select! {
                () = sleep_until(redraw) => break,
                event = events.try_next() => match event? {
                    Some(event) => apply(&mut known, event),
                    None => return Ok(ExitCode::SUCCESS),
                },
            }
        }
    }
}

type Known = BTreeMap<(String, String), PatchRollout>;

fn apply(known: &mut Known, event: watcher::Event<PatchRollout>) {
    match event {
        watcher::Event::Init => known.clear(),
        watcher::Event::InitApply(rollout) | watcher::Event::Apply(rollout) => {
            known.insert(key(&rollout), rollout);
        }
        watcher::Event::InitDone => {}
        watcher::Event::Delete(rollout) => {
            known.remove(&key(&rollout));
        }
    }
}

fn key(rollout: &PatchRollout) -> (String, String) {
    (rollout.namespace().unwrap_or_default(), rollout.name_any())
}

/// The exit code once the rollout that is named moves no more: only a completed one is a success.
fn ended(args: &Status, known: &Known) -> Option<ExitCode> {
    args.name.as_ref()?;
    let Some(rollout) = known.values().next() else {
        eprintln!("The rollout is deleted.");
        return Some(ExitCode::FAILURE);
    };
    let status = rollout.status.as_ref()?;
    if status.observed_generation < rollout.metadata.generation {
        return None;
    }
    match status.phase? {
        RolloutPhase::Completed => Some(ExitCode::SUCCESS),
        RolloutPhase::Halted
        | RolloutPhase::RolledBack
        | RolloutPhase::Aborted
        | RolloutPhase::Invalid => Some(ExitCode::FAILURE),
        RolloutPhase::Pending
        | RolloutPhase::Progressing
        | RolloutPhase::Suspended
        | RolloutPhase::RollingBack => None,
    }
}

/// What was printed last, so that only changes are printed, and over the old picture on a terminal.
struct Screen<'a> {
    args: &'a Status,
    terminal: bool,
    last: String,
    versions: BTreeMap<(String, String), Option<String>>,
}

impl<'a> Screen<'a> {
    fn new(args: &'a Status) -> Screen<'a> {
        let terminal = std::io::stdout().is_terminal();
        Screen { args, terminal, last: String::new(), versions: BTreeMap::new() }
    }

    fn draw(&mut self, known: &Known) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if matches!(self.args.output, Some(Format::Json | Format::Yaml | Format::Name)) {
            // As `kubectl get -w -o json`: a document for every change.
            for (key, rollout) in known {
                let version = rollout.resource_version();
                if self.versions.get(key) != Some(&version) {
                    self.versions.insert(key.clone(), version);
                    let text = match self.args.output {
                        Some(Format::Name) => output::resource_name(rollout) + "\n",
                        format => output::document(&output::whole(rollout)?, format)?,
                    };
                    out.write_all(text.as_bytes())?;
                }
            }
        } else {
            let rollouts: Vec<_> = known.values().cloned().collect();
            let text = show(self.args, &rollouts, Palette::of_stdout())?;
            if text == self.last {
                return Ok(());
            }
            if self.terminal {
                // Home, and erase what follows: the picture stays in place without flicker.
                out.write_all(b"\x1b[H\x1b[2J")?;
            }
            out.write_all(text.as_bytes())?;
            if !self.terminal {
                out.write_all(b"\n")?;
            }
            self.last = text;
        }
        out.flush()?;
        Ok(())
    }
}
