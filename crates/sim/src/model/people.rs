//! What people were asked and really said, and the rules about it: nothing opens, is granted or begins in
//! a stage unless somebody else than its author approved exactly what its rollout says.

use wardring_api::{GateState, StageState};
use wardring_planner::Action;

use super::{
    Tenant,
    approvals::{Word, asked, is_before},
    cluster::minutes,
    held::digest,
    size::TICK,
    state::{Cluster, STAGES, State},
};

/// What people know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct People {
    /// Everything that was ever asked, in order.
    pub askings: Vec<Asking>,
    /// Since when the record of an open stage does not say that it is approved.
    pub barred: [Option<u32>; STAGES],
    /// The newest version of the rollout that is approved and recorded so.
    pub approved: [u8; STAGES],
    /// Stages of which the record says that somebody rejected them.
    pub latched: [bool; STAGES],
}

/// One asking.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asking {
    /// Digest of its hash.
    digest: u64,
    /// How often the rollout had been changed.
    version: u8,
    /// Minute from which on an answer counts no more.
    expires: u32,
    /// Somebody approved it and did not take that back.
    pub approved: bool,
    /// Somebody rejected it.
    pub rejected: bool,
    /// A controller saw that it is approved, right before it wrote so.
    confirmed: bool,
}

impl Asking {
    fn stands(&self) -> bool {
        self.approved && !self.rejected
    }
}

impl People {
    /// What was asked by this hash.
    pub fn asking(&self, hash: &str) -> Option<&Asking> {
        let digest = digest(hash);
        self.askings.iter().find(|asking| asking.digest == digest)
    }

    fn find(&mut self, hash: &str) -> Option<&mut Asking> {
        let digest = digest(hash);
        self.askings.iter_mut().find(|asking| asking.digest == digest)
    }

    /// A person said something. What an author says to their own rollout is nobody's word.
    pub fn hear(&mut self, hash: &str, word: Word) {
        let Some(asking) = self.find(hash) else { return };
        match word {
            Word::Approve => asking.approved = true,
            Word::Reject => asking.rejected = true,
            Word::Own => {}
        }
    }

    /// A person takes an approval back.
    pub fn forget(&mut self, hash: &str) {
        if let Some(asking) = self.find(hash) {
            asking.approved = false;
        }
    }
}

impl Tenant {
    /// Devices of a stage that may be at work at once: what was edited counts once it is approved.
    pub fn cap_of(&self, state: &State, stage: usize) -> usize {
        self.size.cap as usize + usize::from(state.people.approved[stage])
    }

    /// A plan relies on people: what it takes for approved is approved at this moment, and where it grants
    /// the record says so of the rollout as it is.
    pub fn relies(&self, state: &mut State, actions: &[Action]) {
        if self.size.approval.is_none() {
            return;
        }
        let version = self.version(state);
        let is_sound = |action: &Action| match action {
            Action::ConfirmApproval(used) => {
                let asking = state.people.asking(&used.hash);
                asking.is_some_and(|asking| asking.stands() && state.now < asking.expires)
            }
            Action::OpenBatch { batch, .. } => {
                let status = state.api.rollout.status.as_ref();
                let stage = self.stage_of(&batch.slice);
                let found = status.and_then(|status| status.stages.get(stage)).and_then(asked);
                found.is_some_and(|(gate, asked)| {
                    let asking = state.people.asking(&asked.hash);
                    gate.state == GateState::Passed
                        && asking.is_some_and(|all| all.confirmed && all.version == version)
                })
            }
            _ => true,
        };
        if !actions.iter().all(is_sound) {
            state.breaks("S7");
        }
    }

    /// A controller takes an approval for one that stands now.
    pub fn looks(&self, state: &mut State, hash: &str) {
        let Some(asking) = state.people.find(hash) else {
            state.breaks("S7");
            return;
        };
        let stands = asking.stands();
        asking.confirmed |= stands;
        if !stands {
            state.breaks("S7");
        }
    }

    /// What the record says of approvals: a stage passes and opens only by one that was confirmed, of the
    /// rollout as it is, and a rejection stays.
    pub fn approvals_written(&self, before: &Cluster, state: &mut State) {
        if self.size.approval.is_none() || state.api.rollout == before.rollout {
            return;
        }
        let now = state.api.rollout.shared();
        let version = self.version(state);
        let old = before.rollout.status.as_ref();
        for (stage, status) in now.status.iter().flat_map(|status| &status.stages).enumerate() {
            let was = old.and_then(|old| old.stages.get(stage));
            let opens = !is_before(status) && was.is_none_or(is_before);
            let Some((gate, asked)) = asked(status) else {
                if opens {
                    state.breaks("S7");
                }
                continue;
            };
            if state.people.asking(&asked.hash).is_none() {
                let since = asked.asked_at.map_or(0, minutes);
                state.people.askings.push(Asking {
                    digest: digest(&asked.hash),
                    version,
                    expires: since + TICK * self.size.approval.unwrap_or(0),
                    approved: false,
                    rejected: false,
                    confirmed: false,
                });
            }
            let has_passed = gate.state == GateState::Passed;
            let had_passed = was.and_then(super::approvals::asked).is_some_and(|(known, had)| {
                known.state == GateState::Passed && had.hash == asked.hash
            });
            let is_sound = state
                .people
                .asking(&asked.hash)
                .is_some_and(|asking| asking.confirmed && asking.version == version);
            let passes = has_passed && !had_passed;
            let people = &mut state.people;
            if passes && is_sound {
                people.approved[stage] = version;
            }
            people.latched[stage] |= gate.state == GateState::Failed;
            let is_forgotten = people.latched[stage] && gate.state != GateState::Failed;
            let is_barred = status.state == StageState::Open && !has_passed;
            people.barred[stage] = is_barred.then(|| people.barred[stage].unwrap_or(state.now));
            if (passes || opens) && !(has_passed && is_sound) || is_forgotten {
                state.breaks("S7");
            }
        }
    }

    /// Whether the rollout waits for people, and nothing else of it is left to do.
    pub fn rests_for_people(&self, state: &State) -> bool {
        self.waits_for_people(state) && self.has_landed(state)
    }

    /// Whether the rollout rests because somebody rejected what it asks, or because nobody answers.
    pub fn waits_for_people(&self, state: &State) -> bool {
        if self.size.approval.is_none() {
            return false;
        }
        let status = state.api.rollout.status.as_ref();
        let mut stages = status.iter().flat_map(|status| &status.stages);
        let current = stages.find(|stage| stage.state != StageState::Completed);
        let Some((gate, asked)) = current.and_then(asked) else { return false };
        let Some(asking) = state.people.asking(&asked.hash) else { return false };
        match gate.state {
            GateState::Failed => asking.rejected,
            GateState::Waiting => self.is_neglected(state) && !asking.approved,
            GateState::Passed | GateState::Error => false,
        }
    }
}
