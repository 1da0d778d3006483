//! What a leader does for the length of its term: run a pass over each namespace that changed or
//! whose time has come, a few namespaces at once, and keep the certificates and enrolments going.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    pass::{Desk, Memory, Pass, pass},
    progress::Progress,
};

/// Changes within this span are one pass: a stage of reports arrives in bursts.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// While jobs are under way, passes begin at least this far apart, and further by a millisecond per
/// job: what devices report in that time is one write of each slice. What people want never waits.
const SPACING: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// Pause before looking again for the cache to catch up.
const CATCH_UP: Duration = Duration::from_millis(15);
/// First and longest pause after a failed pass.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// The scheduler shows that it lives this often, and looks for namespaces nobody reported.
const BEAT: Duration = Duration::from_secs(1);
/// A namespace with a run is looked at this often even if nothing seems to happen: a watch that lost
/// an event must not stall a rollout for good.
const AT_LEAST_EVERY: Duration = Duration::from_secs(300);

/// One namespace in the schedule.
#[derive(Debug, Default)]
struct Place {
    /// What passes remember; absent while one runs.
    memory: Option<Memory>,
    running: bool,
    /// When to run, if at all.
    due: Option<Instant>,
    /// Changed while a pass was running.
    changed: bool,
    failures: u32,
    /// What devices report is not looked at before this instant.
    not_before: Option<Instant>,
    /// Counter of what people want, when the last pass began.
    intent: u64,
}

impl Place {
    /// When to look at a change that is seen now.
    fn soon(&self, now: Instant, intent: u64) -> Instant {
        let due = now + DEBOUNCE;
        match self.not_before {
            Some(not_before) if intent == self.intent => due.max(not_before),
            _ => due,
        }
    }
}

/// Works until the term is over or `stop` is cancelled; passes that run are finished first.
pub async fn lead(desk: Desk, progress: Progress, workers: usize, stop: CancellationToken) {
    progress.begin(workers);
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    let mut running: JoinSet<(String, Memory, Pass)> = JoinSet::new();
    let mut office = desk.office.clone();
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let intent = |namespace: &str| desk.intent(namespace);
    mark_changed(
        &mut places,
        desk.cache.namespaces(|space| space.is_active() || has_devices(space)),
        intent,
    );
    while desk.in_office() && !stop.is_cancelled() {
        progress.beat();
        start_due(&desk, &progress, &mut places, &mut running, workers);
        let next = next_due(&places, running.len() < workers);
        tokio::select! {
            () = stop.cancelled() => {}
            _ = office.changed() => {}
            _ = beat.tick() => {}
            () = desk.cache.dirtied() => mark_changed(&mut places, desk.cache.take_dirty(), intent),
            () = desk.presence.changed() => mark_changed(&mut places, desk.presence.take_changes(), intent),
            () = sleep_until(next) => {}
            Some(ended) = running.join_next() => match ended {
                Ok((namespace, memory, outcome)) => {
                    progress.pass_ended(&namespace);
                    let now = (intent(&namespace), jobs(&desk, &namespace));
                    settle(&mut places, namespace, memory, &outcome, now);
                }
                // The place stays without a pass until something changes; a panic is a bug that the
                // log shows, and the other namespaces go on.
                Err(error) => {
                    tracing::error!(%error, "a pass panicked");
                    revive(&desk, &mut places, &progress);
                }
            }
        }
    }
    // Requests under way are finished: their answers are worth having in the log. The office is
    // checked before each write, so a lost term ends them at the next step.
    while let Some(ended) = running.join_next().await {
        if let Ok((namespace, ..)) = ended {
            progress.pass_ended(&namespace);
        }
    }
    progress.end();
}

fn jobs(desk: &Desk, namespace: &str) -> usize {
    desk.cache.read(namespace, |space| space.map_or(0, |space| space.jobs.len()))
}

/// How far apart passes begin while so many jobs are under way.
fn spacing(jobs: usize) -> Duration {
    match u64::try_from(jobs).unwrap_or(u64::MAX) {
        0 => Duration::ZERO,
        jobs => (SPACING.0 + Duration::from_millis(jobs)).min(SPACING.1),
    }
}

fn has_devices(space: &crate::cache::Namespace) -> bool {
    !space.devices.rows().is_empty()
}

fn mark_changed(
    places: &mut BTreeMap<String, Place>,
    namespaces: impl IntoIterator<Item = String>,
    intent: impl Fn(&str) -> u64,
) {
    let now = Instant::now();
    for namespace in namespaces {
        let intent = intent(&namespace);
        let place = places.entry(namespace).or_default();
        if place.running {
            place.changed = true;
        } else if place.failures == 0 {
            let due = place.soon(now, intent);
            place.due = Some(place.due.map_or(due, |known| known.min(due)));
        }
    }
}

