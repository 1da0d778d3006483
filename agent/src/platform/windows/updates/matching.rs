//! Where an update of a job stands on this device, told from what a search found, with the evidence.

use wardring_seal::{UpdateKind, UpdateTarget};

use super::wua::{Identity, UPGRADES, Update};
use crate::state::{Reversible, UpdateStatus};

/// Where an update stands, and what says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    /// Where it stands.
    pub status: UpdateStatus,
    /// A sentence for the log.
    pub evidence: String,
    /// Nothing that was found tells: only the source itself can say that it does not offer it.
    pub is_unknown: bool,
    /// What says that all that is offered is an upgrade to another version of Windows, which the target
    /// is not meant to be.
    pub upgrade: Option<String>,
}

/// Tells where `target` stands. `build` is the running `build.UBR`.
pub fn stand(target: &UpdateTarget, found: &[Update], build: &str) -> Stand {
    let matches: Vec<&Update> = matching(target, found).collect();
    let is_other = |update: &&&Update| other_windows(target, update, build).is_some();
    let waits = || matches.iter().filter(|update| update.reboot_required);
    if let Some(update) = waits().next() {
        let evidence = format!("{} waits for a restart", update.identity);
        let status = UpdateStatus::PendingReboot(reversible(target, update));
        // One restart finishes all of them.
        let upgrade = waits().find_map(|update| other_windows(target, update, build));
        return Stand { upgrade, ..told(status, evidence) };
    }
    if let Some(update) = to_install(target, found, build).first() {
        let evidence = format!("{} is offered", update.identity);
        return told(UpdateStatus::Offered(reversible(target, update)), evidence);
    }
    // An upgrade of that number is not the update, also where it is there.
    let mut there = matches.iter().filter(|update| update.is_installed);
    if let Some(update) = there.find(|update| !is_other(update)) {
        let evidence = format!("{} is installed", update.identity);
        return told(UpdateStatus::Installed(reversible(target, update)), evidence);
    }
    if target.package.is_some() {
        if let Some(evidence) = is_for_another(target, build) {
            return told(UpdateStatus::NotApplicable, evidence);
        }
        // Nobody but the job offers it, and only what is installed makes it superfluous.
        return match outrun(target, build) {
            Some(evidence) => told(UpdateStatus::Superseded, evidence),
            None => told(UpdateStatus::Offered(brought(target)), "the job brings it".to_owned()),
        };
    }
    if let Some(evidence) = superseded(target, found, build) {
        return told(UpdateStatus::Superseded, evidence);
    }
    // An upgrade under the same number stays on offer, also when what was meant is installed or outrun.
    if let Some(update) = offered(target, found).first() {
        let evidence = format!("{} is offered", update.identity);
        let status = UpdateStatus::Offered(reversible(target, update));
        let upgrade = other_windows(target, update, build);
        return Stand { upgrade, ..told(status, evidence) };
    }
    not_offered(target, &matches)
}

/// What says that a package is for another Windows than this one: several share a product's name.
fn is_for_another(target: &UpdateTarget, build: &str) -> Option<String> {
    let wanted = build_and_ubr(target.target_build.as_deref()?)?;
    let running = build_and_ubr(build).filter(|running| running.0 > 0)?;
    let is_other = target.kind == UpdateKind::Quality && wanted.0 != running.0;
    is_other.then(|| format!("it is for build {}, and the build is {build}", wanted.0))
}

fn told(status: UpdateStatus, evidence: String) -> Stand {
    Stand { status, evidence, is_unknown: false, upgrade: None }
}

fn not_offered(target: &UpdateTarget, matches: &[&Update]) -> Stand {
    if let Some(update) = matches.iter().find(|update| update.is_hidden) {
        let evidence = format!("{} is hidden on this device", update.identity);
        return told(UpdateStatus::NotOffered, evidence);
    }
    let evidence = match matches {
        [] => format!("no update found is {}", target.kb),
        [update, ..] => format!("found is {}, asked was {:?}", update.identity, target.identities),
    };
    Stand { is_unknown: true, ..told(UpdateStatus::NotOffered, evidence) }
}

