//! Which packages are to be removed for an update, and why none are.

use wardring_seal::UpdateTarget;

use super::package::{Identity, Packages, State, of_update};
use super::reversible::is_removable_kind;

/// An update brings one package, or a few. A list of more was not told by an installation, and
/// removing it would take Windows apart.
const MOST_PACKAGES: usize = 8;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The update's packages.
    pub known: Vec<Identity>,
    /// Those of them that are to be removed, in this order.
    pub left: Vec<Identity>,
    /// One of them goes with the next restart already.
    pub is_going: bool,
}

/// Why nothing is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Its kind, or what is left of it, stays for good.
    #[error("the update stays for good")]
    Permanent,
    /// No package can be told to be its own.
    #[error("no package is known to be the update's")]
    Unknown,
    /// More than an update brings.
    #[error("{count} packages are more than an update brings")]
    TooMany {
        /// How many.
        count: usize,
    },
}

impl Refusal {
    /// The code that DISM would have given.
    pub fn hresult(self) -> u32 {
        match self {
            // CBS_E_CANNOT_UNINSTALL
            Refusal::Permanent => 0x800F_0825,
            // CBS_E_INVALID_PACKAGE
            Refusal::Unknown | Refusal::TooMany { .. } => 0x800F_0805,
        }
    }
}

/// Plans the removal of an update by what its installation brought, or else by the names of what is
/// there. What came last goes first; what is gone is not removed again.
pub(super) fn plan(
    update: &UpdateTarget,
    identities: &[String],
    packages: &Packages,
) -> Result<Plan, Refusal> {
    if !is_removable_kind(update.kind) {
        return Err(Refusal::Permanent);
    }
    let mut known: Vec<Identity> =
        identities.iter().filter_map(|text| Identity::parse(text)).collect();
    if known.is_empty() {
        known = of_update(update, packages);
    }
    known.retain(Identity::is_update);
    if known.is_empty() {
        return Err(Refusal::Unknown);
    }
    known.retain(|identity| !identity.is_servicing_stack());
    match known.len() {
        0 => return Err(Refusal::Permanent),
        1..=MOST_PACKAGES => {}
        count => return Err(Refusal::TooMany { count }),
    }
    let state = |identity: &Identity| packages.get(identity).map(|package| package.state);
    let is_there = |identity: &&Identity| {
        !matches!(state(identity), None | Some(State::Absent | State::UninstallPending))
    };
    let left = known.iter().rev().filter(is_there).cloned().collect();
    let is_going = known.iter().any(|id| state(id) == Some(State::UninstallPending));
    Ok(Plan { known, left, is_going })
}

#[cfg(test)]
mod tests {
    use wardring_seal::UpdateKind;

    use super::super::package::tests::{id, package, update};
    use super::*;

    fn texts(identities: &[&Identity]) -> Vec<String> {
        identities.iter().map(|identity| identity.as_str().to_owned()).collect()
    }

    fn there(identities: &[(&Identity, State)]) -> Packages {
        identities.iter().map(|(identity, state)| ((*identity).clone(), package(*state))).collect()
    }

    #[test]
    fn what_came_last_goes_first_and_the_servicing_stack_stays() {
        let (rollup, more) =
            (id("Package_for_RollupFix", "20348.2762.1.12"), id("Package_for_KB2", "1.0.0.0"));
        let stack = id("Package_for_ServicingStack_2755", "20348.2755.1.1");
        let feature = id("OpenSSH-Server-Package", "10.0.20348.1");
        let brought = texts(&[&rollup, &stack, &feature, &more]);
        let packages = there(&[
            (&rollup, State::Installed),
            (&more, State::InstallPending),
            (&stack, State::Permanent),
            (&feature, State::Installed),
        ]);
        let plan = plan(&update(UpdateKind::Quality), &brought, &packages).unwrap();
        assert_eq!(plan.left, [more, rollup]);
        assert!(!plan.is_going);
    }

    #[test]
    fn what_is_gone_or_going_is_not_removed_again() {
        let (gone, going) = (id("Package_for_KB1", "1.0.0.0"), id("Package_for_KB2", "1.0.0.0"));
        let packages = there(&[(&going, State::UninstallPending)]);
        let brought = texts(&[&gone, &going]);
        let plan = plan(&update(UpdateKind::Other), &brought, &packages).unwrap();
        assert_eq!((plan.left.len(), plan.known.len(), plan.is_going), (0, 2, true));
    }

    #[test]
    fn an_update_that_nobody_saw_come_is_found_by_its_name() {
        let rollup = id("Package_for_RollupFix", "20348.2762.1.12");
        let packages = there(&[(&rollup, State::Installed)]);
        let plan = plan(&update(UpdateKind::Quality), &[], &packages).unwrap();
        assert_eq!(plan.left, [rollup]);
    }

    #[test]
    fn nothing_is_removed_on_a_guess() {
        let (quality, driver) = (update(UpdateKind::Quality), update(UpdateKind::Driver));
        let none = Packages::new();
        let refusal = |update, identities: &[String]| plan(update, identities, &none).unwrap_err();
        assert_eq!(refusal(&quality, &[]), Refusal::Unknown);
        assert_eq!(refusal(&quality, &["garbage".to_owned()]), Refusal::Unknown);
        let feature = texts(&[&id("OpenSSH-Server-Package", "10.0.20348.1")]);
        assert_eq!(refusal(&quality, &feature), Refusal::Unknown);
        let stack = texts(&[&id("Package_for_ServicingStack_2755", "20348.2755.1.1")]);
        assert_eq!(refusal(&quality, &stack), Refusal::Permanent);
        assert_eq!(refusal(&driver, &[]), Refusal::Permanent);
        let many: Vec<Identity> =
            (0..9).map(|number| id(&format!("Package_for_KB{number}"), "1.0.0.0")).collect();
        let many = texts(&many.iter().collect::<Vec<_>>());
        assert_eq!(refusal(&quality, &many), Refusal::TooMany { count: 9 });
        assert_eq!(Refusal::Permanent.hresult(), 0x800F_0825);
        assert_eq!(Refusal::Unknown.hresult(), 0x800F_0805);
    }
}
