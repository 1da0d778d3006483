//! Gates that wait for a person: what is asked, which answer counts, and what voids it.
//!
//! Every asking has a hash over what would happen and over a number that was made up for it, so nobody can
//! have answered before it was asked, and an answer to anything else is none. An answer is read anew in
//! every pass until it is used; a rejection is latched by the first pass that sees it.

mod orders;
mod rollback;
mod told;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wardring_api::{
    ApprovalSubject, Decided, Gate, GateApproval, GateDecision, GatePhase, GateState, GateStatus,
    GateType, PatchApproval, PatchRollback, PatchRollout, PatchRolloutStatus, ResolvedCaps, Stage,
    StageState, StageStatus,
    conditions::{clip, whole_seconds},
    reasons::Reason,
};

use crate::{
    RolloutRef,
    caps::later,
    explain::one_line,
    order::assent::Assent,
    validate::{Complaint, Run, Scene},
    wake::Wake,
};

pub(crate) use orders::{
    approval_of as approval_of_order, is_approved as order_is_let, new_use as use_of_order,
    rejection as rejection_of_order,
};
pub use orders::{order_hash, order_is_approved, order_is_rejected, order_parts};
pub(crate) use rollback::{
    approved_at as rollback_approved_at, follow as follow_rollback,
    is_newer as is_newer_than_rollback, latch as latch_rollback, lets_roll_back,
};
pub use rollback::{rollback_hash, rollback_is_approved, rollback_parts};
pub(crate) use told::{garbage, write};

/// Whether answers can be believed: the admission policies that vouch for who gave them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApprovalPolicy {
    /// Exactly the expected ones stand and are enforced.
    Intact {
        /// Changes whenever one of the objects was changed or made anew, also if it was put back.
        fingerprint: String,
        /// When the youngest of them was made.
        since: Timestamp,
    },
    /// They do not; no answer counts.
    Broken {
        /// What is wrong, as a part of a sentence.
        why: String,
    },
    /// Nobody can tell at the moment. Nothing is asked, counted or opened, and what was counted stays.
    Unknown {
        /// Why, as a part of a sentence.
        why: String,
    },
}

impl Default for ApprovalPolicy {
    fn default() -> ApprovalPolicy {
        ApprovalPolicy::Unknown {
            why: "nobody has looked at the admission policies yet".to_owned(),
        }
    }
}

/// An approval that a status is about to rely on. It must be read once more right before that status is
/// written, and be exactly this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalUse {
    /// The rollout.
    pub rollout: RolloutRef,
    /// What it is about.
    pub subject: ApprovalSubject,
    /// Name of the PatchApproval.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// What it must approve.
    pub hash: String,
    /// Who approved.
    pub approver: String,
    /// Fingerprint of the policies under which it was asked.
    pub policy: String,
}

/// Whether the approval answers exactly what this very rollout asks about the subject by `hash`. The planner,
/// the second look at its plans and the look before a write all go by this.
pub fn answers_to(
    approval: &PatchApproval,
    rollout: &RolloutRef,
    subject: &ApprovalSubject,
    hash: &str,
) -> bool {
    !hash.is_empty() && approval.spec.approval_hash == hash && is_about(approval, rollout, subject)
}

/// Whether the approval is about this of this very rollout.
fn is_about(approval: &PatchApproval, rollout: &RolloutRef, subject: &ApprovalSubject) -> bool {
    is_for(approval, rollout) && approval.spec.subject == *subject
}

/// Whether the approval is about this very rollout.
fn is_for(approval: &PatchApproval, rollout: &RolloutRef) -> bool {
    approval.spec.rollout == rollout.name
        && approval.spec.rollout_uid == rollout.uid
        && !rollout.uid.is_empty()
}

/// When a policy that does not stand is looked at again.
const LOOK_AGAIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);

fn digest(value: &Value) -> String {
    hex::encode(Sha256::digest(value.to_string()))
}

