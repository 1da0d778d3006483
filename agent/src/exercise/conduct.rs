//! Carrying out an exercise: two jobs, one after the other, each by the usual driver.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use wardring_protocol::Mode;
use wardring_seal::{Action, DeviceIdentity, DeviceKey, JobPayload, Roots};

use super::{Chosen, Desk, Ran, Record, RecordError};
use crate::chance;
use crate::driver::{Agent, RunEnd};
use crate::identity::{Credentials, Identity};
use crate::journal::{Durability, Journal, Loaded, Saved, WriteError};
use crate::platform::{Platform, wall_clock};
use crate::state::{self, Event, Me, Now, Start, Unexpected};

/// Nobody answers a poll, so there is no hurry with the next one.
const POLL_WAIT_S: u64 = 300;

/// Why an exercise cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] WriteError),
    /// The journal is damaged, or another agent's.
    #[error("the journal of the exercise cannot be read: {why}")]
    Unreadable {
        /// Why.
        why: String,
    },
    /// The job is refused by the state machine.
    #[error("the job of the exercise was not accepted")]
    Refused(#[from] Unexpected),
    /// No key.
    #[error("failed to make a key")]
    Key(#[from] wardring_seal::KeyError),
}

/// Why it pauses, or that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paused {
    /// It is over, and the record says why.
    Over,
    /// Windows ends; it goes on after the restart.
    DeviceDown,
    /// It was told to stop; it goes on with the next start.
    Stopped,
}

/// Goes on with an exercise whose update is chosen, until it is over or this boot ends.
///
/// # Errors
/// Its files cannot be used.
pub async fn conduct<P: Platform>(
    folder: &Path,
    record: &mut Record,
    chosen: &Chosen,
    platform: Arc<P>,
    forbidden: impl Fn() -> Option<String> + Clone + Send + Sync + 'static,
    stop: watch::Receiver<bool>,
) -> Result<Paused, Trouble> {
    for action in [Action::Install, Action::Rollback] {
        let is_done = match action {
            Action::Rollback => record.removal.is_some(),
            _ => record.install.is_some(),
        };
        if is_done {
            continue;
        }
        let journal = Journal::new(folder, Durability::Disk);
        begin(&journal, &*platform, &record.me(), record.job(chosen, action))?;
        let desk = Desk::new(record.key(action), record.wish.restarts, forbidden.clone());
        let (ran, paused) = run(&journal, record, desk, &platform, stop.clone()).await?;
        if let Some(paused) = paused {
            return Ok(paused);
        }
        record.over = end(action, &ran);
        match action {
            Action::Rollback => record.removal = Some(ran),
            _ => record.install = Some(ran),
        }
        record.save(folder)?;
        if record.over.is_some() {
            return Ok(Paused::Over);
        }
    }
    Ok(Paused::Over)
}

/// Why an exercise is over after this job, if it is.
fn end(action: Action, ran: &Ran) -> Option<String> {
    let Some(outcome) = &ran.outcome else {
        let left = "Windows waits for a restart, which was left out; nothing goes on by itself";
        return Some(left.to_owned());
    };
    match action {
        Action::Rollback => Some("both jobs are done".to_owned()),
        // What began is taken back, however it ended.
        _ if outcome.started => None,
        _ => Some("the installation did not begin".to_owned()),
    }
}

/// Puts the job into the journal, as if the run that accepted it had been killed right after. Does
/// nothing where it is there already.
fn begin(
    journal: &Journal,
    platform: &impl Platform,
    me: &Me,
    payload: JobPayload,
) -> Result<(), Trouble> {
    let mut saved = load(journal)?;
    let is_in_hand = saved.state.job.as_ref().is_some_and(|job| job.payload.key == payload.key);
    let is_finished = saved.state.finished.iter().any(|outcome| outcome.key == payload.key);
    if is_in_hand || is_finished {
        return Ok(());
    }
    let boot = platform.boot();
    let start = Start {
        run: chance::id(),
        me: me.clone(),
        boot: boot.record(),
        build: platform.build(),
        lost: false,
        refuses: platform.refuses().map(str::to_owned),
        roles: platform.roles(),
        paused: None,
    };
    let now = Now { wall: wall_clock(), mono_ms: 0 };
    let events = [
        Event::Started(Box::new(start)),
        Event::ModeSet(Mode::Manage),
        Event::Offered(Box::new(payload)),
    ];
    for event in events {
        // Its effects are those of a run that is over; the next one asks for its own.
        (saved.state, _) = state::step(&saved.state, now, event)?;
    }
    Ok(journal.save(&saved)?)
}

