//! Rollbacks that wait for a person: those that would go beyond `onFailure.approvalAbove`, and those of
//! groups that say Ask.
//!
//! What is asked is a scope and a bound, not a list: a device more that breaks is covered until the bound is
//! reached, and only then it is asked anew. An approval is read in every pass for as long as something
//! goes on by it, so whatever voids it stops what has not begun.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use wardring_api::{
    ApprovalPhase, Decided, GateApproval, GateDecision, GateState, PatchApproval,
    PatchApprovalSpec, PatchApprovalStatus, PatchRollout, PatchRolloutStatus, RollbackApproval,
    RollbackPolicy, RollbackScope,
    conditions::{clip, whole_seconds},
};

use super::{
    ApprovalUse, FORM, Question, Writers, answers, answers_to, changed, decision, digest, is_about,
    look, refusal, request_name, same_form, still_counts,
};
use crate::{
    EventKind, NewApproval,
    explain::{devices, one_line},
    validate::{Run, Scene, Stop},
    wake::Wake,
};
use wardring_api::reasons::Reason;

/// How long an answer is waited for, and holds, before it is asked for anew.
pub(super) const EXPIRES_AFTER: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Groups that are named.
const GROUPS: usize = 64;

/// What an approval of the rollback covers, each with a digest. None as long as nothing is asked.
pub fn rollback_parts(rollout: &PatchRollout) -> Option<Vec<String>> {
    let status = rollout.status.as_ref()?;
    parts(rollout, status, status.rollback_approval.as_ref()?)
}

fn parts(
    rollout: &PatchRollout,
    status: &PatchRolloutStatus,
    known: &RollbackApproval,
) -> Option<Vec<String>> {
    // Devices that failed are no list that could be frozen; the others are those of the stages.
    let is_meant = |stage: &str| match known.scope {
        RollbackScope::Device => false,
        RollbackScope::Stage => known.stage.as_deref() == Some(stage),
        RollbackScope::AllStages => true,
    };
    let frozen: Vec<_> = status
        .stages
        .iter()
        .filter(|stage| is_meant(&stage.name))
        .map(|stage| (&stage.name, &stage.freeze_id))
        .collect();
    let all = [
        (FORM, json!(env!("CARGO_PKG_VERSION"))),
        ("updates", json!(status.plan_hash.as_deref()?)),
        ("scope", json!([known.scope, known.stage])),
        ("devices", json!(frozen)),
        ("number of devices", json!(known.up_to)),
        ("groups that ask", json!(known.groups)),
        ("rules", json!([rollout.spec.on_failure, rollout.spec.on_halt])),
        ("authors", json!(rollout.spec.authors)),
    ];
    Some(all.map(|(name, value)| format!("{name}={}", &digest(&value)[..16])).to_vec())
}

/// The hash of an asking, from what the status says of it.
pub fn rollback_hash(rollout: &PatchRollout, asked: &GateApproval) -> String {
    let content = json!([
        "wardring/rollback-approval/v1",
        rollout.metadata.namespace,
        rollout.metadata.name,
        rollout.metadata.uid,
        asked.parts,
        asked.round,
        asked.nonce,
        asked.policy,
    ]);
    format!("v1:{}", digest(&content))
}

/// Whether the written status says that a person approved what it asks, and it would still ask just that. No
/// look at the approval itself.
pub fn rollback_is_approved(rollout: &PatchRollout, now: Timestamp) -> bool {
    let Some(status) = rollout.status.as_ref() else { return false };
    status.rollback_approval.as_ref().is_some_and(|known| holds(rollout, status, known, now))
}

fn holds(
    rollout: &PatchRollout,
    status: &PatchRolloutStatus,
    known: &RollbackApproval,
    now: Timestamp,
) -> bool {
    let asked = &known.asked;
    let said = asked.decided.as_ref().map(|said| said.decision);
    known.state == GateState::Passed
        && said == Some(Decided::Approve)
        && !asked.hash.is_empty()
        && asked.hash == rollback_hash(rollout, asked)
        && asked.expires_at.is_some_and(|expires| now < expires)
        // Another version words the same differently; the controller asks anew.
        && parts(rollout, status, known)
            .is_some_and(|now| now == asked.parts || !same_form(&now, &asked.parts))
}

