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

/// What Windows became, where it is another version than before the job and the job names no upgrade.
///
/// A quality update leaves the build number as it is and raises the number behind the dot. Upgrades
/// change it, also the small ones that only enable what is there already (22621 to 22631, 26100 to
/// 26200); whoever wants those names them as FeatureUpdate.
pub(super) fn another_windows(job: &JobRun, seen: &Inspection) -> Option<String> {
    let before = &job.baseline.as_ref()?.build;
    let is_named = job.payload.updates.iter().any(|one| one.kind == UpdateKind::FeatureUpdate);
    if is_named || family(before) == family(&seen.build) {
        return None;
    }
    let begun: Vec<&str> = job
        .updates
        .iter()
        .filter(|run| matches!(run.state, UpdateState::Running | UpdateState::Ended(_)))
        .map(|run| run.kb.as_str())
        .collect();
    let since =
        if begun.is_empty() { String::new() } else { format!(" since {}", begun.join(", ")) };
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
        (family(build) != family(&seen.build)).then(|| {
            format!(
                "{kb} would upgrade Windows to another version: the build is {}, and {build} is expected \
                 after it",
                seen.build
            )
        })
    })
}

/// The version of Windows in a build: the number before the dot.
fn family(build: &str) -> Option<u32> {
    build.split('.').next()?.parse().ok()
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
