//! Asking for the state of the component store, which takes DISM seconds, and longer beside other work.
//!
//! It is asked on a thread of its own that can be left behind. What it said is kept: for half a day for
//! the report, for minutes before an installation; what is no good news for less, because somebody is
//! mending it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::state::StoreState;

/// Age at which good news is asked for anew for the report. Marks come from failed installations, after
/// which a job asks anyway, and from scans that people begin.
const REPORTED_FOR: Duration = Duration::from_secs(12 * 3600);
/// The same of bad news: a device that was repaired is held until it says so.
const BAD_FOR: Duration = Duration::from_secs(15 * 60);
/// Age of good news right before an installation.
const BEGUN_WITH: Duration = Duration::from_secs(600);
/// Longest that a look waits for DISM.
const LIMIT: Duration = Duration::from_secs(300);
/// After this long a question is given up, and another one may be asked.
const GIVEN_UP: Duration = Duration::from_secs(3600);
/// Questions that may hang beside one another until the agent starts anew.
const MOST_OPEN: u32 = 3;

/// What DISM said of the component store, and how it is asked.
pub(super) struct Store {
    known: Mutex<Known>,
    /// With every answer.
    answered: Condvar,
    ask: Box<dyn Fn() -> StoreState + Send + Sync>,
}

#[derive(Default)]
struct Known {
    answer: Option<(Instant, StoreState)>,
    /// Counts the answers.
    answers: u64,
    /// When the last question was asked that is not answered.
    asked: Option<Instant>,
    /// Questions that are not answered.
    open: u32,
}

/// The store of this device.
#[cfg(windows)]
pub(super) fn store() -> &'static Arc<Store> {
    static STORE: std::sync::LazyLock<Arc<Store>> =
        std::sync::LazyLock::new(|| Store::new(super::dism::health));
    &STORE
}

impl Store {
    fn new(ask: impl Fn() -> StoreState + Send + Sync + 'static) -> Arc<Store> {
        Arc::new(Store { known: Mutex::default(), answered: Condvar::new(), ask: Box::new(ask) })
    }

    /// What is known by now; asks in the background where that is nothing or old. Unknown where DISM does
    /// not answer: what was said long ago is no answer of today.
    /// Does not ask beside an installation or a removal (`is_at_rest`): nobody says that DISM bears that, and
    /// the answer would be of a store that changes.
    pub fn known(self: &Arc<Store>, is_at_rest: bool) -> Option<StoreState> {
        let answer = self.lock().answer.clone();
        let told_for = |state: &StoreState| match state {
            StoreState::Healthy => REPORTED_FOR,
            _ => BAD_FOR,
        };
        let is_due = answer.as_ref().is_none_or(|(at, state)| at.elapsed() >= told_for(state));
        if is_at_rest
            && is_due
            && let Err(error) = self.ask()
        {
            tracing::warn!(%error, "DISM cannot be asked for the state of the component store");
        }
        // Nobody waits for it: the next report tells.
        answer.map(|(at, state)| match state {
            _ if at.elapsed() > 2 * REPORTED_FOR => {
                StoreState::Unknown("DISM does not answer".to_owned())
            }
            state => state,
        })
    }

    /// What DISM says now, or said a few minutes ago if that was good. Waits for minutes at most, also for
    /// a question that somebody else asked.
    pub fn fresh(self: &Arc<Store>) -> StoreState {
        self.fresh_within(LIMIT)
    }

    fn fresh_within(self: &Arc<Store>, limit: Duration) -> StoreState {
        let known = self.lock();
        let before = known.answers;
        if let Some((at, StoreState::Healthy)) = &known.answer
            && at.elapsed() < BEGUN_WITH
        {
            return StoreState::Healthy;
        }
        drop(known);
        if let Err(error) = self.ask() {
            return StoreState::Unknown(error.to_string());
        }
        let waits =
            self.answered.wait_timeout_while(self.lock(), limit, |known| known.answers == before);
        let (known, _) = waits.unwrap_or_else(PoisonError::into_inner);
        match &known.answer {
            Some((_, state)) if known.answers != before => state.clone(),
            _ => StoreState::Unknown("DISM does not answer".to_owned()),
        }
    }

