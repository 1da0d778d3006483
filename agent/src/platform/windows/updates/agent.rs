//! Windows Update as the rest of the agent uses it: facts, looks and acts, each within a time limit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use wardring_protocol::{Facts, RebootSource, Scan};
use wardring_seal::{JobKey, UpdateSource, UpdateTarget};

use super::calls::{CallError, Calls, Connect};
use super::install::{self, Act};
use super::inventory::{ASK_AGAIN, ASK_EVERY, Due, Inventory, failed};
use super::look::{self, LastAnswer};
use super::matching::{Stand, matching, other_windows, pending_upgrade};
use super::policy::Policy;
use super::record::{Record, act};
use super::shelf::Shelf;
use super::wua::{Failure, Found, Query, TIME_OUT, UNKNOWN_SERVICE, Update, Wua};
use crate::chance;
use crate::hresult::Hresult;
use crate::platform::{Performed, Permit, Terms, wall_clock};
use crate::state::{DownloadFailure, InstallFound, ServicingResult, UpdateStatus};

/// Name of the agent's own word about a pending restart.
const REBOOT_SOURCE: &str = "WindowsUpdateAgent";
/// An answer of the source of this age holds also for what it did not offer.
const FRESH: SignedDuration = SignedDuration::from_mins(10);
/// An answer of this age holds for what it offered.
const RECENT: SignedDuration = SignedDuration::from_hours(1);
const HISTORY: i32 = 200;

/// How long Windows Update is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A search: a WSUS with many updates, or a slow device, takes minutes.
    pub search: Duration,
    /// A download.
    pub download: Duration,
    /// An installation, and the search for the end of one.
    pub install: Duration,
    /// The commit before a restart, whose permit lives a minute.
    pub commit: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Limits {
            search: Duration::from_secs(30 * 60),
            download: hours(4),
            install: hours(3),
            commit: Duration::from_secs(20),
        }
    }
}

/// What Windows Update needs to know of the device around it.
#[derive(Clone, Copy)]
pub struct Device {
    /// The running `build.UBR`.
    pub build: fn() -> String,
    /// Names of the packages of Windows.
    pub packages: fn() -> Option<BTreeSet<String>>,
    /// The policies of Windows Update.
    pub policy: fn() -> Policy,
}

/// What a look at the updates of a job showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where each asked update stands, by KB.
    pub updates: BTreeMap<String, UpdateStatus>,
    /// Asked KBs that are offered as upgrades of Windows only, with what says so.
    pub upgrades: BTreeMap<String, String>,
    /// An upgrade of Windows, under whatever number, that the next restart finishes.
    pub pending_upgrade: Option<String>,
    /// Somebody installs or removes at this moment.
    pub is_busy: bool,
    /// Name of the sign that Windows waits for a restart, if the update agent says so.
    pub hard_pending: Option<String>,
}

/// Windows Update on this device.
pub struct WindowsUpdate {
    calls: Calls,
    device: Device,
    limits: Limits,
    boot: String,
    record: Record,
    shelf: Arc<Shelf>,
    shared: Arc<Shared>,
    /// Installations inside Windows Update, those that were given up included.
    installing: Arc<AtomicUsize>,
}

struct Shared {
    path: PathBuf,
    /// Held from a change of the inventory to the end of its write, so that the file is the newest.
    saving: Mutex<()>,
    known: Mutex<Known>,
    /// Changes with every change of the inventory.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    inventory: Inventory,
    /// When each source answered in this run.
    answered: Vec<(UpdateSource, Timestamp)>,
    scan_began: Option<Instant>,
    /// The updates changed since they were read.
    is_stale: bool,
    /// Hidden updates that an earlier run of the agent showed for a step whose end it did not see.
    left_shown: BTreeSet<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let inventory = {
            let mut known = self.lock();
            let before = known.inventory.clone();
            change(&mut known);
            (known.inventory != before).then(|| known.inventory.clone())
        };
        if let Some(inventory) = inventory {
            inventory.save(&self.path);
            self.changed.send_modify(|count| *count += 1);
        }
    }
}