/// What an approval of the stage covers, each with a digest: `caps=0123456789abcdef`. None as long as its
/// devices are not frozen.
pub fn approval_parts(rollout: &PatchRollout, stage: &str) -> Option<Vec<String>> {
    let status = rollout.status.as_ref()?;
    let spec = rollout.spec.stages.iter().find(|known| known.name == stage)?;
    let known = status.stages.iter().find(|known| known.name == stage)?;
    parts(rollout, status.plan_hash.as_deref(), spec, known)
}

pub(crate) fn parts(
    rollout: &PatchRollout,
    plan_hash: Option<&str>,
    stage: &Stage,
    status: &StageStatus,
) -> Option<Vec<String>> {
    let mut written = serde_json::to_value(stage).ok()?;
    let fields = written.as_object_mut()?;
    // Its name is in the hash itself. Whatever is not named here, also a field of a later version, is timing.
    fields.remove("name");
    let mut take = |names: &[&str]| -> Value {
        names.iter().map(|name| fields.remove(*name).unwrap_or_default()).collect()
    };
    let windows = take(&["windows"]);
    let gates = take(&["gates"]);
    let selection = take(&["group", "selector"]);
    let mut caps = take(&[
        "maxConcurrency",
        "maxFailures",
        "maxUnreachable",
        "minDevices",
        "minProven",
        "minCoverage",
        "requireProven",
        "retry",
        "offline",
    ]);
    caps.as_array_mut()?.push(json!(rollout.spec.correlated_failures));
    let mut all = vec![
        (FORM, json!(env!("CARGO_PKG_VERSION"))),
        ("updates", json!(plan_hash?)),
        ("devices", json!([status.freeze_id.as_deref()?, selection])),
        ("caps", caps),
        ("windows", windows),
        ("gates", gates),
        ("times", json!(written)),
        ("authors", json!(rollout.spec.authors)),
        ("haste", json!(rollout.spec.expedite)),
    ];
    all.extend(rollout.spec.supersedes.as_ref().map(|older| ("superseded rollout", json!(older))));
    let part = |(name, value): (&str, Value)| format!("{name}={}", &digest(&value)[..16]);
    Some(all.into_iter().map(part).collect())
}

/// Whether what stands in an asking is what would happen now. Another version words the same differently;
/// then it is, as long as nobody has edited the rollout since it was.
fn is_what_was_asked(asked: &GateApproval, parts: &[String], generation: Option<i64>) -> bool {
    asked.parts == parts
        || (!same_form(&asked.parts, parts)
            && generation.is_some()
            && asked.generation == generation)
}

/// The part that says by which version the others were made: those of two versions cannot be compared.
const FORM: &str = "form";

/// Whether both lists were made by the same version.
pub fn same_form(one: &[String], other: &[String]) -> bool {
    let form = |parts: &[String]| parts.iter().find(|part| part.starts_with(FORM)).cloned();
    form(one) == form(other)
}

/// What is different between two lists of parts, in words.
fn changed(before: &[String], now: &[String]) -> String {
    let of = |parts: &[String]| -> BTreeMap<String, String> {
        let pairs = parts.iter().filter_map(|part| part.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let is_same_form = same_form(before, now);
    let (before, now) = (of(before), of(now));
    let differs = |name: &&String| *name != FORM && before.get(*name) != now.get(*name);
    let names: Vec<String> = now.keys().filter(differs).map(|name| format!("the {name}")).collect();
    match names.is_empty() && !is_same_form {
        true => "the version of the controller".to_owned(),
        false => names.join(" and "),
    }
}

/// The hash of an asking, from what its status says of it.
pub fn approval_hash(
    rollout: &PatchRollout,
    stage: &str,
    gate: &str,
    asked: &GateApproval,
) -> String {
    let content = json!([
        "wardring/approval/v1",
        rollout.metadata.namespace,
        rollout.metadata.name,
        rollout.metadata.uid,
        stage,
        gate,
        asked.parts,
        asked.round,
        asked.nonce,
        asked.policy,
    ]);
    format!("v1:{}", digest(&content))
}

/// `november-production-0123456789ab`: at most 63 characters, and another one for every asking.
fn request_name(rollout: &str, stage: &str, hash: &str) -> String {
    let short = |text: &str| {
        let text: String = text.chars().take(24).collect();
        text.trim_end_matches(['-', '.']).to_owned()
    };
    let suffix: String = hash.trim_start_matches("v1:").chars().take(12).collect();
    format!("{}-{}-{suffix}", short(rollout), short(stage))
}

/// The answers to exactly what is asked, rejections first, then the oldest.
fn answers<'a>(
    rollout: &RolloutRef,
    subject: &ApprovalSubject,
    asked: &GateApproval,
    scene: &Scene<'a>,
) -> Vec<&'a PatchApproval> {
    let mut found: Vec<&PatchApproval> = scene
        .snapshot
        .approvals
        .iter()
        .map(AsRef::as_ref)
        .filter(|approval| answers_to(approval, rollout, subject, &asked.hash))
        .filter(|approval| approval.spec.decision.is_some())
        .collect();
    found.sort_by_key(|approval| {
        let made = approval.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let is_approval = approval.spec.decision == Some(Decided::Approve);
        (is_approval, made, approval.metadata.name.clone())
    });
    found
}

