//! PatchRollbacks that wait for a second person, because they go beyond their own `approvalAbove`.
//!
//! What is asked is the order and a bound. An approval is read in every pass for as long as something goes on by
//! it, so whatever voids it stops what has not begun. A rejection ends the order.

use jiff::Timestamp;
use serde_json::json;
use wardring_api::{
    ApprovalPhase, Decided, GateApproval, GateDecision, GateState, OrderApproval, PatchApproval,
    PatchApprovalSpec, PatchApprovalStatus, PatchRollback, PatchRollout, PatchRolloutStatus,
    conditions::{clip, whole_seconds},
};

use super::{
    ApprovalPolicy, ApprovalUse, FORM, Question, Writers, answers, answers_to, changed, decision,
    digest, is_about, look, refusal, request_name,
    rollback::{EXPIRES_AFTER, because},
    same_form, still_counts,
};
use crate::{
    NewApproval,
    explain::{devices, one_line},
    order::assent::{self, Assent},
    validate::{Run, Scene},
    wake::Wake,
};

/// What an approval of the order covers, each with a digest. None as long as nothing is asked.
pub fn order_parts(order: &PatchRollback, rollout: &PatchRollout) -> Option<Vec<String>> {
    let known = order.status.as_ref()?.approval.as_ref()?;
    Some(parts(order, rollout, rollout.status.as_ref()?, known.up_to))
}

fn parts(
    order: &PatchRollback,
    rollout: &PatchRollout,
    status: &PatchRolloutStatus,
    up_to: u32,
) -> Vec<String> {
    let frozen: Vec<_> =
        status.stages.iter().map(|stage| (&stage.name, &stage.freeze_id)).collect();
    // Its author is named apart, so that a change of it is.
    let mut written = serde_json::to_value(&order.spec).unwrap_or_default();
    if let Some(fields) = written.as_object_mut() {
        fields.remove("authors");
    }
    let all = [
        (FORM, json!(env!("CARGO_PKG_VERSION"))),
        ("updates", json!(status.plan_hash)),
        ("order", written),
        ("devices", json!(frozen)),
        ("number of devices", json!(up_to)),
        ("rules", json!(rollout.spec.on_failure)),
        ("authors", json!(order.spec.authors)),
    ];
    all.map(|(name, value)| format!("{name}={}", &digest(&value)[..16])).to_vec()
}

/// The hash of an asking, from what the order's status says of it.
pub fn order_hash(order: &PatchRollback, rollout: &PatchRollout, asked: &GateApproval) -> String {
    let content = json!([
        "wardring/order-approval/v1",
        rollout.metadata.namespace,
        rollout.metadata.name,
        rollout.metadata.uid,
        order.metadata.name,
        order.metadata.uid,
        asked.parts,
        asked.round,
        asked.nonce,
        asked.policy,
    ]);
    format!("v1:{}", digest(&content))
}

/// Whether the order's written status says that a person approved what it asks, and it would still ask just
/// that. No look at the approval itself.
pub fn order_is_approved(order: &PatchRollback, rollout: &PatchRollout, now: Timestamp) -> bool {
    let status = rollout.status.as_ref();
    status.is_some_and(|status| holds(order, rollout, status, now))
}

/// Whether the order's written status says that a person rejected it. It stays so.
pub fn order_is_rejected(order: &PatchRollback) -> bool {
    assent::is_rejected(order)
}

fn holds(
    order: &PatchRollback,
    rollout: &PatchRollout,
    status: &PatchRolloutStatus,
    now: Timestamp,
) -> bool {
    let known = order.status.as_ref().and_then(|status| status.approval.as_ref());
    let Some(known) = known else { return false };
    let asked = &known.asked;
    let parts = parts(order, rollout, status, known.up_to);
    known.state == GateState::Passed
        && asked.decided.as_ref().map(|said| said.decision) == Some(Decided::Approve)
        && !asked.hash.is_empty()
        && asked.hash == order_hash(order, rollout, asked)
        && asked.expires_at.is_some_and(|expires| now < expires)
        // Another version words the same differently; the controller asks anew.
        && (parts == asked.parts || !same_form(&parts, &asked.parts))
}