/// Whether an approval that the written status relies on lets the rollback go on to so many devices.
pub(crate) fn lets_roll_back(run: &Run<'_>, reach: usize, scene: &Scene<'_>) -> bool {
    let now = run.status.rollback_approval.as_ref();
    let was = run.before.rollback_approval.as_ref();
    let (Some(now), Some(was)) = (now, was) else { return false };
    let uid = |known: &RollbackApproval| known.asked.decided.as_ref().map(|said| said.uid.clone());
    if (&was.asked.hash, uid(was)) != (&now.asked.hash, uid(now))
        || [was, now].iter().any(|all| !holds(run.rollout, &run.status, all, scene.now))
        || reach > now.up_to as usize
        || (scope(run), groups(run, scene)) != ((now.scope, now.stage.clone()), now.groups.clone())
    {
        return false;
    }
    let writers = Writers::of_rollout(run.rollout, false);
    still_counts(&run.id, &now.subject(), &writers, &now.asked, scene)
}

/// Whether a person approved since the procedure last ended: it goes on, however long ago it began.
pub(crate) fn is_newer(run: &Run<'_>) -> bool {
    let ended = run.status.rollback.as_ref().and_then(|rollback| rollback.completed_at);
    approved_at(run).zip(ended).is_some_and(|(said, ended)| said >= ended)
}

/// When a person approved what goes on now, if one did.
pub(crate) fn approved_at(run: &Run<'_>) -> Option<Timestamp> {
    let known = run.status.rollback_approval.as_ref().filter(|_| run.consent.approved)?;
    known.asked.decided.as_ref().map(|said| said.at)
}

/// The scope of the procedure as it stands, and its stage where that is one.
fn scope(run: &Run<'_>) -> (RollbackScope, Option<String>) {
    match &run.status.rollback {
        Some(rollback) if rollback.scope == RollbackScope::Stage => {
            (rollback.scope, Some(rollback.stage.clone()))
        }
        Some(rollback) => (rollback.scope, None),
        None => (RollbackScope::Device, None),
    }
}

/// Groups with frozen devices that say Ask, whatever became of those.
fn groups(run: &Run<'_>, scene: &Scene<'_>) -> Vec<String> {
    let asks = |policy| policy == RollbackPolicy::Ask;
    let all = scene.table.groups();
    if !all.iter().any(|group| asks(group.spec.rollback)) {
        return Vec::new();
    }
    let lines = run.stages.iter().flat_map(|stage| &stage.frozen).flat_map(|all| &all.lines);
    let rows = lines.filter(|line| scene.row(line).is_some());
    let of = rows.flat_map(|line| scene.table.groups_of(line.row as usize));
    let of: BTreeSet<&str> = of
        .map(|&group| &all[group as usize])
        .filter(|group| asks(group.spec.rollback))
        .map(|group| group.name.as_str())
        .collect();
    of.into_iter().take(GROUPS).map(ToOwned::to_owned).collect()
}

/// Latches a rejection, whatever else stands still. Returns whether there was one.
pub(crate) fn latch(run: &mut Run<'_>, scene: &Scene<'_>) -> bool {
    let Some(known) = &run.status.rollback_approval else { return false };
    if known.state == GateState::Failed {
        return false;
    }
    let said = answers(&run.id, &known.subject(), &known.asked, scene);
    let no = said.iter().find(|said| said.spec.decision == Some(Decided::Reject));
    let Some(decided) = no.and_then(|no| decision(no, scene.now)) else { return false };
    let message = clip(
        &format!(
            "{} rejected taking the updates back from more devices{}. They keep them until somebody asks for \
             a retry, or orders it with a PatchRollback.",
            decided.by,
            because(&clip(&decided.reason, 220))
        ),
        512,
    );
    let rejected = RollbackApproval {
        state: GateState::Failed,
        since: whole_seconds(scene.now),
        message: message.clone(),
        asked: GateApproval { decided: Some(decided), ..known.asked.clone() },
        ..known.clone()
    };
    run.status.rollback_approval = Some(rejected);
    run.emit(EventKind::Warning, Reason::RollbackRejected, message);
    true
}

pub(super) fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

/// Asks, counts an answer, or asks anew where what was asked is no longer what would happen.
pub(crate) fn follow(run: &mut Run<'_>, scene: &Scene<'_>, wake: &mut Wake) {
    if run.consent.share.is_none() {
        return;
    }
    let moved = latch(run, scene);
    run.gating |= moved;
    let stands = matches!(run.stop, Some(Stop::Deleting | Stop::Aborted | Stop::Suspended));
    if moved || stands || run.complaint.is_some() {
        return;
    }
    let known = run.status.rollback_approval.clone();
    // A rejection stays until a person asks for a retry.
    if known.as_ref().is_some_and(|known| known.state == GateState::Failed) {
        return;
    }
    let is_decided = known.as_ref().is_some_and(|known| known.asked.decided.is_some());
    if run.consent.waits == 0 || !run.consent.is_asked_for(run) {
        // What was said stays for the audit; what nobody has to answer any more goes.
        if known.is_some() && !is_decided {
            run.status.rollback_approval = None;
            run.gating = true;
        }
        return;
    }
    let next = asked(run, known.as_ref(), scene, wake);
    let key = |known: &RollbackApproval| {
        let decided = known.asked.decided.as_ref().map(|said| said.uid.clone());
        (known.state, known.asked.hash.clone(), decided)
    };
    if known.as_ref().map(key) != next.as_ref().map(key) {
        run.gating = true;
        if let Some(next) = &next {
            tell(run, known.as_ref(), next);
        }
    }
    run.status.rollback_approval = next;
}