    /// Asks DISM on a thread of its own, unless a question is open.
    fn ask(self: &Arc<Store>) -> std::io::Result<()> {
        {
            let mut known = self.lock();
            if known.asked.is_some_and(|asked| asked.elapsed() < GIVEN_UP) {
                return Ok(());
            }
            if known.open >= MOST_OPEN {
                return Err(std::io::Error::other("DISM has not answered earlier questions"));
            }
            known.asked = Some(Instant::now());
            known.open += 1;
        }
        let store = Arc::clone(self);
        let begun = thread::Builder::new().name("dism-health".to_owned()).spawn(move || {
            // Whatever becomes of it, the question is not open any more.
            let state = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (store.ask)()))
                .unwrap_or_else(|_| StoreState::Unknown("the question to DISM failed".to_owned()));
            let mut known = store.lock();
            known.open -= 1;
            known.asked = None;
            known.answers += 1;
            known.answer = Some((Instant::now(), state));
            store.answered.notify_all();
        });
        if let Err(error) = begun {
            let mut known = self.lock();
            known.open -= 1;
            known.asked = None;
            return Err(error);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// A store whose DISM answers what the test sends it.
    fn asked() -> (Arc<Store>, Sender<StoreState>) {
        let (tx, rx) = channel();
        let rx = Mutex::new(rx);
        (Store::new(move || rx.lock().unwrap().recv().unwrap()), tx)
    }

    fn age(store: &Store, by: Duration) {
        let mut known = store.lock();
        if let Some((at, _)) = &mut known.answer {
            *at = at.checked_sub(by).unwrap();
        }
        known.asked = known.asked.and_then(|asked| asked.checked_sub(by));
    }

    #[test]
    fn the_report_asks_nothing_beside_other_work() {
        let store = Store::new(|| unreachable!("nobody may ask"));
        assert_eq!(store.known(false), None);
        let known = store.lock();
        assert_eq!((known.open, known.answers), (0, 0));
    }

    #[test]
    fn a_job_waits_for_a_question_that_the_report_has_asked() {
        let (store, dism) = asked();
        assert_eq!(store.known(true), None);
        let (told, job) = channel();
        let shared = Arc::clone(&store);
        thread::spawn(move || told.send(shared.fresh()).unwrap());
        let early = job.recv_timeout(Duration::from_millis(200));
        assert!(early.is_err(), "it goes on without the answer: {early:?}");
        // Twice, in case the job comes late and asks itself.
        dism.send(StoreState::Damaged).unwrap();
        dism.send(StoreState::Damaged).unwrap();
        assert_eq!(job.recv().unwrap(), StoreState::Damaged);
    }

    #[test]
    fn what_is_no_good_news_is_asked_again_before_long_and_before_every_installation() {
        let (store, dism) = asked();
        dism.send(StoreState::Repairable).unwrap();
        assert_eq!(store.fresh(), StoreState::Repairable);
        assert_eq!(store.known(true), Some(StoreState::Repairable));
        assert_eq!(store.lock().asked, None, "not at every report");

        age(&store, BAD_FOR);
        dism.send(StoreState::Healthy).unwrap();
        while store.known(true) != Some(StoreState::Healthy) {
            thread::yield_now();
        }
        assert_eq!(store.fresh(), StoreState::Healthy, "good news hold for minutes");
        age(&store, BAD_FOR);
        assert_eq!(store.known(true), Some(StoreState::Healthy), "and half a day for the report");
        assert_eq!(store.lock().asked, None);

        dism.send(StoreState::Damaged).unwrap();
        assert_eq!(store.fresh(), StoreState::Damaged);
        dism.send(StoreState::Healthy).unwrap();
        assert_eq!(store.fresh(), StoreState::Healthy, "it was repaired a moment ago");
    }

    #[test]
    fn a_question_that_hangs_is_unknown_and_is_asked_again_but_not_for_ever() {
        let (store, _dism) = asked();
        let hung = |store: &Arc<Store>| match store.fresh_within(Duration::from_millis(1)) {
            StoreState::Unknown(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(hung(&store), "DISM does not answer");
        assert_eq!((hung(&store), store.lock().open), ("DISM does not answer".to_owned(), 1));
        for open in 2..=MOST_OPEN {
            age(&store, GIVEN_UP);
            hung(&store);
            assert_eq!(store.lock().open, open);
        }
        age(&store, GIVEN_UP);
        assert_eq!(hung(&store), "DISM has not answered earlier questions");
    }
}