/// Whether an approval that the order's written status relies on lets it go on to so many devices.
pub(crate) fn is_approved(
    run: &Run<'_>,
    order: &PatchRollback,
    reach: usize,
    scene: &Scene<'_>,
) -> bool {
    let known = order.status.as_ref().and_then(|status| status.approval.as_ref());
    let Some(known) = known else { return false };
    let written = [&run.before, &run.status];
    let begun = run.status.rollback.as_ref().and_then(|rollback| rollback.ordered());
    let has_begun = begun.is_some_and(|begun| Some(&begun.uid) == order.metadata.uid.as_ref());
    (has_begun || may_begin(run, order, known, scene))
        && reach <= known.up_to as usize
        && written.iter().all(|status| holds(order, run.rollout, status, scene.now))
        && still_counts(
            &run.id,
            &known.subject(order),
            &Writers::of_order(order),
            &known.asked,
            scene,
        )
}

/// Whether an order begins by exactly the word that its status names. What it begins by is looked at by others, too,
/// so nothing may be left to read into it: it is worded by this version, and that very approval counts.
fn may_begin(
    run: &Run<'_>,
    order: &PatchRollback,
    known: &OrderApproval,
    scene: &Scene<'_>,
) -> bool {
    let (asked, writers) = (&known.asked, Writers::of_order(order));
    let said = answers(&run.id, &known.subject(order), asked, scene);
    let named = asked.decided.as_ref().map(|said| &said.uid);
    asked.parts == parts(order, run.rollout, &run.status, known.up_to)
        && matches!(scene.snapshot.approval_policy, ApprovalPolicy::Intact { .. })
        && said.iter().any(|one| {
            one.metadata.uid.as_ref() == named && refusal(one, &writers, asked, scene).is_none()
        })
}

/// The order's asking with the rejection that was just given, if one was.
pub(crate) fn rejection(
    run: &Run<'_>,
    order: &PatchRollback,
    known: &OrderApproval,
    scene: &Scene<'_>,
) -> Option<OrderApproval> {
    let said = answers(&run.id, &known.subject(order), &known.asked, scene);
    let no = said.iter().find(|said| said.spec.decision == Some(Decided::Reject))?;
    let decided = decision(no, scene.now)?;
    let name = order.metadata.name.as_deref().unwrap_or_default();
    let message = format!(
        "{} rejected PatchRollback {name}{}. It has ended; what had not begun keeps its updates.",
        decided.by,
        because(&clip(&decided.reason, 220))
    );
    Some(OrderApproval {
        state: GateState::Failed,
        since: whole_seconds(scene.now),
        message: clip(&message, 512),
        asked: GateApproval { decided: Some(decided), ..known.asked.clone() },
        ..known.clone()
    })
}

