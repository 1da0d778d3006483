//! What differs from the baseline, for people: nothing is decided by it.

use super::{Baseline, Inspection, ProbeSample, unlisted};

/// Differences that are told.
const MAX_CHANGES: usize = 32;

/// The differences, the weightiest first.
pub(super) fn changes(before: &Baseline, after: &Inspection) -> Vec<String> {
    let mut changes = Vec::new();
    if before.build != after.build {
        changes.push(format!("build: {}, now {}", before.build, after.build));
    }
    for (name, is) in &after.services {
        let was = before.service(name);
        if was.state != is.state {
            let why = unlisted::why(is);
            let (was, is) = (was.state.as_str(), is.state.as_str());
            changes.push(format!("service {name}: {was}, now {is}{why}"));
        }
        if was.start != is.start {
            changes.push(format!("service {name}: start type {:?}, now {:?}", was.start, is.start));
        }
    }
    for (name, is) in &after.probes {
        match (before.probes.get(name), is) {
            (Some(ProbeSample::Good), ProbeSample::Failed(why)) => {
                changes.push(format!("probe {name}: good, now failing: {why}"));
            }
            (Some(ProbeSample::Failed(_)), ProbeSample::Good) => {
                changes.push(format!("probe {name}: failing, now good"));
            }
            _ => {}
        }
    }
    let gone = before.ports.difference(&after.ports).map(|port| format!("port {port}: closed now"));
    let new = after.ports.difference(&before.ports).map(|port| format!("port {port}: open now"));
    changes.extend(gone.chain(new));
    changes.truncate(MAX_CHANGES);
    changes
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::state::{ServiceSample, ServiceState, StartType, Surroundings};

    #[test]
    fn differences_are_told_and_what_stayed_is_not() {
        let service = |state| ServiceSample {
            state,
            start: StartType::Auto,
            pid: Some(7),
            ..ServiceSample::missing()
        };
        let named = |state| BTreeMap::from([("a".to_owned(), service(state))]);
        let failed = || ProbeSample::Failed("refused".to_owned());
        let probes =
            |web, ldap| BTreeMap::from([("web".to_owned(), web), ("ldap".to_owned(), ldap)]);
        let before = Baseline {
            at: "2026-11-21T02:00:00Z".parse().unwrap(),
            build: "20348.1".to_owned(),
            services: named(ServiceState::Running),
            automatic: BTreeSet::from(["died", "fine"].map(str::to_owned)),
            probes: probes(ProbeSample::Good, failed()),
            ports: BTreeSet::from([80, 443]),
            witnesses: BTreeSet::new(),
        };
        let died = ServiceSample { exit: Some(1067), ..service(ServiceState::Stopped) };
        let mut services = named(ServiceState::Stopped);
        services.insert("died".to_owned(), died);
        services.insert("fine".to_owned(), service(ServiceState::Running));
        let mut after = Inspection {
            product: String::new(),
            build: "20348.2".to_owned(),
            updates: BTreeMap::new(),
            upgrades: BTreeMap::new(),
            services,
            automatic: BTreeSet::new(),
            pending_upgrade: None,
            probes: probes(failed(), ProbeSample::Good),
            ports: BTreeSet::from([80, 3389]),
            witnesses: BTreeSet::new(),
            hard_pending: Vec::new(),
            busy: false,
            free_disk_gb: Some(10),
            component_store: None,
            other_patch_sources: Vec::new(),
            surroundings: Surroundings::CLEAR,
        };
        let expected = [
            "build: 20348.1, now 20348.2",
            "service a: Running, now Stopped",
            "service died: Running, now Stopped (error 1067)",
            "probe ldap: failing, now good",
            "probe web: good, now failing: refused",
            "port 443: closed now",
            "port 3389: open now",
        ];
        assert_eq!(changes(&before, &after), expected);

        after.ports = (1..1000).collect();
        assert_eq!(changes(&before, &after).len(), MAX_CHANGES);
    }
}
