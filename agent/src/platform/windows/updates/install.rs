//! Download and installation of one update of a job, once per grant whatever happens in between.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use wardring_seal::{UpdateSource, UpdateTarget};

use super::look::{as_a_job_sees, with_drivers};
use super::matching::{matching, to_install};
use super::record::{Installation, Record, client_id};
use super::shelf::Shelf;
use super::standalone;
use super::wua::{
    ALREADY_INSTALLED, CALL_CANCELLED, EULAS_DECLINED, Ended, Entry, Failure, INSTALL_NOT_ALLOWED,
    Identity, NO_UPDATE, Query, UNEXPECTED, Update, Wua,
};
use crate::platform::{Performed, Permit, Terms, wall_clock};
use crate::state::{InstallFound, ServicingResult};

/// How often it is asked whether another installer is done.
pub(super) const BUSY_POLL: Duration = Duration::from_secs(1);
/// Entries of the history that are read; every update of a device enters it.
pub(super) const HISTORY: i32 = 100;
/// The history's clock may differ from ours by so much.
pub(super) const CLOCKS: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);
/// OperationResultCodes.
pub(super) const SUCCEEDED: i32 = 2;
pub(super) const FAILED: i32 = 4;
pub(super) const ABORTED: i32 = 5;
/// UpdateOperation of an installation.
pub(super) const INSTALLATION: i32 = 1;

/// One installation: for whom, of what, and where it is written down.
#[derive(Clone)]
pub struct Act {
    /// Grant, KB and try.
    pub name: String,
    /// Names of the tries before this one.
    pub earlier: Vec<String>,
    /// The update.
    pub target: UpdateTarget,
    /// What the job allows.
    pub terms: Terms,
    /// Running boot.
    pub boot: String,
    /// Running `build.UBR`.
    pub build: String,
    /// The record.
    pub record: Record,
    /// Lists the packages of Windows.
    pub packages: fn() -> Option<BTreeSet<String>>,
    /// The packages that jobs bring themselves.
    pub shelf: Arc<Shelf>,
}

/// Windows' own knowledge: the source was asked when the job began.
pub(super) fn known(
    wua: &dyn Wua,
    source: UpdateSource,
    target: &UpdateTarget,
) -> Result<Vec<Update>, Failure> {
    let with_drivers = with_drivers(std::slice::from_ref(target));
    Ok(wua.search(Query { source, is_online: false, with_drivers })?.updates)
}

/// Downloads what is offered of `target` and not there yet. What the agent hid after a rollback is shown
/// for as long as that takes and no longer: Automatic Updates would install it before anybody permits it.
/// What somebody else hid stays so.
///
/// # Errors
/// The HRESULT of what failed.
pub fn download(
    wua: &dyn Wua,
    target: &UpdateTarget,
    terms: Terms,
    (record, build): (&Record, &str),
) -> Result<(), Failure> {
    let found = known(wua, terms.source, target)?;
    let shown = Shown::show(wua, (target, build), &found, record)?;
    for update in to_install(target, &shown.updates, build) {
        agree(wua, update, terms)?;
        if update.is_downloaded {
            continue;
        }
        let ended = wua.download(&update.identity)?;
        if !matches!(ended.code, 2 | 3) {
            return Err(Failure(if ended.hresult == 0 { UNEXPECTED } else { ended.hresult }));
        }
    }
    Ok(())
}

/// What the agent had hidden, shown as long as this lives; hidden again at its end, unless it was
/// installed. The record keeps both, so that the agent puts it right when it starts after a crash.
struct Shown<'a> {
    wua: &'a dyn Wua,
    record: &'a Record,
    /// The updates as the job sees them.
    updates: Vec<Update>,
    ours: Vec<Identity>,
}