impl WindowsUpdate {
    /// Takes up what is kept in `folder`. Nothing is asked before [`WindowsUpdate::facts`].
    pub fn open(
        folder: &Path,
        boot: &str,
        device: Device,
        limits: Limits,
        connect: Connect,
        shelf: Shelf,
    ) -> WindowsUpdate {
        let path = folder.join("updates");
        let inventory = Inventory::load(&path);
        let record = Record::new(folder);
        let left_shown = record.shown();
        let known =
            Known { inventory, is_stale: !left_shown.is_empty(), left_shown, ..Known::default() };
        let known = Mutex::new(known);
        WindowsUpdate {
            calls: Calls::new(connect),
            device,
            limits,
            boot: boot.to_owned(),
            record,
            shelf: Arc::new(shelf),
            shared: Arc::new(Shared {
                path,
                saving: Mutex::default(),
                known,
                changed: watch::Sender::new(0),
            }),
            installing: Arc::default(),
        }
    }

    /// Adds what is known to `facts`, and begins to read what is due.
    pub fn facts(&self, facts: &mut Facts) {
        self.give_up_scan();
        self.scan();
        let known = self.shared.lock();
        let inventory = &known.inventory;
        facts.last_scan.clone_from(&inventory.scan);
        facts.installed = inventory.installed();
        facts.installed_count = u32::try_from(facts.installed.len()).unwrap_or(u32::MAX);
        facts.missing = inventory.missing();
        facts.offered = inventory.offered();
        facts.failed.clone_from(&inventory.failed);
        if inventory.reboot_required && inventory.boot == self.boot {
            facts
                .pending_reboot
                .push(RebootSource { source: REBOOT_SOURCE.to_owned(), hard: true });
        }
        facts.other_patch_sources.extend((self.device.policy)().automatic_updates());
    }

    /// Resolves when there is something new for [`WindowsUpdate::facts`].
    pub async fn changed(&self) {
        let mut changed = self.shared.changed.subscribe();
        // The sender lives as long as this.
        let _ = changed.changed().await;
    }

    /// Begins a scan when one is due; its result comes with the facts.
    fn scan(&self) {
        let (due, left) = {
            let mut known = self.shared.lock();
            let due = match known.inventory.due(wall_clock(), &self.boot) {
                Due::Nothing if known.is_stale => Due::Offline,
                due => due,
            };
            if known.scan_began.is_some() || due == Due::Nothing {
                return;
            }
            self.shelf.forget(std::time::SystemTime::now());
            known.scan_began = Some(Instant::now());
            known.is_stale = false;
            (due, known.left_shown.clone())
        };
        let is_online = due == Due::Online;
        let (shared, boot) = (Arc::clone(&self.shared), self.boot.clone());
        let name = (self.device.policy)().name(UpdateSource::Default);
        let done =
            move |result| shared.change(|known| known.scanned(result, is_online, name, boot));
        let record = self.record.clone();
        let search = move |wua: &dyn Wua| {
            let read = read(wua, is_online)?;
            install::settle_shown(wua, &record, &left, &read.found.updates);
            Ok(read)
        };
        if let Err(error) = self.calls.start(search, done) {
            self.scan_failed(error.hresult());
        }
    }

    /// A scan that hangs is reported as one that timed out, and tried again later.
    fn give_up_scan(&self) {
        let began = self.shared.lock().scan_began;
        if began.is_some_and(|began| began.elapsed() >= self.limits.search) {
            tracing::error!("the search for updates does not end; it is left alone");
            self.scan_failed(TIME_OUT);
        }
    }

    fn scan_failed(&self, hresult: u32) {
        let name = (self.device.policy)().name(UpdateSource::Default);
        let boot = self.boot.clone();
        self.shared.change(|known| known.scanned(Err(Failure(hresult)), true, name, boot));
    }

