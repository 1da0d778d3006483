//! Which update an exercise takes.

use wardring_seal::{UpdateKind, UpdateTarget};

use super::Chosen;
use crate::platform::windows::updates::{DEFINITIONS, UPGRADES, Update, builds_in};

/// Most KBs that a refusal names.
const MOST_NAMED: usize = 8;

/// Why none can be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoChoice {
    /// The one that was named.
    #[error("{kb} is not offered to this device{}", offered(.others))]
    NotOffered {
        /// Which.
        kb: String,
        /// Those that could be taken.
        others: Vec<String>,
    },
    /// None was named.
    #[error(
        "this device is offered nothing that says of itself that it can be removed again{}",
        offered(.others)
    )]
    Nothing {
        /// Those that are offered all the same.
        others: Vec<String>,
    },
}

fn offered(kbs: &[String]) -> String {
    match kbs {
        [] => "; it is offered nothing else that an exercise could take".to_owned(),
        kbs => format!("; with --kb it could be {}", kbs.join(", ")),
    }
}

/// Chooses the update that is named, or else the smallest one that says of itself that it can be
/// removed. Neither drivers and upgrades nor definitions, nothing that is hidden or needs licence
/// terms to be accepted, and nothing that does not go beside others.
///
/// # Errors
/// There is none.
pub fn choose(updates: &[Update], wanted: Option<&str>, build: &str) -> Result<Chosen, NoChoice> {
    let mut offered: Vec<&Update> = updates.iter().filter(|update| may_be_taken(update)).collect();
    offered.sort_by_key(|update| (update.size_bytes, &update.identity));
    let found = match wanted {
        Some(kb) => offered.iter().find(|update| update.kbs.iter().any(|own| own == kb)),
        None => offered.iter().find(|update| update.is_uninstallable),
    };
    if let Some(update) = found {
        return Ok(chosen(update, wanted, build));
    }
    let others =
        offered.iter().filter_map(|update| update.kbs.first()).take(MOST_NAMED).cloned().collect();
    Err(match wanted {
        Some(kb) => NoChoice::NotOffered { kb: kb.to_owned(), others },
        None => NoChoice::Nothing { others },
    })
}

fn may_be_taken(update: &Update) -> bool {
    let is_offered = update.is_for_installation
        && !update.is_installed
        && !update.reboot_required
        && !update.is_hidden;
    let is_ordinary = !update.is_driver
        && !update.is_exclusive
        && !update.is_in(DEFINITIONS)
        && !update.is_in(UPGRADES);
    is_offered && is_ordinary && update.is_eula_accepted && !update.kbs.is_empty()
}

fn chosen(update: &Update, wanted: Option<&str>, build: &str) -> Chosen {
    // Titles are translated; the build that a cumulative update leads to stands in all of them.
    let own = build.split('.').next().and_then(|build| build.parse::<u32>().ok());
    let target_build = builds_in(&update.title)
        .find(|(build, _)| Some(*build) == own)
        .map(|(build, revision)| format!("{build}.{revision}"));
    let kb = wanted.map(str::to_owned).or_else(|| update.kbs.first().cloned()).unwrap_or_default();
    let target = UpdateTarget {
        kb,
        // Offered to this device is for this device.
        product: String::new(),
        kind: if target_build.is_some() { UpdateKind::Quality } else { UpdateKind::Other },
        target_build,
        identities: vec![update.identity.to_string()],
        package: None,
    };
    Chosen { target, title: update.title.clone(), size_bytes: update.size_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::windows::updates::Identity;

    const BUILD: &str = "20348.2700";

    fn update(number: u32, size_bytes: u64) -> Update {
        let id = format!("aaaaaaaa-0000-0000-0000-{number:012}");
        Update {
            identity: Identity { id, revision: 1 },
            title: format!("Update (KB506{number:04})"),
            kbs: vec![format!("KB506{number:04}")],
            size_bytes,
            is_for_installation: true,
            is_eula_accepted: true,
            is_uninstallable: true,
            ..Update::default()
        }
    }

    #[test]
    fn the_smallest_that_can_be_removed_is_taken_unless_one_is_named() {
        let permanent = Update { is_uninstallable: false, ..update(1, 10) };
        let updates = [update(2, 300), permanent, update(3, 200)];
        let kb = |wanted| choose(&updates, wanted, BUILD).unwrap().target.kb;
        assert_eq!(kb(None), "KB5060003");
        assert_eq!(kb(Some("KB5060002")), "KB5060002");
        // Whoever names one means it; whether it can be removed shows.
        assert_eq!(kb(Some("KB5060001")), "KB5060001");
    }

    #[test]
    fn a_cumulative_update_is_proven_by_the_build_in_its_title_in_any_language() {
        let title = "2026-11 Kumulatives Update (KB5060001) (20348.2762) (26100.1)".to_owned();
        let target = choose(&[Update { title, ..update(1, 1) }], None, BUILD).unwrap().target;
        assert_eq!(target.kind, UpdateKind::Quality);
        assert_eq!(target.target_build.as_deref(), Some("20348.2762"));
        assert_eq!(target.identities, ["aaaaaaaa-0000-0000-0000-000000000001/1"]);
        let target = choose(&[update(1, 1)], None, BUILD).unwrap().target;
        assert_eq!((target.kind, target.target_build), (UpdateKind::Other, None));
    }

    #[test]
    fn what_is_no_ordinary_update_is_never_taken_even_by_name() {
        let one = || update(1, 1);
        let category = |id: &str| Update { categories: vec![id.to_owned()], ..one() };
        for odd in [
            Update { is_installed: true, ..one() },
            Update { reboot_required: true, ..one() },
            Update { is_hidden: true, ..one() },
            Update { is_driver: true, ..one() },
            Update { is_exclusive: true, ..one() },
            Update { is_for_installation: false, ..one() },
            Update { is_eula_accepted: false, ..one() },
            Update { kbs: Vec::new(), ..one() },
            category(DEFINITIONS),
            category(UPGRADES),
        ] {
            assert!(choose(std::slice::from_ref(&odd), None, BUILD).is_err(), "{odd:?}");
            let updates = [odd, update(2, 5)];
            let refused = choose(&updates, Some("KB5060001"), BUILD).unwrap_err().to_string();
            assert!(refused.contains("could be KB5060002"), "{refused}");
        }
        let permanent = Update { is_uninstallable: false, ..one() };
        let refused = choose(&[permanent], None, BUILD).unwrap_err().to_string();
        assert!(refused.ends_with("with --kb it could be KB5060001"), "{refused}");
        let refused = choose(&[], None, BUILD).unwrap_err().to_string();
        assert!(refused.ends_with("nothing else that an exercise could take"), "{refused}");
    }
}
