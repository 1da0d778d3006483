//! Questions that Windows may never answer: each on a thread that can be left behind, and only so many of
//! those.
//!
//! Nothing ends a call that hangs. Where it is made again with every look, a service of Windows that
//! stands still would cost the agent one thread after another. What hangs keeps back its own repetition
//! alone: other questions have answers.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Questions of one kind.
#[derive(Debug)]
pub(crate) struct Questions {
    /// What the threads are called.
    name: &'static str,
    /// At most so many of the same wait for their answer.
    most: usize,
    /// How many wait, by what is asked.
    waiting: Mutex<BTreeMap<String, usize>>,
}

/// One that waits; it does no longer when this is dropped, also by a panic.
struct Waiting {
    among: &'static Questions,
    what: String,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.among.waiting();
        match waiting.get_mut(&self.what) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(waiting.remove(&self.what)),
        }
    }
}

impl Questions {
    /// At most `most` of the same at any time.
    pub const fn new(name: &'static str, most: usize) -> Questions {
        Questions { name, most, waiting: Mutex::new(BTreeMap::new()) }
    }

    /// Asks `what` on a thread of its own, does not wait, and gives the answer to `then`.
    ///
    /// # Errors
    /// A sentence: it was asked before and has no answer yet, or there is no thread.
    pub fn ask<T>(
        &'static self,
        what: &str,
        question: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), String> {
        let waiting = self.wait(what)?;
        let asking = std::thread::Builder::new().name(self.name.to_owned()).spawn(move || {
            let answer = question();
            // Whoever gets the answer may ask again.
            drop(waiting);
            then(answer);
        });
        asking.map(drop).map_err(|error| format!("cannot ask: {error}"))
    }

    /// Asks and waits for the answer, at most so long.
    ///
    /// # Errors
    /// A sentence: there is no answer, or it was not asked.
    #[cfg_attr(not(any(windows, test)), allow(dead_code, reason = "only Windows is asked so"))]
    pub fn answer<T: Send + 'static>(
        &'static self,
        limit: Duration,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let (tx, rx) = mpsc::channel();
        // Nobody listens any more when the time is over.
        self.ask("", question, move |answer| drop(tx.send(answer)))?;
        rx.recv_timeout(limit).map_err(|_| format!("no answer within {} s", limit.as_secs()))
    }

    /// Whether any waits for its answer.
    #[cfg_attr(not(any(windows, test)), allow(dead_code, reason = "only Windows is asked so"))]
    pub fn is_any_open(&self) -> bool {
        !self.waiting().is_empty()
    }

    fn wait(&'static self, what: &str) -> Result<Waiting, String> {
        let mut waiting = self.waiting();
        let count = waiting.entry(what.to_owned()).or_default();
        if *count >= self.most {
            return Err(format!("it was asked {} times before and has no answer yet", self.most));
        }
        *count += 1;
        Ok(Waiting { among: self, what: what.to_owned() })
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn those_that_hang_keep_back_their_own_repetition_until_one_of_them_ends() {
        static FEW: Questions = Questions::new("test", 3);
        let (let_go, waits) = mpsc::channel::<()>();
        let waits = Arc::new(Mutex::new(waits));
        let hangs = || {
            let waits = Arc::clone(&waits);
            FEW.ask("", move || waits.lock().unwrap().recv(), |_| ())
        };
        assert!(!FEW.is_any_open());
        for _ in 0..3 {
            hangs().unwrap();
        }
        let why = "it was asked 3 times before and has no answer yet";
        assert_eq!(hangs().unwrap_err(), why);
        assert_eq!(FEW.answer(LIMIT, || 1).unwrap_err(), why);
        assert!(FEW.is_any_open());
        let (tx, rx) = mpsc::channel();
        FEW.ask("another", || 2, move |answer| tx.send(answer).unwrap()).unwrap();
        assert_eq!(rx.recv_timeout(LIMIT), Ok(2), "what is not asked in vain is answered");

        let_go.send(()).unwrap();
        let answer = loop {
            match FEW.answer(LIMIT, || 1) {
                Err(_) => std::thread::yield_now(),
                Ok(answer) => break answer,
            }
        };
        assert_eq!(answer, 1);
    }

    #[test]
    fn a_question_without_an_answer_costs_its_time() {
        static ONE: Questions = Questions::new("test", 1);
        let (_let_go, waits) = mpsc::channel::<()>();
        let why = ONE.answer(Duration::from_millis(10), move || waits.recv()).unwrap_err();
        assert_eq!(why, "no answer within 0 s");
    }

    #[test]
    fn whoever_has_an_answer_may_ask_again_at_once() {
        static ONE: Questions = Questions::new("test", 1);
        for number in 0..1000 {
            assert_eq!(ONE.answer(LIMIT, move || number), Ok(number));
        }
    }
}
