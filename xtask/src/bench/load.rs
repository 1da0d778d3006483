//! How busy the processors of this machine are.

use anyhow::{Context, Result};

/// The time that all processors together have spent since the machine started, in ticks of its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    idle: u64,
    all: u64,
}

impl Load {
    /// Up to now. Time that others on the same hardware took counts as busy: we could not have it.
    pub fn now() -> Result<Load> {
        let text = std::fs::read_to_string("/proc/stat").context("failed to read /proc/stat")?;
        Load::of(&text).context("/proc/stat has no line of all processors")
    }

    /// The columns are user, nice, system, idle, iowait, irq, softirq, steal, and guest times that user
    /// and nice hold already (proc_stat(5)).
    fn of(text: &str) -> Option<Load> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks = line.split_whitespace().take(8).map(str::parse);
        let ticks = ticks.collect::<Result<Vec<u64>, _>>().ok()?;
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some(Load { idle, all: ticks.iter().sum() })
    }

    /// The busy share of all time since then, from 0 to 1; of no time, nothing was busy.
    pub fn since(self, then: Load) -> f64 {
        match self.all.saturating_sub(then.all) {
            0 => 0.0,
            all => 1.0 - self.idle.saturating_sub(then.idle) as f64 / all as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_busy_that_is_neither_idle_nor_waiting_for_a_disk() {
        let then = Load::of("cpu  10 0 10 100 20 0 0 0 5 0\ncpu0 1 2 3 4 5 6 7 8").unwrap();
        let now = Load::of("cpu  40 5 20 150 40 1 2 2 50 0\n").unwrap();
        // Of 120 ticks, 50 were idle and 20 waited.
        assert_eq!(now.since(then), 1.0 - 70.0 / 120.0);
        assert_eq!(now.since(now), 0.0);
        assert_eq!(Load::of("intr 5\n"), None);
    }
}
