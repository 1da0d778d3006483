//! What must hold after every single write, and when the controller has nothing left to do.

use std::collections::{BTreeMap, BTreeSet};

use wardring_api::{JobAction, LineState, RolloutPhase, conditions};
use wardring_planner::Decision;

use crate::{
    case::{Case, STOPS},
    support::World,
};

/// S5: no permit since `given` that an EmergencyStop of this minute concerns.
pub fn under_no_stop(world: &World, given: usize) {
    for given in &world.permits[given..] {
        let concerns = |number: &String| {
            let (_, stage, rollbacks) = STOPS[number.parse::<usize>().unwrap()];
            stage.is_none_or(|stage| given.device.starts_with(&stage.replace('g', "d")))
                && (rollbacks || given.action != JobAction::Rollback)
        };
        let stop = world.stops.keys().find(|number| concerns(number));
        assert!(stop.is_none(), "S5: {given:?} under stop {stop:?}");
    }
}

/// What is remembered to compare with.
pub struct Watch {
    concurrency: BTreeMap<String, usize>,
    second: bool,
    /// `maxUnavailable` of every group.
    group_limit: Option<usize>,
    attempts: BTreeMap<(String, String), u32>,
    succeeded: BTreeSet<(String, String, u32)>,
    sequence: i64,
    pub retries: u32,
    most_tries: u32,
    devices: usize,
    permits: usize,
    plan_hash: Option<(String, usize)>,
    opened: BTreeSet<String>,
    granted: BTreeSet<(String, String, u32)>,
}

impl Watch {
    pub fn new(case: &Case) -> Watch {
        let stages = case.stages.iter().enumerate();
        Watch {
            concurrency: stages
                .map(|(position, stage)| (format!("g{position}"), stage.concurrency as usize))
                .chain([("other".to_owned(), 2)])
                .collect(),
            second: case.second,
            group_limit: case.group_limit.map(|limit| limit as usize),
            succeeded: BTreeSet::new(),
            attempts: BTreeMap::new(),
            sequence: 0,
            retries: 0,
            most_tries: case.stages.iter().map(|stage| stage.attempts).max().unwrap_or(1),
            devices: case.names().len(),
            permits: 0,
            plan_hash: None,
            opened: BTreeSet::new(),
            granted: BTreeSet::new(),
        }
    }

    /// Holds after every single write.
    pub fn look(&mut self, world: &World) {
        let lines = world.lines();
        // S2: granted, about to be granted, or possibly begun, together never above the cap.
        for (stage, most) in &self.concurrency {
            let flying = lines.iter().filter(|(uid, of, line)| {
                let begun = world.jobs.get(&line.device).is_some_and(|job| {
                    job.rollout_uid == *uid
                        && job.may_have_begun()
                        && job.attempt == line.attempt
                        && matches!(line.state, LineState::Pending | LineState::NotStarted)
                        && job.outcome == wardring_planner::JobOutcome::None
                });
                let named = world.ledger.batch.as_ref().is_some_and(|batch| {
                    batch.rollout_uid == *uid
                        && line.sequence < batch.sequence
                        && batch.grants.contains(&format!(
                            "{} {} Install",
                            line.device,
                            line.attempt + 1
                        ))
                });
                let installing =
                    line.state == LineState::Granted && line.action == JobAction::Install;
                of == stage && (installing || begun || named)
            });
            let flying = flying.count();
            assert!(flying <= *most, "S2: {flying} in flight in {stage}, {most} allowed");
        }
        let rolling = lines.iter().filter(|(_, stage, line)| {
            let granted = line.state == LineState::Granted && stage != "other";
            granted && line.action == JobAction::Rollback
        });
        assert!(rolling.count() <= 1, "S2: two rollbacks at once");
        // S4: sequence and attempts only grow.
        assert!(world.ledger.sequence >= self.sequence, "S4: the sequence shrank");
        self.sequence = world.ledger.sequence;
        for (uid, _, line) in &lines {
            let seen = self.attempts.entry((uid.clone(), line.device.clone())).or_default();
            assert!(line.attempt >= *seen, "S4: the attempt of {} shrank", line.device);
            *seen = line.attempt;
        }
        // A download ahead has a cap of its own, and can act on nothing.
        for stage in self.concurrency.keys() {
            let mut fetching = lines.iter().filter(|all| all.1 == *stage && all.2.is_downloading());
            assert!(fetching.by_ref().count() <= 1, "S2: two devices of {stage} download");
        }
        for (_, _, line) in lines.iter().filter(|all| all.2.action == JobAction::Download) {
            assert_eq!(line.state, LineState::Pending, "a download ended as {line}");
        }
        // One device, one job: two rollouts never have it at once.
        let mut granted = BTreeSet::new();
        for (_, _, line) in lines.iter().filter(|(_, _, line)| line.is_in_force()) {
            assert!(granted.insert(&line.device), "two rollouts have {}", line.device);
        }
        self.spares(world, &lines);
        self.limits(world, &lines);
        self.proofs(world, &lines);
    }