/// The updates that an installation of `target` consists of: offered here, and not there yet. One KB may
/// name a quality update and an upgrade of Windows (KB5044284 did, in November 2024): each that is another
/// Windows is left out, whatever is offered beside it.
pub fn to_install<'a>(target: &UpdateTarget, found: &'a [Update], build: &str) -> Vec<&'a Update> {
    let mut offered = offered(target, found);
    offered.retain(|update| other_windows(target, update, build).is_none());
    offered
}

/// What says that an update is an upgrade to another version of Windows, which the target is not meant to
/// be: Microsoft's classification, or the build at the end of a cumulative update's title.
pub fn other_windows(target: &UpdateTarget, update: &Update, build: &str) -> Option<String> {
    if target.kind == UpdateKind::FeatureUpdate {
        return None;
    }
    if update.is_in(UPGRADES) {
        return Some(format!("its source classifies {} as an upgrade", update.identity));
    }
    let running = build_and_ubr(build).filter(|_| target.kind == UpdateKind::Quality)?;
    let mut builds = builds_in(&update.title).peekable();
    // Where Windows does not tell its build, nothing is of another one.
    let is_other =
        running.0 > 0 && builds.peek().is_some() && builds.all(|(build, _)| build != running.0);
    is_other.then(|| format!("its title is {:?}, and the build is {build}", update.title))
}

/// What says that the next restart finishes an upgrade to another version of Windows, under whatever number.
pub fn pending_upgrade(found: &[Update]) -> Option<String> {
    let pending = found.iter().find(|update| update.reboot_required && update.is_in(UPGRADES))?;
    Some(format!("{} ({})", pending.title, pending.identity))
}

/// What is offered here as `target`, and not there yet. What somebody hid on this device is not
/// offered; what a job names by identity is that revision alone.
fn offered<'a>(target: &UpdateTarget, found: &'a [Update]) -> Vec<&'a Update> {
    let wanted = identities(target);
    let is_wanted = |update: &Update| wanted.is_empty() || wanted.contains(&update.identity);
    let mut offered: Vec<&Update> = matching(target, found)
        .filter(|update| !update.is_installed && !update.reboot_required && !update.is_hidden)
        .filter(|update| update.is_for_installation && is_wanted(update))
        .collect();
    // The same on every run, so that a repeated installation goes through them in one order.
    offered.sort_by_key(|update| (update.is_optional, &update.identity));
    offered
}

/// Everything that is `target`, in any revision: by identity where the job names one, else by KB.
pub fn matching<'a>(
    target: &UpdateTarget,
    found: &'a [Update],
) -> impl Iterator<Item = &'a Update> {
    let wanted = identities(target);
    let kb = target.kb.clone();
    found.iter().filter(move |update| {
        if wanted.is_empty() {
            update.kbs.contains(&kb)
        } else {
            wanted.iter().any(|identity| identity.id == update.identity.id)
        }
    })
}

fn identities(target: &UpdateTarget) -> Vec<Identity> {
    target.identities.iter().filter_map(|text| Identity::parse(text)).collect()
}

/// What says that a newer update took the place of `target`, if something does. An update that is
/// superseded is not offered any more, and WUA's switch to show it all the same is gone since
/// Windows 10 1709.
fn superseded(target: &UpdateTarget, found: &[Update], build: &str) -> Option<String> {
    let wanted = identities(target);
    let names_it =
        |update: &&Update| wanted.iter().any(|identity| update.supersedes.contains(&identity.id));
    // What is another Windows is no newer version of it.
    let is_newer =
        |update: &&Update| !update.is_hidden && other_windows(target, update, build).is_none();
    let visible = || found.iter().filter(is_newer);
    if let Some(newer) = visible().find(names_it) {
        return Some(format!("{} ({}) supersedes it", newer.identity, newer.title));
    }
    if let Some(evidence) = outrun(target, build) {
        return Some(evidence);
    }
    let newer = newer_than(target)?;
    visible()
        .find(|update| builds_in(&update.title).any(newer))
        .map(|update| format!("{} ({}) is newer", update.identity, update.title))
}

/// What says that the running build is newer than a cumulative update's.
fn outrun(target: &UpdateTarget, build: &str) -> Option<String> {
    let is_newer = newer_than(target)?;
    build_and_ubr(build).is_some_and(is_newer).then(|| format!("the build is {build} already"))
}