    /// Looks at the updates of a job.
    ///
    /// # Errors
    /// A sentence.
    pub async fn look(&self, targets: &[UpdateTarget], terms: Terms) -> Result<Seen, String> {
        let source = terms.source;
        if source == UpdateSource::MicrosoftUpdate
            && !terms.is_local
            && let Some(policy) = (self.device.policy)().keeps_off_the_internet()
        {
            return Err(format!(
                "the policy {policy} keeps this device from Microsoft Update, which the rollout names"
            ));
        }
        let last = match terms.is_local {
            // What Windows knows by itself is all that counts.
            true => LastAnswer::Fresh,
            false => self.shared.lock().last_answer(source, wall_clock()),
        };
        let (asked, build) = (targets.to_vec(), (self.device.build)());
        let hidden = self.record.hidden();
        let looked = self.calls.call(self.limits.search, move |wua| {
            look::look(wua, &asked, source, &build, last, &hidden)
        });
        let seen = match looked.await {
            Ok(seen) => seen,
            Err(error) if terms.is_local => {
                // The packages of Windows say what is there; a broken update agent must not keep them.
                let error = sentence(error, source);
                tracing::warn!(error, "Windows Update says nothing about what it knows");
                let is_busy = self.installing.load(Ordering::SeqCst) > 0;
                return Ok(Seen {
                    updates: BTreeMap::new(),
                    upgrades: BTreeMap::new(),
                    pending_upgrade: None,
                    is_busy,
                    hard_pending: None,
                });
            }
            Err(error) => return Err(sentence(error, source)),
        };
        for (kb, stand) in &seen.updates {
            tracing::debug!(kb, status = ?stand.status, evidence = stand.evidence, "looked");
        }
        let now = wall_clock();
        let pending_upgrade = pending_upgrade(&seen.found.updates);
        self.shared.change(|known| {
            if seen.was_online {
                known.answered.retain(|(answered, _)| *answered != source);
                known.answered.push((source, now));
            }
            if source == UpdateSource::Default && !look::with_drivers(targets) {
                known.inventory.updates = seen.found.updates;
                known.inventory.reboot_required = seen.reboot_required;
            }
        });
        let upgrade = |(kb, stand): (&String, &Stand)| Some((kb.clone(), stand.upgrade.clone()?));
        let upgrades = seen.updates.iter().filter_map(upgrade).collect();
        Ok(Seen {
            upgrades,
            pending_upgrade,
            updates: seen.updates.into_iter().map(|(kb, stand)| (kb, stand.status)).collect(),
            is_busy: seen.is_busy || self.installing.load(Ordering::SeqCst) > 0,
            hard_pending: seen.reboot_required.then(|| REBOOT_SOURCE.to_owned()),
        })
    }

    /// Searches the device's own source, or what Windows knows of its last answer.
    ///
    /// # Errors
    /// Windows Update does not answer, in words.
    pub async fn search(&self, is_online: bool) -> Result<Vec<Update>, String> {
        let source = UpdateSource::Default;
        let query = Query { source, is_online, with_drivers: false };
        let found = self.calls.call(self.limits.search, move |wua| wua.search(query)).await;
        found.map(|found| found.updates).map_err(|error| sentence(error, source))
    }

    /// Downloads; what is there already costs nothing.
    ///
    /// # Errors
    /// A sentence, and what Windows answered.
    pub async fn download(
        &self,
        targets: &[UpdateTarget],
        terms: Terms,
    ) -> Result<(), DownloadFailure> {
        self.fetch(targets).await?;
        let offered = targets.iter().filter(|target| target.package.is_none());
        let targets: Vec<UpdateTarget> = offered.cloned().collect();
        if targets.is_empty() {
            return Ok(());
        }
        let (record, build) = (self.record.clone(), (self.device.build)());
        let downloaded = self.calls.call(self.limits.download, move |wua| {
            let each = targets.iter();
            // Which one failed belongs to the answer, so a failure is one here.
            Ok(each
                .map(|target| (target, install::download(wua, target, terms, (&record, &build))))
                .find_map(|(target, done)| Some((target.kb.clone(), done.err()?))))
        });
        match downloaded.await {
            Ok(None) => Ok(()),
            Ok(Some((kb, failure))) => Err(DownloadFailure {
                sentence: format!("{kb}: {failure}"),
                hresult: Some(Hresult(failure.0)),
            }),
            Err(error) => Err(DownloadFailure {
                sentence: sentence(error, terms.source),
                hresult: Some(Hresult(error.hresult())),
            }),
        }
    }

