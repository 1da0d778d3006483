//! Contact: whether anybody on the network still answers, once what was installed is in force.
//!
//! A device that an update cut off can tell nobody, and nobody can help it. Where its job asks for
//! that, the end of the job waits for an answer: of a gateway, a router, a DNS server or a port that
//! the rollout names. One answer is enough. Silence counts only where somebody answered before the
//! installation who is found without our gateways and without DNS, only while the agent looks, and begins
//! anew with every boot.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use wardring_seal::{Action, Endpoint, NetworkLost};

use super::end::End;
use super::{Ask, Awaits, JobRun, Move, Phase, autonomous, hooks, verify};

/// Pause between two looks, where the wait is long enough for it.
const LOOK_EVERY_MS: u64 = 60_000;
/// Longest that a look may take; without an end nothing is known.
const LOOK_LIMIT_MS: u64 = 60_000;

/// Somebody whose answer shows that the network is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Witness {
    /// A gateway of Wardring, whichever.
    Gateway,
    /// A default gateway of the device.
    Router {
        /// Its address.
        address: IpAddr,
    },
    /// A DNS server of the device.
    Dns {
        /// Its address.
        address: IpAddr,
    },
    /// A port that the rollout names.
    Port {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

/// How long nobody has answered in the running boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contact {
    /// Silence so far, as far as the agent was there to hear it.
    pub silent_ms: u64,
    /// When it last heard nothing; on this run's clock.
    pub seen_mono_ms: Option<u64>,
    /// What this device waits beyond the time of the job, drawn once.
    pub spread_ms: Option<u64>,
}

impl Contact {
    /// Another run of the agent: its clock begins anew.
    pub(super) fn take_up(&mut self) {
        self.seen_mono_ms = None;
    }
}

/// When the network counts as lost, if the job says so.
fn rules(job: &JobRun) -> Option<&NetworkLost> {
    let asked = job.payload.autonomous_rollback.as_ref();
    asked.filter(|_| job.payload.key.action == Action::Install)?.network_lost.as_ref()
}

/// Who is asked beside the gateways and those that the device has now: the ports of the rollout, and
/// whoever answered before the installation.
pub(super) fn named(job: &JobRun) -> Option<BTreeSet<Witness>> {
    let port =
        |Endpoint { host, port }: &Endpoint| Witness::Port { host: host.clone(), port: *port };
    let mut named: BTreeSet<Witness> = rules(job)?.witnesses.iter().map(port).collect();
    named.extend(job.baseline.iter().flat_map(|baseline| baseline.witnesses.clone()));
    Some(named)
}

/// Whether somebody answered before whose silence tells something: a router, or a port that the rollout
/// names by its address. Our gateways and ports with names are found by DNS, so where nobody else
/// answered, dead DNS servers (domain controllers of the same window) would look like the network's end.
fn has_witness(job: &JobRun) -> bool {
    let listed = rules(job).map_or(&[][..], |rules| &rules.witnesses);
    let mut before = job.baseline.iter().flat_map(|baseline| &baseline.witnesses);
    before.any(|witness| match witness {
        Witness::Router { .. } => true,
        // A port that was only reached by its name is asked by its address, too, but is one by name.
        Witness::Port { host, port } => {
            let is_it = |listed: &Endpoint| listed.host == *host && listed.port == *port;
            host.parse::<IpAddr>().is_ok() && listed.iter().any(is_it)
        }
        Witness::Gateway | Witness::Dns { .. } => false,
    })
}

/// The job would end here. Where a lost network counts, it looks for contact first.
pub(super) fn before_the_end(
    mv: &mut Move,
    mut job: JobRun,
    end: End,
    is_healthy: bool,
) -> Option<JobRun> {
    let counts = rules(&job).is_some() && has_witness(&job);
    if !counts || autonomous::refusal(mv, &job).is_some() {
        return conclude(mv, job, end, is_healthy);
    }
    job.ending = Some(end);
    mv.enter(&mut job, Phase::AwaitingContact { is_healthy });
    look(mv, job)
}

/// Ends the job as it would have ended without the look.
fn conclude(mv: &mut Move, mut job: JobRun, end: End, is_healthy: bool) -> Option<JobRun> {
    job.ending = None;
    job.message.clear();
    if is_healthy { hooks::healthy(mv, job, end) } else { mv.finish(job, end) }
}

