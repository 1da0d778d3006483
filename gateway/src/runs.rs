//! Tells two live agents with one key from one agent that was restarted. Pure.
//!
//! Every start of an agent has a random run. A restarted agent never goes back to an earlier run, so
//! a run that was displaced and speaks again means a clone. One late request of a dying process can
//! look like that too; it is confirmed when the other one speaks once more after it.

/// Runs remembered: a clone shows itself within a few polls.
const REMEMBERED: usize = 4;

/// What a request says about its device's agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// One agent, as far as one can see.
    One,
    /// A displaced run spoke again: two agents, or a late request of a process that is gone.
    Suspected,
    /// Both spoke again: two live agents.
    Two,
}

/// The runs of one device that were heard lately, newest last.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    heard: Vec<Box<str>>,
    returns: u8,
}

impl Runs {
    /// Takes note of a request of `run`.
    pub fn note(&mut self, run: &str) -> Sighting {
        if self.heard.last().is_some_and(|last| &**last == run) {
            return self.standing();
        }
        match self.heard.iter().position(|known| &**known == run) {
            Some(at) => {
                let run = self.heard.remove(at);
                self.heard.push(run);
                self.returns = self.returns.saturating_add(1);
            }
            None => {
                if self.heard.len() == REMEMBERED {
                    self.heard.remove(0);
                }
                self.heard.push(run.into());
            }
        }
        self.standing()
    }

    fn standing(&self) -> Sighting {
        match self.returns {
            0 => Sighting::One,
            1 => Sighting::Suspected,
            _ => Sighting::Two,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(runs: &[&str]) -> Vec<Sighting> {
        let mut heard = Runs::default();
        runs.iter().map(|run| heard.note(run)).collect()
    }

    #[test]
    fn restarts_are_one_agent() {
        assert!(
            note(&["a", "a", "b", "b", "c", "d", "e", "f"]).iter().all(|s| *s == Sighting::One)
        );
    }

    #[test]
    fn a_late_request_of_a_dead_process_is_only_suspected() {
        let sightings = note(&["a", "b", "a"]);
        assert_eq!(sightings[2], Sighting::Suspected);
    }

    #[test]
    fn two_agents_that_take_turns_are_found_at_the_second_return() {
        assert_eq!(note(&["a", "b", "a", "b"])[3], Sighting::Two);
        assert_eq!(note(&["a", "b", "c", "a", "c"])[4], Sighting::Two);
    }
}
