//! What an UpdateHold bars beyond its own list: updates that contain a barred one, because the
//! catalogue says that they took its place.

use std::{collections::BTreeSet, sync::Arc};

use wardring_api::{IncludeSuperseding, KbId, ResolvedUpdate, UpdateSpec};

use crate::{DeviceRow, HoldView, JobView, Selector, explain::one_line};

/// How an update stands to a bar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bar {
    /// It may not go.
    Barred,
    /// It took the place of this one, which is barred, and may go all the same.
    Contains(KbId),
}

/// How `update` stands to `hold`, if they have to do with each other.
pub(crate) fn bar(
    hold: &HoldView,
    update: &ResolvedUpdate,
    catalogue: &[&UpdateSpec],
) -> Option<Bar> {
    if hold.spec.kbs.contains(&update.kb) {
        return Some(Bar::Barred);
    }
    let barred = hold.spec.kbs.iter().find(|kb| takes_the_place(update, kb, catalogue))?;
    Some(match hold.spec.include_superseding {
        IncludeSuperseding::Hold => Bar::Barred,
        IncludeSuperseding::Warn => Bar::Contains(barred.clone()),
    })
}

/// Whether `update` is what took the place of `old` in its product, over whatever is between them.
fn takes_the_place(update: &ResolvedUpdate, old: &KbId, catalogue: &[&UpdateSpec]) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![old]);
    while let Some(kb) = next.pop() {
        // A catalogue that goes round in circles ends, too.
        if !seen.insert(kb) {
            continue;
        }
        // Nothing keeps people from naming one update twice.
        let known = catalogue.iter();
        let entries = known.filter(|known| known.kb == *kb && known.product == update.product);
        next.extend(entries.filter_map(|known| known.superseded_by.as_ref()));
        if next.contains(&&update.kb) {
            return true;
        }
    }
    false
}

/// Whether the hold concerns the device.
fn concerns(hold: &HoldView, row: &DeviceRow) -> bool {
    let spec = &hold.spec;
    let is_named = spec.devices.is_empty() || spec.devices.iter().any(|name| **name == *row.name);
    let selects = |selector| Selector::new(selector).matches(&row.labels);
    is_named && spec.selector.as_ref().is_none_or(selects)
}

/// Whether what the holds bar on the device is to be looked up in the catalogue, too.
pub fn bars_successors(holds: &[HoldView], row: &DeviceRow) -> bool {
    let mut all = holds.iter();
    all.any(|hold| hold.spec.include_superseding == IncludeSuperseding::Hold && concerns(hold, row))
}

/// Why the device gets none of a job's updates: the first hold that bars one of them there. The `updates` are
/// those of the job's rollout, for every product.
pub(crate) fn barred_by(
    holds: &[HoldView],
    job: &JobView,
    row: &DeviceRow,
    updates: &[ResolvedUpdate],
    catalogue: &[Arc<UpdateSpec>],
) -> Option<String> {
    let catalogue: Vec<&UpdateSpec> = catalogue.iter().map(AsRef::as_ref).collect();
    let is_brought = |kb: &KbId| job.kbs.iter().any(|brought| brought == kb.as_str());
    // A device that forgot its product is one of any.
    let is_its_own = |update: &&ResolvedUpdate| {
        is_brought(&update.kb) && row.product.as_deref().is_none_or(|all| *all == *update.product)
    };
    holds.iter().filter(|hold| concerns(hold, row)).find_map(|hold| {
        let barred = hold.spec.kbs.iter().find(|kb| is_brought(kb));
        let successor = || {
            let is_barred =
                |update: &&ResolvedUpdate| bar(hold, update, &catalogue) == Some(Bar::Barred);
            updates.iter().filter(is_its_own).find(is_barred).map(|update| &update.kb)
        };
        let kb = barred.or_else(successor)?;
        let why = one_line(&hold.spec.reason);
        let end = if why.ends_with(['.', '!', '?']) { "" } else { "." };
        Some(format!("UpdateHold {} bars {kb}: {why}{end}", hold.name))
    })
}

/// Sentences about updates that contain a barred one and go all the same. What is barred on named devices
/// alone is their matter, not the rollout's.
pub(crate) fn warnings(
    updates: &[ResolvedUpdate],
    holds: &[HoldView],
    catalogue: &[&UpdateSpec],
) -> Vec<String> {
    let mut told = BTreeSet::new();
    for hold in holds.iter().filter(|hold| hold.spec.devices.is_empty()) {
        for update in updates {
            if let Some(Bar::Contains(old)) = bar(hold, update, catalogue) {
                let (new, name) = (&update.kb, &hold.name);
                told.insert(format!(
                    "{new} took the place of {old}, which UpdateHold {name} bars; it goes all the same, because \
                     includeSuperseding is Warn."
                ));
            }
        }
    }
    told.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(kb: &str, product: &str, by: Option<&str>) -> UpdateSpec {
        let by = by.map_or(String::new(), |by| format!(", supersededBy: {by}"));
        serde_yaml::from_str(&format!(
            "{{kb: {kb}, title: t, product: {product}, kind: Quality, release: 2026-11{by}}}"
        ))
        .expect("an update")
    }

    fn hold(kb: &str, include: IncludeSuperseding) -> HoldView {
        let text = format!("{{kbs: [{kb}], reason: r}}");
        let mut spec: wardring_api::UpdateHoldSpec = serde_yaml::from_str(&text).expect("a hold");
        spec.include_superseding = include;
        HoldView { name: "bar".to_owned(), created_at: None, spec }
    }

    fn brings(kb: &str) -> ResolvedUpdate {
        serde_yaml::from_str(&format!("{{product: p, kb: {kb}, kind: Quality}}")).expect("one")
    }

    #[test]
    fn what_contains_a_barred_update_is_barred_or_told_over_whatever_is_between() {
        let entries = [
            known("KB5000001", "p", Some("KB5000002")),
            known("KB5000002", "p", Some("KB5000003")),
            known("KB5000003", "p", Some("KB5000001")),
            known("KB5000001", "q", Some("KB5000009")),
            // Somebody else's entry of the same update knows more.
            known("KB5000001", "p", Some("KB5000007")),
        ];
        let catalogue: Vec<&UpdateSpec> = entries.iter().collect();
        let (warn, stop) = (IncludeSuperseding::Warn, IncludeSuperseding::Hold);
        let judged = |kb: &str, include| bar(&hold("KB5000001", include), &brings(kb), &catalogue);
        assert_eq!(judged("KB5000001", warn), Some(Bar::Barred));
        assert_eq!(judged("KB5000003", stop), Some(Bar::Barred));
        assert_eq!(judged("KB5000007", stop), Some(Bar::Barred));
        let old = "KB5000001".parse().expect("a KB");
        assert_eq!(judged("KB5000003", warn), Some(Bar::Contains(old)));
        assert_eq!(judged("KB5000009", stop), None, "of another product");
        assert_eq!(judged("KB5000008", stop), None, "and the circle ends");
        let mut own = hold("KB5000001", warn);
        own.spec.devices = vec!["ws-1".to_owned()];
        assert_eq!(warnings(&[brings("KB5000002")], &[own], &catalogue).len(), 0, "its own matter");
        let told = warnings(&[brings("KB5000002")], &[hold("KB5000001", warn)], &catalogue);
        assert!(told[0].starts_with("KB5000002 took the place of KB5000001"), "{told:?}");
        assert_eq!(
            warnings(&[brings("KB5000002")], &[hold("KB5000001", stop)], &catalogue).len(),
            0
        );
    }
}