/// The asking about the order as it stands now.
pub(crate) fn approval_of(
    run: &Run<'_>,
    assent: &Assent<'_>,
    scene: &Scene<'_>,
    wake: &mut Wake,
) -> Option<OrderApproval> {
    let (order, known) = (assent.order, assent.approval.as_ref());
    // Room to grow: otherwise every device that comes back would void what was just approved.
    let reach = assent.reach.max(1);
    let bound = reach.next_power_of_two().min(assent.size).max(reach);
    let kept = known.filter(|known| reach <= known.up_to as usize);
    let up_to = kept.map_or(u32::try_from(bound).unwrap_or(u32::MAX), |known| known.up_to);
    let mut next = OrderApproval {
        state: GateState::Waiting,
        since: whole_seconds(scene.now),
        message: String::new(),
        up_to,
        asked: GateApproval::default(),
    };
    let question = Question {
        rollout: &run.id,
        subject: next.subject(order),
        writers: Writers::of_order(order),
        parts: parts(order, run.rollout, &run.status, up_to),
        generation: order.metadata.generation,
        expires_after: EXPIRES_AFTER,
    };
    let name = |asked: &mut GateApproval| {
        asked.hash = order_hash(order, run.rollout, asked);
        asked.request = request_name(&run.id.name, "order", &asked.hash);
    };
    let was = known.map(|known| (known.state, &known.asked));
    let Some(asking) = look(&question, was, name, scene, wake) else { return known.cloned() };
    next.since = assent::since(known, asking.state, scene.now);
    (next.state, next.asked) = (asking.state, asking.asked);
    let name = order.metadata.name.as_deref().unwrap_or_default();
    let message = match (&asking.trouble, &next.asked.decided) {
        (Some(why), _) => format!(
            "PatchRollback {name} waits for a second person's approval, and none counts now: {}. One without \
             `approvalAbove` asks nobody.",
            one_line(why)
        ),
        (None, Some(decided)) => approved(name, next.up_to, decided),
        (None, None) => wanted(run, name, assent, &next),
    };
    next.message = clip(&message, 512);
    Some(next)
}

fn approved(name: &str, up_to: u32, decided: &GateDecision) -> String {
    let text = format!(
        "{} approved PatchRollback {name} for up to {}{}.",
        decided.by,
        devices(up_to as usize),
        because(&decided.reason)
    );
    clip(&text, 512)
}

/// What is asked, in words.
fn wanted(run: &Run<'_>, name: &str, assent: &Assent<'_>, known: &OrderApproval) -> String {
    let again = known.asked.because.as_ref();
    let again = again.map_or(String::new(), |why| format!(" It is asked anew, because {why}."));
    let (share, rollout) = (assent.share, &run.id.name);
    format!(
        "PatchRollback {name} waits for a second person's approval: the updates would be taken back from {} in \
         all, and its approvalAbove lets {share} go unasked. `kubectl wardring approve {rollout} --order {name}` \
         shows what is asked.{again}",
        devices(assent.reach)
    )
}

/// The approval that a status relies on and the one before did not: of the order's, where its asking passes, or
/// of the rollout's, which begins with the order.
pub(crate) fn new_use(run: &Run<'_>, assent: &Assent<'_>, begins: bool) -> Option<ApprovalUse> {
    let passed = |known: Option<&OrderApproval>| {
        let known = known.filter(|known| known.state == GateState::Passed)?;
        Some((known.asked.decided.clone()?, known.asked.hash.clone(), known.clone()))
    };
    let order = assent.order;
    let (decided, hash, known) = passed(assent.approval.as_ref())?;
    let had = passed(order.status.as_ref().and_then(|status| status.approval.as_ref()));
    let is_same = had.is_some_and(|(before, of, _)| (&before.uid, &of) == (&decided.uid, &hash));
    (begins || !is_same).then(|| ApprovalUse {
        rollout: run.id.clone(),
        subject: known.subject(order),
        name: decided.approval,
        uid: decided.uid,
        hash,
        approver: decided.by,
        policy: known.asked.policy,
    })
}

