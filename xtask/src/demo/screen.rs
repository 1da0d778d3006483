//! What the demo shows while it runs: bars in colour on a terminal, plain lines anywhere else.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use wardring_api::{PatchRollout, StageStatus};

/// Lines of a log would otherwise come many times a second.
const PLAIN_INTERVAL: Duration = Duration::from_secs(1);

/// The place where progress is shown.
pub struct Screen {
    started: Instant,
    terminal: bool,
    bars: MultiProgress,
    stages: Mutex<BTreeMap<String, ProgressBar>>,
    last: Mutex<(Option<Instant>, String)>,
}

impl Screen {
    /// Finds out what kind of place it is.
    pub fn new() -> Screen {
        let terminal = std::io::stdout().is_terminal();
        let target =
            if terminal { ProgressDrawTarget::stdout() } else { ProgressDrawTarget::hidden() };
        Screen {
            started: Instant::now(),
            terminal,
            bars: MultiProgress::with_draw_target(target),
            stages: Mutex::default(),
            last: Mutex::default(),
        }
    }

    /// A line as it is.
    pub fn say(&self, line: &str) {
        self.bars.suspend(|| println!("{line}"));
    }

    /// A line that tells of something done, with the time.
    pub fn step(&self, line: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.say(&format!("{seconds:6.1} s  {line}"));
    }

    /// A headline.
    pub fn headline(&self, line: &str) {
        self.say(&if self.terminal {
            format!("\n\x1b[1m{line}\x1b[0m")
        } else {
            format!("\n{line}")
        });
    }

    /// A line with a verdict in front.
    pub fn verdict(&self, holds: bool, line: &str) {
        let mark = match (holds, self.terminal) {
            (true, true) => "\x1b[32m✓\x1b[0m",
            (true, false) => "✓",
            (false, true) => "\x1b[31;1m✗\x1b[0m",
            (false, false) => "✗",
        };
        self.say(&format!("  {mark} {line}"));
    }

    /// The stages of a rollout, as they stand now.
    pub fn show(&self, rollout: &PatchRollout) {
        let Some(status) = &rollout.status else { return };
        if self.terminal {
            let mut bars = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
            // A stage that is not open has nothing to show, and an empty bar looks like a full one.
            for stage in status.stages.iter().filter(|stage| stage.counts.total > 0) {
                let bar = bars.entry(stage.name.clone()).or_insert_with(|| self.bar(&stage.name));
                bar.set_length(stage.counts.total.into());
                bar.set_position(proven(stage).into());
                bar.set_message(details(stage));
            }
            return;
        }
        let phase =
            status.phase.map_or_else(|| "Unplanned".to_owned(), |phase| format!("{phase:?}"));
        let open = status.stages.iter().filter(|stage| stage.counts.total > 0);
        let stages: Vec<_> = open
            .map(|stage| {
                format!("{} {}/{}{}", stage.name, proven(stage), stage.counts.total, details(stage))
            })
            .collect();
        let line =
            if stages.is_empty() { phase } else { format!("{phase}: {}", stages.join(" · ")) };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let too_soon = last.0.is_some_and(|at| at.elapsed() < PLAIN_INTERVAL);
        if last.1 != line && !too_soon {
            self.step(&line);
            *last = (Some(Instant::now()), line);
        }
    }

    /// Takes the bars away: what follows says how it ended.
    pub fn settle(&self) {
        let mut bars = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, bar) in std::mem::take(&mut *bars) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
    }

    fn bar(&self, name: &str) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "  {prefix:14} {bar:30.green/dim} {pos:>4}/{len:4} proven{msg}",
        )
        .expect("the template is a constant that was tried");
        let bar = self.bars.add(ProgressBar::new(0));
        bar.set_style(style);
        bar.set_prefix(name.to_owned());
        bar
    }
}

fn proven(stage: &StageStatus) -> u32 {
    stage.counts.succeeded + stage.counts.already_installed
}

/// What else there is to say of a stage, beginning with a comma.
fn details(stage: &StageStatus) -> String {
    let counts = &stage.counts;
    let parts = [
        (counts.in_progress, "moving"),
        (counts.rebooting, "restarting"),
        (counts.failed, "failed"),
        (counts.unreachable, "unreachable"),
        (counts.rolled_back, "rolled back"),
        (counts.rollback_failed, "rollback failed"),
    ];
    let parts = parts.into_iter().filter(|(number, _)| *number > 0);
    parts.map(|(number, word)| format!(", {number} {word}")).collect()
}
