//! Component based servicing: the packages in the registry, DISM, and the signs of a restart.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::super::dism::{self, Identity, State};
use super::super::pending::{self, Known};
use super::super::registry::LocalMachine;
use super::{LATER, LONG, Listed, SOON};
use crate::hresult::Hresult;
use crate::selftest::Finding;
use crate::selftest::Weight::{Assumed, Needed};

pub(super) const CHECKS: &[Listed] = &[
    Listed(
        Needed,
        "packages",
        "the registry lists the packages of Windows with their states",
        LATER,
        packages,
    ),
    Listed(Needed, "dism", "Windows' own DISM lists packages in English", LONG, dism_lists),
    Listed(
        Assumed,
        "package-states",
        "the numbers of package states in the registry mean what DISM calls them",
        LONG,
        states,
    ),
    Listed(
        Needed,
        "servicing",
        "Windows tells whether servicing is at work (ServicingInProgress)",
        SOON,
        servicing,
    ),
    Listed(Needed, "restart-signs", "every sign of a pending restart can be read", SOON, signs),
];

/// What DISM lists; it is run once for all checks, because each run of it takes its time.
fn listed() -> Result<&'static BTreeMap<Identity, State>, u32> {
    static LISTED: OnceLock<Result<BTreeMap<Identity, State>, u32>> = OnceLock::new();
    LISTED.get_or_init(dism::listed).as_ref().map_err(|code| *code)
}

fn packages() -> Finding {
    match dism::installed(&LocalMachine) {
        Err(error) => Finding::unknown(error.to_string()),
        Ok(packages) if packages.is_empty() => Finding::differs("the list is empty"),
        Ok(packages) => {
            let unknown = packages.values().filter(|package| package.state == State::Other).count();
            let evidence = format!("{} packages", packages.len());
            match unknown {
                0 => Finding::ok(evidence),
                count => Finding::differs(format!(
                    "{evidence}, {count} of them in states without a name here; those stay untouched"
                )),
            }
        }
    }
}

fn dism_lists() -> Finding {
    match listed() {
        Ok(listed) => Finding::ok(format!("{} packages", listed.len())),
        Err(code) => unlisted(code),
    }
}

fn unlisted(code: u32) -> Finding {
    const ELEVATION_REQUIRED: u32 = 740;
    match code {
        ELEVATION_REQUIRED => Finding::unknown("DISM wants an administrator's rights"),
        0x8000_FFFF => Finding::differs("DISM ends well and lists no packages"),
        0x8000_4005 => Finding::differs("DISM does not start"),
        code => Finding::differs(format!("DISM ended with {}", Hresult(code).explanation())),
    }
}

fn states() -> Finding {
    let known = match dism::installed(&LocalMachine) {
        Ok(known) => known,
        Err(error) => return Finding::unknown(error.to_string()),
    };
    match listed() {
        Ok(listed) => compared(listed, |identity| known.get(identity).map(|one| one.state)),
        Err(_) => Finding::unknown("DISM lists no packages to compare with"),
    }
}

/// Compares DISM's words with the registry's numbers, for the packages that both know.
fn compared(
    listed: &BTreeMap<Identity, State>,
    number: impl Fn(&Identity) -> Option<State>,
) -> Finding {
    let both: Vec<(&Identity, State, State)> = listed
        .iter()
        .filter_map(|(identity, word)| Some((identity, *word, number(identity)?)))
        .collect();
    // DISM calls a package that is there for good installed as well.
    let agree = |word: State, number: State| {
        word == number || (word == State::Installed && number == State::Permanent)
    };
    match both.iter().find(|(_, word, number)| !agree(*word, *number)) {
        _ if both.is_empty() => Finding::unknown("no package is in both lists"),
        None => Finding::ok(format!("the same for {} packages", both.len())),
        Some((identity, word, number)) => Finding::differs(format!(
            "{}: DISM says {word:?}, the number means {number:?}",
            identity.as_str()
        )),
    }
}

fn servicing() -> Finding {
    match pending::servicing(&LocalMachine) {
        Ok(servicing) => Finding::ok(format!("{servicing:?}")),
        Err(error) => Finding::unknown(error.to_string()),
    }
}

fn signs() -> Finding {
    let known = Known { is_asked_for: false, renames_before: Vec::new(), configmgr: None };
    let sources = pending::sources(&LocalMachine, &known);
    let names: Vec<&str> = sources.iter().map(|source| source.source.as_str()).collect();
    let said = if names.is_empty() { "none is set".to_owned() } else { names.join(", ") };
    if names.iter().any(|name| name.ends_with("Unreadable")) {
        Finding::unknown(said)
    } else {
        Finding::ok(said)
    }
}
