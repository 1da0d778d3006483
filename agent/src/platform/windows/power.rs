//! Restarts of the device, and the people on it.

use std::collections::BTreeSet;
use std::time::Duration;

use wardring_seal::{Action, ActiveHours, JobKey};
use windows::Win32::Foundation::{ERROR_SHUTDOWN_IN_PROGRESS, ERROR_SHUTDOWN_IS_SCHEDULED};
use windows::Win32::System::Shutdown::{
    SHTDN_REASON_FLAG_PLANNED, SHTDN_REASON_MAJOR_OPERATINGSYSTEM, SHTDN_REASON_MINOR_SECURITYFIX,
    SHTDN_REASON_MINOR_SECURITYFIX_UNINSTALL,
};

use super::asking::{self, MOST_SESSIONS, Said, span, with_message};
use super::boots::OwnBoot;
use super::order::{self, Refusal};
use super::registry::LocalMachine;
use super::sessions::{Session, active, people};
use super::{around, bitlocker};
use crate::ffi::{self, Restart};
use crate::platform::active_hours::until;
use crate::questions::Questions;
use crate::state::{People, Power, Question, Reply, Surroundings};

/// What Windows itself waits before it goes down: long enough to take the order back, short enough
/// that nothing changes between the permit and the end. Without it nothing could be taken back.
const GRACE_S: u32 = 30;
/// Planned, operating system, security fix; and the same for its removal (Windows documentation,
/// "System shutdown reason codes"). Anything else would be recorded as unplanned.
const INSTALLED: u32 = 0x8002_0012;
const REMOVED: u32 = 0x8002_0018;
/// The event log shows the number, so it is written as one, and must be what Windows' own names come to.
const _: () = {
    let planned = SHTDN_REASON_FLAG_PLANNED.0 | SHTDN_REASON_MAJOR_OPERATINGSYSTEM.0;
    assert!(INSTALLED == planned | SHTDN_REASON_MINOR_SECURITYFIX.0);
    assert!(REMOVED == planned | SHTDN_REASON_MINOR_SECURITYFIX_UNINSTALL.0);
};
/// Services of Windows that the agent talks to here may hang, and the agent must go on: it polls, and it
/// can be stopped.
static LOOKS: Questions = Questions::new("look around", 4);
static MESSAGES: Questions = Questions::new("messages", 4);
/// Whoever waits for the answers of people, and those in each session. A question of a job that is over stays
/// on the screen until its time is, so that there may be two.
static ANSWERS: Questions = Questions::new("answers of people", 4);
static ASKED: Questions = Questions::new("ask people", 2);
static TAKE_BACKS: Questions = Questions::new("take back", 4);
/// Longest that it is waited for who is logged on, and until a restart is taken back.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
const TAKE_BACK_LIMIT: Duration = Duration::from_secs(5);
/// A box that Windows takes away by itself has an answer so soon after its time.
const ANSWER_SLACK: Duration = Duration::from_secs(5);
/// A message is shown at least so long.
const SHORTEST_MESSAGE: Duration = Duration::from_secs(60);

/// Whether an order is forced: where the rollout says so, and the second time where nobody is logged on
/// who could lose anything.
pub(super) fn is_forced(boot: &OwnBoot, force: bool) -> bool {
    force || (boot.was_ordered() && here_within().0 == Some(People::NOBODY))
}