    /// S2 across rollouts: whichever of them wants its devices, a group spares only so many at once.
    fn spares(&self, world: &World, lines: &[(String, String, wardring_api::SliceLine)]) {
        let Some(limit) = self.group_limit else { return };
        let mut away: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, _, line) in lines.iter().filter(|all| all.2.state == LineState::Granted) {
            let row = world.devices.get(&line.device);
            // Who is enrolled anew is another device, and what it was is beyond everybody's reach.
            if row.is_some_and(|row| row.enrolment_id.as_deref() == line.enrolment_id.as_deref()) {
                let group = line.device.split('-').next().expect("devices are named after groups");
                *away.entry(group).or_default() += 1;
            }
        }
        for (group, away) in away {
            assert!(away <= limit, "S2: group {group} spares {limit} devices, and {away} are away");
        }
    }

    /// S13: a deleted group lifts none of its limits; the stages that name it grant nothing new.
    fn limits(&mut self, world: &World, lines: &[(String, String, wardring_api::SliceLine)]) {
        let mut granted = BTreeSet::new();
        for (uid, stage, line) in lines.iter().filter(|all| all.2.state == LineState::Granted) {
            let grant = (uid.clone(), line.device.clone(), line.attempt);
            let group = if stage == "other" { "g0" } else { stage };
            assert!(
                self.granted.contains(&grant) || world.groups.contains_key(group),
                "S13: {} was granted without group {group}",
                line.device
            );
            granted.insert(grant);
        }
        self.granted = granted;
    }

    fn proofs(&mut self, world: &World, lines: &[(String, String, wardring_api::SliceLine)]) {
        for (uid, stage, line) in lines {
            let Some(agent) = world.agents.get(&line.device) else { continue };
            // S9: success is what really is there, seen after the restart.
            let grant = (uid.clone(), line.device.clone(), line.attempt);
            if line.state == LineState::Succeeded && self.succeeded.insert(grant) {
                assert!(
                    agent.installed && agent.reboots > 0,
                    "S9: {} succeeded without proof",
                    line.device
                );
            }
            // S8: installations are bounded.
            let most = self.most_tries * (1 + self.retries) + u32::from(self.second);
            assert!(
                agent.begun <= most,
                "S8: {} began {} installs in stage {stage}",
                line.device,
                agent.begun
            );
        }
        let status = world.status("november");
        for pair in status.stages.windows(2) {
            // S3 and S17: the next stage is frozen only behind a proven one. Looked at when it opens:
            // a rollback may take the proof back later.
            let opens = pair[1].freeze_id.is_some() && self.opened.insert(pair[1].name.clone());
            if opens {
                assert!(pair[0].state.is_promoted(), "S3: {} opened", pair[1].name);
                let mut proven = lines.iter().filter(|(_, stage, line)| {
                    *stage == pair[0].name && line.state == LineState::Succeeded
                });
                assert!(proven.next().is_some(), "S17: {} opened on nothing", pair[1].name);
            }
        }
        // S12: what was resolved stays resolved.
        if let Some(hash) = &status.plan_hash {
            let now = (hash.clone(), status.resolved_updates.len());
            let first = self.plan_hash.get_or_insert_with(|| now.clone());
            assert_eq!(*first, now, "S12: the resolved updates changed");
        }
    }

    /// Holds when the controller has nothing left to do.
    pub fn rest(&mut self, world: &World, last: &wardring_planner::Plan) {
        let new = &world.permits[self.permits..];
        let download = new.iter().find(|given| given.action == JobAction::Download);
        assert!(download.is_none(), "a permit for a download: {download:?}");
        let status = world.status("november");
        let spec = world.rollouts.get("november").map(|rollout| &rollout.spec);
        let deleted = world
            .rollouts
            .get("november")
            .is_none_or(|rollout| rollout.metadata.deletion_timestamp.is_some());
        for given in new.iter().filter(|given| given.rollout == "november") {
            // S13: deleting starts nothing.
            assert!(!deleted || given.at < world.now, "S13: {given:?} after deletion");
        }
        self.permits = world.permits.len();
        // S6: a broken budget is a halt.
        if let Some(spec) = spec.filter(|_| !deleted) {
            for (stage, state) in spec.stages.iter().zip(&status.stages) {
                let most = stage.max_failures.map_or(0, |cap| cap.of(usize::MAX / 200));
                if state.counts.failed as usize > most && self.retries == 0 {
                    assert!(
                        status.halted.is_some() || status.aborted.is_some(),
                        "S6: {} failed and {most} are allowed",
                        state.counts.failed
                    );
                }
            }
        }
        self.explained(world, last);
    }

    /// L3: whatever does not move has a reason, and what can change by itself has a time.
    fn explained(&self, world: &World, last: &wardring_planner::Plan) {
        for rollout in &last.rollouts {
            let mut told = 0;
            let mut working = false;
            for stage in &rollout.stages {
                assert_eq!(stage.decisions.len(), stage.devices().count());
                told += stage.decisions.len();
                working |= stage.decisions.contains(&Decision::Continue);
                for (device, decision) in stage.devices() {
                    assert!(
                        decision != Decision::Start,
                        "{device} starts in a plan without writes"
                    );
                }
            }
            assert!(told <= self.devices);
            let is_over = matches!(
                rollout.status.phase,
                Some(RolloutPhase::Completed | RolloutPhase::Aborted | RolloutPhase::Suspended)
            );
            let waits = !rollout.status.waiting_for.is_empty();
            assert!(is_over || waits, "L3: nothing says why it stands: {:?}", rollout.status);
            let stands = matches!(
                rollout.status.phase,
                Some(RolloutPhase::Halted | RolloutPhase::RolledBack | RolloutPhase::RollingBack)
            );
            let held =
                rollout.status.stages.iter().all(|stage| {
                    stage.counts.in_progress == stage.counts.installed_awaiting_reboot
                });
            let kept =
                conditions::is_true(&rollout.status.conditions, conditions::EMERGENCY_STOPPED);
            let only_a_person_moves_it = is_over || kept || (stands && (held || !working));
            if !only_a_person_moves_it {
                assert!(
                    last.next_evaluation.is_some_and(|next| next > world.now),
                    "L3: no next evaluation: {:#?}",
                    rollout.status
                );
            }
        }
    }
}
