//! People who are asked before a stage opens: what they are asked, what they say, and what controllers
//! see of it.
//!
//! A person who is asked approves sooner or later. That somebody rejects, takes an approval back, approves
//! their own rollout, changes it, or that nobody answers any more is a fault. The controller's random
//! number is the count of what was asked before: two askings differ in it, and states do not.

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use wardring_api::{
    ApprovalSubject, Cap, Decided, GateApproval, GateState, GateStatus, PatchApproval,
    PatchApprovalSpec, PatchRollout, StageState, StageStatus,
};
use wardring_planner::{ApprovalPolicy, ApprovalUse, NewApproval, answers_to, approval_parts};

use super::{
    Step, Tenant,
    cluster::{Object, UID, rollout, wall},
    flaw::Flaw,
    held::{Held, digest},
    size::TICK,
    state::{Cluster, State},
};

/// What a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Word {
    /// Somebody who did not write the rollout approves.
    Approve,
    /// Somebody rejects, also after another one has approved.
    Reject,
    /// Whoever wrote the rollout approves it.
    Own,
}

/// The gate before each stage.
const GATE: &str = "sign-off";
const AUTHOR: &str = "alice";
const SOMEBODY: &str = "bob";
const ANOTHER: &str = "carol";

/// Adds the gate that asks people to those of a stage.
pub fn ask_for(holds: Option<u32>, gates: &mut serde_json::Value) {
    let Some(ticks) = holds else { return };
    let gate = serde_json::json!({
        "name": GATE, "type": "Approval",
        "approval": {"expiresAfter": format!("{}m", TICK * ticks)},
    });
    let before = gates["before"].as_array_mut().expect("gates before a stage are a list");
    before.push(gate);
}

/// Who wrote the rollout, and when: without that no approval counts.
pub fn sign(rollout: &mut PatchRollout) {
    rollout.spec.authors = vec![AUTHOR.to_owned()];
    rollout.metadata.generation = Some(1);
    rollout.metadata.creation_timestamp = Some(Time(wall(0)));
}

/// The admission policies stand all the time.
pub fn policy() -> ApprovalPolicy {
    let since = wall(0) - SignedDuration::from_mins(1);
    ApprovalPolicy::Intact { fingerprint: "policies".to_owned(), since }
}

/// What makes an asking another one than all before it.
pub fn nonce(state: &State) -> String {
    format!("{:032x}", state.people.askings.len())
}

/// The gate of a stage that asks people, with what it asks, once it does.
pub fn asked(status: &StageStatus) -> Option<(&GateStatus, &GateApproval)> {
    status.gates.iter().find_map(|gate| {
        gate.approval.as_ref().filter(|asked| !asked.hash.is_empty()).map(|asked| (gate, asked))
    })
}

/// Whether a stage waits for the gates before it.
pub fn is_before(status: &StageStatus) -> bool {
    matches!(status.state, StageState::Pending | StageState::Gated)
}

fn stage(api: &Cluster, stage: usize) -> Option<&StageStatus> {
    api.rollout.status.as_ref().and_then(|status| status.stages.get(stage))
}

fn held(approval: PatchApproval) -> Held<PatchApproval> {
    let (meta, spec) = (&approval.metadata, &approval.spec);
    let meaning = (&meta.name, &meta.uid, &spec.approver, format!("{:?}", spec.decision));
    let meaning = digest((meaning, &spec.approval_hash, spec.expires_at));
    Held::new(approval, meaning)
}

/// One step of a person that is possible now, as far as it is about a stage.
struct Chances {
    approve: bool,
    reject: bool,
    own: bool,
    withdraw: bool,
}

impl Tenant {
    /// Whether people have stopped answering.
    pub fn is_neglected(&self, state: &State) -> bool {
        state.left.neglects < self.size.faults.neglects
    }

    fn chances(&self, state: &State, index: usize) -> Option<Chances> {
        let status = stage(&state.api, index)?;
        let (gate, asked) = asked(status)?;
        let find = |name: &str| {
            state.api.approvals.iter().find(|all| all.metadata.name.as_deref() == Some(name))
        };
        let request = find(&asked.request);
        let word = request.and_then(|request| request.spec.decision);
        let has_own = find(&named(&asked.request, Word::Own)).is_some();
        let has_other = find(&named(&asked.request, Word::Approve)).is_some();
        let known = state.people.asking(&asked.hash)?;
        // Once a stage has begun by it, nothing that is said to it changes anything.
        let is_used = gate.state == GateState::Passed && !is_before(status);
        let is_open = gate.state != GateState::Failed && !is_used;
        Some(Chances {
            // Where somebody's void word is in the way of the request, people make an object of their own.
            approve: is_open
                && if request.is_some() { word.is_none() } else { has_own && !has_other },
            reject: is_open && !known.rejected,
            own: gate.state == GateState::Waiting && !has_own,
            withdraw: is_open && (word == Some(Decided::Approve) || has_other),
        })
    }

