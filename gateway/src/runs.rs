//! Tells two live agents with one key from one agent that was restarted. Pure.
//!
//! Every start of an agent has a random run. A restarted agent never goes back to an earlier run, so
//! a displaced run that speaks again means a clone, or a late request of a process that is gone. It
//! is suspected at once, and certain when the displaced run has come back twice.

use std::time::Duration;

/// Runs remembered: a clone shows itself within a few polls.
const REMEMBERED: usize = 4;
/// Returns that make it certain, for runs `a` and `b`: `a b A B A`. One late request of a dying
/// process makes two, `a b A B`.
const CERTAIN: u8 = 3;
/// Two live agents speak more often than this, so an older suspicion was a late request.
const FORGIVEN_AFTER: Duration = Duration::from_secs(900);

/// What a request says about its device's agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// One agent, as far as one can see.
    One,
    /// A displaced run spoke again.
    Suspected,
    /// Two live agents.
    Two,
}

/// The runs of one device that were heard lately, newest last.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    heard: Vec<Box<str>>,
    returns: u8,
    returned: Duration,
}

impl Runs {
    /// Takes note of a request of `run` at `now`, on a clock that only grows.
    pub fn note(&mut self, run: &str, now: Duration) -> Sighting {
        if self.returns > 0 && now.saturating_sub(self.returned) > FORGIVEN_AFTER {
            self.returns = 0;
        }
        if self.heard.last().is_none_or(|last| &**last != run) {
            match self.heard.iter().position(|known| &**known == run) {
                Some(at) => {
                    let run = self.heard.remove(at);
                    self.heard.push(run);
                    self.returns = self.returns.saturating_add(1);
                    self.returned = now;
                }
                None => {
                    // A new start: whatever was late before it, this one was not displaced yet.
                    self.returns = 0;
                    if self.heard.len() == REMEMBERED {
                        self.heard.remove(0);
                    }
                    self.heard.push(run.into());
                }
            }
        }
        match self.returns {
            0 => Sighting::One,
            CERTAIN.. => Sighting::Two,
            _ => Sighting::Suspected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(runs: &[&str]) -> Vec<Sighting> {
        let mut heard = Runs::default();
        runs.iter().map(|run| heard.note(run, Duration::ZERO)).collect()
    }

    #[test]
    fn restarts_are_one_agent() {
        assert!(
            note(&["a", "a", "b", "b", "c", "d", "e", "f"]).iter().all(|s| *s == Sighting::One)
        );
    }

    #[test]
    fn one_late_request_of_a_dead_process_is_never_taken_for_a_clone() {
        let sightings = note(&["a", "b", "a", "b", "b", "b"]);
        assert_eq!(sightings[2..], [Sighting::Suspected; 4]);
    }

    #[test]
    fn two_agents_that_take_turns_are_found_at_the_second_return_of_the_first() {
        assert_eq!(note(&["a", "b", "a", "b", "a"])[4], Sighting::Two);
        assert_eq!(note(&["a", "b", "c", "a", "c", "a"])[5], Sighting::Two);
    }

    #[test]
    fn a_suspicion_ends_with_the_next_start_or_after_a_while() {
        assert_eq!(note(&["a", "b", "a", "b", "c"])[4], Sighting::One);
        let mut heard = Runs::default();
        for run in ["a", "b", "a"] {
            heard.note(run, Duration::ZERO);
        }
        assert_eq!(heard.note("a", FORGIVEN_AFTER), Sighting::Suspected);
        assert_eq!(heard.note("a", FORGIVEN_AFTER + Duration::from_secs(1)), Sighting::One);
    }
}