/// Asks who answers.
pub(super) fn look(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    let witnesses = named(&job).unwrap_or_default();
    mv.ask(&mut job, Ask::SeekContact { witnesses }, LOOK_LIMIT_MS);
    job.awaits = Awaits::Contact;
    Some(job)
}

/// Those answered. Nobody for long enough is the end of the network.
pub(super) fn looked(
    mv: &mut Move,
    mut job: JobRun,
    is_healthy: bool,
    answered: &BTreeSet<Witness>,
) -> Option<JobRun> {
    if !answered.is_empty() {
        return found(mv, job, is_healthy);
    }
    let now = mv.now.mono_ms;
    let since = job.contact.seen_mono_ms.map_or(0, |seen| now.saturating_sub(seen));
    // A device that slept meanwhile has asked nobody.
    job.contact.silent_ms += since.min(LOOK_EVERY_MS + LOOK_LIMIT_MS);
    job.contact.seen_mono_ms = Some(now);
    let after_ms = rules(&job).map_or(u64::MAX, |rules| rules.after_ms);
    let run = &mv.state.run;
    let spread_ms = *job
        .contact
        .spread_ms
        .get_or_insert_with(|| drawn((run, &job.payload.key.device_id), after_ms));
    if let Some(refusal) = autonomous::refusal(mv, &job) {
        return given_up(mv, job, is_healthy, &refusal);
    }
    if job.contact.silent_ms >= after_ms.saturating_add(spread_ms) {
        let minutes = job.contact.silent_ms / 60_000;
        let why = format!("nothing on the network has answered for {minutes} min");
        return autonomous::begin(mv, job, autonomous::NETWORK_LOST, why);
    }
    wait(mv, job)
}

/// The look did not end: nobody knows whether somebody answered, so that this is no silence.
pub(super) fn unknown(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    let Phase::AwaitingContact { is_healthy } = job.phase else {
        return autonomous::call_off(mv, job);
    };
    job.contact.seen_mono_ms = None;
    match autonomous::refusal(mv, &job) {
        Some(refusal) => given_up(mv, job, is_healthy, &refusal),
        None => wait(mv, job),
    }
}

/// Right before the first removal: those answered, and one is enough to leave everything as it is.
pub(super) fn looked_once_more(
    mv: &mut Move,
    job: JobRun,
    answered: &BTreeSet<Witness>,
) -> Option<JobRun> {
    if answered.is_empty() { autonomous::go_on(mv, job) } else { autonomous::call_off(mv, job) }
}

/// Somebody answered.
fn found(mv: &mut Move, mut job: JobRun, is_healthy: bool) -> Option<JobRun> {
    job.contact = Contact::default();
    match job.ending.take() {
        Some(end) => conclude(mv, job, end, is_healthy),
        None => verify::settle(mv, job),
    }
}

/// Nobody answers, and the device must not help itself any more.
fn given_up(mv: &mut Move, mut job: JobRun, is_healthy: bool, why: &str) -> Option<JobRun> {
    let Some(mut end) = job.ending.take() else { return verify::settle(mv, job) };
    end.message.push_str("; nothing on the network answers, and it does not roll back by itself: ");
    end.message.push_str(why);
    conclude(mv, job, end, is_healthy)
}

fn wait(mv: &mut Move, mut job: JobRun) -> Option<JobRun> {
    "waiting: nothing on the network answers".clone_into(&mut job.message);
    let after_ms = rules(&job).map_or(u64::MAX, |rules| rules.after_ms);
    mv.pause(&mut job, (after_ms / 8).clamp(1, LOOK_EVERY_MS));
    Some(job)
}

/// A number up to `most` that differs from device to device and from run to run. A run's identity is
/// random, so this draws nothing anew when it is asked again.
fn drawn(from: impl Hash, most: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    from.hash(&mut hasher);
    let share = u128::from(hasher.finish()) * (u128::from(most) + 1);
    u64::try_from(share >> 64).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_wait_by_chance_and_evenly_up_to_the_bound() {
        let of = |device: u32| drawn((&"run", &device), 1_000);
        let all: Vec<u64> = (0..2_000).map(of).collect();
        assert!(all.iter().all(|drawn| *drawn <= 1_000));
        assert!(all.iter().filter(|drawn| **drawn < 500).count().abs_diff(1_000) < 100);
        assert_eq!(of(7), of(7));
        assert_ne!(drawn((&"run", &7), u64::MAX), drawn((&"another", &7), u64::MAX));
    }
}