    fn chances_of_stages(&self, state: &State) -> Vec<(u8, Chances)> {
        let stages = 0..usize::from(self.size.stages);
        let all = stages.filter_map(|index| Some((index as u8, self.chances(state, index)?)));
        if self.size.approval.is_some() { all.collect() } else { Vec::new() }
    }

    /// Steps of people that somebody takes sooner or later.
    pub fn progress_by_people(&self, state: &State, steps: &mut Vec<Step>) {
        if self.is_neglected(state) {
            return;
        }
        let all = self.chances_of_stages(state);
        let approved = all.into_iter().filter(|(_, chances)| chances.approve);
        steps.extend(approved.map(|(stage, _)| Step::Decide(stage, Word::Approve)));
    }

    /// Steps of people that happen only so often.
    pub fn faults_by_people(&self, state: &State, steps: &mut Vec<Step>) {
        let left = state.left;
        for (stage, chances) in self.chances_of_stages(state) {
            if left.rejections > 0 && chances.reject {
                steps.push(Step::Decide(stage, Word::Reject));
            }
            if left.own_words > 0 && chances.own {
                steps.push(Step::Decide(stage, Word::Own));
            }
            if left.withdrawals > 0 && chances.withdraw {
                steps.push(Step::Withdraw(stage));
            }
            if left.neglects > 0 && chances.approve {
                steps.push(Step::Neglect);
            }
        }
        if left.edits > 0 && !self.is_over(state) {
            steps.push(Step::Edit);
        }
    }

    /// The controller's request reaches the API server.
    pub fn asks_people(&self, state: &mut State, new: &NewApproval) {
        let made = |all: &Held<PatchApproval>| all.metadata.name.as_ref() == Some(&new.name);
        if !state.api.approvals.iter().any(made) {
            let mut approval = PatchApproval::new(&new.name, new.spec.clone());
            // One that is made anew after it was taken back is another one.
            approval.metadata.uid = Some(format!("{}-{}", new.name, state.left.withdrawals));
            store(state, approval);
        }
    }

    /// A person answers what a stage asks: in the request where nobody has, and by an object of their own
    /// else.
    pub fn says(&self, state: &mut State, index: usize, word: Word) {
        let Some((_, asked)) = stage(&state.api, index).and_then(asked) else { return };
        let (hash, request) = (asked.hash.clone(), asked.request.clone());
        let (expires_at, decision) = match word {
            Word::Reject => (asked.expires_at, Decided::Reject),
            Word::Approve | Word::Own => (asked.expires_at, Decided::Approve),
        };
        match word {
            Word::Reject => state.left.rejections -= 1,
            Word::Own => state.left.own_words -= 1,
            Word::Approve => {}
        }
        state.people.hear(&hash, word);
        let find = |all: &&Held<PatchApproval>| all.metadata.name.as_ref() == Some(&request);
        let found = state.api.approvals.iter().find(find);
        let undecided = found.filter(|all| all.spec.decision.is_none() && word != Word::Own);
        let mut approval = match undecided {
            Some(request) => PatchApproval::clone(request),
            None => {
                let name = named(&request, word);
                let mut approval = answer(&name, index, &hash);
                (approval.metadata.uid, approval.spec.expires_at) = (Some(name), expires_at);
                approval
            }
        };
        let by = match (word, undecided) {
            (Word::Own, _) => AUTHOR,
            (Word::Reject, None) => ANOTHER,
            (Word::Approve | Word::Reject, _) => SOMEBODY,
        };
        approval.spec.decision = Some(decision);
        approval.spec.approver = Some(by.to_owned());
        store(state, approval);
    }

    /// Whoever approved deletes the approval before it is used.
    pub fn withdraws(&self, state: &mut State, index: usize) {
        let Some((_, asked)) = stage(&state.api, index).and_then(asked) else { return };
        let (hash, request) = (asked.hash.clone(), asked.request.clone());
        state.left.withdrawals -= 1;
        state.people.forget(&hash);
        let gone = [named(&request, Word::Approve), request].map(Some);
        state.api.approvals.retain(|all| {
            !gone.contains(&all.metadata.name) || all.spec.decision != Some(Decided::Approve)
        });
    }

    /// A person raises every stage's `maxConcurrency` by one.
    pub fn edits(&self, state: &mut State) {
        state.left.edits -= 1;
        let mut object = PatchRollout::clone(&state.api.rollout);
        object.metadata.generation = object.metadata.generation.map(|old| old + 1);
        let cap = self.size.cap + u32::from(self.version(state));
        for stage in &mut object.spec.stages {
            stage.max_concurrency = Some(Cap::Count(cap));
        }
        let status = object.status.take();
        state.api.rollout = rollout(object, status);
        self.aged(state, Object::Rollout);
    }