fn load(journal: &Journal) -> Result<Saved, Trouble> {
    match journal.load() {
        Loaded::Found(saved) => Ok(*saved),
        Loaded::Fresh => Ok(Saved::default()),
        Loaded::Lost(why) => Err(Trouble::Unreadable { why }),
        Loaded::Newer(layout) => {
            Err(Trouble::Unreadable { why: format!("a newer agent wrote it (layout {layout})") })
        }
    }
}

/// Lets the driver carry out the job in hand.
async fn run<P: Platform>(
    journal: &Journal,
    record: &Record,
    desk: Desk,
    platform: &Arc<P>,
    mut stop: watch::Receiver<bool>,
) -> Result<(Ran, Option<Paused>), Trouble> {
    let (key, desk) = (record.key(desk.action()), Arc::new(desk));
    let before = load(journal)?;
    if before.state.job.is_some() {
        let agent = Agent {
            platform: Arc::clone(platform),
            gateway: Arc::clone(&desk),
            credentials: Credentials::new(nobody(record.me())?),
            journal: journal.clone(),
            poll_wait_s: POLL_WAIT_S,
        };
        let (end, ended) = watch::channel(false);
        let mut running = std::pin::pin!(agent.run(ended));
        tokio::select! {
            run_end = &mut running => {
                let paused = match run_end {
                    RunEnd::DeviceDown => Paused::DeviceDown,
                    RunEnd::Stopped => Paused::Stopped,
                };
                return Ok((ran(&load(journal)?, record, &desk), Some(paused)));
            }
            _ = stop.wait_for(|stop| *stop) => {
                end.send_replace(true);
                running.await;
                return Ok((ran(&load(journal)?, record, &desk), Some(Paused::Stopped)));
            }
            () = desk.over() => {
                end.send_replace(true);
                running.await;
            }
        }
    }
    let saved = load(journal)?;
    let mut ran = ran(&saved, record, &desk);
    ran.outcome = saved.state.finished.iter().find(|outcome| outcome.key == key).cloned();
    Ok((ran, None))
}

/// What the journal and the last progress tell of the job.
fn ran(saved: &Saved, record: &Record, desk: &Desk) -> Ran {
    let uid = record.key(desk.action()).rollout_uid;
    let of_it = saved.state.records.iter().filter(|kept| kept.rollout_uid == uid);
    let packages = of_it.flat_map(|kept| kept.packages.values().flatten().cloned()).collect();
    let known = record.install.iter().chain(&record.removal).flat_map(|ran| &ran.boots);
    let known: Vec<&str> = known.map(|boot| boot.boot_id.as_str()).collect();
    // The first one is that in which the exercise began.
    let boots = saved.state.boots.iter().skip(1);
    Ran {
        outcome: None,
        results: desk.progress().map(|progress| progress.updates).unwrap_or_default(),
        packages,
        boots: boots.filter(|boot| !known.contains(&boot.boot_id.as_str())).cloned().collect(),
    }
}

/// An identity that no gateway issued, and that trusts no root: what it signs is believed by nobody,
/// and no sealed job is believed by it.
fn nobody(me: Me) -> Result<Identity, Trouble> {
    let key = DeviceKey::generate()?;
    let details = DeviceIdentity {
        namespace: me.namespace.clone(),
        enrolment_id: me.device_id.clone(),
        name: me.device.clone(),
        not_before: Timestamp::MIN,
        not_after: Timestamp::MAX,
        key_id: key.key_id(),
        roots: Vec::new(),
    };
    Ok(Identity { me, key, certificate: Vec::new(), details, roots: Roots::none() })
}