/// Whether a build is newer than a cumulative update's, of the same Windows.
fn newer_than(target: &UpdateTarget) -> Option<impl Fn((u32, u32)) -> bool + Copy> {
    let build = target.target_build.as_deref().filter(|_| target.kind == UpdateKind::Quality);
    let wanted = build_and_ubr(build?)?;
    Some(move |found: (u32, u32)| found.0 == wanted.0 && found.1 > wanted.1)
}

fn build_and_ubr(text: &str) -> Option<(u32, u32)> {
    let (build, ubr) = text.split_once('.')?;
    Some((build.parse().ok()?, ubr.parse().ok()?))
}

/// Titles of cumulative updates end with `(26100.2033)`, in every language.
pub fn builds_in(title: &str) -> impl Iterator<Item = (u32, u32)> {
    title
        .split(|char: char| !char.is_ascii_digit() && char != '.')
        .filter_map(build_and_ubr)
        .filter(|(build, _)| *build >= 10_000)
}

/// Whether what a job brings itself can be taken back: the same, without a word of its source.
fn brought(target: &UpdateTarget) -> Reversible {
    reversible(target, &Update::default())
}

/// Whether it can be taken back, as far as that can be told before it is installed: exactly is told
/// by its packages afterwards. Servicing stacks are never removable, and upgrades, drivers and
/// definitions have no removal of ours. The update's own word (`IsUninstallable`) speaks of WUA,
/// which removes nothing that WSUS did not tell it to; DISM does.
fn reversible(target: &UpdateTarget, update: &Update) -> Reversible {
    match target.kind {
        UpdateKind::ServicingStack
        | UpdateKind::FeatureUpdate
        | UpdateKind::Driver
        | UpdateKind::Definition => Reversible::No,
        UpdateKind::Quality | UpdateKind::DotNet => Reversible::Expected,
        UpdateKind::Other if update.is_uninstallable => Reversible::Expected,
        UpdateKind::Other => Reversible::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILD: &str = "20348.2700";
    const LCU: &str = "11111111-0000-0000-0000-000000000001";

    fn target() -> UpdateTarget {
        UpdateTarget {
            kb: "KB5068787".to_owned(),
            product: "Windows Server 2022".to_owned(),
            kind: UpdateKind::Quality,
            target_build: Some("20348.2762".to_owned()),
            identities: Vec::new(),
            package: None,
        }
    }

    fn pinned(revision: i32) -> UpdateTarget {
        UpdateTarget { identities: vec![format!("{LCU}/{revision}")], ..target() }
    }

    fn offered() -> Update {
        Update {
            identity: Identity { id: LCU.to_owned(), revision: 200 },
            title: "2026-11 Cumulative Update (KB5068787) (20348.2762)".to_owned(),
            kbs: vec!["KB5068787".to_owned()],
            is_for_installation: true,
            ..Update::default()
        }
    }

    fn status(target: &UpdateTarget, found: &[Update]) -> UpdateStatus {
        stand(target, found, "20348.2700").status
    }

    #[test]
    fn an_upgrade_under_the_number_of_a_quality_update_is_said_and_never_installed() {
        let upgrade = Update {
            identity: Identity { id: "2222".to_owned(), revision: 1 },
            title: "Windows Server 2025".to_owned(),
            categories: vec![UPGRADES.to_ascii_lowercase()],
            ..offered()
        };
        let alone = std::slice::from_ref(&upgrade);
        let said =
            |target: &UpdateTarget, found: &[Update]| stand(target, found, "20348.2700").upgrade;
        assert!(matches!(status(&target(), alone), UpdateStatus::Offered(_)), "not a neutral end");
        assert!(said(&target(), alone).unwrap().contains("classifies"));
        assert_eq!(to_install(&target(), alone, BUILD), Vec::<&Update>::new());

        let both = [upgrade.clone(), offered()];
        assert_eq!(said(&target(), &both), None, "what was meant is there as well");
        assert_eq!(to_install(&target(), &both, BUILD), [&both[1]]);
        let there = [upgrade.clone(), Update { is_installed: true, ..offered() }];
        assert!(matches!(status(&target(), &there), UpdateStatus::Installed(_)));
        assert_eq!(said(&target(), &there), None);

        let named = UpdateTarget { kind: UpdateKind::FeatureUpdate, ..target() };
        assert_eq!(said(&named, alone), None);
        assert_eq!(to_install(&named, alone, BUILD), [&upgrade]);
    }

    #[test]
    fn a_cumulative_update_whose_title_names_another_windows_only_is_an_upgrade() {
        let titled = |title: &str| {
            let update = Update { title: title.to_owned(), ..offered() };
            stand(&target(), &[update], "20348.2700").upgrade
        };
        assert!(titled("2024-11 Cumulative Update (KB5068787) (26100.2314)").is_some());
        assert_eq!(titled("2024-11 Cumulative Update (KB5068787) (20348.2762)"), None);
        assert_eq!(titled("Cumulative Update (KB5068787) (20348.2762) (26100.2314)"), None);
        assert_eq!(titled("Mise à jour cumulative (KB5068787)"), None, "no build, no word");
    }

    #[test]
    fn an_upgrade_that_its_title_alone_tells_is_not_installed_beside_what_was_meant() {
        let titled = |id: &str, title: &str| Update {
            identity: Identity { id: id.to_owned(), revision: 1 },
            title: title.to_owned(),
            ..offered()
        };
        let upgrade = titled("2222", "2024-11 Cumulative Update (KB5068787) (26100.2314)");
        for meant in [offered(), titled("3333", "Mise à jour cumulative (KB5068787)")] {
            let both = [upgrade.clone(), meant];
            assert_eq!(to_install(&target(), &both, BUILD), [&both[1]]);
            let stand = stand(&target(), &both, BUILD);
            assert!(matches!(stand.status, UpdateStatus::Offered(_)) && stand.upgrade.is_none());
        }
        // A registry that could not be read makes nothing an upgrade.
        assert_eq!(to_install(&target(), std::slice::from_ref(&upgrade), "0.0"), [&upgrade]);
    }

    #[test]
    fn an_upgrade_that_waits_for_a_restart_is_said_and_one_that_is_there_is_not_the_update() {
        let upgrade = Update {
            identity: Identity { id: "2222".to_owned(), revision: 1 },
            title: "Windows Server 2025".to_owned(),
            categories: vec![UPGRADES.to_owned()],
            ..offered()
        };
        let waits = Update { reboot_required: true, ..upgrade.clone() };
        let meant = Update { reboot_required: true, ..offered() };
        for found in [vec![waits.clone()], vec![meant.clone(), waits.clone()]] {
            let stand = stand(&target(), &found, BUILD);
            assert!(matches!(stand.status, UpdateStatus::PendingReboot(_)));
            assert!(stand.upgrade.is_some_and(|said| said.contains("classifies")));
            assert!(pending_upgrade(&found).is_some_and(|said| said.contains("Server 2025")));
        }
        assert_eq!(stand(&target(), std::slice::from_ref(&meant), BUILD).upgrade, None);
        assert_eq!(pending_upgrade(&[meant]), None);

        let there = [Update { is_installed: true, ..upgrade }];
        assert_eq!(status(&target(), &there), UpdateStatus::NotOffered);
    }

    #[test]
    fn what_a_newer_build_outran_is_superseded_although_an_upgrade_is_still_on_offer() {
        let upgrade = Update {
            identity: Identity { id: "2222".to_owned(), revision: 1 },
            categories: vec![UPGRADES.to_owned()],
            supersedes: vec![LCU.to_owned()],
            ..offered()
        };
        let alone = [upgrade];
        let outrun = stand(&target(), &alone, "20348.2849");
        assert_eq!((outrun.status, outrun.upgrade), (UpdateStatus::Superseded, None));
        // The upgrade itself is no newer version of it.
        assert!(stand(&pinned(200), &alone, BUILD).status != UpdateStatus::Superseded);
    }

    #[test]
    fn a_package_for_another_windows_of_the_same_product_is_not_applicable() {
        let package = serde_json::json!({ "url": "https://f/1.msu", "sha256": "0a" });
        let package = Some(serde_json::from_value(package).unwrap());
        let target = UpdateTarget { package, ..target() };
        let on = |build: &str| stand(&target, &[], build).status;
        assert_eq!(on("14393.7000"), UpdateStatus::NotApplicable);
        assert_eq!(on("26100.2314"), UpdateStatus::NotApplicable);
        assert!(matches!(on(BUILD), UpdateStatus::Offered(_)));
        assert!(matches!(on("0.0"), UpdateStatus::Offered(_)), "not to know is no verdict");
    }

    #[test]
    fn an_update_is_found_by_kb_or_by_exactly_its_revision() {
        let found = [offered()];
        assert_eq!(status(&target(), &found), UpdateStatus::Offered(Reversible::Expected));
        assert_eq!(status(&pinned(200), &found), UpdateStatus::Offered(Reversible::Expected));
        assert_eq!(status(&pinned(199), &found), UpdateStatus::NotOffered, "no mixed revisions");
        assert_eq!(status(&target(), &[]), UpdateStatus::NotOffered);
    }

    #[test]
    fn an_update_that_is_there_is_there_in_any_revision() {
        let found = [Update { is_installed: true, ..offered() }];
        assert_eq!(status(&pinned(199), &found), UpdateStatus::Installed(Reversible::Expected));
        let waits = [Update { reboot_required: true, ..offered() }];
        assert_eq!(status(&target(), &waits), UpdateStatus::PendingReboot(Reversible::Expected));
    }

    #[test]
    fn what_somebody_hid_is_not_offered_and_the_evidence_says_so() {
        let found = [Update { is_hidden: true, ..offered() }];
        let stand = stand(&target(), &found, "20348.2700");
        assert_eq!(stand.status, UpdateStatus::NotOffered);
        assert!(stand.evidence.ends_with("is hidden on this device"), "{}", stand.evidence);
    }

    #[test]
    fn a_newer_update_supersedes_by_its_list_by_its_title_or_by_the_build() {
        let newer = Update {
            identity: Identity { id: "22222222".to_owned(), revision: 1 },
            kbs: vec!["KB5070000".to_owned()],
            is_for_installation: true,
            ..Update::default()
        };
        let by_list = Update { supersedes: vec![LCU.to_owned()], ..newer.clone() };
        assert_eq!(status(&pinned(200), &[by_list]), UpdateStatus::Superseded);
        let title = "2026-12 累積更新プログラム (KB5070000) (20348.2849)".to_owned();
        let by_title = Update { title, ..newer.clone() };
        assert_eq!(status(&target(), &[by_title]), UpdateStatus::Superseded);
        assert_eq!(stand(&target(), &[], "20348.2849").status, UpdateStatus::Superseded);
        let other = Update { title: "(KB5070000) (26100.9999)".to_owned(), ..newer };
        assert_eq!(status(&target(), &[other]), UpdateStatus::NotOffered, "another Windows");
    }

    #[test]
    fn what_an_administrator_deployed_for_removal_is_never_installed() {
        let found = [Update { is_for_installation: false, ..offered() }];
        assert_eq!(to_install(&target(), &found, BUILD), Vec::<&Update>::new());
        assert_eq!(status(&target(), &found), UpdateStatus::NotOffered);
    }

    #[test]
    fn all_updates_of_a_kb_are_installed_before_it_counts() {
        let second =
            Update { identity: Identity { id: "00000000-2".to_owned(), revision: 1 }, ..offered() };
        let found = [Update { is_installed: true, ..offered() }, second.clone()];
        assert_eq!(to_install(&target(), &found, BUILD), [&second]);
        assert!(matches!(status(&target(), &found), UpdateStatus::Offered(_)));
    }

    #[test]
    fn servicing_stacks_upgrades_drivers_and_definitions_cannot_be_taken_back() {
        use UpdateKind::{Definition, Driver, FeatureUpdate, ServicingStack};
        for kind in [ServicingStack, FeatureUpdate, Driver, Definition] {
            let target = UpdateTarget { kind, ..target() };
            assert_eq!(status(&target, &[offered()]), UpdateStatus::Offered(Reversible::No));
        }
        let other = UpdateTarget { kind: UpdateKind::Other, ..target() };
        assert_eq!(status(&other, &[offered()]), UpdateStatus::Offered(Reversible::Unknown));
    }
}
