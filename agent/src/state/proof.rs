//! Proof that an update is there, or gone. "Installed" said the installer; this asks Windows.

use wardring_seal::{UpdateKind, UpdateTarget};

use super::{Inspection, UpdateStatus};

/// Whether the update is in force on the running Windows.
///
/// A quality update is proven by build.UBR, which Windows takes back when it reverts the update;
/// anything else by its installed state.
pub(super) fn is_present(update: &UpdateTarget, seen: &Inspection) -> bool {
    if update.kind == UpdateKind::Quality
        && let Some(target) = update.target_build.as_deref().and_then(Build::parse)
    {
        return Build::parse(&seen.build).is_some_and(|build| build.includes(target));
    }
    matches!(status(update, seen), UpdateStatus::Installed(_))
}

/// Whether nothing of the update is left, and nothing of it waits for a restart either.
pub(super) fn is_absent(update: &UpdateTarget, seen: &Inspection) -> bool {
    let is_gone = !matches!(
        status(update, seen),
        UpdateStatus::Installed(_) | UpdateStatus::PendingReboot(_) | UpdateStatus::Removing
    );
    is_gone && !(update.kind == UpdateKind::Quality && at_target(update, seen))
}

/// Whether the build is exactly the update's.
fn at_target(update: &UpdateTarget, seen: &Inspection) -> bool {
    update.target_build.as_deref() == Some(seen.build.as_str())
}

/// Where the update stands; one that the platform does not mention is not offered.
pub(super) fn status(update: &UpdateTarget, seen: &Inspection) -> UpdateStatus {
    if !update.product.is_empty() && update.product != seen.product {
        return UpdateStatus::NotApplicable;
    }
    seen.updates.get(&update.kb).copied().unwrap_or(UpdateStatus::NotOffered)
}

/// `build.UBR`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Build {
    build: u32,
    ubr: u32,
}

impl Build {
    fn parse(text: &str) -> Option<Build> {
        let (build, ubr) = text.split_once('.')?;
        Some(Build { build: build.parse().ok()?, ubr: ubr.parse().ok()? })
    }

    /// Quality updates are cumulative within one build; another build proves nothing.
    fn includes(self, target: Build) -> bool {
        self.build == target.build && self.ubr >= target.ubr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_includes_what_came_before_it_in_the_same_build_only() {
        let target = Build::parse("20348.2762").unwrap();
        assert!(Build::parse("20348.2762").unwrap().includes(target));
        assert!(Build::parse("20348.2849").unwrap().includes(target));
        assert!(!Build::parse("20348.2700").unwrap().includes(target));
        assert!(!Build::parse("26100.9999").unwrap().includes(target));
        assert!(Build::parse("20348").is_none());
    }
}
