//! Approvals in words, what PatchApprovals say of themselves, and the requests that the controller makes.

use jiff::SignedDuration;
use wardring_api::{
    ApprovalPhase, ApprovalSubject, Decided, Gate, GateApproval, GateDecision, GatePhase,
    GateState, GateStatus, GateType, PatchApproval, PatchApprovalSpec, PatchApprovalStatus, Stage,
    StageStatus, SubjectType,
    conditions::{clip, whole_seconds},
};

use super::{Writers, changed, is_about, is_for, is_used, may_author, orders, refusal, rollback};
use crate::{
    Action, NewApproval,
    caps::later,
    expedite,
    explain::{devices, one_line},
    plan::Lanes,
    validate::{Run, Scene},
    wake::Wake,
};

/// How long an approval stays after its rollout is gone: it is part of the audit of the run.
const RETENTION: SignedDuration = SignedDuration::from_hours(90 * 24);

/// How long one that never named a rollout that is known is kept.
const STRANGE: SignedDuration = SignedDuration::from_hours(1);
/// Statuses that one pass writes, and objects that it deletes.
const AT_ONCE: usize = 50;

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

pub(super) fn approved(
    run: &Run<'_>,
    stage: &str,
    gate: &GateStatus,
    decided: &GateDecision,
) -> String {
    let GateDecision { by, reason, .. } = decided;
    let (phase, haste) = (gate.phase, haste(run, gate.phase));
    let gate = &gate.name;
    let ends = ends(run, stage, phase, Some(decided));
    let ends =
        ends.map_or(String::new(), |older| format!(", and that rollout {older} ends for it"));
    let text =
        format!("Stage {stage}: {by} approved it (gate {gate}){ends}{}.{haste}", because(reason));
    clip(&text, 512)
}

/// The rollout that ends when the stage opens. Of what was said once that had happened, only what it was by
/// ended anybody.
fn ends<'r>(
    run: &'r Run<'_>,
    stage: &str,
    phase: GatePhase,
    said: Option<&GateDecision>,
) -> Option<&'r str> {
    let older = run.rollout.spec.supersedes.as_deref()?;
    let is_first = run.stages.first().is_some_and(|first| first.spec.name == stage);
    let is_by_it = run.status.takeover.as_ref().is_none_or(|takeover| {
        said.is_some_and(|said| takeover.approvals.iter().any(|all| all.uid == said.uid))
    });
    (is_first && phase == GatePhase::Before && is_by_it).then_some(older)
}

/// What an approval in this phase makes the stage leave out, as a further sentence.
fn haste(run: &Run<'_>, phase: GatePhase) -> String {
    let expedite = run.rollout.spec.expedite.as_ref().filter(|_| phase == GatePhase::Before);
    expedite.map_or(String::new(), |expedite| format!(" {}", expedite::told(expedite)))
}

pub(super) fn rejected(stage: &str, gate: &str, decided: &GateDecision) -> String {
    let GateDecision { by, reason, .. } = decided;
    let text = format!(
        "Stage {stage}: {by} rejected it (gate {gate}){}. It stays so until somebody asks for a retry.",
        because(&clip(reason, 220))
    );
    clip(&text, 512)
}

pub(super) fn broken(stage: &str, gate: &Gate, why: &str) -> String {
    let text = format!(
        "Stage {stage}: gate {} waits for a person's approval, and none counts now: {}.",
        gate.name,
        one_line(why)
    );
    clip(&text, 512)
}

pub(super) fn unvouched(stage: &str, gate: &Gate, why: &str) -> String {
    let text = format!(
        "Stage {stage}: what was approved (gate {}) is looked at once more before it counts, and that cannot be done now: {}.",
        gate.name,
        one_line(why)
    );
    clip(&text, 512)
}

pub(super) fn asks(
    run: &Run<'_>,
    stage: &Stage,
    status: &StageStatus,
    gate: &Gate,
    phase: GatePhase,
    asked: &GateApproval,
) -> String {
    let again = asked
        .because
        .as_ref()
        .map_or(String::new(), |why| format!(" It is asked anew, because {why}."));
    let ends = ends(run, &stage.name, phase, None)
        .map_or(String::new(), |older| format!(" Rollout {older} ends once the stage opens."));
    let text = format!(
        "Stage {} waits for a person's approval of {} (gate {}): `kubectl wardring approve {} --stage {}` \
         shows what is asked.{ends}{again}{}",
        stage.name,
        devices(status.counts.total as usize),
        gate.name,
        run.id.name,
        stage.name,
        haste(run, phase),
    );
    clip(&text, 512)
}

