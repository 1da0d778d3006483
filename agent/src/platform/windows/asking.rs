//! Asking people a question in their sessions: what it says, and what their answers come to.
//!
//! A box with buttons can be shown in any session by the service itself; the call returns with the button,
//! or with the end of its time (Windows documentation, `WTSSendMessageW`). It may hang all the same, so
//! each session is asked on a thread of its own.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::questions::Questions;
use crate::state::{Question, Reply};

/// In more sessions than this nobody is asked: all of them would have to agree, and each costs a thread.
pub(super) const MOST_SESSIONS: usize = 16;

/// What came back from one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Yes,
    No,
    /// The time is over, the session is gone, or Windows cannot ask there.
    Nothing,
}

/// What Windows' number of a button means (Windows documentation, `WTSSendMessageW`, `pResponse`).
/// Everything but the two buttons of the question, such as IDTIMEOUT (32000), is no answer. Neither is one
/// from a session that is locked or gone when it comes: anybody may have pressed it, or nobody.
pub(super) fn said(button: i32, is_unlocked: bool) -> Said {
    const IDOK: i32 = 1;
    const IDCANCEL: i32 = 2;
    match button {
        IDOK if is_unlocked => Said::Yes,
        IDCANCEL if is_unlocked => Said::No,
        _ => Said::Nothing,
    }
}

/// Asks each of these sessions and waits `limit` for their answers. One "no" is enough, and is not waited
/// for any further; a yes counts when everybody said it: who is not at the desk may have left work open.
pub(super) fn ask_each(
    questions: &'static Questions,
    sessions: &[u32],
    limit: Duration,
    ask: impl Fn(u32) -> Said + Clone + Send + 'static,
) -> Reply {
    let (tx, rx) = mpsc::channel();
    for &session in sessions {
        let (ask, tx) = (ask.clone(), tx.clone());
        let then = move |said| {
            // Nobody listens any more when the time is over.
            let _ = tx.send((session, said));
        };
        if let Err(why) = questions.ask(&session.to_string(), move || ask(session), then) {
            tracing::warn!(session, why, "a session is not asked");
        }
    }
    drop(tx);
    let (until, mut agreed) = (Instant::now() + limit, BTreeSet::new());
    while let Ok((session, said)) = rx.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        match said {
            Said::No => return Reply::Later,
            Said::Yes => drop(agreed.insert(session)),
            Said::Nothing => {}
        }
    }
    let is_everybody = !sessions.is_empty() && agreed.len() == sessions.len();
    if is_everybody { Reply::Now(agreed) } else { Reply::Nothing }
}

/// The question, for people.
pub(super) fn text(question: &Question) -> String {
    let in_ms = |ms: u64| span(Duration::from_millis(ms));
    let until = in_ms(question.within_ms);
    let otherwise = match question.again_ms {
        Some(again) => format!(
            "you are asked again in {}. It restarts in {until} at the latest, or when nobody works here \
             any more.",
            in_ms(again)
        ),
        None => format!(
            "you are not asked again. It restarts in {until}, or when nobody works here any more."
        ),
    };
    let asked = format!(
        "This computer must restart to finish its updates. May it restart now?\n\nOK: it restarts in {}. \
         Save your work first.\nCancel: {otherwise}",
        in_ms(question.countdown_ms)
    );
    with_message(question.message.as_deref(), &asked)
}

/// What people are told, below the text of the rollout.
pub(super) fn with_message(message: Option<&str>, what: &str) -> String {
    message.map_or(what.to_owned(), |message| format!("{message}\n\n{what}"))
}

