//! Who starts: every device of every stage gets a decision, and those that start get a grant.

use wardring_api::{
    AwaitingRebootAction, JobAction, LineState, PendingRebootPolicy, StageState, WindowAction,
    reasons::Reason,
};

use crate::{
    Decision,
    agenda::Closed,
    canary,
    downloads::Ahead,
    eligibility::{Claims, line_hold, rollback_hold},
    freeze, gates,
    ledger::{Pen, Start, write_ahead},
    line::{Frozen, Line, Tally},
    order,
    plan::Lanes,
    rollback, tail,
    validate::{Run, Scene, Stop},
    wake::Wake,
    windows::StageWindows,
};

/// What was decided for each line of each stage, parallel to the lines.
pub(crate) type Decisions = Vec<Vec<Decision>>;

/// Whether a run may get grants for `action` in this pass.
fn may_grant(run: &Run<'_>, scene: &Scene<'_>, action: JobAction) -> bool {
    let ready = scene.guard.is_none()
        && scene.snapshot.guards.unheard.is_none()
        && scene.snapshot.ledger.present
        && run.has_finalizer()
        && !run.gating;
    // What a person ordered is taken back from those stages whose record is whole.
    let is_in_order = run.complaint.is_none()
        || (action == JobAction::Rollback && order::is_carried_out(run) && order::may_go_on(run));
    ready
        && is_in_order
        && match action {
            JobAction::Rollback => matches!(run.stop, None | Some(Stop::Halted)),
            JobAction::Install | JobAction::Download => run.stop.is_none(),
        }
}

/// Decides about every device of a run and writes the grants ahead.
pub(crate) fn admit<'a>(
    run: &mut Run<'a>,
    scene: &Scene<'a>,
    claims: &mut Claims,
    pen: &mut Pen,
    lanes: &mut Lanes,
    wake: &mut Wake,
) -> Decisions {
    let rollback = rollback::Round::new(run, claims, scene, wake);
    let mut decisions = Vec::with_capacity(run.stages.len());
    for position in 0..run.stages.len() {
        let Some(frozen) = run.stages[position].frozen.take() else {
            decisions.push(Vec::new());
            continue;
        };
        let is_its_turn = tail::is_its_turn(run, position);
        let (spec, status) = (run.stages[position].spec, &run.status.stages[position]);
        let takes_devices = tail::takes_devices(status);
        let gate = (is_its_turn && (takes_devices || status.state == StageState::Gated))
            .then(|| gates::bars_starts(spec, status))
            .flatten()
            .map(|complaint| complaint.reason);
        let open = is_its_turn
            && gate.is_none()
            && takes_devices
            && may_grant(run, scene, JobAction::Install);
        let slots = free_slots(run, position);
        let has_limits = freeze::missing_group(run, position, scene).is_none();
        let starts = Vec::new();
        let windows = StageWindows::new(scene, run.stages[position].hours);
        let ahead = Ahead::new(run, position, frozen.lines.len());
        let asks = run.stages[position].spec.require_proven;
        let proven = asks.then(|| canary::proven(run, position, scene));
        let mut desk = Desk {
            run,
            scene,
            claims,
            wake,
            position,
            is_its_turn,
            open,
            gate,
            has_limits,
            slots,
            windows,
            ahead,
            proven,
            starts,
        };
        let mut here = desk.decide(&frozen, &rollback);
        let (downloads, starts): (Vec<Start>, Vec<Start>) =
            desk.starts.into_iter().partition(|start| start.2 == JobAction::Download);
        let mut frozen = frozen;
        let written = write_ahead(&mut frozen, &run.id.uid, &starts, scene, pen, lanes);
        for &(index, ..) in &starts[written..] {
            here[index] = Decision::Hold(Reason::WriteInFlight);
        }
        let mut share = pen.of_downloads();
        write_ahead(&mut frozen, &run.id.uid, &downloads, scene, &mut share, lanes);
        pen.take_back(share);
        if !starts.is_empty() || !downloads.is_empty() {
            let stage = &mut run.stages[position];
            let since = run.status.stages[position].started_at;
            stage.tally = Tally::of(&frozen, &stage.rules, since, scene);
        }
        run.stages[position].frozen = Some(frozen);
        decisions.push(here);
    }
    decisions
}

/// Decides about the lines of one stage.
struct Desk<'d, 'a> {
    run: &'d Run<'a>,
    scene: &'d Scene<'a>,
    claims: &'d mut Claims,
    wake: &'d mut Wake,
    position: usize,
    is_its_turn: bool,
    open: bool,
    /// Why a gate of the stage lets nothing start.
    gate: Option<Reason>,
    /// The group that the stage names exists. Without it nobody knows what it would forbid.
    has_limits: bool,
    slots: usize,
    windows: StageWindows<'d>,
    /// What may be downloaded ahead, where the rollout asks for it.
    ahead: Option<Ahead>,
    /// What earlier stages proved, where the stage asks for it.
    proven: Option<canary::Kinds<'d>>,
    starts: Vec<Start>,
}