/// Orders a restart, unless another boot runs already. An order for this boot that was given before
/// and did not happen is repeated.
///
/// Errors and what they ask for: ansible.windows `plugins/plugin_utils/_reboot.py`.
pub(super) fn reboot(
    boot: &OwnBoot,
    key: &JobKey,
    boot_before: &str,
    is_forced: bool,
) -> Result<(), String> {
    if boot.id != boot_before {
        return Ok(());
    }
    // It would take back the new one, or make it look as if there were none.
    if TAKE_BACKS.is_any_open() {
        return Err("Windows has not answered when an earlier restart was taken back".to_owned());
    }
    let order = Restart {
        message: "Wardring restarts this computer to finish its updates.",
        grace_s: GRACE_S,
        is_forced,
        reason: if key.action == Action::Rollback { REMOVED } else { INSTALLED },
    };
    let is_ours = boot.is_order_open();
    // Before the call: the boot that follows must be known as ours even if nothing else is written.
    boot.note_order().map_err(|error| format!("the order cannot be noted: {error}"))?;
    tracing::info!(boot = boot.id, forced = order.is_forced, "ordering a restart");
    let restart = || ffi::restart(&order).map_err(|error| refusal(&error));
    let abort = || ffi::abort_restart().map_err(|error| refusal(&error));
    let ordered = order::order(is_ours, restart, abort);
    if ordered.took_back {
        // Somebody's restart at another time, or the end of a power supply: Windows does not say which.
        tracing::warn!(
            boot = boot.id,
            "a shutdown or restart that somebody had scheduled was taken back for ours"
        );
    }
    ordered.result.inspect_err(|_| {
        if let Err(error) = boot.forget_order() {
            tracing::warn!(%error, "an order that Windows refused is still noted");
        }
    })
}

fn refusal(error: &windows::core::Error) -> Refusal {
    if error.code() == ERROR_SHUTDOWN_IS_SCHEDULED.to_hresult() {
        Refusal::Scheduled(error.to_string())
    } else if error.code() == ERROR_SHUTDOWN_IN_PROGRESS.to_hresult() {
        Refusal::GoesDown
    } else {
        Refusal::Other(error.to_string())
    }
}

/// Takes back the restart that we ordered. Where Windows cannot any more, the order stays noted: the
/// boot that follows is ours. A Windows that does not answer is left to it after a moment.
pub(super) fn take_back(boot: &OwnBoot) {
    if !boot.is_order_open() {
        return;
    }
    let taken_back = boot.clone();
    let answer = TAKE_BACKS.answer(TAKE_BACK_LIMIT, move || take_back_now(&taken_back));
    if let Err(why) = answer {
        tracing::error!(boot = boot.id, why, "nobody knows whether the restart is taken back");
    }
}

fn take_back_now(boot: &OwnBoot) {
    match ffi::abort_restart() {
        Ok(()) => {
            tracing::info!(boot = boot.id, "the restart was taken back");
            if let Err(error) = boot.forget_order() {
                tracing::warn!(%error, "an order that was taken back is still noted");
            }
        }
        Err(error) => tracing::warn!(boot = boot.id, %error, "the restart cannot be taken back"),
    }
}

/// Every session, as far as Windows tells.
fn sessions() -> Vec<Session> {
    ffi::sessions().unwrap_or_else(|error| {
        tracing::warn!(%error, "Windows does not tell who is logged on");
        Vec::new()
    })
}

/// Who is logged on, and the sessions in which somebody works.
fn here() -> (Option<People>, BTreeSet<u32>) {
    let sessions = sessions();
    (people(&sessions), active(&sessions).into_iter().collect())
}

/// The same, and nobody knows where Windows does not answer.
fn here_within() -> (Option<People>, BTreeSet<u32>) {
    LOOKS.answer(LOOK_LIMIT, here).unwrap_or_else(|why| {
        tracing::warn!(why, "Windows does not tell who is logged on");
        (None, BTreeSet::new())
    })
}

/// What a restart would be in the way of. May wait for BitLocker.
pub(super) fn surroundings(hours: Option<ActiveHours>) -> Surroundings {
    let hours = hours.map(|hours| match hours {
        ActiveHours::Device {} => around::active_hours(&LocalMachine),
        ActiveHours::Fixed { start, end } => (start, end),
    });
    let (people, sessions) = here_within();
    Surroundings {
        people,
        sessions,
        active_until: hours.and_then(|(start, end)| until(start, end, ffi::local_hour())),
        power: power(),
        startup: bitlocker::startup(),
    }
}

