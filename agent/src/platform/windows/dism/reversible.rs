//! Whether an update can be taken back, and where it stands by its packages.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use wardring_seal::{UpdateKind, UpdateTarget};

use super::super::registry::{Registry, text};
use super::package::{Identity, Packages, State, of_update};
use crate::state::{Reversible, UpdateStatus};

const CBS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing";

/// Whether updates of this kind can be taken back with packages at all.
///
/// Servicing stacks stay for good. A new version of Windows goes back by `/Initiate-OSUninstall`,
/// which restarts by itself; a driver by its device; definitions by Defender: none of it is ours.
pub(crate) fn is_removable_kind(kind: UpdateKind) -> bool {
    match kind {
        UpdateKind::Quality | UpdateKind::DotNet | UpdateKind::Other => true,
        UpdateKind::ServicingStack
        | UpdateKind::FeatureUpdate
        | UpdateKind::Driver
        | UpdateKind::Definition => false,
    }
}

/// Whether an update can be taken back, by its packages as they are now.
pub(crate) fn reversible(
    registry: &impl Registry,
    update: &UpdateTarget,
    packages: &Packages,
    identities: &[Identity],
) -> Reversible {
    if !is_removable_kind(update.kind) {
        return Reversible::No;
    }
    let removable = || identities.iter().filter(|identity| !identity.is_servicing_stack());
    let found: Vec<_> = removable().filter_map(|identity| packages.get(identity)).collect();
    if found.is_empty() || removable().count() != found.len() {
        return Reversible::Unknown;
    }
    // What was there when the base was reset belongs to it for good ("DISM operating system package
    // servicing command-line options", /ResetBase).
    let reset = base_reset(registry);
    let may_go = |at: Option<Timestamp>| match (&reset, at) {
        (Reset::Never, _) => Some(true),
        (Reset::At(reset), Some(at)) => Some(at > *reset),
        (Reset::At(_), None) | (Reset::Sometime, _) => None,
    };
    if found.iter().any(|package| {
        package.state == State::Permanent || may_go(package.installed_at) == Some(false)
    }) {
        return Reversible::No;
    }
    let is_known = found.iter().all(|package| {
        matches!(package.state, State::Installed | State::InstallPending)
            && may_go(package.installed_at).is_some()
    });
    if is_known { Reversible::Expected } else { Reversible::Unknown }
}

/// When the base of this Windows was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reset {
    Never,
    At(Timestamp),
    /// It was, and nobody can read when.
    Sometime,
}

/// `LastResetBase_UTC`, as in `2024/05/14:09:12:30`.
fn base_reset(registry: &impl Registry) -> Reset {
    match registry.value(CBS, "LastResetBase_UTC") {
        Ok(None) => Reset::Never,
        Err(_) => Reset::Sometime,
        Ok(Some(_)) => {
            let at = text(registry, CBS, "LastResetBase_UTC")
                .and_then(|text| DateTime::strptime("%Y/%m/%d:%H:%M:%S", text).ok())
                .and_then(|time| TimeZone::UTC.to_timestamp(time).ok());
            at.map_or(Reset::Sometime, Reset::At)
        }
    }
}

/// Where an update stands by its packages; `None` when its packages are not there, which says
/// nothing about whether it is offered.
pub(crate) fn status(
    registry: &impl Registry,
    update: &UpdateTarget,
    packages: &Packages,
) -> Option<UpdateStatus> {
    let identities = of_update(update, packages);
    let states: Vec<State> = identities.iter().map(|identity| packages[identity].state).collect();
    let is_any = |state: State| states.contains(&state);
    if is_any(State::UninstallPending) {
        return Some(UpdateStatus::Removing);
    }
    let reversible = || reversible(registry, update, packages, &identities);
    if is_any(State::InstallPending) {
        return Some(UpdateStatus::PendingReboot(reversible()));
    }
    if is_any(State::Installed) || is_any(State::Permanent) {
        return Some(UpdateStatus::Installed(reversible()));
    }
    is_any(State::Superseded).then_some(UpdateStatus::Superseded)
}

#[cfg(test)]
mod tests {
    use super::super::super::registry::tests::Hive;
    use super::super::package::Package;
    use super::super::package::tests::{id, package, update};
    use super::*;