/// Whether the name is a service account's: whoever may use that wrote it, and nobody knows who.
pub(crate) fn is_account(name: &str) -> bool {
    name.starts_with("system:serviceaccount:")
}

fn decision(approval: &PatchApproval, now: Timestamp) -> Option<GateDecision> {
    Some(GateDecision {
        decision: approval.spec.decision?,
        by: clip(&one_line(approval.spec.approver.as_deref()?), 253),
        reason: clip(&one_line(approval.spec.reason.as_deref().unwrap_or_default()), 256),
        at: whole_seconds(now),
        approval: approval.metadata.name.clone().unwrap_or_default(),
        uid: approval.metadata.uid.clone().unwrap_or_default(),
    })
}

/// Whether the name is that of one of our own processes.
pub(crate) fn is_ours(name: &str) -> bool {
    is_account(name)
        && (name.ends_with(":wardring-controller") || name.ends_with(":wardring-gateway"))
}

/// Whether those who wrote the rollout may approve it by this gate.
fn may_author(gate: &Gate) -> bool {
    gate.approval.as_ref().is_some_and(|all| all.author_may_approve)
}

/// Who wrote what is asked about, so that somebody else has to look.
struct Writers<'w> {
    /// What they wrote.
    of: &'static str,
    names: &'w [String],
    /// When it was made.
    made: Option<Timestamp>,
    may_approve: bool,
}

