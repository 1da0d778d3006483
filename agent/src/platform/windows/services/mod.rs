//! Services: how they stand, and restarting one with those that depend on it.

mod order;
#[cfg(windows)]
mod restart;
#[cfg(windows)]
mod sample;

#[cfg(windows)]
pub(super) use restart::restart;
#[cfg(windows)]
pub(super) use sample::{automatic, facts, sample};

use super::registry::{Registry, number, text};
use crate::state::StartType;

const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";

/// A service starts with Windows.
const WITH_WINDOWS: u64 = 2;
/// A service starts on demand.
const ON_DEMAND: u64 = 3;
/// A trigger that stops its service (`SERVICE_TRIGGER_ACTION_SERVICE_STOP`).
const STOPS: u64 = 2;

/// A service of one user's session, and the template of such (`SERVICE_USER_SERVICE`, winnt.h): it comes
/// and goes with people, and its name ends in a number of the session (Windows documentation, "Per-user
/// services").
const OF_A_USER: u32 = 0x40;

/// How a service starts, by its configuration.
pub(super) fn start_type(registry: &impl Registry, name: &str) -> StartType {
    let path = format!(r"{SERVICES}\{name}");
    match number(registry, &path, "Start") {
        Some(4) => StartType::Disabled,
        Some(0..=2) => StartType::Auto,
        Some(ON_DEMAND) => StartType::Demand,
        _ => StartType::Unknown,
    }
}

/// Whether nothing but triggers starts a service, so that it stops by design (Windows documentation,
/// "Service trigger events"). One that starts with Windows as well, like W32Time on a member of a
/// domain, is none; neither is one whose configuration cannot be read.
pub(super) fn starts_by_trigger(registry: &impl Registry, name: &str) -> bool {
    let path = format!(r"{SERVICES}\{name}");
    let triggers = format!(r"{path}\TriggerInfo");
    let starts = |key: &String| {
        number(registry, &format!(r"{triggers}\{key}"), "Action")
            .is_none_or(|action| action != STOPS)
    };
    number(registry, &path, "Start") == Some(ON_DEMAND)
        && registry.keys(&triggers).unwrap_or_default().iter().any(starts)
}

/// Whether Windows starts a service with itself, for the whole device, and no trigger starts or stops it:
/// one that ran is missed when it does not. `kind` are the bits of its type.
pub(super) fn is_automatic(registry: &impl Registry, name: &str, kind: u32) -> bool {
    let path = format!(r"{SERVICES}\{name}");
    let has_no_triggers = || {
        // What cannot be read may have some.
        registry.keys(&format!(r"{path}\TriggerInfo")).is_ok_and(|keys| keys.is_empty())
    };
    kind & OF_A_USER == 0
        && number(registry, &path, "Start") == Some(WITH_WINDOWS)
        && has_no_triggers()
}

/// Whether Windows starts it minutes after the others (`SERVICE_DELAYED_AUTO_START_INFO`).
pub(super) fn is_delayed(registry: &impl Registry, name: &str) -> bool {
    number(registry, &format!(r"{SERVICES}\{name}"), "DelayedAutostart") == Some(1)
}

/// What a service needs to run, by name or as members of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Services.
    pub services: Vec<String>,
    /// Groups: one of their members must run.
    pub groups: Vec<String>,
    /// Its own group.
    pub group: Option<String>,
}

/// What a service needs. Read from the configuration of every service, because Wine's
/// `EnumDependentServices` knows of none; on Windows both say the same.
fn needs(registry: &impl Registry, name: &str) -> Needs {
    let path = format!(r"{SERVICES}\{name}");
    let list = |value: &str| {
        let value = registry.value(&path, value).ok().flatten();
        let texts = value.and_then(|value| value.texts()).unwrap_or_default();
        texts.into_iter().filter(|text| !text.is_empty()).collect()
    };
    Needs {
        services: list("DependOnService"),
        groups: list("DependOnGroup"),
        group: text(registry, &path, "Group"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::tests::Hive;
    use super::*;

    #[test]
    fn only_a_service_that_starts_on_demand_and_by_a_trigger_stops_by_design() {
        let path = format!(r"{SERVICES}\wuauserv");
        let trigger = format!(r"{path}\TriggerInfo\0");
        let start = |start| Hive::default().number(&path, "Start", start);
        for (number, start_is) in
            [(2, StartType::Auto), (3, StartType::Demand), (4, StartType::Disabled)]
        {
            assert_eq!(start_type(&start(number), "WUAUSERV"), start_is);
            assert!(!starts_by_trigger(&start(number), "wuauserv"), "{number} without a trigger");
            let triggered = start(number).number(&trigger, "Action", 1);
            assert_eq!(starts_by_trigger(&triggered, "wuauserv"), number == 3, "{number}");
        }
        assert!(starts_by_trigger(&start(3).key(&trigger), "wuauserv"), "whatever it does");
        let stopped = start(3).number(&trigger, "Action", 2);
        assert!(!starts_by_trigger(&stopped, "wuauserv"), "a trigger that only stops it");
        assert_eq!(start_type(&Hive::default(), "wuauserv"), StartType::Unknown);
        assert!(!starts_by_trigger(&Hive::default(), "wuauserv"));
    }

    #[test]
    fn only_what_windows_starts_with_itself_and_for_everybody_is_automatic() {
        const OWN_PROCESS: u32 = 0x10;
        let path = format!(r"{SERVICES}\Orders");
        let start = |start| Hive::default().number(&path, "Start", start);
        for number in 0..=4 {
            assert_eq!(
                is_automatic(&start(number), "orders", OWN_PROCESS),
                number == 2,
                "{number}"
            );
        }
        assert!(!is_automatic(&Hive::default(), "Orders", OWN_PROCESS));
        for action in [1, 2] {
            let trigger = format!(r"{path}\TriggerInfo\0");
            let triggered = start(2).number(&trigger, "Action", action);
            assert!(!is_automatic(&triggered, "Orders", OWN_PROCESS), "a trigger, {action}");
        }
        // Templates of services for each user, and what is made of them, alone and shared.
        for kind in [0x50, 0x60, 0xD0, 0xE0] {
            assert!(!is_automatic(&start(2), "Orders", kind), "{kind:#x}");
        }
        assert!(!is_delayed(&start(2), "Orders"));
        assert!(is_delayed(&start(2).number(&path, "DelayedAutostart", 1), "Orders"));
    }

    #[test]
    fn what_a_service_needs_is_read_from_its_configuration() {
        let path = format!(r"{SERVICES}\Spooler");
        let hive = Hive::default()
            .texts(&path, "DependOnService", &["RPCSS", "http", ""])
            .texts(&path, "DependOnGroup", &["NetworkProvider"])
            .text(&path, "Group", "SpoolerGroup");
        let found = needs(&hive, "Spooler");
        assert_eq!(found.services, ["RPCSS", "http"]);
        assert_eq!(
            (found.groups, found.group),
            (vec!["NetworkProvider".into()], Some("SpoolerGroup".into()))
        );
        assert_eq!(needs(&Hive::default(), "Spooler"), Needs::default());
    }
}