/// Tells what has changed, once.
fn tell(run: &mut Run<'_>, before: Option<&RollbackApproval>, next: &RollbackApproval) {
    let is_asked = !next.asked.hash.is_empty()
        && before.is_none_or(|before| before.asked.hash != next.asked.hash);
    let message = next.message.clone();
    match next.state {
        GateState::Passed => run.emit(EventKind::Normal, Reason::Approved, message),
        GateState::Error => run.emit(EventKind::Warning, Reason::ApprovalPolicyBroken, message),
        _ if is_asked => run.emit(EventKind::Warning, Reason::RollbackAwaitsApproval, message),
        _ => {}
    }
}

/// The asking as it stands now.
fn asked(
    run: &Run<'_>,
    known: Option<&RollbackApproval>,
    scene: &Scene<'_>,
    wake: &mut Wake,
) -> Option<RollbackApproval> {
    let size = run.stages.iter().flat_map(|stage| &stage.frozen).map(|all| all.lines.len()).sum();
    let reach = run.consent.reach;
    let (scope, stage) = scope(run);
    let kept = known.filter(|known| reach <= known.up_to as usize && known.scope == scope);
    // Room to grow: otherwise every device more would void what was just approved.
    let bound =
        kept.map_or(reach.next_power_of_two().min(size).max(reach), |known| known.up_to as usize);
    let up_to = u32::try_from(bound).unwrap_or(u32::MAX);
    let mut next = RollbackApproval {
        state: known.map_or(GateState::Waiting, |known| known.state),
        since: known.map_or(whole_seconds(scene.now), |known| known.since),
        message: String::new(),
        scope,
        stage,
        up_to,
        groups: groups(run, scene),
        asked: known.map(|known| known.asked.clone()).unwrap_or_default(),
    };
    let parts = parts(run.rollout, &run.status, &next)?;
    let question = Question {
        rollout: &run.id,
        subject: next.subject(),
        writers: Writers::of_rollout(run.rollout, false),
        parts,
        generation: run.rollout.metadata.generation,
        expires_after: EXPIRES_AFTER,
    };
    let name = |asked: &mut GateApproval| {
        asked.hash = rollback_hash(run.rollout, asked);
        asked.request = request_name(&run.id.name, "rollback", &asked.hash);
    };
    let before = next.state;
    let was = known.map(|known| (known.state, &known.asked));
    let Some(asking) = look(&question, was, name, scene, wake) else { return known.cloned() };
    (next.state, next.asked) = (asking.state, asking.asked);
    next.message = match (&asking.trouble, &next.asked.decided) {
        (Some(why), _) => clip(
            &format!(
                "Taking the updates back from more devices waits for a person's approval, and none counts \
                 now: {}. A PatchRollback asks nobody unless it says so itself.",
                one_line(why)
            ),
            512,
        ),
        (None, Some(decided)) => approved(&next, decided),
        (None, None) => wanted(run, &next),
    };
    if next.state != before {
        next.since = whole_seconds(scene.now);
    }
    Some(next)
}

fn approved(known: &RollbackApproval, decided: &GateDecision) -> String {
    let text = format!(
        "{} approved taking the updates back from up to {}{}.",
        decided.by,
        devices(known.up_to as usize),
        because(&decided.reason)
    );
    clip(&text, 512)
}

/// What is asked, in words.
fn wanted(run: &Run<'_>, known: &RollbackApproval) -> String {
    let consent = &run.consent;
    let share = consent.share.unwrap_or_default();
    let asks = match known.groups.as_slice() {
        [] => String::new(),
        [group] => format!(" Group {group} asks first."),
        [group, ..] => format!(" Groups ask first, {group} among them."),
    };
    let again = known
        .asked
        .because
        .as_ref()
        .map_or(String::new(), |why| format!(" It is asked anew, because {why}."));
    let name = &run.id.name;
    let text = format!(
        "Taking the updates back waits for a person's approval: {} of {} wait, and approvalAbove lets {share} go \
         unasked.{asks} `kubectl wardring approve {name} --rollback` shows what is asked.{again}",
        consent.waits,
        devices(consent.reach),
    );
    clip(&text, 512)
}