impl<'a> Shown<'a> {
    fn show(
        wua: &'a dyn Wua,
        (target, build): (&UpdateTarget, &str),
        found: &[Update],
        record: &'a Record,
    ) -> Result<Shown<'a>, Failure> {
        let updates = as_a_job_sees(found, &record.hidden());
        let is_hidden = |update: &&&Update| {
            found.iter().any(|real| real.identity == update.identity && real.is_hidden)
        };
        let ours: Vec<Identity> = to_install(target, &updates, build)
            .iter()
            .filter(is_hidden)
            .map(|update| update.identity.clone())
            .collect();
        let mut shown = Shown { wua, record, updates, ours: Vec::new() };
        if ours.is_empty() {
            return Ok(shown);
        }
        // First: whatever the record does not name stays shown if the agent dies.
        record.note_shown(&ids(&ours), true).map_err(|error| {
            tracing::error!(%error, "what is hidden is not shown without a note of it");
            Failure(UNEXPECTED)
        })?;
        for identity in ours {
            // Also where this fails: its outcome may be unknown.
            shown.ours.push(identity.clone());
            wua.set_hidden(&identity, false)?;
            tracing::info!(kb = target.kb, update = %identity, "shown: a job names it");
        }
        Ok(shown)
    }

    /// It was installed: it is not to be hidden any more.
    fn is_installed(&mut self, installed: &Identity) {
        let ours = self.ours.extract_if(.., |identity| identity == installed).collect::<Vec<_>>();
        if ours.is_empty() {
            return;
        }
        if let Err(error) = self.record.note_hidden(&ids(&ours), false) {
            tracing::warn!(%error, "an installed update is still noted as hidden by us");
        }
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        hide_again(self.wua, self.record, self.ours.iter());
    }
}

fn ids(identities: &[Identity]) -> BTreeSet<String> {
    identities.iter().map(|identity| identity.id.clone()).collect()
}

/// Hides what a step showed. What cannot be hidden stays noted, and is tried again when the agent starts.
fn hide_again<'a>(wua: &dyn Wua, record: &Record, shown: impl Iterator<Item = &'a Identity>) {
    let mut hidden = BTreeSet::new();
    for identity in shown {
        match wua.set_hidden(identity, true) {
            Ok(()) => {
                hidden.insert(identity.id.clone());
            }
            Err(error) => {
                tracing::error!(update = %identity, %error, "an update stays shown that was hidden");
            }
        }
    }
    if !hidden.is_empty()
        && let Err(error) = record.note_shown(&hidden, false)
    {
        tracing::warn!(%error, "an update that is hidden again is still noted as shown");
    }
}

/// Puts right what a step showed whose end an earlier run of the agent did not see: installed, or hidden
/// again.
pub fn settle_shown(wua: &dyn Wua, record: &Record, left: &BTreeSet<String>, found: &[Update]) {
    let left = found.iter().filter(|update| left.contains(&update.identity.id));
    let (there, open): (Vec<&Update>, Vec<&Update>) =
        left.partition(|update| update.is_installed || update.reboot_required);
    let installed: BTreeSet<String> =
        there.into_iter().map(|update| update.identity.id.clone()).collect();
    if !installed.is_empty()
        && let Err(error) = record.note_hidden(&installed, false)
    {
        tracing::warn!(%error, "an installed update is still noted as hidden by us");
    }
    hide_again(wua, record, open.into_iter().map(|update| &update.identity));
}

/// Accepting licence terms is a legal act: only a job that says so does it.
fn agree(wua: &dyn Wua, update: &Update, terms: Terms) -> Result<(), Failure> {
    match (update.is_eula_accepted, terms.accept_eula) {
        (true, _) => Ok(()),
        (false, true) => wua.accept_eula(&update.identity),
        (false, false) => Err(Failure(EULAS_DECLINED)),
    }
}

/// Installs, or tells how the installation of the same name ended.
pub fn install(wua: &dyn Wua, act: &Act, permit: Permit) -> Performed {
    if let Some(bar) = barred_by_earlier(act) {
        return Performed::Ended(bar);
    }
    match act.record.find(&act.name) {
        Ok(None) => {}
        Ok(Some(begun)) => return Performed::Ended(ended_before(wua, act, begun)),
        Err(error) => return Performed::Ended(unreadable(&error)),
    }
    let begun = match &act.target.package {
        Some(package) => standalone::begin(wua, act, package, permit),
        None => begin(wua, act, permit),
    };
    match begun {
        Ok(performed) => performed,
        // Nothing was begun, so nothing is written down.
        Err(Failure(hresult)) => Performed::Ended(result(FAILED, hresult, false)),
    }
}

