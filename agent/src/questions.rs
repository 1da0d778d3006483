//! Questions that Windows may never answer: each on a thread that can be left behind, and only so many of
//! those.
//!
//! Nothing ends a call that hangs. Where it is made again with every look, a service of Windows that
//! stands still would cost the agent one thread after another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// Questions of one kind.
#[derive(Debug)]
pub(crate) struct Questions {
    /// What the threads are called.
    name: &'static str,
    /// At most so many wait for their answer.
    most: usize,
    waiting: AtomicUsize,
}

/// One that waits; it does no longer when this is dropped, also by a panic.
struct Waiting(&'static AtomicUsize);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Questions {
    /// At most `most` of them at any time.
    pub const fn new(name: &'static str, most: usize) -> Questions {
        Questions { name, most, waiting: AtomicUsize::new(0) }
    }

    /// Asks on a thread of its own and does not wait.
    ///
    /// # Errors
    /// A sentence: earlier ones have no answer yet, or there is no thread.
    pub fn ask(&'static self, question: impl FnOnce() + Send + 'static) -> Result<(), String> {
        let is_one_more = |waiting: usize| (waiting < self.most).then_some(waiting + 1);
        let order = Ordering::SeqCst;
        if self.waiting.fetch_update(order, order, is_one_more).is_err() {
            return Err(format!("{} earlier questions have no answer yet", self.most));
        }
        let waiting = Waiting(&self.waiting);
        let asking = std::thread::Builder::new().name(self.name.to_owned()).spawn(move || {
            let _waiting = waiting;
            question();
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
        self.ask(move || {
            // Nobody listens any more when the time is over.
            let _ = tx.send(question());
        })?;
        rx.recv_timeout(limit).map_err(|_| format!("no answer within {} s", limit.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn those_that_hang_keep_others_back_until_one_of_them_ends() {
        static FEW: Questions = Questions::new("test", 3);
        let (let_go, waits) = mpsc::channel::<()>();
        let waits = Arc::new(Mutex::new(waits));
        let hangs = || {
            let waits = Arc::clone(&waits);
            FEW.ask(move || {
                let _ = waits.lock().unwrap().recv();
            })
        };
        for _ in 0..3 {
            hangs().unwrap();
        }
        assert_eq!(hangs().unwrap_err(), "3 earlier questions have no answer yet");
        let why = FEW.answer(Duration::from_secs(60), || 1).unwrap_err();
        assert_eq!(why, "3 earlier questions have no answer yet");
        let_go.send(()).unwrap();
        let answer = loop {
            match FEW.answer(Duration::from_secs(60), || 1) {
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
}
