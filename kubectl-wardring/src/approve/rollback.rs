//! What a rollback asks a person for, and from which devices the updates would be taken back.

use anyhow::{Result, bail};
use kube::{ResourceExt, api::ListParams};
use wardring_api::{
    AwaitingRebootAction, GateState, JobAction, LineState, PatchRollout, PatchRolloutSlice,
    RollbackApproval, RollbackScope, SliceLine, names,
};
use wardring_planner::{SliceView, freeze_id};

use super::SHOWN;
use crate::cluster::{Cluster, pages};

/// The asking that can be decided on.
pub(super) fn pending(rollout: &PatchRollout) -> Option<&RollbackApproval> {
    let known = rollout.status.as_ref()?.rollback_approval.as_ref()?;
    let is_open = matches!(known.state, GateState::Waiting | GateState::Error);
    (is_open && !known.asked.hash.is_empty()).then_some(known)
}

/// A device that the rollback means, with how it stands.
pub(super) struct Meant {
    device: String,
    how: &'static str,
}

/// The devices as the records of the run tell of them. Groups may keep some of them.
pub(super) async fn devices(
    cluster: &Cluster,
    rollout: &PatchRollout,
    known: &RollbackApproval,
) -> Result<Vec<Meant>> {
    let uid = rollout.uid().unwrap_or_default();
    let ours = ListParams::default().labels(&format!("{}={uid}", names::ROLLOUT_UID_LABEL));
    let slices: Vec<PatchRolloutSlice> = pages(&cluster.here(), ours, |all| all).await?;
    meant(&slices, rollout, known)
}

/// The devices in the records of the stages, if those are exactly the ones that the rollout froze.
fn meant(
    slices: &[PatchRolloutSlice],
    rollout: &PatchRollout,
    known: &RollbackApproval,
) -> Result<Vec<Meant>> {
    let uid = rollout.uid().unwrap_or_default();
    let views: Vec<SliceView> = slices.iter().map(SliceView::new).collect();
    let on_halt = rollout.spec.on_halt.installed_awaiting_reboot;
    let uninstalls = on_halt == AwaitingRebootAction::Uninstall;
    let mut found = Vec::new();
    for stage in rollout.status.iter().flat_map(|status| &status.stages) {
        let Some(id) = &stage.freeze_id else { continue };
        let is_its = |view: &&SliceView| {
            view.rollout_uid == uid && view.stage == stage.name && view.freeze_id == *id
        };
        let mut record: Vec<&SliceView> = views.iter().filter(is_its).collect();
        record.sort_by_key(|view| view.index);
        if freeze_id(record.iter().map(|view| view.names_digest.digest())) != *id {
            bail!(
                "the record of stage {} is not whole: {} devices are in it; nothing can be shown that could be decided on",
                stage.name,
                record.iter().map(|view| view.lines.len()).sum::<usize>()
            );
        }
        let is_in_scope = match known.scope {
            RollbackScope::Device => false,
            RollbackScope::Stage => known.stage.as_ref() == Some(&stage.name),
            RollbackScope::AllStages => true,
        };
        found.extend(record.iter().flat_map(|view| &view.lines).filter_map(|line| {
            let how = how(line, is_in_scope, uninstalls)?;
            Some(Meant { device: line.device.clone(), how })
        }));
    }
    // What is broken first.
    found.sort_by(|a, b| (order(a.how), &a.device).cmp(&(order(b.how), &b.device)));
    Ok(found)
}

const FAILED: &str = "failed";
const HEALTHY: &str = "proven and healthy";
const AT_WORK: &str = "at work, or waiting for its restart";
const TAKEN: &str = "taken back, or at it";

fn order(how: &str) -> Option<usize> {
    [FAILED, HEALTHY, AT_WORK, TAKEN].iter().position(|known| *known == how)
}

/// How the device stands, if the rollback may mean it. One that waits for its restart since the halt is meant in
/// every scope where `onHalt` says Uninstall, and its line says no more than that it is at work.
fn how(line: &SliceLine, is_in_scope: bool, uninstalls: bool) -> Option<&'static str> {
    match line.state {
        LineState::Failed | LineState::RevertedByWindows if line.tries > 0 => Some(FAILED),
        LineState::Succeeded if is_in_scope => Some(HEALTHY),
        LineState::Granted if line.action == JobAction::Install && (is_in_scope || uninstalls) => {
            Some(AT_WORK)
        }
        LineState::Granted | LineState::Unreachable if line.action == JobAction::Rollback => {
            Some(TAKEN)
        }
        LineState::RolledBack | LineState::RollbackFailed | LineState::NotReversible => Some(TAKEN),
        _ => None,
    }
}

