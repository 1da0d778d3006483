//! The tree: a row per rollout, a row per stage below it, and what a person should know between them.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use wardring_api::{PatchRollout, RolloutPhase, StageCounts, StageState, StageStatus};

use super::notes;
use crate::{
    paint::Tone,
    table::{Cell, Table},
};

/// How much to show.
pub struct View {
    /// More columns, and every sample.
    pub wide: bool,
    /// A column for namespaces.
    pub namespaces: bool,
    /// The instant that ages are counted to.
    pub now: Timestamp,
}

/// The whole table.
pub fn render(rollouts: &[PatchRollout], view: &View) -> Table {
    let mut header = vec!["ROLLOUT", "STATE", "DONE", "SUCCEEDED", "MOVING", "WAITING", "FAILED"];
    header.extend(["UNREACHABLE", "ROLLED BACK"]);
    if view.wide {
        header.extend(["ALREADY", "NOT APPLICABLE", "DEFERRED", "AWAITING REBOOT", "REBOOTING"]);
    }
    header.push("AGE");
    if view.namespaces {
        header.insert(0, "NAMESPACE");
    }
    let mut table = Table::new(&header);
    for rollout in rollouts {
        rollout_rows(&mut table, rollout, view);
    }
    table
}

fn rollout_rows(table: &mut Table, rollout: &PatchRollout, view: &View) {
    let status = rollout.status.clone().unwrap_or_default();
    let total =
        status.stages.iter().fold(StageCounts::default(), |sum, stage| add(sum, stage.counts));
    let state = match status.phase {
        Some(phase) => Cell::new(format!("{phase:?}"), phase_tone(phase)),
        // Nobody has looked at it yet.
        None => Cell::new("Unplanned", Tone::Warn),
    };
    let created = rollout.creation_timestamp().map(|time| time.0);
    push(table, rollout, view, rollout.name_any(), state, &total, created);
    for (tone, text) in notes::of_rollout(rollout, &status, view) {
        table.note(tone, format!("│  {text}"));
    }
    let last = rollout.spec.stages.len().saturating_sub(1);
    for (index, spec) in rollout.spec.stages.iter().enumerate() {
        let unopened = StageStatus { name: spec.name.clone(), ..StageStatus::default() };
        let known = status.stages.iter().find(|stage| stage.name == spec.name);
        let stage = known.unwrap_or(&unopened);
        let (branch, below) = if index == last { ("└─", "   ") } else { ("├─", "│  ") };
        let state = Cell::new(format!("{:?}", stage.state), stage_tone(stage));
        push(
            table,
            rollout,
            view,
            format!("{branch} {}", stage.name),
            state,
            &stage.counts,
            stage.started_at,
        );
        for (tone, text) in notes::of_stage(stage, view) {
            table.note(tone, format!("{below}   {text}"));
        }
    }
}

fn push(
    table: &mut Table,
    rollout: &PatchRollout,
    view: &View,
    name: String,
    state: Cell,
    counts: &StageCounts,
    since: Option<Timestamp>,
) {
    let mut cells = Vec::new();
    if view.namespaces {
        cells.push(rollout.namespace().unwrap_or_default().into());
    }
    cells.extend([name.into(), state]);
    let done = counts.total - (counts.pending + counts.in_progress).min(counts.total);
    cells.push(if counts.total == 0 {
        "-".into()
    } else {
        format!("{done}/{}", counts.total).into()
    });
    cells.extend([
        count(counts.succeeded, Tone::Good),
        count(counts.in_progress, Tone::Busy),
        count(counts.pending, Tone::Plain),
        count(counts.failed + counts.rollback_failed, Tone::Bad),
        count(counts.unreachable, Tone::Bad),
        count(counts.rolled_back, Tone::Warn),
    ]);
    if view.wide {
        cells.extend([
            count(counts.already_installed, Tone::Plain),
            count(counts.not_applicable, Tone::Plain),
            count(counts.deferred, Tone::Plain),
            count(counts.installed_awaiting_reboot, Tone::Busy),
            count(counts.rebooting, Tone::Busy),
        ]);
    }
    cells
        .push(since.map_or_else(|| "-".into(), |since| age(view.now.duration_since(since)).into()));
    table.row(cells);
}

fn count(number: u32, tone: Tone) -> Cell {
    Cell::new(number.to_string(), if number == 0 { Tone::Dim } else { tone })
}

fn add(a: StageCounts, b: StageCounts) -> StageCounts {
    StageCounts {
        total: a.total + b.total,
        pending: a.pending + b.pending,
        in_progress: a.in_progress + b.in_progress,
        succeeded: a.succeeded + b.succeeded,
        already_installed: a.already_installed + b.already_installed,
        not_applicable: a.not_applicable + b.not_applicable,
        deferred: a.deferred + b.deferred,
        failed: a.failed + b.failed,
        unreachable: a.unreachable + b.unreachable,
        rolled_back: a.rolled_back + b.rolled_back,
        rollback_failed: a.rollback_failed + b.rollback_failed,
        removed: a.removed + b.removed,
        downloaded: a.downloaded + b.downloaded,
        downloading: a.downloading + b.downloading,
        installed_awaiting_reboot: a.installed_awaiting_reboot + b.installed_awaiting_reboot,
        rebooting: a.rebooting + b.rebooting,
        reboot_slow: a.reboot_slow + b.reboot_slow,
    }
}