/// An approval that the status relies on and the one before did not.
pub(super) fn new_use(run: &Run<'_>) -> Option<ApprovalUse> {
    let passed = |status: &PatchRolloutStatus| {
        let known = status.rollback_approval.clone()?;
        let decided = known.asked.decided.clone()?;
        (known.state == GateState::Passed).then_some((known, decided))
    };
    let (known, decided) = passed(&run.status)?;
    if let Some((had, before)) = passed(&run.before)
        && (&before.uid, &had.asked.hash) == (&decided.uid, &known.asked.hash)
    {
        return None;
    }
    Some(ApprovalUse {
        rollout: run.id.clone(),
        subject: known.subject(),
        name: decided.approval,
        uid: decided.uid,
        hash: known.asked.hash,
        approver: decided.by,
        policy: known.asked.policy,
    })
}

/// The request that the written status asks for and no object carries yet.
pub(super) fn request(run: &Run<'_>, scene: &Scene<'_>) -> Option<NewApproval> {
    let (now, was) =
        (run.status.rollback_approval.as_ref()?, run.before.rollback_approval.as_ref()?);
    let asked = &now.asked;
    let is_asked = !asked.hash.is_empty() && asked.hash == was.asked.hash;
    if !is_asked || now.state != GateState::Waiting || run.is_deleting() {
        return None;
    }
    let is_there = scene.snapshot.approvals.iter().any(|all| {
        all.metadata.name.as_ref() == Some(&asked.request)
            || (is_about(all, &run.id, &now.subject()) && all.spec.approval_hash == asked.hash)
    });
    (!is_there).then(|| NewApproval {
        name: asked.request.clone(),
        rollout: run.id.clone(),
        stage: now.stage.clone(),
        spec: PatchApprovalSpec {
            rollout: run.id.name.clone(),
            rollout_uid: run.id.uid.clone(),
            subject: now.subject(),
            approval_hash: asked.hash.clone(),
            authors: run.rollout.spec.authors.clone(),
            expires_at: asked.expires_at,
            decision: None,
            approver: None,
            reason: None,
        },
    })
}

/// What a PatchApproval about the run's rollback says of itself. `was_done` is what it said when it was used or
/// rejected.
pub(super) fn standing(
    approval: &PatchApproval,
    known: &mut PatchApprovalStatus,
    was_done: Option<(ApprovalPhase, String)>,
    run: &Run<'_>,
    scene: &Scene<'_>,
) -> (ApprovalPhase, String) {
    let void = |why: String| {
        was_done.clone().unwrap_or((ApprovalPhase::Void, format!("The rollback: {why}.")))
    };
    let Some(now) = &run.status.rollback_approval else {
        return void("nothing is asked (now)".to_owned());
    };
    let asked = &now.asked;
    if !answers_to(approval, &run.id, &now.subject(), &asked.hash) {
        let what = changed(&known.parts, &asked.parts);
        return void(if known.parts.is_empty() {
            "it is not what is asked (now)".to_owned()
        } else if what.is_empty() {
            asked.because.clone().unwrap_or_else(|| "it was asked anew".to_owned())
        } else {
            format!("{what} changed since it was asked")
        });
    }
    known.parts = asked.parts.clone();
    let named =
        asked.decided.as_ref().filter(|said| Some(&said.uid) == approval.metadata.uid.as_ref());
    match named.map(|said| (said.decision, said)) {
        Some((Decided::Reject, _)) => return (ApprovalPhase::Rejected, now.message.clone()),
        Some((Decided::Approve, said)) if run.consent.is_used => {
            return (ApprovalPhase::Used, approved(now, said));
        }
        Some((Decided::Approve, said)) => {
            let has_ended = run.is_deleting() || run.status.aborted.is_some();
            if has_ended {
                return void("the rollout has ended, and nothing began by it".to_owned());
            }
            return (ApprovalPhase::Approved, approved(now, said));
        }
        None => {}
    }
    if let Some(done) = was_done {
        return done;
    }
    if approval.spec.decision.is_none() {
        return (ApprovalPhase::Asked, now.message.clone());
    }
    let why = refusal(approval, &Writers::of_rollout(run.rollout, false), asked, scene);
    void(why.unwrap_or_else(|| "somebody else's word was counted first".to_owned()))
}