    /// Fetches the packages that the job brings itself, and drops those of earlier jobs.
    async fn fetch(&self, targets: &[UpdateTarget]) -> Result<(), DownloadFailure> {
        let own = targets.iter().filter_map(|target| target.package.as_ref());
        self.shelf.keep_only(&own.collect::<Vec<_>>());
        for target in targets {
            let Some(package) = &target.package else { continue };
            let fetched = tokio::time::timeout(self.limits.download, self.shelf.fetch(package));
            let fetched = fetched.await.unwrap_or_else(|_| {
                let hours = self.limits.download.as_secs() / 3600;
                Err(format!("its download was not over after {hours} hours").into())
            });
            fetched.map_err(|failure| DownloadFailure {
                sentence: format!("{}: {}", target.kb, failure.sentence),
                ..failure
            })?;
        }
        Ok(())
    }

    /// Installs one update for a grant, or tells how its installation for that grant ended.
    pub async fn install(
        &self,
        key: &JobKey,
        target: &UpdateTarget,
        tries: u32,
        terms: Terms,
        permit: Permit,
    ) -> Performed {
        let act = self.act(key, target, tries, terms);
        let installing = Installing::new(&self.installing);
        let installed = self.calls.call(self.limits.install, move |wua| {
            let performed = install::install(wua, &act, permit);
            drop(installing);
            Ok(performed)
        });
        let performed = installed.await.unwrap_or_else(|error| match error {
            // Without a session nothing is begun.
            CallError::Failed(_) => Performed::Ended(no_answer(error, install::FAILED)),
            _ => Performed::Ended(no_answer(error, install::ABORTED)),
        });
        self.shared.lock().is_stale = true;
        performed
    }

    /// Tells how an installation for a grant ended that may have begun; begins none.
    pub async fn find_install(
        &self,
        key: &JobKey,
        target: &UpdateTarget,
        tries: u32,
        terms: Terms,
    ) -> InstallFound {
        let act = self.act(key, target, tries, terms);
        let found = self.calls.call(self.limits.install, move |wua| Ok(install::find(wua, &act)));
        let found = found
            .await
            .unwrap_or_else(|error| InstallFound::Ended(no_answer(error, install::ABORTED)));
        self.shared.lock().is_stale = true;
        found
    }

    /// Finishes what this boot installed, right before the restart: once, because a second call may
    /// make the update fail. Feature updates need it; for others it changes nothing.
    ///
    /// # Errors
    /// A sentence; the restart may still finish everything but a feature update.
    pub fn commit(&self) -> Result<(), String> {
        let is_due = self.record.take_commit(&self.boot).map_err(|error| error.to_string())?;
        if !is_due {
            return Ok(());
        }
        let committed = self.calls.call_blocking(self.limits.commit, |wua| wua.commit());
        committed.map_err(|error| error.to_string())
    }

    /// Hides what `target` offers here, and remembers that it was us: after a removal Windows would
    /// install the same update again otherwise. The next job that names it shows it again.
    ///
    /// # Errors
    /// A sentence.
    pub async fn hide(&self, target: &UpdateTarget, source: UpdateSource) -> Result<(), String> {
        let (target, record) = (target.clone(), self.record.clone());
        let build = (self.device.build)();
        let done = self.calls.call(self.limits.search, move |wua| {
            let with_drivers = look::with_drivers(std::slice::from_ref(&target));
            let found = wua.search(Query { source, is_online: false, with_drivers })?;
            // One that is removed and waits for its restart still counts as installed.
            let shown = matching(&target, &found.updates).filter(|update| !update.is_hidden);
            // An upgrade under the same number is nobody's that was installed, and would stay hidden.
            let shown = shown.filter(|update| other_windows(&target, update, &build).is_none());
            let shown: Vec<_> = shown.collect();
            let ids = shown.iter().map(|update| update.identity.id.clone()).collect();
            // First: what is hidden and not noted would stay hidden for good.
            if let Err(error) = record.note_hidden(&ids, true) {
                tracing::warn!(%error, "nobody will know that the agent hid an update");
            }
            shown.iter().try_for_each(|update| wua.set_hidden(&update.identity, true))
        });
        self.shared.lock().is_stale = true;
        done.await.map_err(|error| sentence(error, source))
    }

