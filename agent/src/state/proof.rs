//! Proof that an update is there, or gone. "Installed" said the installer; this asks Windows.

use wardring_seal::{UpdateKind, UpdateTarget};

use super::{Inspection, JobRun, UpdateState, UpdateStatus};

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

/// Whether the update is for an older Windows than this one: several may share a product's name, and the
/// device may be ahead of the catalogue.
pub(super) fn is_for_older_windows(update: &UpdateTarget, seen: &Inspection) -> bool {
    let wanted = update.target_build.as_deref().filter(|_| update.kind == UpdateKind::Quality);
    matches!((wanted.and_then(family), family(&seen.build)), (Some(wanted), Some(now)) if wanted < now)
}

/// Whether Windows told its build. A registry that could not be read for a moment is no verdict on an
/// update.
pub(super) fn tells_build(seen: &Inspection) -> bool {
    Build::parse(&seen.build).is_some_and(|build| build.build > 0)
}

/// Whether both builds are known, and of different versions of Windows.
pub(super) fn is_another(before: &str, now: &str) -> bool {
    matches!((family(before), family(now)), (Some(before), Some(now)) if before != now)
}

/// What Windows became, where it is another version than before the job and the job names no upgrade.
///
/// A quality update leaves the build number as it is and raises the number behind the dot. Upgrades
/// change it, also the small ones that only enable what is there already (22621 to 22631, 26100 to
/// 26200); whoever wants those names them as FeatureUpdate. `is_ours` is whether an earlier attempt of the
/// rollout made it that.
pub(super) fn another_windows(job: &JobRun, seen: &Inspection, is_ours: bool) -> Option<String> {
    let before = &job.baseline.as_ref()?.build;
    let is_named = job.payload.updates.iter().any(|one| one.kind == UpdateKind::FeatureUpdate);
    if is_named || !is_another(before, &seen.build) {
        return None;
    }
    let begun: Vec<&str> = job
        .updates
        .iter()
        .filter(|run| matches!(run.state, UpdateState::Running | UpdateState::Ended(_)))
        .map(|run| run.kb.as_str())
        .collect();
    let since = match &begun[..] {
        [] if is_ours => " since an earlier attempt of this rollout".to_owned(),
        [] => String::new(),
        begun => format!(" since {}", begun.join(", ")),
    };
    Some(format!(
        "Windows is another version{since}: the build was {before} and is {}; the rollout names no feature \
         upgrade",
        seen.build
    ))
}

/// Why an update that waits is no quality update of this Windows, if so; told before anything is done.
pub(super) fn upgrade_in_disguise(job: &JobRun, seen: &Inspection) -> Option<String> {
    let targets = job.updates.iter().zip(&job.payload.updates);
    let mut waiting = targets.filter(|(run, target)| {
        run.state == UpdateState::Waiting && target.kind != UpdateKind::FeatureUpdate
    });
    waiting.find_map(|(run, target)| {
        let kb = &run.kb;
        if let Some(evidence) = seen.upgrades.get(kb) {
            return Some(format!("{kb} would upgrade Windows to another version: {evidence}"));
        }
        let build = target.target_build.as_ref().filter(|_| target.kind == UpdateKind::Quality)?;
        let (expected, running) = (family(build)?, family(&seen.build)?);
        (expected > running).then(|| {
            format!(
                "{kb} would upgrade Windows to another version: the build is {}, and {build} is expected \
                 after it",
                seen.build
            )
        })
    })
}

/// The version of Windows in a build: the number before the dot. None where it is not known, or not written
/// as `build.UBR`.
fn family(build: &str) -> Option<u32> {
    Build::parse(build).map(|build| build.build).filter(|build| *build > 0)
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
    fn what_is_not_known_is_of_no_other_windows() {
        assert!(is_another("20348.2700", "26100.2314"));
        for unknown in ["0.0", "", "10.0.20348.2762"] {
            assert!(!is_another("20348.2700", unknown) && !is_another(unknown, "20348.2700"));
        }
    }

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