impl<'w> Writers<'w> {
    fn of_rollout(rollout: &'w PatchRollout, may_approve: bool) -> Writers<'w> {
        let made = rollout.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Writers { of: "rollout", names: &rollout.spec.authors, made, may_approve }
    }

    fn of_order(order: &'w PatchRollback) -> Writers<'w> {
        let made = order.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Writers { of: "PatchRollback", names: &order.spec.authors, made, may_approve: false }
    }
}

/// Why an approval that names what is asked does not count all the same.
fn refusal(
    approval: &PatchApproval,
    writers: &Writers<'_>,
    asked: &GateApproval,
    scene: &Scene<'_>,
) -> Option<String> {
    let of = writers.of;
    let by = approval.spec.approver.as_deref().unwrap_or_default();
    let expires = asked.expires_at.into_iter().chain(approval.spec.expires_at).min();
    let policy = &scene.snapshot.approval_policy;
    let (fingerprint, since) = match policy {
        ApprovalPolicy::Broken { why } | ApprovalPolicy::Unknown { why } => {
            return Some(format!("no approval counts: {why}"));
        }
        ApprovalPolicy::Intact { fingerprint, since } => (fingerprint, *since),
    };
    if approval.metadata.deletion_timestamp.is_some() {
        Some("it is being deleted".to_owned())
    } else if by.is_empty() {
        Some("it names nobody".to_owned())
    } else if is_ours(by) {
        Some("Wardring's own processes approve nothing".to_owned())
    } else if *fingerprint != asked.policy {
        Some("the admission policies were changed since it was asked".to_owned())
    } else if expires.is_none_or(|expires| scene.now >= expires) {
        Some("it has expired".to_owned())
    } else if writers.may_approve {
        None
    } else if writers.names.iter().any(|author| author == by) {
        Some(format!("{} wrote the {of}, and somebody else has to look", one_line(by)))
    } else if writers.names.is_empty() {
        Some(format!("the {of} does not say who wrote it (`spec.authors`)"))
    } else if writers.names.iter().all(|author| is_account(author)) {
        Some(format!(
            "only service accounts stand in the {of}'s `authors`: nobody knows which person wrote it"
        ))
    } else if writers.made.is_none_or(|made| made <= since) {
        Some(format!(
            "the {of} is older than the admission policies as they stand, so nobody vouches for its `authors`; make it anew"
        ))
    } else {
        None
    }
}

/// Latches rejections, whatever else stands still: the object may be gone in the next moment.
pub(crate) fn latch(run: &mut Run<'_>, position: usize, scene: &Scene<'_>) -> bool {
    let stage = run.stages[position].spec;
    let mut gates = std::mem::take(&mut run.status.stages[position].gates);
    let mut moved = false;
    for status in &mut gates {
        let Some(asked) = &status.approval else { continue };
        let is_over = status.state == GateState::Failed
            || (status.state == GateState::Passed
                && is_used(status.phase, &run.status.stages[position]));
        let subject = ApprovalSubject::stage_gate(&stage.name, &status.name);
        let said = answers(&run.id, &subject, asked, scene);
        let no = said.iter().find(|said| said.spec.decision == Some(Decided::Reject));
        let Some(decided) = no.filter(|_| !is_over).and_then(|said| decision(said, scene.now))
        else {
            continue;
        };
        status.state = GateState::Failed;
        status.since = whole_seconds(scene.now);
        status.message = Some(told::rejected(&stage.name, &status.name, &decided));
        status.next = None;
        if let Some(asked) = &mut status.approval {
            asked.decided = Some(decided);
        }
        moved = true;
    }
    run.status.stages[position].gates = gates;
    moved
}

/// Holds what is under way against the words of this version, also while the rollout stands still: a person
/// suspends it for an upgrade.
pub(crate) fn keep_words(run: &mut Run<'_>, position: usize) {
    let (plan_hash, generation) =
        (run.status.plan_hash.as_deref(), run.rollout.metadata.generation);
    let status = &run.status.stages[position];
    let Some(now) = parts(run.rollout, plan_hash, run.stages[position].spec, status) else {
        return;
    };
    let mut gates = std::mem::take(&mut run.status.stages[position].gates);
    for gate in gates.iter_mut().filter(|gate| gate.state == GateState::Passed) {
        let used = is_used(gate.phase, &run.status.stages[position]);
        if let Some(asked) = gate.approval.as_mut().filter(|_| used)
            && is_what_was_asked(asked, &now, generation)
        {
            (asked.parts, asked.generation) = (now.clone(), generation);
        }
    }
    run.status.stages[position].gates = gates;
}

/// Whether what a passed gate of this phase was for has begun.
fn is_used(phase: GatePhase, status: &StageStatus) -> bool {
    match phase {
        GatePhase::Before => !matches!(status.state, StageState::Pending | StageState::Gated),
        GatePhase::During | GatePhase::After => !matches!(
            status.state,
            StageState::Pending | StageState::Gated | StageState::Open | StageState::Soaking
        ),
    }
}

/// Follows one gate of type Approval: asks, counts an answer, or asks anew where what was asked is no
/// longer what would happen.
pub(crate) fn follow(
    gate: &Gate,
    status: &mut GateStatus,
    run: &Run<'_>,
    position: usize,
    scene: &Scene<'_>,
    wake: &mut Wake,
) {
    let (stage, stage_status) = (run.stages[position].spec, &run.status.stages[position]);
    let hash_of_plan = run.status.plan_hash.as_deref();
    let Some(parts) = parts(run.rollout, hash_of_plan, stage, stage_status) else { return };
    // Stays until a person asks for a retry.
    if status.state == GateState::Failed {
        return;
    }
    let mut asked = status.approval.clone().unwrap_or_default();
    let is_used = is_used(status.phase, stage_status);
    let generation = run.rollout.metadata.generation;
    if status.state == GateState::Passed && is_used {
        // What is under way stands, and is held against the words of this version from now on. Haste is
        // approved to the letter.
        let is_reworded = asked.parts != parts && run.rollout.spec.expedite.is_some();
        if is_what_was_asked(&asked, &parts, generation) && !is_reworded {
            (asked.parts, asked.generation) = (parts, generation);
            status.approval = Some(asked);
            return;
        }
    }
    // Without a number of its own, an asking could be answered before it was made.
    let fingerprint = match &scene.snapshot.approval_policy {
        ApprovalPolicy::Intact { fingerprint, .. } if !scene.snapshot.nonce.is_empty() => {
            fingerprint.clone()
        }
        policy => {
            wake.at(later(scene.now, LOOK_AGAIN));
            let expired = asked.expires_at.is_some_and(|expires| wake.is_due(expires));
            let is_other = !asked.parts.is_empty() && (asked.parts != parts || expired);
            if is_other {
                // What was approved is not what would happen now, whoever vouches for what.
                asked.because = Some(match changed(&asked.parts, &parts) {
                    what if what.is_empty() => "the last asking has expired".to_owned(),
                    what => format!("{what} changed since it was last asked"),
                });
                (asked.hash, asked.decided) = (String::new(), None);
            }
            let why = match policy {
                ApprovalPolicy::Broken { why } => {
                    asked.decided = None;
                    status.state = GateState::Error;
                    why.clone()
                }
                // Nothing is known to be wrong: what was said stays, and nothing begins by it.
                ApprovalPolicy::Unknown { .. } if !is_other && status.message.is_some() => return,
                ApprovalPolicy::Unknown { why } => {
                    status.state = GateState::Waiting;
                    why.clone()
                }
                ApprovalPolicy::Intact { .. } => return,
            };
            status.message = Some(told::broken(&stage.name, gate, &why));
            status.approval = Some(asked);
            return;
        }
    };
    let is_old = asked.expires_at.is_none_or(|expires| wake.is_due(expires));
    let is_new = asked.hash.is_empty() || asked.parts != parts || asked.policy != fingerprint;
    if is_new || is_old {
        asked = ask(run, &stage.name, gate, &asked, parts, fingerprint, scene);
        status.state = GateState::Waiting;
    } else {
        let subject = ApprovalSubject::stage_gate(&stage.name, &gate.name);
        let writers = Writers::of_rollout(run.rollout, may_author(gate));
        asked.decided = said(&run.id, &subject, &writers, &mut asked, scene);
        let passes = asked.decided.is_some();
        status.state = if passes { GateState::Passed } else { GateState::Waiting };
    }
    if let Some(expires) = asked.expires_at {
        wake.at(expires);
    }
    status.message = Some(match &asked.decided {
        Some(decided) => told::approved(run, &stage.name, status, decided),
        None => told::asks(run, stage, stage_status, gate, status.phase, &asked),
    });
    status.approval = Some(asked);
}

/// The approval that counts, if there is one.
fn said(
    rollout: &RolloutRef,
    subject: &ApprovalSubject,
    writers: &Writers<'_>,
    asked: &mut GateApproval,
    scene: &Scene<'_>,
) -> Option<GateDecision> {
    let said = answers(rollout, subject, asked, scene);
    let counts = |said: &&&PatchApproval| refusal(said, writers, asked, scene).is_none();
    let counting: Vec<&PatchApproval> = said.iter().filter(counts).copied().collect();
    let known = asked.decided.take();
    // The one that was counted, as long as it counts: what begins by it names it.
    let was = |one: &&&PatchApproval| {
        known.as_ref().is_some_and(|known| one.metadata.uid.as_ref() == Some(&known.uid))
    };
    let yes = counting.iter().find(was).or(counting.first());
    yes.and_then(|yes| decision(yes, scene.now)).map(|new| match known {
        // When it was first counted.
        Some(known) if known.uid == new.uid => GateDecision { at: known.at, ..new },
        _ => new,
    })
}

/// A new asking. It can be answered once the status that names it is written.
fn ask(
    run: &Run<'_>,
    stage: &str,
    gate: &Gate,
    before: &GateApproval,
    parts: Vec<String>,
    policy: String,
    scene: &Scene<'_>,
) -> GateApproval {
    let expires_after = gate.approval.clone().unwrap_or_default().expires_after().duration();
    let generation = run.rollout.metadata.generation;
    let mut asked = anew(generation, before, parts, policy, expires_after, scene);
    asked.hash = approval_hash(run.rollout, stage, &gate.name, &asked);
    asked.request = request_name(&run.id.name, stage, &asked.hash);
    asked
}

/// A new asking, without its hash and the name of its request.
fn anew(
    generation: Option<i64>,
    before: &GateApproval,
    parts: Vec<String>,
    policy: String,
    expires_after: jiff::SignedDuration,
    scene: &Scene<'_>,
) -> GateApproval {
    let because = if before.hash.is_empty() {
        before.because.clone()
    } else if before.parts != parts {
        Some(format!("{} changed since it was last asked", changed(&before.parts, &parts)))
    } else if before.policy != policy {
        Some("the admission policies were changed since it was last asked".to_owned())
    } else {
        Some("the last asking has expired".to_owned())
    };
    let now = whole_seconds(scene.now);
    GateApproval {
        round: before.round.max(1),
        parts,
        generation,
        // Two gates of one pass differ in their names; the rest of the hash sees to it.
        nonce: clip(&scene.snapshot.nonce, 64),
        policy,
        asked_at: Some(now),
        expires_at: Some(later(now, expires_after)),
        because: because.map(|why| clip(&why, 256)),
        ..GateApproval::default()
    }
}

/// What a person is asked, whatever it is about.
struct Question<'q> {
    rollout: &'q RolloutRef,
    subject: ApprovalSubject,
    writers: Writers<'q>,
    /// What would happen now.
    parts: Vec<String>,
    generation: Option<i64>,
    expires_after: jiff::SignedDuration,
}

/// Where an asking stands.
struct Asking {
    state: GateState,
    asked: GateApproval,
    /// Why no answer can count, if none can.
    trouble: Option<String>,
}

/// Asks, counts an answer, or asks anew where what was asked is no longer what would happen. None where it
/// stays as it is because nobody can tell for a moment. `name` gives an asking its hash and its request.
fn look(
    question: &Question<'_>,
    known: Option<(GateState, &GateApproval)>,
    name: impl Fn(&mut GateApproval),
    scene: &Scene<'_>,
    wake: &mut Wake,
) -> Option<Asking> {
    let (mut state, mut asked) =
        known.map_or((GateState::Waiting, GateApproval::default()), |(s, a)| (s, a.clone()));
    let parts = &question.parts;
    let expired = asked.expires_at.is_none_or(|expires| wake.is_due(expires));
    let is_other = asked.parts != *parts || expired;
    let trouble = match &scene.snapshot.approval_policy {
        ApprovalPolicy::Intact { fingerprint, .. } if !scene.snapshot.nonce.is_empty() => {
            if asked.hash.is_empty() || asked.policy != *fingerprint || is_other {
                let (policy, holds) = (fingerprint.clone(), question.expires_after);
                asked = anew(question.generation, &asked, parts.clone(), policy, holds, scene);
                name(&mut asked);
                state = GateState::Waiting;
            } else {
                let Question { rollout, subject, writers, .. } = question;
                asked.decided = said(rollout, subject, writers, &mut asked, scene);
                let passes = asked.decided.is_some();
                state = if passes { GateState::Passed } else { GateState::Waiting };
                // An approval may end sooner than the asking.
                let said = answers(rollout, subject, &asked, scene);
                for expires in said.iter().filter_map(|said| said.spec.expires_at) {
                    if expires > scene.now {
                        wake.at(expires);
                    }
                }
            }
            if let Some(expires) = asked.expires_at {
                wake.at(expires);
            }
            None
        }
        policy => {
            wake.at(later(scene.now, LOOK_AGAIN));
            // What was said about something else is about nothing now.
            if is_other && !asked.hash.is_empty() {
                asked.because = Some(match changed(&asked.parts, parts) {
                    what if what.is_empty() => "the last asking has expired".to_owned(),
                    what => format!("{what} changed since it was last asked"),
                });
                (asked.hash, asked.decided) = (String::new(), None);
                state = GateState::Waiting;
            }
            match policy {
                ApprovalPolicy::Broken { why } => {
                    asked.decided = None;
                    state = GateState::Error;
                    Some(why.clone())
                }
                ApprovalPolicy::Unknown { .. } if !is_other && known.is_some() => return None,
                ApprovalPolicy::Unknown { why } => Some(why.clone()),
                ApprovalPolicy::Intact { .. } => return None,
            }
        }
    };
    Some(Asking { state, asked, trouble })
}

/// Whether the answer that an asking relies on is there as it was counted, and nobody rejects the same.
fn is_there(
    rollout: &RolloutRef,
    subject: &ApprovalSubject,
    asked: &GateApproval,
    scene: &Scene<'_>,
) -> bool {
    let said = answers(rollout, subject, asked, scene);
    let named = asked.decided.as_ref().map(|said| &said.uid);
    said.iter().all(|one| one.spec.decision == Some(Decided::Approve))
        && said.iter().any(|one| {
            one.metadata.uid.as_ref() == named
                && named.is_some()
                && one.spec.expires_at.is_none_or(|expires| scene.now < expires)
        })
}

/// Whether the answer that an asking relies on still counts, read anew. Where nobody can tell for a moment, what
/// was confirmed stays.
fn still_counts(
    rollout: &RolloutRef,
    subject: &ApprovalSubject,
    writers: &Writers<'_>,
    asked: &GateApproval,
    scene: &Scene<'_>,
) -> bool {
    let is_there = is_there(rollout, subject, asked, scene);
    match &scene.snapshot.approval_policy {
        ApprovalPolicy::Intact { fingerprint, .. } => {
            *fingerprint == asked.policy
                && is_there
                && answers(rollout, subject, asked, scene)
                    .iter()
                    .any(|said| refusal(said, writers, asked, scene).is_none())
        }
        ApprovalPolicy::Unknown { .. } => is_there,
        ApprovalPolicy::Broken { .. } => false,
    }
}

/// Why nothing may begin or end here by an approval now, if nobody vouches for it.
pub(crate) fn unvouched(stage: &Stage, phase: GatePhase, scene: &Scene<'_>) -> Option<Complaint> {
    let (ApprovalPolicy::Broken { why } | ApprovalPolicy::Unknown { why }) =
        &scene.snapshot.approval_policy
    else {
        return None;
    };
    let mut gates = stage.gates.all();
    let is_one = |(of, gate): &(GatePhase, &Gate)| *of == phase && gate.kind == GateType::Approval;
    let (_, gate) = gates.find(is_one)?;
    Some(Complaint::new(Reason::AwaitingApproval, told::unvouched(&stage.name, gate, why)))
}

/// The caps that hold: where those of a stage that has begun are not the approved ones (any more), the
/// stricter of the old and the new, until somebody has approved.
pub(crate) fn caps_in_force(run: &Run<'_>, position: usize, wanted: ResolvedCaps) -> ResolvedCaps {
    let (stage, status) = (run.stages[position].spec, &run.status.stages[position]);
    let was = run.before.stages.iter().find(|was| was.name == status.name);
    let Some(old) = was.and_then(|was| was.caps).filter(|_| is_used(GatePhase::Before, status))
    else {
        return wanted;
    };
    let now = parts(run.rollout, run.status.plan_hash.as_deref(), stage, status);
    let is_approved = |gate: &Gate| {
        let mut all = status.gates.iter();
        let known = all.find(|known| known.phase == GatePhase::Before && known.name == gate.name);
        known.is_some_and(|known| {
            let generation = run.rollout.metadata.generation;
            let asked = known.approval.as_ref().zip(now.as_ref());
            known.state == GateState::Passed
                && asked.is_some_and(|(asked, now)| is_what_was_asked(asked, now, generation))
        })
    };
    let mut asks = stage.gates.before.iter().filter(|gate| gate.kind == GateType::Approval);
    if asks.all(is_approved) {
        return wanted;
    }
    ResolvedCaps {
        max_concurrency: wanted.max_concurrency.min(old.max_concurrency),
        max_failures: wanted.max_failures.min(old.max_failures),
        max_unreachable: wanted.max_unreachable.min(old.max_unreachable),
        min_coverage: wanted.min_coverage.max(old.min_coverage),
        min_proven: wanted.min_proven.max(old.min_proven),
        ..wanted
    }
}

/// A person asked for a retry: whatever was said is answered, and it is asked anew.
pub(crate) fn begin_anew(status: &mut GateStatus) {
    if let Some(asked) = &mut status.approval {
        status.state = GateState::Waiting;
        *asked = GateApproval {
            round: asked.round.saturating_add(1),
            because: Some("a person asked for a retry".to_owned()),
            ..GateApproval::default()
        };
    }
}

/// The enforced gate of the stage that waits for a person, if there is one.
pub(crate) fn awaited<'s>(stage: &Stage, status: &'s StageStatus) -> Option<&'s GateStatus> {
    let all = stage.gates.all().filter(|(_, gate)| gate.kind == GateType::Approval);
    let mut known = all.filter_map(|(phase, gate)| {
        status.gates.iter().find(|known| known.phase == phase && known.name == gate.name)
    });
    known.find(|known| known.state != GateState::Passed)
}

