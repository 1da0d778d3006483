//! A fix that cannot wait: what a stage leaves out, once a person approved just that.

use wardring_api::{
    Decided, Expedite, Gate, GateMode, GatePhase, GateState, GateType, PatchRollout,
    PatchRolloutStatus, Stage,
};

use crate::approvals;

/// What the stage leaves out now: what the spec says, as long as somebody's word for the stage as it is
/// written and frozen stands in the status. An edit of anything that was approved ends it at once, before
/// the controller has seen it.
pub(crate) fn in_force<'a>(
    rollout: &'a PatchRollout,
    status: &PatchRolloutStatus,
    stage: &Stage,
) -> Option<&'a Expedite> {
    let expedite = rollout.spec.expedite.as_ref()?;
    let known = status.stages.iter().find(|known| known.name == stage.name)?;
    let parts = approvals::parts(rollout, status.plan_hash.as_deref(), stage, known)?;
    let is_approved = |gate: &&Gate| {
        let mut all = known.gates.iter();
        let told = all.find(|all| all.phase == GatePhase::Before && all.name == gate.name);
        let passed = told.filter(|told| told.state == GateState::Passed);
        passed.and_then(|told| told.approval.as_ref()).is_some_and(|asked| {
            let said = asked.decided.as_ref().map(|said| said.decision);
            // Parts may have been worded anew by a later version; the hash is what somebody approved.
            let hash = approvals::approval_hash(rollout, &stage.name, &gate.name, asked);
            let by = asked.decided.as_ref().map_or("", |said| &said.by);
            let is_author = rollout.spec.authors.iter().any(|author| author == by);
            said == Some(Decided::Approve)
                && !is_author
                && asked.parts == parts
                && asked.hash == hash
        })
    };
    let mut all = for_two(stage).peekable();
    (all.peek().is_some() && all.all(|gate| is_approved(&gate))).then_some(expedite)
}

/// The gates by which somebody else than the authors has to agree before anything of the stage begins. What
/// needs two people goes by these alone, whatever a gate thinks of one.
pub(crate) fn for_two(stage: &Stage) -> impl Iterator<Item = &Gate> {
    let is_for_two = |gate: &Gate| gate.approval.as_ref().is_none_or(|all| !all.author_may_approve);
    stage.gates.before.iter().filter(move |gate| {
        gate.kind == GateType::Approval && gate.mode != GateMode::DryRun && is_for_two(gate)
    })
}

/// What is left out, as a sentence.
pub(crate) fn told(expedite: &Expedite) -> String {
    let what = match (expedite.skip_soak, expedite.ignore_windows) {
        (true, true) => "it is not watched for its soak, and windows do not keep it back",
        (true, false) => "it is not watched for its soak",
        (false, true) => "windows do not keep it back",
        (false, false) => "nothing is left out",
    };
    format!("Expedited: {what} ({}).", crate::explain::one_line(&expedite.reason))
}