/// Requests that are missing, and statuses that differ from what is written.
pub(crate) fn write(runs: &[Run<'_>], scene: &Scene<'_>, lanes: &mut Lanes, wake: &mut Wake) {
    for run in runs {
        let asked = requests(run, scene)
            .chain(rollback::request(run, scene))
            .chain(orders::requests(run, scene));
        lanes.groups.extend(asked.map(|new| Action::CreateApproval(Box::new(new))));
    }
    let mut approvals: Vec<&PatchApproval> =
        scene.snapshot.approvals.iter().map(AsRef::as_ref).collect();
    approvals.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut writes = 0;
    for approval in approvals {
        // What names no rollout that is known is not worth a write; one that was, is told its end.
        let known = |run: &Run<'_>| run.uid() == approval.spec.rollout_uid;
        let is_strange = approval.status.is_none() && !runs.iter().any(known);
        if approval.metadata.deletion_timestamp.is_some() || is_strange {
            continue;
        }
        if writes == AT_ONCE {
            // Whoever made so many may wait for their words; the next pass goes on.
            wake.at(later(scene.now, SignedDuration::from_secs(1)));
            break;
        }
        let status = status(approval, runs, scene);
        if approval.status.as_ref() != Some(&status) {
            writes += 1;
            lanes.groups.push(Action::WriteApprovalStatus {
                name: approval.metadata.name.clone().unwrap_or_default(),
                uid: approval.metadata.uid.clone().unwrap_or_default(),
                status: Box::new(status),
            });
        }
    }
}

/// What the written status asks and no object asks yet.
fn requests<'r>(run: &'r Run<'_>, scene: &'r Scene<'_>) -> impl Iterator<Item = NewApproval> + 'r {
    let stages = run.before.stages.iter();
    let gates = stages.flat_map(|stage| stage.gates.iter().map(move |gate| (stage, gate)));
    gates.filter_map(move |(stage, gate)| {
        let asked = gate.approval.as_ref().filter(|asked| !asked.hash.is_empty())?;
        let now = find(run, &stage.name, gate)?;
        // Only what is asked before and after this pass.
        let same = now.approval.as_ref().is_some_and(|now| now.hash == asked.hash);
        if !same || now.state != GateState::Waiting || run.is_deleting() {
            return None;
        }
        let subject = ApprovalSubject::stage_gate(&stage.name, &gate.name);
        let is_there = scene.snapshot.approvals.iter().any(|all| {
            all.metadata.name.as_ref() == Some(&asked.request)
                || (is_about(all, &run.id, &subject) && all.spec.approval_hash == asked.hash)
        });
        let spec = run.rollout.spec.stages.iter().find(|all| all.name == stage.name)?;
        let (_, of) =
            spec.gates.all().find(|(phase, all)| *phase == gate.phase && all.name == gate.name)?;
        let authors = if may_author(of) { Vec::new() } else { run.rollout.spec.authors.clone() };
        (!is_there).then(|| NewApproval {
            name: asked.request.clone(),
            rollout: run.id.clone(),
            stage: Some(stage.name.clone()),
            spec: PatchApprovalSpec {
                rollout: run.id.name.clone(),
                rollout_uid: run.id.uid.clone(),
                subject,
                approval_hash: asked.hash.clone(),
                authors,
                expires_at: asked.expires_at,
                decision: None,
                approver: None,
                reason: None,
            },
        })
    })
}

fn find<'s>(run: &'s Run<'_>, stage: &str, gate: &GateStatus) -> Option<&'s GateStatus> {
    let stage = run.status.stages.iter().find(|known| known.name == stage)?;
    stage.gates.iter().find(|known| known.phase == gate.phase && known.name == gate.name)
}

fn status(approval: &PatchApproval, runs: &[Run<'_>], scene: &Scene<'_>) -> PatchApprovalStatus {
    let mut status = approval.status.clone().unwrap_or_default();
    status.observed_generation = approval.metadata.generation;
    let (phase, message) = standing(approval, &mut status, runs, scene);
    let is_counted =
        matches!(phase, ApprovalPhase::Approved | ApprovalPhase::Used | ApprovalPhase::Rejected);
    if is_counted {
        status.counted_at = status.counted_at.or(Some(whole_seconds(scene.now)));
    }
    (status.phase, status.message) = (Some(phase), Some(clip(&message, 1024)));
    status
}

fn standing(
    approval: &PatchApproval,
    known: &mut PatchApprovalStatus,
    runs: &[Run<'_>],
    scene: &Scene<'_>,
) -> (ApprovalPhase, String) {
    let before = (known.phase, known.message.clone().unwrap_or_default());
    let of = approval.spec.subject.stage_gate.clone();
    let (stage, gate) = of.map_or_else(Default::default, |of| (of.stage, of.gate));
    let is_done = matches!(before.0, Some(ApprovalPhase::Used | ApprovalPhase::Rejected));
    let over = |why: String| match before {
        // What happened, happened.
        (Some(phase), ref text) if is_done => (phase, text.clone()),
        _ => (ApprovalPhase::Void, why),
    };
    let Some(run) = runs.iter().find(|run| is_for(approval, &run.id)) else {
        let name = &approval.spec.rollout;
        return over(format!("There is no PatchRollout {name} with the uid that it names."));
    };
    let was_done = is_done.then(|| over(String::new()));
    match approval.spec.subject.kind {
        SubjectType::StageGate => {}
        SubjectType::Rollback => {
            return rollback::standing(approval, known, was_done, run, scene);
        }
        SubjectType::Order => return orders::standing(approval, known, was_done, run, scene),
    }
    let of = run.stages.iter().zip(&run.status.stages).find(|(all, _)| all.spec.name == stage);
    let found = of.and_then(|(all, status)| {
        let (phase, spec) = all
            .spec
            .gates
            .all()
            .find(|(_, all)| all.name == gate && all.kind == GateType::Approval)?;
        let known = status.gates.iter().find(|all| all.phase == phase && all.name == gate)?;
        Some((status, spec, known, known.approval.as_ref()?))
    });
    let Some((stage_status, spec, gate_status, asked)) = found else {
        return over(format!("Stage {stage} of the rollout asks nothing by gate {gate}."));
    };
    let named = asked.decided.as_ref().filter(|said| {
        Some(&said.uid) == approval.metadata.uid.as_ref()
            && approval.spec.approval_hash == asked.hash
    });
    if let Some(said) = named {
        let has_ended = run.is_deleting() || run.status.aborted.is_some();
        let is_unused =
            said.decision == Decided::Approve && !is_used(gate_status.phase, stage_status);
        if has_ended && is_unused {
            return (
                ApprovalPhase::Void,
                "The rollout has ended, and nothing began by it.".to_owned(),
            );
        }
        return match said.decision {
            Decided::Reject => (ApprovalPhase::Rejected, rejected(&stage, &gate, said)),
            Decided::Approve if is_used(gate_status.phase, stage_status) => {
                (ApprovalPhase::Used, approved(run, &stage, gate_status, said))
            }
            Decided::Approve => (ApprovalPhase::Approved, approved(run, &stage, gate_status, said)),
        };
    }
    if approval.spec.approval_hash != asked.hash {
        // What a used one was for happened; its stage may ask again since.
        let what = changed(&known.parts, &asked.parts);
        let why = if known.parts.is_empty() {
            "it is not what is asked (now)".to_owned()
        } else if what.is_empty() {
            asked.because.clone().unwrap_or_else(|| "it was asked anew".to_owned())
        } else {
            format!("{what} changed since it was asked")
        };
        return over(format!("Stage {stage}, gate {gate}: {why}."));
    }
    known.parts = asked.parts.clone();
    if is_done {
        return over(String::new());
    }
    if approval.spec.decision.is_none() {
        return (ApprovalPhase::Asked, gate_status.message.clone().unwrap_or_default());
    }
    match refusal(approval, &Writers::of_rollout(run.rollout, may_author(spec)), asked, scene) {
        Some(why) => (ApprovalPhase::Void, format!("Stage {stage}, gate {gate}: {why}.")),
        None => (
            ApprovalPhase::Void,
            format!("Stage {stage}, gate {gate}: somebody else's word was counted first."),
        ),
    }
}

/// PatchApprovals of runs that are gone and past their retention, by name and uid.
pub(crate) fn garbage(
    runs: &[Run<'_>],
    scene: &Scene<'_>,
    wake: &mut Wake,
) -> Vec<(String, String)> {
    let mut names = Vec::new();
    for approval in &scene.snapshot.approvals {
        if runs.iter().any(|run| run.uid() == approval.spec.rollout_uid) {
            continue;
        }
        if approval.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let made = approval.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let kept = if approval.status.is_none() { STRANGE } else { RETENTION };
        if made.is_some_and(|made| wake.is_due(later(made, kept))) {
            let meta = &approval.metadata;
            names.push((
                meta.name.clone().unwrap_or_default(),
                meta.uid.clone().unwrap_or_default(),
            ));
        }
    }
    names.sort();
    if names.len() > AT_ONCE {
        names.truncate(AT_ONCE);
        wake.at(later(scene.now, SignedDuration::from_secs(1)));
    }
    names
}