    /// How often the rollout was changed.
    pub fn version(&self, state: &State) -> u8 {
        self.size.faults.edits - state.left.edits
    }

    /// The approvals that there are, as a controller sees them.
    pub fn seen_approvals(&self, api: &Cluster) -> Vec<Arc<PatchApproval>> {
        let mut seen: Vec<_> = api.approvals.iter().map(Held::shared).collect();
        for approval in &mut seen {
            let spec = &mut Arc::make_mut(approval).spec;
            match self.flaw {
                Some(Flaw::AnyApproval) => {
                    let of = spec.subject.stage_gate.as_ref();
                    let stages = api.rollout.status.iter().flat_map(|status| &status.stages);
                    let mut stages = stages.filter(|all| of.is_some_and(|of| of.stage == all.name));
                    if let Some((_, asked)) = stages.find_map(asked) {
                        spec.approval_hash = asked.hash.clone();
                    }
                }
                Some(Flaw::RejectionApproves) => {
                    spec.decision = spec.decision.map(|_| Decided::Approve);
                }
                Some(Flaw::AuthorApproves) => {
                    spec.approver = spec.approver.as_ref().map(|_| SOMEBODY.to_owned());
                }
                Some(Flaw::ApprovalOutlives) => spec.expires_at = None,
                _ => {}
            }
        }
        seen
    }

    /// The rollout as a controller sees it that makes a mistake about what was approved.
    pub fn show_approvals(&self, shown: &mut PatchRollout) {
        let flaws = [Flaw::ApprovalOfOldSpec, Flaw::ApprovalOutlives, Flaw::RejectionForgotten];
        let Some(flaw) = self.flaw.filter(|flaw| flaws.contains(flaw)) else { return };
        let Some(status) = &shown.status else { return };
        let parts: Vec<_> =
            status.stages.iter().map(|stage| approval_parts(shown, &stage.name)).collect();
        let stages = shown.status.iter_mut().flat_map(|status| &mut status.stages);
        for (stage, parts) in stages.zip(parts) {
            if flaw == Flaw::RejectionForgotten {
                stage.gates.retain(|gate| gate.state != GateState::Failed);
                continue;
            }
            for asked in stage.gates.iter_mut().filter_map(|gate| gate.approval.as_mut()) {
                match (flaw, &parts) {
                    (Flaw::ApprovalOfOldSpec, Some(parts)) => asked.parts = parts.clone(),
                    (Flaw::ApprovalOutlives, _) => asked.expires_at = Some(wall(1_000_000)),
                    _ => {}
                }
            }
        }
    }

    /// Whether an approval stands now as the plan saw it, and nobody rejects the same: what the
    /// controller's shell looks at right before it writes a status that relies on one.
    pub fn is_confirmed(&self, state: &mut State, used: &ApprovalUse) -> bool {
        let seen = self.seen_approvals(&state.api);
        let mut all =
            seen.iter().filter(|all| answers_to(all, &used.rollout, &used.subject, &used.hash));
        let is_rejected = all.clone().any(|all| all.spec.decision == Some(Decided::Reject));
        let stands = all.any(|all| {
            all.metadata.uid.as_ref() == Some(&used.uid)
                && all.spec.decision == Some(Decided::Approve)
        });
        let is_confirmed = stands && !is_rejected || self.flaw == Some(Flaw::ApprovalUnconfirmed);
        if is_confirmed {
            self.looks(state, &used.hash);
        }
        is_confirmed
    }
}

/// An object that a person makes, with the hash that the rollout's status shows.
fn answer(name: &str, stage: usize, hash: &str) -> PatchApproval {
    let spec = PatchApprovalSpec {
        rollout: "patch".to_owned(),
        rollout_uid: UID.to_owned(),
        subject: ApprovalSubject::stage_gate(&format!("stage-{stage}"), GATE),
        approval_hash: hash.to_owned(),
        authors: Vec::new(),
        expires_at: None,
        decision: None,
        approver: None,
        reason: None,
    };
    PatchApproval::new(name, spec)
}

/// Name of the object that somebody makes beside the controller's request.
fn named(request: &str, word: Word) -> String {
    let who = match word {
        Word::Approve => SOMEBODY,
        Word::Reject => ANOTHER,
        Word::Own => AUTHOR,
    };
    format!("{request}-{who}")
}

/// Stores an approval in place of one of its name.
fn store(state: &mut State, approval: PatchApproval) {
    let approvals = &mut state.api.approvals;
    approvals.retain(|all| all.metadata.name != approval.metadata.name);
    approvals.push(held(approval));
    approvals.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
}