/// Why no further try may begin, if so: an earlier one that did not fail for certain.
fn barred_by_earlier(act: &Act) -> Option<ServicingResult> {
    act.earlier.iter().find_map(|name| match act.record.find(name) {
        // Nothing was begun under that name.
        Ok(None) => None,
        Ok(Some(Installation { result: Some(result), .. })) => {
            (result.code != FAILED).then_some(result)
        }
        Ok(Some(_)) => Some(result(ABORTED, CALL_CANCELLED, false)),
        Err(error) => Some(unreadable(&error)),
    })
}

fn begin(wua: &dyn Wua, act: &Act, permit: Permit) -> Result<Performed, Failure> {
    let found = known(wua, act.terms.source, &act.target)?;
    let seen = as_a_job_sees(&found, &act.record.hidden());
    let updates = to_install(&act.target, &seen, &act.build);
    if updates.is_empty() {
        let there: Vec<&Update> = matching(&act.target, &found)
            .filter(|update| update.is_installed || update.reboot_required)
            .collect();
        let waits = there.iter().any(|update| update.reboot_required);
        return Ok(Performed::Ended(if there.is_empty() {
            result(FAILED, NO_UPDATE, false)
        } else {
            result(SUCCEEDED, ALREADY_INSTALLED, waits)
        }));
    }
    // Under the permit of this step, and until its end.
    let mut shown = Shown::show(wua, (&act.target, &act.build), &found, &act.record)?;
    for update in &updates {
        agree(wua, update, act.terms)?;
        if !update.is_downloaded {
            // The cache may have been cleaned since the job downloaded.
            wua.download(&update.identity)?;
        }
    }
    while wua.is_busy()? {
        if !permit.is_alive() {
            return Ok(Performed::PermitExpired);
        }
        std::thread::sleep(BUSY_POLL);
    }
    if wua.reboot_required()? {
        return Err(Failure(INSTALL_NOT_ALLOWED));
    }
    let before = (act.packages)();
    let client = client_id(&act.name);
    let mut whole: Option<ServicingResult> = None;
    for update in updates {
        let mut is_begun = whole.is_some();
        let mut go = || {
            is_begun = is_begun || permit.is_alive() && write_down(act, before.as_ref(), permit);
            is_begun
        };
        let part = match wua.install(&update.identity, &client, &mut go) {
            Ok(Some(Ended { code, hresult, reboot_required })) => {
                result(code, hresult, reboot_required)
            }
            Ok(None) => return Ok(Performed::PermitExpired),
            Err(failure) if !is_begun => return Err(failure),
            Err(Failure(hresult)) => result(FAILED, hresult, false),
        };
        let is_success = part.is_success();
        if is_success {
            shown.is_installed(&update.identity);
        }
        whole = Some(match whole {
            Some(before) => merged(before, part),
            None => part,
        });
        if !is_success {
            break;
        }
    }
    let Some(mut whole) = whole else { return Ok(Performed::PermitExpired) };
    whole.packages = difference(before.as_ref(), (act.packages)().as_ref());
    end(act, &whole);
    Ok(Performed::Ended(whole))
}

/// Writes down that it begins. The write itself takes time, so the permit is looked at once more.
pub(super) fn write_down(act: &Act, before: Option<&BTreeSet<String>>, permit: Permit) -> bool {
    let written = act.record.begin(Installation {
        act: act.name.clone(),
        boot: act.boot.clone(),
        began: wall_clock(),
        packages_before: before.cloned(),
        result: None,
    });
    if let Err(error) = written {
        tracing::error!(%error, "the record of installations cannot be written; nothing is begun");
        return false;
    }
    if permit.is_alive() {
        return true;
    }
    if let Err(error) = act.record.withdraw(&act.name) {
        tracing::error!(%error, "an installation stays written down that did not begin");
    }
    false
}

pub(super) fn end(act: &Act, result: &ServicingResult) {
    if let Err(error) = act.record.end(&act.name, result) {
        // It stays written down as begun: its end is found in the history of Windows then.
        tracing::error!(%error, "the end of an installation could not be written down");
    }
}