    fn rollup() -> Identity {
        id("Package_for_RollupFix", "20348.2762.1.12")
    }

    fn answer(kind: UpdateKind, state: State) -> Reversible {
        let packages = Packages::from([(rollup(), package(state))]);
        reversible(&Hive::default(), &update(kind), &packages, &[rollup()])
    }

    #[test]
    fn only_what_is_installed_and_not_for_good_is_expected_to_go() {
        use UpdateKind::Quality;
        assert_eq!(answer(Quality, State::Installed), Reversible::Expected);
        assert_eq!(answer(Quality, State::InstallPending), Reversible::Expected);
        assert_eq!(answer(Quality, State::Permanent), Reversible::No);
        assert_eq!(answer(Quality, State::Superseded), Reversible::Unknown);
        assert_eq!(answer(Quality, State::Other), Reversible::Unknown);
        let none = reversible(&Hive::default(), &update(Quality), &Packages::new(), &[]);
        assert_eq!(none, Reversible::Unknown);
        let gone = reversible(&Hive::default(), &update(Quality), &Packages::new(), &[rollup()]);
        assert_eq!(gone, Reversible::Unknown);
    }

    #[test]
    fn kinds_that_packages_cannot_take_back_say_no() {
        use UpdateKind::{Definition, Driver, FeatureUpdate, ServicingStack};
        for kind in [ServicingStack, FeatureUpdate, Driver, Definition] {
            assert_eq!(answer(kind, State::Installed), Reversible::No);
        }
    }

    #[test]
    fn the_servicing_stack_that_came_along_does_not_bind_the_rest() {
        let stack = id("Package_for_ServicingStack_2755", "20348.2755.1.1");
        let packages = Packages::from([
            (rollup(), package(State::Installed)),
            (stack.clone(), package(State::Permanent)),
        ]);
        let quality = update(UpdateKind::Quality);
        let both = [rollup(), stack.clone()];
        let found = reversible(&Hive::default(), &quality, &packages, &both);
        assert_eq!(found, Reversible::Expected);
        let alone = reversible(&Hive::default(), &quality, &packages, &[stack]);
        assert_eq!(alone, Reversible::Unknown);
    }

    #[test]
    fn what_was_there_when_the_base_was_reset_stays() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let found = |hive: &Hive, installed_at| {
            let package = Package { state: State::Installed, installed_at };
            let packages = Packages::from([(rollup(), package)]);
            reversible(hive, &update(UpdateKind::Quality), &packages, &[rollup()])
        };
        let reset = Hive::default().text(CBS, "LastResetBase_UTC", "2024/10/10:02:00:00");
        assert_eq!(found(&reset, Some(at("2024-10-09T01:00:00Z"))), Reversible::No);
        assert_eq!(found(&reset, Some(at("2024-10-11T01:00:00Z"))), Reversible::Expected);
        assert_eq!(found(&reset, None), Reversible::Unknown);
        let strange = Hive::default().text(CBS, "LastResetBase_UTC", "gestern");
        assert_eq!(found(&strange, Some(at("2024-10-11T01:00:00Z"))), Reversible::Unknown);
        assert_eq!(found(&Hive::default().locked(CBS), None), Reversible::Unknown);
    }

    #[test]
    fn packages_tell_where_an_update_stands() {
        let stands = |state| {
            let packages = Packages::from([(rollup(), package(state))]);
            status(&Hive::default(), &update(UpdateKind::Quality), &packages)
        };
        assert_eq!(stands(State::Installed), Some(UpdateStatus::Installed(Reversible::Expected)));
        assert_eq!(stands(State::Permanent), Some(UpdateStatus::Installed(Reversible::No)));
        let pending = UpdateStatus::PendingReboot(Reversible::Expected);
        assert_eq!(stands(State::InstallPending), Some(pending));
        assert_eq!(stands(State::UninstallPending), Some(UpdateStatus::Removing));
        assert_eq!(stands(State::Superseded), Some(UpdateStatus::Superseded));
        assert_eq!(stands(State::Absent), None);
        let none = status(&Hive::default(), &update(UpdateKind::Quality), &Packages::new());
        assert_eq!(none, None);
    }
}