    fn act(&self, key: &JobKey, target: &UpdateTarget, tries: u32, terms: Terms) -> Act {
        Act {
            name: act(key, &target.kb, tries),
            earlier: (0..tries).map(|tries| act(key, &target.kb, tries)).collect(),
            target: target.clone(),
            terms,
            boot: self.boot.clone(),
            build: (self.device.build)(),
            record: self.record.clone(),
            packages: self.device.packages,
            shelf: Arc::clone(&self.shelf),
        }
    }
}

/// Everything that the facts need.
fn read(wua: &dyn Wua, is_online: bool) -> Result<Read, Failure> {
    let query = Query { source: UpdateSource::Default, is_online, with_drivers: false };
    let found = wua.search(query)?;
    let failed = failed(&wua.history(HISTORY)?, &found.updates);
    Ok(Read { found, failed, reboot_required: wua.reboot_required()? })
}

struct Read {
    found: Found,
    failed: Vec<String>,
    reboot_required: bool,
}

impl Known {
    /// A scan ended.
    fn scanned(
        &mut self,
        result: Result<Read, Failure>,
        is_online: bool,
        name: String,
        boot: String,
    ) {
        self.scan_began = None;
        let now = wall_clock();
        let (hresult, pause) = match &result {
            Ok(_) => (0, ASK_EVERY),
            Err(Failure(hresult)) => (*hresult, ASK_AGAIN),
        };
        if is_online || result.is_err() {
            let result = format!("0x{hresult:08X}");
            self.inventory.scan = Some(Scan { time: now, source: name, result });
            self.inventory.ask_at = Some(now + chance::around(pause));
            self.inventory.boot.clone_from(&boot);
        }
        if let Ok(read) = result {
            self.left_shown.clear();
            for warning in &read.found.warnings {
                tracing::warn!("the search for updates warns of 0x{warning:08X}");
            }
            if is_online {
                self.answered.retain(|(source, _)| *source != UpdateSource::Default);
                self.answered.push((UpdateSource::Default, now));
            }
            self.inventory.boot = boot;
            self.inventory.updates = read.found.updates;
            self.inventory.failed = read.failed;
            self.inventory.reboot_required = read.reboot_required;
        }
    }

    fn last_answer(&self, source: UpdateSource, now: Timestamp) -> LastAnswer {
        let answered = self.answered.iter().find(|(answered, _)| *answered == source);
        // An agent that was restarted in the middle of a job knows it from the inventory.
        let kept = self
            .inventory
            .scan
            .as_ref()
            .filter(|scan| source == UpdateSource::Default && scan.result == "0x00000000");
        let last = answered.map(|(_, at)| *at).max(kept.map(|scan| scan.time));
        match last.map(|at| now.duration_since(at)) {
            Some(age) if age.is_negative() => LastAnswer::Old,
            Some(age) if age <= FRESH => LastAnswer::Fresh,
            Some(age) if age <= RECENT => LastAnswer::Recent,
            _ => LastAnswer::Old,
        }
    }
}

/// Counts an installation from before its thread begins until it really ends.
struct Installing(Arc<AtomicUsize>);

impl Installing {
    fn new(count: &Arc<AtomicUsize>) -> Installing {
        count.fetch_add(1, Ordering::SeqCst);
        Installing(Arc::clone(count))
    }
}

impl Drop for Installing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The result of an installation without an answer; that it began stays written down. One that may
/// still run counts as aborted and not as failed, so that no other try of it begins.
fn no_answer(error: CallError, code: i32) -> ServicingResult {
    tracing::error!(%error, "no answer to an installation");
    ServicingResult { code, hresult: error.hresult(), reboot_required: false, packages: Vec::new() }
}

fn sentence(error: CallError, source: UpdateSource) -> String {
    match error {
        CallError::Failed(Failure(UNKNOWN_SERVICE)) if source == UpdateSource::MicrosoftUpdate => {
            "Microsoft Update is not registered on this device yet (0x80248014)".to_owned()
        }
        error => error.to_string(),
    }
}