/// Slots of a stage that nobody holds.
fn free_slots(run: &Run<'_>, position: usize) -> usize {
    let caps = run.status.stages[position].caps.unwrap_or_default();
    (caps.max_concurrency as usize).saturating_sub(run.stages[position].tally.installing)
}

impl Desk<'_, '_> {
    fn decide(&mut self, frozen: &Frozen<'_>, rollback: &rollback::Round) -> Vec<Decision> {
        let mut rollback_slots = rollback.slots;
        // Devices that came back take their slots before anybody new does.
        let mut returned = Vec::new();
        for (index, line) in frozen.lines.iter().enumerate() {
            if self.is_back(line) && self.take_slot(line, &mut rollback_slots) {
                self.start(index, line, line.attempt, line.action);
                returned.push(index);
            }
        }
        let mut decisions = Vec::with_capacity(frozen.lines.len());
        for (index, line) in frozen.lines.iter().enumerate() {
            let decision = if returned.binary_search(&index).is_ok()
                || (line.granted_now && line.state == LineState::Granted)
            {
                Decision::Start
            } else if rollback.wants(self.run, (self.position, frozen, index), self.scene) {
                self.roll_back(index, line, rollback, &mut rollback_slots)
            } else if let Some(asks) =
                rollback::asks(self.run, self.position, index, line, self.scene)
            {
                Decision::Hold(asks)
            } else {
                self.install(index, line)
            };
            decisions.push(decision);
        }
        self.starts.sort_unstable_by_key(|start| start.0);
        decisions
    }

    /// Whether a device that was given up is in contact again and still has time to finish.
    fn is_back(&mut self, line: &Line) -> bool {
        let is_given_up = line.state == LineState::Unreachable && !line.moved;
        if !is_given_up || !self.has_limits || self.is_stopped(line, line.action) {
            return false;
        }
        // An order on a rollout that is over, or damaged, goes on with its own devices only.
        let is_ordered = line.ordered && line.action == JobAction::Rollback;
        // What has begun comes to its end, whoever takes back a word; what has not waits for that.
        let has_begun =
            self.scene.own_job(line, self.run.uid()).is_some_and(|job| job.may_have_begun());
        if is_ordered && !has_begun && order::assent::is_awaited(self.run, self.scene) {
            return false;
        }
        let is_over = self.run.status.aborted.is_some() || self.run.complaint.is_some();
        if is_over && !is_ordered {
            return false;
        }
        let stop = self.run.stop;
        let finishes =
            self.run.rollout.spec.on_halt.installed_awaiting_reboot == AwaitingRebootAction::Finish;
        let allowed = match line.action {
            JobAction::Rollback => may_grant(self.run, self.scene, JobAction::Rollback),
            _ if stop == Some(Stop::Halted) => {
                finishes && may_grant(self.run, self.scene, JobAction::Rollback)
            }
            _ => may_grant(self.run, self.scene, JobAction::Install),
        };
        let job = self.scene.own_job(line, self.run.uid());
        let row = self.scene.row(line).filter(|_| allowed);
        row.is_some_and(|row| {
            rollback_hold(row, self.wake).is_none()
                && job.is_some_and(|job| {
                    row.enrolment_id.as_deref() == Some(job.enrolment_id.as_str())
                        && job.updated_at > line.at
                        && self.scene.now < job.finish_by
                })
        })
    }

    fn take_slot(&mut self, line: &Line, rollback_slots: &mut usize) -> bool {
        let slots =
            if line.action == JobAction::Rollback { rollback_slots } else { &mut self.slots };
        let free = *slots > 0;
        *slots = slots.saturating_sub(1);
        free
    }

    fn start(&mut self, index: usize, line: &Line, attempt: u32, action: JobAction) {
        // A silent or working device is already counted as unavailable.
        let counted = matches!(line.state, LineState::Unreachable | LineState::Granted);
        self.claims.take(line.row as usize, counted, self.scene.table);
        self.starts.push((index, attempt, action));
    }

    fn roll_back(
        &mut self,
        index: usize,
        line: &Line,
        rollback: &rollback::Round,
        slots: &mut usize,
    ) -> Decision {
        let allowed = may_grant(self.run, self.scene, JobAction::Rollback);
        let is_turn = rollback.is_turn_of(self.position);
        let hold = match self.scene.row(line) {
            None => Some(Reason::Replaced),
            Some(_) if self.is_listening() => Some(Reason::AgentsUnheard),
            Some(_) if !allowed => Some(Reason::RolloutStopped),
            Some(_) if !self.has_limits => Some(Reason::GroupNotFound),
            Some(_) if rollback.is_braked => Some(Reason::RollbackFailed),
            Some(_) if self.is_stopped(line, JobAction::Rollback) => Some(Reason::EmergencyStop),
            // Later stages go first.
            Some(_) if rollback.is_before_turn(self.position) => Some(Reason::RollingBack),
            Some(_) => {
                let Desk { run, claims, scene, windows, wake, .. } = self;
                rollback::begin_hold(run, line, claims, scene, windows, wake)
                    .or_else(|| (!is_turn).then_some(Reason::RollingBack))
            }
        };
        if let Some(reason) = hold {
            return Decision::Hold(reason);
        }
        if *slots == 0 {
            return Decision::Hold(Reason::SlotsTaken);
        }
        *slots -= 1;
        if let Some(reason) = self.download_in_the_way(line) {
            return Decision::Hold(reason);
        }
        self.start(index, line, line.attempt + 1, JobAction::Rollback);
        Decision::Start
    }