/// Namespaces whose time has come, the longest overdue first: one with a huge rollout, which is due again
/// as soon as its pass has ended, never starves another.
fn due(places: &BTreeMap<String, Place>, now: Instant) -> Vec<String> {
    let idle = places.iter().filter(|(_, place)| !place.running);
    let mut due: Vec<(Instant, &String)> = idle
        .filter_map(|(name, place)| Some((place.due.filter(|due| *due <= now)?, name)))
        .collect();
    due.sort();
    due.into_iter().map(|(_, name)| name.clone()).collect()
}

fn start_due(
    desk: &Desk,
    progress: &Progress,
    places: &mut BTreeMap<String, Place>,
    running: &mut JoinSet<(String, Memory, Pass)>,
    workers: usize,
) {
    let now = Instant::now();
    for namespace in due(places, now) {
        if running.len() >= workers {
            break;
        }
        let Some(place) = places.get_mut(&namespace) else { continue };
        place.due = None;
        place.running = true;
        place.changed = false;
        // What changes from here on is newer than what the pass will read, or read by it.
        place.intent = desk.intent(&namespace);
        place.not_before = Some(now);
        let mut memory = place.memory.take().unwrap_or_default();
        let desk = desk.clone();
        progress.pass_began(&namespace);
        running.spawn(async move {
            let outcome = pass(&desk, &namespace, &mut memory).await;
            (namespace, memory, outcome)
        });
    }
}

fn settle(
    places: &mut BTreeMap<String, Place>,
    namespace: String,
    memory: Memory,
    outcome: &Pass,
    (intent, jobs): (u64, usize),
) {
    let place = places.entry(namespace).or_default();
    place.not_before = place.not_before.map(|began| began + spacing(jobs));
    place.running = false;
    place.memory = Some(memory);
    let now = Instant::now();
    if matches!(outcome, Pass::Failed) {
        place.failures += 1;
        place.due = Some(now + backoff(place.failures));
        return;
    }
    place.failures = 0;
    let again = match outcome {
        Pass::Done(next) => next
            .map(|next| now + until(next))
            .map_or(now + AT_LEAST_EVERY, |due| due.min(now + AT_LEAST_EVERY)),
        Pass::Again | Pass::Waiting | Pass::Failed => now + CATCH_UP,
    };
    place.due = Some(if place.changed { again.min(place.soon(now, intent)) } else { again });
    place.changed = false;
}

/// After a panic nobody knows which pass it was: every place that has no task any more starts anew,
/// with nothing remembered.
fn revive(desk: &Desk, places: &mut BTreeMap<String, Place>, progress: &Progress) {
    for (namespace, place) in places.iter_mut().filter(|(_, place)| place.running) {
        // A pass that still runs keeps its place: two at once only cost conflicts, never safety.
        tracing::warn!(namespace, term = desk.term, "starting the namespace anew");
        progress.pass_ended(namespace);
        place.running = false;
        place.failures += 1;
        place.due = Some(Instant::now() + backoff(place.failures));
    }
}

fn until(instant: Timestamp) -> Duration {
    let left = instant.duration_since(Timestamp::now()).max(SignedDuration::ZERO);
    // A little later than the instant, so that the pass finds it reached.
    Duration::try_from(left).unwrap_or(AT_LEAST_EVERY) + Duration::from_millis(5)
}

fn backoff(failures: u32) -> Duration {
    let factor = 1u32 << failures.saturating_sub(1).min(10);
    let full = BACKOFF.0.saturating_mul(factor).min(BACKOFF.1);
    full / 2 + full.mul_f64(rand::random::<f64>() / 2.0)
}

