//! Looking at the updates of a job, with as few questions to the source as the truth allows.

use std::collections::{BTreeMap, BTreeSet};

use wardring_seal::{UpdateKind, UpdateSource, UpdateTarget};

use super::matching::{Stand, stand};
use super::wua::{Failure, Found, Query, UNKNOWN_SERVICE, Update, Wua};

/// How old the source's last answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastAnswer {
    /// Minutes: it holds, also for what it did not offer.
    Fresh,
    /// Within the hour: it holds for what it offered.
    Recent,
    /// Too old, or there is none.
    Old,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where each asked update stands, by KB.
    pub updates: BTreeMap<String, Stand>,
    /// Somebody installs or removes at this moment.
    pub is_busy: bool,
    /// The agent says that Windows waits for a restart.
    pub reboot_required: bool,
    /// What the search found.
    pub found: Found,
    /// Whether the source itself was asked.
    pub was_online: bool,
}

/// Whether drivers must be searched for.
pub fn with_drivers(targets: &[UpdateTarget]) -> bool {
    targets.iter().any(|target| target.kind == UpdateKind::Driver)
}

/// The updates as a job sees them: what the agent itself hid, after a rollback, is as good as offered to
/// a job that names it, because that job exists only once a person has lifted the hold.
pub(super) fn as_a_job_sees(found: &[Update], hidden_by_us: &BTreeSet<String>) -> Vec<Update> {
    let seen = found.iter().cloned().map(|mut update| {
        update.is_hidden &= !hidden_by_us.contains(&update.identity.id);
        update
    });
    seen.collect()
}

/// Asks the source itself. Microsoft Update must be registered on a device first, which a job that names
/// it orders.
fn ask(wua: &dyn Wua, query: Query) -> Result<Found, Failure> {
    match wua.search(query) {
        Err(Failure(UNKNOWN_SERVICE)) if query.source == UpdateSource::MicrosoftUpdate => {
            tracing::info!("Microsoft Update is being registered, because a job names it");
            wua.register_microsoft_update()?;
            wua.search(query)
        }
        answer => answer,
    }
}

/// Looks.
///
/// The source is asked when its last answer is old, and when something that is asked for is unknown
/// to an answer that is not fresh. When it cannot be reached, Windows' own knowledge counts for what
/// it knows: after a restart with a dead WSUS the proof is still there. That something is not
/// offered is the source's to say. Nothing is shown that is hidden: looking changes nothing.
pub fn look(
    wua: &dyn Wua,
    targets: &[UpdateTarget],
    source: UpdateSource,
    build: &str,
    last: LastAnswer,
    hidden_by_us: &BTreeSet<String>,
) -> Result<Seen, Failure> {
    let query = |is_online| Query { source, is_online, with_drivers: with_drivers(targets) };
    let stands = |found: &Found| -> BTreeMap<String, Stand> {
        let updates = as_a_job_sees(&found.updates, hidden_by_us);
        let each = targets.iter();
        each.map(|target| (target.kb.clone(), stand(target, &updates, build))).collect()
    };
    let knows_all =
        |stands: &BTreeMap<String, Stand>| !stands.values().any(|stand| stand.is_unknown);
    let mut known = None;
    // No source has to do with what the job brings itself.
    let is_brought = targets.iter().all(|target| target.package.is_some());
    if last != LastAnswer::Old || is_brought {
        let found = wua.search(query(false))?;
        let stands = stands(&found);
        if last == LastAnswer::Fresh || knows_all(&stands) {
            known = Some((stands, found, false));
        }
    }
    let (updates, found, was_online) = match known {
        Some(known) => known,
        None => match ask(wua, query(true)) {
            Ok(found) => (stands(&found), found, true),
            Err(failure) => {
                let found = wua.search(query(false)).map_err(|_| failure)?;
                let stands = stands(&found);
                if !knows_all(&stands) {
                    return Err(failure);
                }
                (stands, found, false)
            }
        },
    };
    Ok(Seen {
        updates,
        is_busy: wua.is_busy()?,
        reboot_required: wua.reboot_required()?,
        found,
        was_online,
    })
}