    /// A device that downloads ahead is called off first, for whatever rollout it does; the next pass
    /// begins. Its slot is kept for it.
    fn download_in_the_way(&mut self, line: &Line) -> Option<Reason> {
        if !self.claims.is_fetching(line.row) {
            return None;
        }
        self.claims.want(line.row);
        // It takes its room in the groups now, so that no more are called off than can begin.
        let counted = matches!(line.state, LineState::Unreachable | LineState::Granted);
        self.claims.take(line.row as usize, counted, self.scene.table);
        Some(if line.is_downloading() { Reason::WriteInFlight } else { Reason::Busy })
    }

    /// Has a device that waits for nothing but a window download meanwhile.
    fn download_ahead(&mut self, index: usize, line: &Line, closed: &Closed) {
        if self.claims.is_fetching(line.row) {
            return;
        }
        if self.ahead.as_mut().is_some_and(|ahead| ahead.takes(line, closed, self.wake)) {
            self.claims.fetch(line.row);
            self.starts.push((index, line.attempt + 1, JobAction::Download));
        }
    }

    /// Whether an EmergencyStop keeps the action from beginning.
    fn is_stopped(&self, line: &Line, action: JobAction) -> bool {
        let is_over = matches!(self.run.stop, Some(Stop::Aborted | Stop::Deleting));
        !is_over && self.run.brakes.hold(line, action, self.scene)
    }

    /// Whether the device's first step is a restart.
    fn restarts_first(&self, line: &Line) -> bool {
        let policy = self.run.rollout.spec.preflight.pending_reboot;
        policy == PendingRebootPolicy::RebootFirst
            && self.scene.row(line).is_some_and(|row| row.hard_pending_reboot)
    }

    /// Why no window lets the action begin now.
    fn outside_window(&mut self, line: &Line, action: WindowAction) -> Option<Closed> {
        let closed = self.windows.say(action, line.row as usize).err()?;
        if let Some(until) = closed.until {
            self.wake.at(until);
        }
        Some(closed)
    }

    /// Whether all that keeps grants back is that this leader has not heard the agents yet.
    fn is_listening(&mut self) -> bool {
        let Some(unheard) = &self.scene.snapshot.guards.unheard else { return false };
        if let Some(until) = unheard.until {
            self.wake.at(until);
        }
        self.scene.guard.is_none()
    }

    fn install(&mut self, index: usize, line: &Line) -> Decision {
        let stage = &self.run.stages[self.position];
        if line.state == LineState::Granted {
            return Decision::Continue;
        }
        if !line.waits(&stage.rules) {
            return Decision::Done(line.state);
        }
        if line.moved {
            return Decision::Hold(line.reason.unwrap_or(Reason::WriteInFlight));
        }
        if self.is_stopped(line, JobAction::Install) {
            return Decision::Hold(Reason::EmergencyStop);
        }
        let hold = line_hold(line, self.run, &stage.rules, self.claims, self.scene, self.wake);
        if let Some(reason) = hold {
            return Decision::Hold(reason);
        }
        let row = self.scene.row(line);
        if self.proven.as_ref().is_some_and(|proven| row.is_some_and(|row| !proven.cover(row))) {
            return Decision::Hold(Reason::CanaryGap);
        }
        if self.run.stop.is_some() || self.run.complaint.is_some() || self.scene.guard.is_some() {
            return Decision::Hold(Reason::RolloutStopped);
        }
        if !self.has_limits {
            return Decision::Hold(Reason::GroupNotFound);
        }
        if self.is_its_turn && self.is_listening() {
            return Decision::Hold(Reason::AgentsUnheard);
        }
        if let Some(reason) = self.gate {
            return Decision::Hold(reason);
        }
        if !self.open {
            let waits = if self.is_its_turn { Reason::WriteInFlight } else { Reason::StageNotOpen };
            return Decision::Hold(waits);
        }
        if let Some(closed) = self.outside_window(line, WindowAction::Install) {
            self.download_ahead(index, line, &closed);
            return Decision::Hold(closed.reason);
        }
        if self.restarts_first(line)
            && let Some(closed) = self.outside_window(line, WindowAction::Reboot)
        {
            return Decision::Hold(closed.reason);
        }
        if self.slots == 0 {
            return Decision::Hold(Reason::SlotsTaken);
        }
        self.slots -= 1;
        if let Some(reason) = self.download_in_the_way(line) {
            return Decision::Hold(reason);
        }
        self.start(index, line, line.attempt + 1, JobAction::Install);
        Decision::Start
    }
}