fn next_due(places: &BTreeMap<String, Place>, has_room: bool) -> Option<Instant> {
    if !has_room {
        return None;
    }
    places.values().filter(|place| !place.running).filter_map(|place| place.due).min()
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(names: &[&str]) -> BTreeMap<String, Place> {
        let mut places = BTreeMap::new();
        mark_changed(&mut places, names.iter().map(|name| (*name).to_owned()), |_| 0);
        places
    }

    fn running(places: &mut BTreeMap<String, Place>, name: &str) {
        let place = places.get_mut(name).unwrap();
        (place.running, place.due, place.changed) = (true, None, false);
    }

    #[test]
    fn the_namespace_that_waits_longest_has_its_turn_first() {
        let mut places = places(&["a-huge", "b-later", "c-running", "z-small"]);
        let now = Instant::now() + Duration::from_secs(60);
        let mut wait = |name: &str, due: Instant| places.get_mut(name).unwrap().due = Some(due);
        wait("a-huge", now - Duration::from_millis(1));
        wait("b-later", now + Duration::from_millis(1));
        wait("c-running", now - Duration::from_secs(9));
        wait("z-small", now - Duration::from_secs(2));
        places.get_mut("c-running").unwrap().running = true;
        assert_eq!(due(&places, now), ["z-small", "a-huge"]);
    }

    #[test]
    fn a_namespace_that_is_always_due_again_keeps_no_other_waiting() {
        let names = ["a-huge", "clinic", "m-huge", "ward", "z-small"];
        let mut places = places(&names);
        let mut now = Instant::now() + Duration::from_secs(60);
        let mut turns = Vec::new();
        // One worker, and passes of the huge ones that change their own namespace.
        for _ in 0..names.len() {
            now += Duration::from_secs(1);
            let next = due(&places, now).remove(0);
            let again = next.ends_with("huge").then_some(now);
            places.get_mut(&next).unwrap().due = again;
            turns.push(next);
        }
        turns.sort();
        assert_eq!(turns, names);
    }

    #[test]
    fn changes_that_go_on_push_nobody_back() {
        let mut places = places(&["tenant"]);
        let waits = Some(Instant::now());
        places.get_mut("tenant").unwrap().due = waits;
        mark_changed(&mut places, ["tenant".to_owned()], |_| 0);
        assert_eq!(places["tenant"].due, waits);
    }

    #[test]
    fn a_change_during_a_pass_is_looked_at_right_after_it() {
        let mut places = places(&["tenant"]);
        running(&mut places, "tenant");
        mark_changed(&mut places, ["tenant".to_owned()], |_| 0);
        settle(&mut places, "tenant".to_owned(), Memory::default(), &Pass::Done(None), (0, 0));
        let due = places["tenant"].due.unwrap();
        assert!(due <= Instant::now() + DEBOUNCE);
    }

    #[test]
    fn the_next_evaluation_of_a_plan_is_never_lost() {
        let mut places = places(&["tenant"]);
        running(&mut places, "tenant");
        let next = Timestamp::now() + SignedDuration::from_secs(40);
        settle(
            &mut places,
            "tenant".to_owned(),
            Memory::default(),
            &Pass::Done(Some(next)),
            (0, 0),
        );
        let due = places["tenant"].due.unwrap().duration_since(Instant::now());
        assert!(due > Duration::from_secs(30) && due < Duration::from_secs(50), "{due:?}");
        running(&mut places, "tenant");
        settle(&mut places, "tenant".to_owned(), Memory::default(), &Pass::Done(None), (0, 0));
        assert!(places["tenant"].due.is_some(), "without a next instant it is still looked at");
    }

    #[test]
    fn reports_wait_for_one_pass_while_jobs_are_under_way_and_people_do_not() {
        let mut places = places(&["tenant"]);
        let place = places.get_mut("tenant").unwrap();
        (place.running, place.due, place.not_before) = (true, None, Some(Instant::now()));
        settle(&mut places, "tenant".to_owned(), Memory::default(), &Pass::Done(None), (0, 300));
        let soonest = |places: &mut BTreeMap<String, Place>, intent| {
            mark_changed(places, ["tenant".to_owned()], |_| intent);
            places["tenant"].due.unwrap().duration_since(Instant::now())
        };
        assert!(soonest(&mut places, 0) > Duration::from_millis(400));
        assert!(soonest(&mut places, 1) <= DEBOUNCE);
    }

    #[test]
    fn a_namespace_without_jobs_is_looked_at_as_soon_as_it_changes() {
        assert_eq!(spacing(0), Duration::ZERO);
        assert_eq!(spacing(100_000), SPACING.1);
    }

    #[test]
    fn a_namespace_that_fails_backs_off_and_changes_do_not_hurry_it() {
        let mut places = places(&["broken"]);
        for _ in 0..6 {
            running(&mut places, "broken");
            settle(&mut places, "broken".to_owned(), Memory::default(), &Pass::Failed, (0, 0));
        }
        let due = places["broken"].due.unwrap();
        mark_changed(&mut places, ["broken".to_owned()], |_| 0);
        assert_eq!(places["broken"].due, Some(due));
        assert!(due > Instant::now() + Duration::from_secs(3));
        assert!(backoff(50) <= BACKOFF.1);
    }
}
