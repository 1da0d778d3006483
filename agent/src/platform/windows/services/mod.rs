//! Services: how they stand, and restarting one with those that depend on it.

mod order;
#[cfg(windows)]
mod restart;
#[cfg(windows)]
mod sample;

#[cfg(windows)]
pub(super) use restart::restart;
#[cfg(windows)]
pub(super) use sample::{facts, sample};

use super::registry::{Registry, number, text};
use crate::state::StartType;

const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";

/// How a service starts, by its configuration. One that a trigger starts stops by design, whatever
/// else its configuration says (Windows documentation, "Service trigger events").
pub(super) fn start_type(registry: &impl Registry, name: &str) -> StartType {
    let path = format!(r"{SERVICES}\{name}");
    let has_trigger = registry.has_key(&format!(r"{path}\TriggerInfo")).unwrap_or(false);
    match number(registry, &path, "Start") {
        Some(4) => StartType::Disabled,
        Some(0..=3) if has_trigger => StartType::Demand,
        Some(0..=2) => StartType::Auto,
        Some(3) => StartType::Demand,
        _ => StartType::Unknown,
    }
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
    fn a_service_that_a_trigger_starts_is_on_demand() {
        let path = format!(r"{SERVICES}\wuauserv");
        let start = |start| Hive::default().number(&path, "Start", start);
        assert_eq!(start_type(&start(2), "wuauserv"), StartType::Auto);
        let triggered = start(2).key(&format!(r"{path}\TriggerInfo\0"));
        assert_eq!(start_type(&triggered, "wuauserv"), StartType::Demand);
        let disabled = start(4).key(&format!(r"{path}\TriggerInfo\0"));
        assert_eq!(start_type(&disabled, "WUAUSERV"), StartType::Disabled);
        assert_eq!(start_type(&start(3), "wuauserv"), StartType::Demand);
        assert_eq!(start_type(&Hive::default(), "wuauserv"), StartType::Unknown);
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