/// The requests that written statuses of orders ask for and no object carries yet.
pub(super) fn requests<'r>(
    run: &'r Run<'_>,
    scene: &'r Scene<'_>,
) -> impl Iterator<Item = NewApproval> + 'r {
    run.assents.iter().filter_map(move |assent| {
        let order = assent.order;
        let was = order.status.as_ref().and_then(|status| status.approval.as_ref())?;
        let now = assent.approval.as_ref()?;
        let asked = &now.asked;
        let is_asked = !asked.hash.is_empty() && asked.hash == was.asked.hash;
        if !is_asked || now.state != GateState::Waiting || run.is_deleting() {
            return None;
        }
        let subject = now.subject(order);
        let is_there = scene.snapshot.approvals.iter().any(|all| {
            all.metadata.name.as_ref() == Some(&asked.request)
                || (is_about(all, &run.id, &subject) && all.spec.approval_hash == asked.hash)
        });
        (!is_there).then(|| NewApproval {
            name: asked.request.clone(),
            rollout: run.id.clone(),
            stage: None,
            spec: PatchApprovalSpec {
                rollout: run.id.name.clone(),
                rollout_uid: run.id.uid.clone(),
                subject,
                approval_hash: asked.hash.clone(),
                authors: order.spec.authors.clone(),
                expires_at: asked.expires_at,
                decision: None,
                approver: None,
                reason: None,
            },
        })
    })
}

/// What a PatchApproval about an order says of itself. `was_done` is what it said when it was used or rejected.
pub(super) fn standing(
    approval: &PatchApproval,
    status: &mut PatchApprovalStatus,
    was_done: Option<(ApprovalPhase, String)>,
    run: &Run<'_>,
    scene: &Scene<'_>,
) -> (ApprovalPhase, String) {
    let subject = approval.spec.subject.order.as_ref();
    let name = subject.map_or("", |subject| subject.name.as_str());
    let void = |why: String| {
        was_done.clone().unwrap_or((ApprovalPhase::Void, format!("PatchRollback {name}: {why}.")))
    };
    let named =
        |uid: &Option<String>| subject.is_some_and(|subject| Some(&subject.uid) == uid.as_ref());
    let order = scene.orders.iter().copied().find(|order| named(&order.metadata.uid));
    let Some(order) = order.filter(|order| order.metadata.deletion_timestamp.is_none()) else {
        return void("it was deleted, or made anew".to_owned());
    };
    let written = order.status.as_ref().and_then(|status| status.approval.as_ref());
    let assent = assent::of(run, order);
    let Some(now) = assent.and_then(|assent| assent.approval.as_ref()).or(written) else {
        return void("nothing is asked (now)".to_owned());
    };
    let asked = &now.asked;
    if !answers_to(approval, &run.id, &now.subject(order), &asked.hash) {
        let what = changed(&status.parts, &asked.parts);
        return void(if status.parts.is_empty() {
            "it is not what is asked (now)".to_owned()
        } else if what.is_empty() {
            asked.because.clone().unwrap_or_else(|| "it was asked anew".to_owned())
        } else {
            format!("{what} changed since it was asked")
        });
    }
    status.parts = asked.parts.clone();
    let named =
        asked.decided.as_ref().filter(|said| Some(&said.uid) == approval.metadata.uid.as_ref());
    let begun = run.status.rollback.as_ref().and_then(|all| all.order.as_ref());
    let has_begun = begun.is_some_and(|begun| Some(&begun.uid) == order.metadata.uid.as_ref())
        || order.status.as_ref().is_some_and(|status| status.started_at.is_some());
    match named.map(|said| (said.decision, said)) {
        Some((Decided::Reject, _)) => return (ApprovalPhase::Rejected, now.message.clone()),
        Some((Decided::Approve, said)) if has_begun => {
            return (ApprovalPhase::Used, approved(name, now.up_to, said));
        }
        Some((Decided::Approve, _)) if assent.is_none() => {
            return void("it has ended, and nothing began by it".to_owned());
        }
        Some((Decided::Approve, said)) => {
            return (ApprovalPhase::Approved, approved(name, now.up_to, said));
        }
        None => {}
    }
    if let Some(done) = was_done {
        return done;
    }
    if assent.is_none() {
        return void("it has ended".to_owned());
    }
    if approval.spec.decision.is_none() {
        return (ApprovalPhase::Asked, now.message.clone());
    }
    let why = refusal(approval, &Writers::of_order(order), asked, scene);
    void(why.unwrap_or_else(|| "somebody else's word was counted first".to_owned()))
}