pub(super) fn told(
    rollout: &PatchRollout,
    known: &RollbackApproval,
    devices: &[Meant],
    is_wide: bool,
) -> Vec<String> {
    let what = match (known.scope, &known.stage) {
        (RollbackScope::Device, _) => "of the devices that failed".to_owned(),
        (RollbackScope::Stage, Some(stage)) => format!("of the whole stage {stage}"),
        (RollbackScope::Stage, None) => "of a whole stage".to_owned(),
        (RollbackScope::AllStages, _) => "of all stages".to_owned(),
    };
    let mut lines = vec![format!(
        "Rollout {}, rollback {what}: the updates are taken back from up to {} devices in all.",
        rollout.name_any(),
        known.up_to
    )];
    lines.extend(
        known.asked.because.as_ref().map(|why| format!("It is asked anew, because {why}.")),
    );
    let status = rollout.status.as_ref();
    lines.extend(
        status
            .and_then(|status| status.halted.as_ref())
            .map(|latch| format!("Why: {}", latch.message)),
    );
    lines.push("Taken back, and barred with an UpdateHold:".to_owned());
    let updates = status.into_iter().flat_map(|status| &status.resolved_updates);
    lines.extend(updates.map(|update| {
        let title = update.title.as_deref().map_or(String::new(), |title| format!(", {title}"));
        format!("  {} for {}{title}", update.kb, update.product)
    }));
    lines.push("Security fixes that came with them will be missing.".to_owned());
    let share = rollout.spec.on_failure.approval_above;
    lines.extend(share.map(|share| format!("Without asking anybody: {share} (approvalAbove).")));
    if !known.groups.is_empty() {
        lines.push(format!("Groups that ask first: {}.", known.groups.join(", ")));
    }
    lines.push("What the rollout says, all of which is approved:".to_owned());
    let spec = &rollout.spec;
    for (name, rules) in [
        ("onFailure", serde_yaml::to_string(&spec.on_failure)),
        ("onHalt", serde_yaml::to_string(&spec.on_halt)),
    ] {
        lines.push(format!("  {name}:"));
        lines.extend(rules.unwrap_or_default().lines().map(|line| format!("    {line}")));
    }
    if !rollout.spec.authors.is_empty() {
        lines.push(format!("Written by {}.", rollout.spec.authors.join(", ")));
    }
    let count = |how| devices.iter().filter(|all| all.how == how).count();
    lines.push(format!(
        "Devices now: {} failed, {} healthy, {} at work or waiting for their restart, {} taken back or at it. Groups that say `Forbid` keep theirs.",
        count(FAILED),
        count(HEALTHY),
        count(AT_WORK),
        count(TAKEN)
    ));
    let shown = if is_wide { devices.len() } else { SHOWN };
    lines.extend(devices.iter().take(shown).map(|all| format!("  {} ({})", all.device, all.how)));
    if devices.len() > shown {
        lines.push(format!("  and {} more; -o wide shows all", devices.len() - shown));
    }
    lines
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;
    use wardring_planner::{rollback_hash, rollback_parts};

    use super::{
        super::{Question, only_one, refusal},
        *,
    };
    use crate::args::Approve;

    /// A rollback of a whole stage is asked for, as the controller does it.
    fn asking() -> PatchRollout {
        let mut rollout: PatchRollout = serde_yaml::from_str(
            "{metadata: {name: november, uid: u-1}, \
             spec: {updates: {kbs: [KB5068787]}, authors: [alice], \
             onFailure: {action: Rollback, scope: Stage, approvalAbove: 10%}, \
             stages: [{name: ward, group: ward}]}, \
             status: {planHash: 'v1:0', resolvedUpdates: [{product: Windows Server 2022, kb: KB5068787, kind: Quality}], \
             halted: {reason: FailureBudgetSpent, message: 3 of 20 devices failed., at: '2026-11-21T02:00:00Z'}, \
             stages: [{name: ward, state: Open, freezeId: 'v1:0', counts: {total: 20}}], \
             rollbackApproval: {state: Waiting, since: '2026-11-21T02:00:00Z', scope: Stage, stage: ward, \
             upTo: 20, groups: [ward], asked: {round: 1, request: r, nonce: n, \
             expiresAt: '2026-11-22T02:00:00Z'}}}}",
        )
        .unwrap();
        let parts = rollback_parts(&rollout).unwrap();
        let known = rollout.status.as_mut().unwrap().rollback_approval.as_mut().unwrap();
        known.asked.parts = parts;
        let hash = rollback_hash(&rollout, &known_of(&rollout).asked);
        let known = rollout.status.as_mut().unwrap().rollback_approval.as_mut().unwrap();
        known.asked.hash = hash;
        rollout
    }

    fn known_of(rollout: &PatchRollout) -> &RollbackApproval {
        rollout.status.as_ref().unwrap().rollback_approval.as_ref().unwrap()
    }

    fn args(stage: Option<&str>) -> Approve {
        Approve {
            name: "november".to_owned(),
            stage: stage.map(ToOwned::to_owned),
            gate: None,
            rollback: stage.is_none(),
            order: None,
            reason: "r".to_owned(),
            hash: None,
            dry_run: false,
            output: None,
        }
    }

    #[test]
    fn what_is_shown_is_whom_it_means_now_and_how_far_it_may_go() {
        let mut rollout = asking();
        let slice = |lines: &[&str], freeze: &str| -> PatchRolloutSlice {
            serde_json::from_value(json!({
                "metadata": { "name": "s" },
                "spec": { "rollout": "november", "rolloutUid": "u-1", "stage": "ward", "index": 0,
                          "of": 1, "freezeId": freeze, "lines": lines },
            }))
            .unwrap()
        };
        let lines = [
            "ws-1 1 Succeeded 2026-11-21T02:00:00Z tries=1",
            "ws-2 1 Failed 2026-11-21T02:00:00Z tries=1",
            "ws-3 2 RolledBack 2026-11-21T02:00:00Z action=Rollback tries=1",
            "ws-4 0 Pending",
        ];
        let view = SliceView::new(&slice(&lines, ""));
        let id = freeze_id([view.names_digest.digest()].into_iter());
        rollout.status.as_mut().unwrap().stages[0].freeze_id = Some(id.clone());
        let known = known_of(&rollout);
        let slices =
            [slice(&lines, &id), slice(&["dc-1 1 Failed 2026-11-21T02:00:00Z tries=1"], "v1:old")];
        let shown = meant(&slices, &rollout, known).unwrap();
        let told = told(&rollout, known, &shown, false).join("\n");
        for part in [
            "Rollout november, rollback of the whole stage ward: the updates are taken back from up to 20 devices in all.",
            "Why: 3 of 20 devices failed.",
            "  KB5068787 for Windows Server 2022",
            "Without asking anybody: 10% (approvalAbove).",
            "Groups that ask first: ward.",
            "  onHalt:\n    installedAwaitingReboot: Hold",
            "Written by alice.",
            "Devices now: 1 failed, 1 healthy, 0 at work or waiting for their restart, 1 taken back or at it.",
            "  ws-2 (failed)\n  ws-1 (proven and healthy)\n  ws-3 (taken back, or at it)",
        ] {
            assert!(told.contains(part), "no {part} in {told}");
        }
        assert!(!told.contains("dc-1") && !told.contains("ws-4"), "{told}");

        // A record that is gone, or names others, shows nothing that could be decided on.
        let forged = slice(&["ws-1 0 Pending", "dc-1 0 Pending"], &id);
        for slices in [vec![], vec![forged]] {
            let error = meant(&slices, &rollout, known).err().unwrap().to_string();
            assert!(error.contains("stage ward is not whole"), "{error}");
        }
    }

    #[test]
    fn devices_that_wait_for_their_restart_are_shown_where_they_would_be_uninstalled() {
        let granted = SliceLine {
            state: LineState::Granted,
            action: JobAction::Install,
            ..SliceLine::pending("ws-1")
        };
        assert_eq!(how(&granted, false, true), Some(AT_WORK));
        assert_eq!(how(&granted, false, false), None);
    }

    #[test]
    fn nothing_can_be_decided_on_but_what_is_asked_and_shown() {
        let why = |change: fn(&mut PatchRollout)| {
            let mut rollout = asking();
            change(&mut rollout);
            let asked = only_one(&rollout, &[], &args(None)).unwrap();
            assert!(matches!(asked, Question::Rollback(_)));
            let now: Timestamp = "2026-11-22T01:00:00Z".parse().unwrap();
            refusal(&rollout, &asked, now).unwrap_or_default()
        };
        assert_eq!(why(|_| {}), "");
        let changes: [fn(&mut PatchRollout); 5] = [
            |all| all.spec.authors.push("bob".to_owned()),
            |all| all.spec.on_failure.max_concurrency = Some(wardring_api::Cap::Count(9)),
            |all| all.metadata.uid = Some("u-2".to_owned()),
            |all| {
                let status = all.status.as_mut().unwrap();
                status.rollback_approval.as_mut().unwrap().up_to = 500;
            },
            |all| all.status.as_mut().unwrap().stages[0].freeze_id = Some("v1:1".to_owned()),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let why = why(change);
            assert!(why.contains("not been asked about anew"), "{index}: {why}");
        }
        let rollout = asking();
        let error = only_one(&rollout, &[], &args(Some("ward"))).err().unwrap().to_string();
        assert_eq!(error, "that is not asked; what is: --rollback");
    }
}