/// Tells how an installation ended that may have begun.
pub fn find(wua: &dyn Wua, act: &Act) -> InstallFound {
    match act.record.find(&act.name) {
        Ok(Some(begun)) => InstallFound::Ended(ended_before(wua, act, begun)),
        Err(error) => InstallFound::Ended(unreadable(&error)),
        // The record is written before anything begins; the history is asked all the same, because
        // a folder that was restored from a copy would say the same.
        Ok(None) => match wua.history(HISTORY) {
            Ok(history) => {
                let client = client_id(&act.name);
                let own = history.iter().filter(|entry| entry.client == client);
                own.filter(|entry| entry.operation == INSTALLATION)
                    .map(|entry| result(entry.code, entry.hresult, waits(wua, act)))
                    .reduce(merged)
                    .map_or(InstallFound::NotBegun, InstallFound::Ended)
            }
            Err(Failure(hresult)) => InstallFound::Ended(result(ABORTED, hresult, false)),
        },
    }
}

/// How an installation ended that is written down: by its result, else by what Windows tells.
fn ended_before(wua: &dyn Wua, act: &Act, begun: Installation) -> ServicingResult {
    if let Some(result) = begun.result {
        return result;
    }
    let seen = match act.target.package {
        Some(_) => standalone::seen_after(wua, act, &begun),
        None => seen_after(wua, act, begun.began),
    };
    match seen {
        Ok(mut result) => {
            result.packages = difference(begun.packages_before.as_ref(), (act.packages)().as_ref());
            end(act, &result);
            result
        }
        // It may be told the next time; until then it counts as aborted, and never begins again.
        Err(Failure(hresult)) => result(ABORTED, hresult, false),
    }
}

/// The end of an installation that nobody watched: Windows goes on when the agent is killed.
fn seen_after(wua: &dyn Wua, act: &Act, began: Timestamp) -> Result<ServicingResult, Failure> {
    while wua.is_busy()? {
        std::thread::sleep(BUSY_POLL);
    }
    let found = known(wua, act.terms.source, &act.target)?;
    let matches: Vec<&Update> = matching(&act.target, &found).collect();
    let waits = matches.iter().any(|update| update.reboot_required);
    let client = client_id(&act.name);
    let history = wua.history(HISTORY)?;
    let is_after = |entry: &&Entry| {
        entry.operation == INSTALLATION && entry.at.is_none_or(|at| at + CLOCKS >= began)
    };
    let own = history.iter().filter(is_after).filter(|entry| entry.client == client);
    let by_history = own.map(|entry| result(entry.code, entry.hresult, waits)).reduce(merged);
    if let Some(result) = by_history {
        return Ok(result);
    }
    if waits || (!matches.is_empty() && matches.iter().all(|update| update.is_installed)) {
        return Ok(result(SUCCEEDED, 0, waits));
    }
    let is_ours = |entry: &&Entry| matches.iter().any(|update| update.identity == entry.identity);
    let newest = history.iter().filter(is_after).find(is_ours);
    Ok(newest.map_or(result(ABORTED, CALL_CANCELLED, false), |entry| {
        result(entry.code, entry.hresult, false)
    }))
}

fn waits(wua: &dyn Wua, act: &Act) -> bool {
    let found = known(wua, act.terms.source, &act.target).unwrap_or_default();
    matching(&act.target, &found).any(|update| update.reboot_required)
}

/// Two parts of one installation: a failure of either is a failure of both.
fn merged(one: ServicingResult, other: ServicingResult) -> ServicingResult {
    let reboot_required = one.reboot_required || other.reboot_required;
    let worse = if one.is_success() { other } else { one };
    ServicingResult { reboot_required, ..worse }
}

pub(super) fn result(code: i32, hresult: u32, reboot_required: bool) -> ServicingResult {
    ServicingResult { code, hresult, reboot_required, packages: Vec::new() }
}

fn unreadable(error: &std::io::Error) -> ServicingResult {
    tracing::error!(%error, "the record of installations cannot be read; nothing is installed");
    result(FAILED, UNEXPECTED, false)
}

pub(super) fn difference(
    before: Option<&BTreeSet<String>>,
    after: Option<&BTreeSet<String>>,
) -> Vec<String> {
    match (before, after) {
        (Some(before), Some(after)) => after.difference(before).cloned().collect(),
        // To a list that nobody could read, all that Windows is made of would have come with the update.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_could_not_be_read_makes_no_package_the_updates() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let (before, after): (BTreeSet<_>, BTreeSet<_>) = (names(&["a"]), names(&["a", "b"]));
        assert_eq!(difference(Some(&before), Some(&after)), ["b"]);
        assert!(difference(None, Some(&after)).is_empty(), "not everything");
        assert!(difference(Some(&before), None).is_empty());
    }
}