/// `a minute`, `25 minutes`, `2 hours`, rounded up.
pub(super) fn span(span: Duration) -> String {
    match span.as_secs().div_ceil(60) {
        0 | 1 => "a minute".to_owned(),
        minutes @ 2..=119 => format!("{minutes} minutes"),
        minutes => format!("{} hours", minutes.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);
    const BRIEF: Duration = Duration::from_millis(20);

    /// What sessions 1, 2 and so on say comes to this.
    fn comes_to(questions: &'static Questions, answers: &'static [Said]) -> Reply {
        let sessions: Vec<u32> = (1..).take(answers.len()).collect();
        ask_each(questions, &sessions, LIMIT, |session| answers[session as usize - 1])
    }

    #[test]
    fn one_who_says_no_is_enough_and_a_yes_must_be_everybodys() {
        static ASKED: Questions = Questions::new("test", 1);
        use Said::{No, Nothing, Yes};
        let now = |sessions: &[u32]| Reply::Now(sessions.iter().copied().collect());
        assert_eq!(comes_to(&ASKED, &[Yes]), now(&[1]));
        assert_eq!(comes_to(&ASKED, &[Yes, Yes, Yes]), now(&[1, 2, 3]));
        assert_eq!(comes_to(&ASKED, &[Yes, No, Yes]), Reply::Later);
        assert_eq!(comes_to(&ASKED, &[Nothing, No]), Reply::Later);
        assert_eq!(comes_to(&ASKED, &[Yes, Nothing]), Reply::Nothing, "who is away did not agree");
        assert_eq!(comes_to(&ASKED, &[Nothing]), Reply::Nothing);
        assert_eq!(comes_to(&ASKED, &[]), Reply::Nothing, "nobody is not everybody");
    }

    #[test]
    fn a_session_that_never_answers_costs_the_time_of_its_question_and_a_thread_or_two() {
        static ASKED: Questions = Questions::new("test", 2);
        let (let_go, waits) = mpsc::channel::<()>();
        let waits = Arc::new(Mutex::new(waits));
        let ask = move |session| match session {
            1 => Said::Yes,
            _ => {
                // Where nobody lets go any more, the test is over.
                let _ = waits.lock().unwrap().recv();
                Said::Yes
            }
        };
        for _ in 0..4 {
            let reply = ask_each(&ASKED, &[1, 2], BRIEF, ask.clone());
            assert_eq!(reply, Reply::Nothing);
        }
        // Nobody asks there a third time meanwhile; other sessions are asked as before.
        assert!(ASKED.ask("2", || (), drop).is_err());
        let reply = ask_each(&ASKED, &[1], LIMIT, ask);
        assert_eq!(reply, Reply::Now(BTreeSet::from([1])));
        drop(let_go);
    }

    #[test]
    fn whoever_says_no_is_not_made_to_wait_for_the_others() {
        static ASKED: Questions = Questions::new("test", 1);
        let (_let_go, waits) = mpsc::channel::<()>();
        let waits = Arc::new(Mutex::new(waits));
        let begun = Instant::now();
        let reply = ask_each(&ASKED, &[1, 2], LIMIT, move |session| match session {
            1 => Said::No,
            _ => {
                let _ = waits.lock().unwrap().recv();
                Said::Nothing
            }
        });
        assert_eq!(reply, Reply::Later);
        assert!(begun.elapsed() < LIMIT, "the question of the other is still open");
    }

    #[test]
    fn only_the_two_buttons_of_an_unlocked_session_are_answers() {
        assert_eq!((said(1, true), said(2, true)), (Said::Yes, Said::No));
        // Nothing at all, Yes, No, the end of the time, not waited for.
        for button in [0, 6, 7, 32_000, 32_001, -1] {
            assert_eq!(said(button, true), Said::Nothing, "{button}");
        }
        // Whoever stands before a locked screen, or signed out: the box went with the session.
        assert_eq!((said(1, false), said(2, false)), (Said::Nothing, Said::Nothing));
    }

    #[test]
    fn the_question_says_what_follows_from_each_button() {
        let question = Question {
            message: Some("Helpdesk: 4711".to_owned()),
            countdown_ms: 300_000,
            open_ms: 300_000,
            again_ms: Some(2_400_000),
            within_ms: 7_200_000,
        };
        assert_eq!(
            text(&question),
            "Helpdesk: 4711\n\nThis computer must restart to finish its updates. May it restart now?\n\n\
             OK: it restarts in 5 minutes. Save your work first.\nCancel: you are asked again in 40 minutes. \
             It restarts in 2 hours at the latest, or when nobody works here any more."
        );
        let last = Question { message: None, again_ms: None, within_ms: 2_340_000, ..question };
        let said = text(&last);
        assert!(said.starts_with("This computer must restart"), "{said}");
        let end = "Cancel: you are not asked again. It restarts in 39 minutes, or when nobody works here any more.";
        assert!(said.ends_with(end), "{said}");
    }
}