/// Approvals that the status relies on and the one before did not: a gate that passes, a stage that opens
/// or ends.
pub(crate) fn uses(run: &Run<'_>) -> Vec<ApprovalUse> {
    let mut uses: Vec<ApprovalUse> = rollback::new_use(run).into_iter().collect();
    let begun =
        |status: &PatchRolloutStatus| Some(status.rollback.as_ref()?.order.as_ref()?.uid.clone());
    if let Some(uid) = begun(&run.status).filter(|uid| Some(uid) != begun(&run.before).as_ref()) {
        let named = |assent: &&Assent<'_>| assent.order.metadata.uid.as_ref() == Some(&uid);
        let assent = run.assents.iter().filter(|assent| assent.asks).find(named);
        uses.extend(assent.and_then(|assent| orders::new_use(run, assent, true)));
    }
    for (stage, status) in run.stages.iter().zip(&run.status.stages) {
        let was = run.before.stages.iter().find(|was| was.name == status.name);
        let moves = was.is_none_or(|was| was.state != status.state);
        for (phase, gate) in stage.spec.gates.all() {
            if gate.kind != GateType::Approval {
                continue;
            }
            let find = |of: &StageStatus| {
                of.gates.iter().find(|all| all.phase == phase && all.name == gate.name).cloned()
            };
            let passed = |known: &GateStatus| known.state == GateState::Passed;
            let Some(known) = find(status).filter(passed) else { continue };
            let decided = |known: &GateStatus| known.approval.clone().and_then(|all| all.decided);
            let had = was.and_then(find).filter(passed).as_ref().and_then(decided);
            let (Some(asked), Some(decided)) = (known.approval.clone(), decided(&known)) else {
                continue;
            };
            let is_same = had.is_some_and(|had| had.uid == decided.uid);
            let begins = match phase {
                GatePhase::Before => was.is_none_or(|was| !is_used(phase, was)),
                GatePhase::During | GatePhase::After => was.is_none_or(|was| !is_used(phase, was)),
            };
            if !is_same || (moves && begins && is_used(phase, status)) {
                uses.push(ApprovalUse {
                    rollout: run.id.clone(),
                    subject: ApprovalSubject::stage_gate(&stage.spec.name, &gate.name),
                    name: decided.approval,
                    uid: decided.uid,
                    hash: asked.hash,
                    approver: decided.by,
                    policy: asked.policy,
                });
            }
        }
    }
    uses
}
