//! Downloads ahead of a window: which devices fetch their updates while nothing but a window keeps them
//! from installing, and when a download gives way.
//!
//! A grant to download is written ahead like any other, so that no attempt is ever used twice, but its
//! line stays Pending: no permit can be had with it, it takes no slot, makes no device unavailable in its
//! groups and proves nothing. Whatever becomes of it, the device installs as it would have without it.

use jiff::{SignedDuration, Timestamp};
use wardring_api::{Cap, JobAction, LineState};

use crate::{
    agenda::Closed,
    caps::{DEFAULT_CONCURRENCY, later},
    eligibility::Claims,
    line::Line,
    validate::{Run, Scene},
    wake::Wake,
};

/// Grants to download ahead that one device gets at most, called off ones included. After them it
/// downloads when it installs, as without any of this.
pub const MAX_DOWNLOADS: u32 = 5;

/// Pause before the second grant, doubled for each one after it: an update source that is away for an
/// hour is back by then, and one that is away for a day is not asked all night.
const BACKOFF: SignedDuration = SignedDuration::from_hours(1);

/// Devices of a stage of `size` that download at once.
pub(crate) fn cap(cap: Option<Cap>, size: usize) -> usize {
    cap.unwrap_or(DEFAULT_CONCURRENCY).of(size).max(1)
}

/// What a stage may still download in this pass.
pub(crate) struct Ahead {
    ahead: SignedDuration,
    slots: usize,
}

impl Ahead {
    /// Nothing where the rollout does not ask for it.
    pub fn new(run: &Run<'_>, position: usize, size: usize) -> Option<Ahead> {
        let spec = run.rollout.spec.predownload.as_ref()?;
        let busy = run.stages[position].tally.counts.downloading as usize;
        let slots = cap(spec.max_concurrency, size).saturating_sub(busy);
        Some(Ahead { ahead: spec.ahead.duration(), slots })
    }

    /// Whether the device of a line that only windows keep back downloads from now on. Takes a place if
    /// so.
    pub fn takes(&mut self, line: &Line, closed: &Closed, wake: &mut Wake) -> bool {
        // Nobody knows of a window that never opens.
        let Some(opens) = closed.until else { return false };
        let may_fetch = line.state == LineState::Pending
            && !line.is_downloading()
            && !line.downloaded
            && line.downloads < MAX_DOWNLOADS;
        if !may_fetch || !wake.is_due(earlier(opens, self.ahead)) {
            return false;
        }
        let again = (line.downloads > 0).then_some(line.at).flatten();
        if again.is_some_and(|at| !wake.is_due(later(at, backoff(line.downloads)))) {
            return false;
        }
        let has_room = self.slots > 0;
        self.slots = self.slots.saturating_sub(1);
        has_room
    }
}

/// Calls off the downloads of devices that an installation or a rollback wants, of whatever rollout: the
/// next pass finds the device free.
pub(crate) fn give_way(runs: &mut [Run<'_>], claims: &Claims, scene: &Scene<'_>) {
    if !claims.wants_any() {
        return;
    }
    for run in runs {
        let uid = run.id.uid.clone();
        for frozen in run.stages.iter_mut().filter_map(|stage| stage.frozen.as_mut()) {
            for index in 0..frozen.lines.len() {
                let mut line = frozen.lines[index];
                if line.moved || !line.is_downloading() || !claims.is_wanted(line.row) {
                    continue;
                }
                let job = scene.own_job(&line, &uid).map(|job| job.attempt);
                line.set(LineState::Pending, None, scene.now);
                frozen.lines[index] = line;
                frozen.recalls.insert(index, job);
            }
        }
    }
}

/// Whether the line is, or was before this pass took it back, one that downloads: nothing irreversible can
/// be going on.
pub(crate) fn only_downloads(line: &Line) -> bool {
    line.state == LineState::Pending && line.action == JobAction::Download
}

fn backoff(downloads: u32) -> SignedDuration {
    BACKOFF * 2_i32.saturating_pow(downloads.saturating_sub(1).min(MAX_DOWNLOADS))
}

fn earlier(instant: Timestamp, span: SignedDuration) -> Timestamp {
    instant.checked_sub(span).unwrap_or(Timestamp::MIN)
}
