//! The checks of `selftest`: every call that the agent makes, and every assumption that stands in no
//! document of Microsoft. None of them changes anything.
//!
//! Opening a session with the update agent starts its service, which Windows starts by itself for
//! everybody who asks, and DISM writes into its own log: no other trace is left.

mod change;
mod own;
mod servicing;
mod system;
mod update_agent;

use std::time::Duration;

use crate::hresult::Hresult;
use crate::selftest::{Check, Finding, Weight};

/// What is read from memory or the registry.
const SOON: Duration = Duration::from_secs(30);
/// What Windows may have to start a service for.
const LATER: Duration = Duration::from_secs(120);
/// A search of the device's own copy, or a list of thousands of packages.
const LONG: Duration = Duration::from_secs(600);

/// Every check.
pub fn checks() -> Vec<Check> {
    let lists =
        [system::CHECKS, servicing::CHECKS, update_agent::CHECKS, own::CHECKS, change::CHECKS];
    lists.concat().into_iter().map(Listed::check).collect()
}

/// A check as a line of a list.
#[derive(Clone, Copy)]
struct Listed(Weight, &'static str, &'static str, Duration, fn() -> Finding);

impl Listed {
    fn check(self) -> Check {
        let Listed(weight, name, says, limit, ask) = self;
        Check { name, weight, says, limit, ask }
    }
}

/// What a refusal means: without the rights nothing can be told; anything else is not as believed.
fn refused(error: &windows::core::Error) -> Finding {
    const DENIED: [u32; 3] = [0x8007_0005, 0x8024_0044, 0x8007_0522];
    let code = error.code().0.cast_unsigned();
    if DENIED.contains(&code) {
        Finding::unknown(format!("{}; run it as an administrator", told(error)))
    } else {
        Finding::differs(told(error))
    }
}

/// A refusal in words.
fn told(error: &windows::core::Error) -> String {
    let code = Hresult(error.code().0.cast_unsigned());
    let message = error.message();
    match (code.0, code.known()) {
        (0, _) => "the call fails and gives no reason".to_owned(),
        (0x8000_4001, _) => format!("{code} E_NOTIMPL: the call is there and does nothing"),
        (0x8000_4002, _) => format!("{code} E_NOINTERFACE: the object is of an older kind"),
        (0x8004_0154, _) => format!("{code} REGDB_E_CLASSNOTREG: there is no such object"),
        (_, Some(known)) => format!("{code} {}: {}", known.name, known.meaning),
        (_, None) => format!("{code} {}", message.trim()),
    }
}

/// The finding of a call that must succeed.
fn must<T>(result: windows::core::Result<T>, evidence: impl FnOnce(T) -> String) -> Finding {
    match result {
        Ok(value) => Finding::ok(evidence(value)),
        Err(error) => refused(&error),
    }
}
