//! `selftest`: what the agent needs and assumes of Windows, asked of the Windows it runs on.
//!
//! A check only looks: it changes nothing, and what nothing but a change would show stays unknown.
//! Each runs on a thread of its own with a time limit, so that one that hangs holds up no other and
//! one that fails says so.

mod print;

use std::cell::RefCell;
use std::panic;
use std::sync::{Once, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use print::{in_order, text};

/// One question to Windows.
pub struct Check {
    /// Name, stable over versions.
    pub name: &'static str,
    /// Whether the agent cannot do without.
    pub weight: Weight,
    /// What is believed, as a sentence.
    pub says: &'static str,
    /// How long the answer may take.
    pub limit: Duration,
    /// Asks.
    pub ask: fn() -> Finding,
}

/// How much rests on a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Weight {
    /// Something that the agent calls or reads in every job.
    Needed,
    /// Something that was read in no document of Microsoft, and is believed.
    Assumed,
}

/// What Windows says to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// It is as believed.
    Ok,
    /// It is not.
    Differs,
    /// It cannot be told here.
    Unknown,
}

/// An answer and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The answer.
    pub answer: Answer,
    /// What was seen.
    pub evidence: String,
}

impl Finding {
    /// It is as believed.
    pub fn ok(evidence: impl Into<String>) -> Finding {
        Finding { answer: Answer::Ok, evidence: evidence.into() }
    }

    /// It is not.
    pub fn differs(evidence: impl Into<String>) -> Finding {
        Finding { answer: Answer::Differs, evidence: evidence.into() }
    }

    /// It cannot be told.
    pub fn unknown(evidence: impl Into<String>) -> Finding {
        Finding { answer: Answer::Unknown, evidence: evidence.into() }
    }
}

/// One line of the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Name of the check.
    pub check: &'static str,
    /// How much rests on it.
    pub weight: Weight,
    /// What is believed.
    pub says: &'static str,
    /// What Windows says to it.
    pub answer: Answer,
    /// What was seen.
    pub evidence: String,
}

thread_local! {
    /// Who waits for the check that runs on this thread.
    static LISTENER: RefCell<Option<mpsc::Sender<Finding>>> = const { RefCell::new(None) };
}

/// Has a check that panics tell so, and stay where it is: the program that goes to devices ends whole
/// after a panic (its profile has `panic = "abort"`), and would leave no table at all.
fn stay_after_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let listener = LISTENER.try_with(|listener| listener.borrow_mut().take());
            let Ok(Some(listener)) = listener else { return others(panic) };
            let what = panic.payload_as_str().unwrap_or("no message");
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            // Nobody listens any more when it took too long.
            let _ = listener.send(Finding::unknown(format!(
                "the check itself failed, please report it: {what} ({place})"
            )));
            // Elsewhere the thread ends by itself, and nobody is kept from the hook for good.
            while cfg!(panic = "abort") {
                thread::park();
            }
        }));
    });
}

/// Runs all checks beside each other and waits for each at most as long as it may take.
pub fn run(checks: Vec<Check>) -> Vec<Row> {
    stay_after_panics();
    let begun = Instant::now();
    let started: Vec<_> = checks.into_iter().map(|check| (start(&check), check)).collect();
    started
        .into_iter()
        .map(|(started, check)| {
            let finding = match started {
                Ok(answer) => {
                    wait(&answer, check.limit.saturating_sub(begun.elapsed()), check.limit)
                }
                Err(why) => Finding::unknown(format!("it could not be asked: {why}")),
            };
            let Check { name, weight, says, .. } = check;
            let Finding { answer, evidence } = finding;
            Row { check: name, weight, says, answer, evidence }
        })
        .collect()
}

fn start(check: &Check) -> Result<mpsc::Receiver<Finding>, String> {
    let (tx, rx) = mpsc::channel();
    let ask = check.ask;
    let thread = thread::Builder::new().name(check.name.to_owned()).spawn(move || {
        LISTENER.set(Some(tx.clone()));
        // Nobody listens any more when it took too long.
        let _ = tx.send(ask());
    });
    thread.map(|_| rx).map_err(|error| error.to_string())
}

fn wait(answer: &mpsc::Receiver<Finding>, left: Duration, limit: Duration) -> Finding {
    match answer.recv_timeout(left) {
        Ok(finding) => finding,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Finding::unknown(format!("no answer within {} s", limit.as_secs()))
        }
        // Every thread answers, also one that panics.
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Finding::unknown("the check ended without an answer; please report it")
        }
    }
}

/// The exit code: 1 when something is not as believed, else 2 when something that the agent needs
/// could not be told, else 0. What is only assumed and cannot be told by looking counts for nothing:
/// on every Windows some of it stays unknown.
pub fn exit_code(rows: &[Row]) -> u8 {
    let is_unknown = |row: &&Row| row.answer == Answer::Unknown && row.weight == Weight::Needed;
    if rows.iter().any(|row| row.answer == Answer::Differs) {
        1
    } else if rows.iter().any(|row| is_unknown(&row)) {
        2
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &'static str, ask: fn() -> Finding) -> Check {
        let limit = Duration::from_secs(30);
        Check { name, weight: Weight::Needed, says: "it is so", limit, ask }
    }

    fn row(weight: Weight, answer: Answer) -> Row {
        Row { check: "x", weight, says: "it is so", answer, evidence: String::new() }
    }

    #[test]
    fn a_check_that_hangs_or_panics_is_unknown_and_keeps_no_other_from_its_answer() {
        let hangs = Check {
            limit: Duration::from_millis(20),
            ..check("hangs", || {
                loop {
                    thread::park();
                }
            })
        };
        let rows = run(vec![
            hangs,
            check("panics", || panic!("on purpose")),
            check("answers", || Finding::ok("seen")),
        ]);
        let answers: Vec<(&str, Answer)> = rows.iter().map(|row| (row.check, row.answer)).collect();
        assert_eq!(
            answers,
            [("hangs", Answer::Unknown), ("panics", Answer::Unknown), ("answers", Answer::Ok)]
        );
        assert!(rows[0].evidence.contains("no answer within"), "{rows:?}");
        assert!(rows[1].evidence.contains("on purpose (agent"), "{rows:?}");
    }

    #[test]
    fn the_exit_code_tells_the_worst_of_what_counts() {
        use Answer::{Differs, Ok, Unknown};
        use Weight::{Assumed, Needed};
        assert_eq!(exit_code(&[row(Needed, Ok), row(Assumed, Unknown)]), 0);
        assert_eq!(exit_code(&[row(Needed, Unknown), row(Assumed, Ok)]), 2);
        assert_eq!(exit_code(&[row(Needed, Unknown), row(Assumed, Differs)]), 1);
        assert_eq!(exit_code(&[]), 0);
    }
}
