//! The Windows Update Agent: its objects, its history, a search in the device's own copy.

use jiff::Timestamp;
use wardring_seal::UpdateSource;

use super::super::updates::read_policy;
use super::super::updates::wua::{Failure, Query, Wua};
use super::{LATER, LONG, Listed, must, refused, told};
use crate::ffi::{look, wua};
use crate::hresult::Hresult;
use crate::platform::wall_clock;
use crate::selftest::Finding;
use crate::selftest::Weight::{Assumed, Needed};

/// The history and this clock may differ by so much.
const CLOCKS: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);

pub(super) const CHECKS: &[Listed] = &[
    Listed(
        Needed,
        "update-session",
        "the update agent gives a session that names its caller (IUpdateSession3)",
        LATER,
        session,
    ),
    Listed(
        Needed,
        "update-installer",
        "its installer can be quiet and can commit (IUpdateInstaller2 and 4)",
        LATER,
        installer,
    ),
    Listed(
        Needed,
        "update-collection",
        "updates can be put into a collection (IUpdateCollection)",
        LATER,
        collection,
    ),
    Listed(
        Needed,
        "update-restart",
        "it says whether Windows waits for a restart (ISystemInformation)",
        LATER,
        restart,
    ),
    Listed(Needed, "update-busy", "it says whether anybody installs (IsBusy)", LATER, busy),
    Listed(
        Needed,
        "update-sources",
        "it lists the sources that are registered (IUpdateServiceManager)",
        LATER,
        sources,
    ),
    Listed(
        Needed,
        "update-search",
        "the search criteria are understood, in the device's own copy",
        LONG,
        search,
    ),
    Listed(Needed, "update-history", "its history can be read", LATER, history),
    Listed(
        Needed,
        "update-policy",
        "the policy says where the device looks for updates",
        LATER,
        source,
    ),
    Listed(
        Assumed,
        "history-of-nothing",
        "a question for no entries of the history fails",
        LATER,
        nothing,
    ),
    Listed(Assumed, "history-in-utc", "times in the history are UTC", LATER, utc),
];

fn session() -> Finding {
    must(look::update_session(), |()| "it does".to_owned())
}

fn installer() -> Finding {
    must(look::update_installer(), |()| "it can".to_owned())
}

fn collection() -> Finding {
    must(look::update_collection(), |()| "an empty one was made".to_owned())
}

fn restart() -> Finding {
    must(look::update_restart(), |waits| format!("RebootRequired is {waits}"))
}

fn sources() -> Finding {
    must(look::update_sources(), |names| {
        if names.is_empty() { "none is registered".to_owned() } else { names.join(", ") }
    })
}

/// Asks a session as the agent's own jobs do.
fn with_session<T>(
    ask: impl FnOnce(&dyn Wua) -> Result<T, Failure>,
    told: impl FnOnce(T) -> Finding,
) -> Finding {
    let code = match wua::open().and_then(|session| ask(session.as_ref())) {
        Ok(value) => return told(value),
        Err(failure) => failure.0,
    };
    refused(&windows::core::Error::from_hresult(windows::core::HRESULT(code.cast_signed())))
}

fn busy() -> Finding {
    with_session(|wua| wua.is_busy(), |busy| Finding::ok(format!("IsBusy is {busy}")))
}

fn search() -> Finding {
    let query = Query { source: UpdateSource::Default, is_online: false, with_drivers: false };
    with_session(
        |wua| wua.search(query),
        |found| {
            let installed = found.updates.iter().filter(|update| update.is_installed).count();
            Finding::ok(format!(
                "{} updates, {installed} of them installed; OperationResultCode {}, {} warnings",
                found.updates.len(),
                found.code,
                found.warnings.len()
            ))
        },
    )
}

fn history() -> Finding {
    with_session(
        |wua| wua.history(20),
        |entries| {
            let newest = entries.first().map_or_else(
                || "it is empty".to_owned(),
                |entry| format!("the newest is {} of {}", Hresult(entry.hresult), entry.title),
            );
            match look::history_length() {
                Ok(length) => Finding::ok(format!("{length} entries; {newest}")),
                Err(error) => refused(&error),
            }
        },
    )
}

fn source() -> Finding {
    let policy = read_policy();
    let others = policy.automatic_updates().into_iter().collect::<Vec<_>>();
    let name = policy.name(UpdateSource::Default);
    match others.as_slice() {
        [] => Finding::ok(name),
        others => Finding::ok(format!("{name}; also patching: {}", others.join("; "))),
    }
}

fn nothing() -> Finding {
    match look::history_length() {
        Err(error) => unreadable(&told(&error)),
        Ok(_) => match look::empty_history() {
            Ok(()) => Finding::differs("it succeeds"),
            Err(error) => {
                Finding::ok(format!("it fails with {}", Hresult(error.code().0.cast_unsigned())))
            }
        },
    }
}

fn utc() -> Finding {
    match wua::open().and_then(|session| session.history(1)) {
        Err(failure) => unreadable(&failure.to_string()),
        Ok(entries) => match entries.first().and_then(|entry| entry.at) {
            None => Finding::unknown("the history is empty"),
            Some(at) => judged(at, wall_clock()),
        },
    }
}

/// What rests on the history cannot be told without it; that it cannot be read is told by its own check.
fn unreadable(why: &str) -> Finding {
    Finding::unknown(format!("the history cannot be read: {why}"))
}

/// A local time east of Greenwich is in the future right after an installation; everything else fits
/// both.
fn judged(newest: Timestamp, now: Timestamp) -> Finding {
    if newest > now + CLOCKS {
        Finding::differs(format!("the newest is {newest}, and it is {now}"))
    } else {
        Finding::unknown(format!(
            "the newest is {newest}; compare it with the time of its event 19 in the System log"
        ))
    }
}