fn phase_tone(phase: RolloutPhase) -> Tone {
    match phase {
        RolloutPhase::Pending => Tone::Plain,
        RolloutPhase::Progressing => Tone::Busy,
        RolloutPhase::Suspended | RolloutPhase::RollingBack | RolloutPhase::Aborted => Tone::Warn,
        RolloutPhase::Halted | RolloutPhase::RolledBack | RolloutPhase::Invalid => Tone::Bad,
        RolloutPhase::Completed => Tone::Good,
    }
}

fn stage_tone(stage: &StageStatus) -> Tone {
    match stage.state {
        StageState::Pending => Tone::Dim,
        StageState::Gated | StageState::Open | StageState::Soaking | StageState::Tail => Tone::Busy,
        StageState::Completed => Tone::Good,
    }
}

/// A span as kubectl shows ages: the two largest units at most, and no more exact than it matters.
pub fn age(span: SignedDuration) -> String {
    let seconds = span.as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0 | 1) => format!("{seconds}s"),
        (0, 0, 2..=9) if seconds % 60 > 0 => format!("{minutes}m{}s", seconds % 60),
        (0, 0, _) => format!("{minutes}m"),
        (0, 1..=7, 1..) => format!("{hours}h{minutes}m"),
        (0, _, _) => format!("{hours}h"),
        (1..=7, 1.., _) => format!("{days}d{hours}h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::paint::Palette;

    fn shown(wide: bool, status: serde_json::Value) -> String {
        let rollout = serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1",
            "kind": "PatchRollout",
            "metadata": {
                "name": "2026-11", "namespace": "patching", "generation": 2,
                "creationTimestamp": "2026-11-21T02:00:00Z",
            },
            "spec": {
                "updates": { "select": { "release": "2026-11" } },
                "stages": [
                    { "name": "test", "group": "test-servers" },
                    { "name": "production", "group": "production" },
                ],
            },
            "status": status,
        }))
        .unwrap();
        let now = "2026-11-21T02:10:00Z".parse().unwrap();
        render(&[rollout], &View { wide, namespaces: false, now }).render(Palette::Plain)
    }

    #[test]
    fn a_running_rollout_shows_counts_per_stage_and_what_it_waits_for() {
        let text = shown(
            false,
            json!({
                "observedGeneration": 2,
                "phase": "Progressing",
                "message": "Stage test is open.",
                "waitingFor": [{
                    "reason": "SlotsTaken", "message": "3 devices wait for a free slot",
                    "devices": 3, "until": "2026-11-21T02:30:00Z",
                }],
                "stages": [
                    {
                        "name": "test", "state": "Open", "startedAt": "2026-11-21T02:01:00Z",
                        "counts": {
                            "total": 10, "pending": 3, "inProgress": 4, "succeeded": 3,
                            "installedAwaitingReboot": 2, "rebooting": 1, "rebootSlow": 1,
                        },
                    },
                    { "name": "production", "state": "Pending" },
                ],
            }),
        );

        assert_eq!(
            text,
            "\
ROLLOUT         STATE         DONE   SUCCEEDED   MOVING   WAITING   FAILED   UNREACHABLE   ROLLED BACK   AGE
2026-11         Progressing   3/10   3           4        3         0        0             0             10m
│  Stage test is open.
│  waits: 3 devices wait for a free slot (SlotsTaken), until 2026-11-21T02:30:00Z at the latest
├─ test         Open          3/10   3           4        3         0        0             0             9m
│     2 installed and waiting for their restart
│     1 restarting, 1 of them slowly
└─ production   Pending       -      0           0        0         0        0             0             -
"
        );
    }

    #[test]
    fn a_halted_rollout_says_why_and_names_devices_that_failed() {
        let failed: Vec<_> =
            (1..=7).map(|n| format!("srv-0{n}: Failed — ServiceDown: MSSQLSERVER")).collect();
        let status = json!({
            "observedGeneration": 2,
            "phase": "Halted",
            "message": "Stage test is open.",
            "halted": {
                "reason": "FailureBudgetSpent", "message": "7 devices of stage test failed; 1 may",
                "at": "2026-11-21T02:05:00Z", "stage": "test",
            },
            "stages": [{
                "name": "test", "state": "Open", "counts": { "total": 10, "failed": 7, "pending": 3 },
                "failedSample": failed,
            }],
        });

        let text = shown(false, status.clone());

        let halt = "│  halted 5m ago: 7 devices of stage test failed; 1 may (FailureBudgetSpent)\n";
        assert!(text.contains(halt), "{text}");
        assert!(text.contains("│     ✗ srv-05: Failed — ServiceDown: MSSQLSERVER\n"), "{text}");
        assert!(!text.contains("srv-06"), "{text}");
        assert!(text.contains("│     … and 2 more; -o wide shows them\n"), "{text}");
        assert!(shown(true, status).contains("srv-07"));
    }

    #[test]
    fn a_rollout_that_no_controller_has_looked_at_says_so() {
        let text = shown(false, serde_json::Value::Null);
        assert!(text.contains("Unplanned"), "{text}");
        assert!(text.contains("no controller has planned it yet"), "{text}");
    }

    #[test]
    fn ages_are_as_exact_as_it_matters() {
        for (seconds, text) in [
            (5, "5s"),
            (119, "119s"),
            (150, "2m30s"),
            (601, "10m"),
            (5_400, "1h30m"),
            (36_000, "10h"),
            (100_000, "1d3h"),
            (2_000_000, "23d"),
            (-3, "0s"),
        ] {
            assert_eq!(age(SignedDuration::from_secs(seconds)), text);
        }
    }
}