fn power() -> Power {
    ffi::power_status().map(around::power).unwrap_or_else(|error| {
        tracing::warn!(%error, "Windows does not tell whether it is plugged in");
        Power::Unknown
    })
}

/// Tells everybody who works on the device about a restart.
pub(super) fn announce(message: Option<&str>, countdown_ms: u64) {
    let countdown = Duration::from_millis(countdown_ms);
    let when = span(countdown);
    let restart =
        format!("This computer restarts in {when} to finish its updates. Save your work.");
    tell(message, &restart, countdown);
}

/// Asks them whether the restart may come now. Waits for nothing that keeps the agent from ending.
pub(super) async fn ask_people(question: Question) -> Reply {
    let (tx, rx) = tokio::sync::oneshot::channel();
    let then = move |reply| {
        // Nobody listens any more when the job is over.
        let _ = tx.send(reply);
    };
    if let Err(why) = ANSWERS.ask("", move || ask_now(&question), then) {
        tracing::warn!(why, "people are not asked");
    }
    rx.await.unwrap_or(Reply::Nothing)
}

fn ask_now(question: &Question) -> Reply {
    let sessions = active(&sessions());
    tracing::info!(sessions = sessions.len(), "people are asked whether the device may restart");
    if sessions.len() > MOST_SESSIONS {
        ask_to_leave(question.message.as_deref(), question.within_ms);
        return Reply::Nothing;
    }
    let (text, open) = (asking::text(question), Duration::from_millis(question.open_ms));
    let seconds = u32::try_from(open.as_secs().max(1)).unwrap_or(u32::MAX);
    let within = Duration::from_millis(question.within_ms);
    let told = with_message(question.message.as_deref(), &request_to_leave(within));
    let told_s = u32::try_from(within.max(SHORTEST_MESSAGE).as_secs()).unwrap_or(u32::MAX);
    let ask = move |session| match ffi::is_unlocked(session) {
        true => ask_in(session, &text, seconds),
        // Nobody is there to answer; who comes back reads it.
        false => {
            if let Err(error) = ffi::tell(session, "Wardring", &told, told_s) {
                tracing::warn!(session, %error, "a session was not told");
            }
            Said::Nothing
        }
    };
    let reply = asking::ask_each(&ASKED, &sessions, open + ANSWER_SLACK, ask);
    tracing::info!(?reply, "what people say");
    reply
}

fn ask_in(session: u32, text: &str, seconds: u32) -> Said {
    match ffi::ask(session, "Wardring", text, seconds) {
        Ok(button) => asking::said(button, ffi::is_unlocked(session)),
        Err(error) => {
            tracing::warn!(session, %error, "a session cannot be asked");
            Said::Nothing
        }
    }
}

/// Tells them that the restart waits for them.
pub(super) fn ask_to_leave(message: Option<&str>, within_ms: u64) {
    let within = Duration::from_millis(within_ms);
    tell(message, &request_to_leave(within), within);
}

fn request_to_leave(within: Duration) -> String {
    let when = span(within);
    format!(
        "This computer must restart to finish its updates. It waits until nobody works here any more, \
         but no longer than {when}. Save your work and sign out when you can."
    )
}

/// Does not wait until they have been.
fn tell(message: Option<&str>, what: &str, shown: Duration) {
    let text = with_message(message, what);
    tracing::info!(what, "people are told");
    if let Err(why) = MESSAGES.ask("", move || tell_now(&text, shown), drop) {
        tracing::warn!(why, "people are not told");
    }
}

fn tell_now(text: &str, shown: Duration) {
    let sessions = active(&sessions());
    // Numbers only: who it is, is nobody's business here.
    tracing::info!(sessions = sessions.len(), "sessions of people");
    let seconds = shown.max(SHORTEST_MESSAGE).as_secs();
    for session in sessions {
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        if let Err(error) = ffi::tell(session, "Wardring", text, seconds) {
            tracing::warn!(session, %error, "a session was not told");
        }
    }
}
