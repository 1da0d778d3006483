//! The Windows Update Agent over COM: every call behind the plain values of [`Wua`]. Nothing is
//! decided here.
//!
//! Interfaces and calls as in Microsoft's sdk-api, `sdk-api-src/content/wuapi`. A session belongs to
//! the thread that opened it.

use std::cell::RefCell;
use std::marker::PhantomData;

use wardring_seal::UpdateSource;
use windows::Win32::Foundation::{DECIMAL, VARIANT_BOOL, VARIANT_FALSE, VARIANT_TRUE};
use windows::Win32::System::Com::{
    CLSCTX_INPROC_SERVER, COINIT_MULTITHREADED, CoCreateInstance, CoInitializeEx, CoUninitialize,
};
use windows::Win32::System::Power::{ES_CONTINUOUS, ES_SYSTEM_REQUIRED, SetThreadExecutionState};
use windows::Win32::System::UpdateAgent::{
    IStringCollection, ISystemInformation, IUpdate, IUpdate2, IUpdate3, IUpdateCollection,
    IUpdateInstaller2, IUpdateInstaller4, IUpdateSession, IUpdateSession3, SystemInformation,
    UpdateCollection, UpdateSession, daInstallation, iiRequiresExclusiveHandling, ssDefault,
    ssManagedServer, ssOthers, ssWindowsUpdate, utDriver,
};
use windows::core::{BSTR, GUID, Interface};

use crate::platform::windows::updates::wua::{
    Ended, Entry, Failure, Found, Identity, NO_UPDATE, Query, Update, Wua, kb, ole_date,
};

/// The agent's name towards Windows Update, outside of installations.
const CLIENT: &str = "Wardring";
/// ServiceID of Microsoft Update (`wua_sdk/opt-in-to-microsoft-update.md`).
const MICROSOFT_UPDATE: &str = "7971f918-a847-4430-9279-4a52d1efe18d";

/// A session on this thread.
pub struct Session {
    session: IUpdateSession3,
    /// Updates of the last search, by their identities.
    found: RefCell<Vec<(Identity, IUpdate)>>,
    // Last: interfaces are released before COM ends on this thread.
    _com: Com,
}

/// COM on this thread.
pub(super) struct Com(PhantomData<*const ()>);

impl Com {
    /// Begins it, until the value is dropped.
    pub(super) fn begin() -> windows::core::Result<Com> {
        // SAFETY: there is no reserved argument, and every success is balanced by the drop below.
        unsafe { CoInitializeEx(None, COINIT_MULTITHREADED) }.ok()?;
        Ok(Com(PhantomData))
    }
}

impl Drop for Com {
    fn drop(&mut self) {
        // SAFETY: balances the call in `begin`, on the same thread, since this type cannot be sent.
        unsafe { CoUninitialize() };
    }
}

/// Opens a session on this thread.
///
/// # Errors
/// COM or the Windows Update Agent refuses.
pub fn open() -> Result<Box<dyn Wua>, Failure> {
    Session::open().map(|session| Box::new(session) as Box<dyn Wua>).map_err(failure)
}

fn failure(error: windows::core::Error) -> Failure {
    Failure(error.code().0 as u32)
}

fn create<T: Interface>(class: &GUID) -> windows::core::Result<T> {
    // SAFETY: COM runs on this thread as long as a session lives, and there is no outer object.
    unsafe { CoCreateInstance(class, None, CLSCTX_INPROC_SERVER) }
}

impl Session {
    fn open() -> windows::core::Result<Session> {
        let com = Com::begin()?;
        let session: IUpdateSession = create(&UpdateSession)?;
        let session: IUpdateSession3 = session.cast()?;
        // SAFETY: the session lives on this thread; the text lives through the call.
        unsafe { session.SetClientApplicationID(&BSTR::from(CLIENT))? };
        Ok(Session { session, found: RefCell::default(), _com: com })
    }

    fn update(&self, identity: &Identity) -> Result<IUpdate, Failure> {
        let found = self.found.borrow();
        let update = found.iter().find(|(own, _)| own == identity);
        update.map(|(_, update)| update.clone()).ok_or(Failure(NO_UPDATE))
    }

    fn alone(&self, identity: &Identity) -> Result<IUpdateCollection, Failure> {
        let update = self.update(identity)?;
        let collection: IUpdateCollection = create(&UpdateCollection).map_err(failure)?;
        // SAFETY: both objects live on this thread.
        unsafe { collection.Add(&update) }.map_err(failure)?;
        Ok(collection)
    }

    fn try_search(&self, query: Query) -> windows::core::Result<Found> {
        // SAFETY: all objects live on this thread, and every text lives through its call.
        let result = unsafe {
            let searcher = self.session.CreateUpdateSearcher()?;
            searcher.SetServerSelection(match query.source {
                UpdateSource::Default => ssDefault,
                UpdateSource::Wsus => ssManagedServer,
                UpdateSource::WindowsUpdate => ssWindowsUpdate,
                UpdateSource::MicrosoftUpdate => ssOthers,
            })?;
            if query.source == UpdateSource::MicrosoftUpdate {
                searcher.SetServiceID(&BSTR::from(MICROSOFT_UPDATE))?;
            }
            searcher.SetOnline(variant(query.is_online))?;
            searcher.Search(&BSTR::from(query.criteria()))?
        };
        // SAFETY: as above; the index is below the count.
        unsafe {
            let code = result.ResultCode()?.0;
            let collection = result.Updates()?;
            let mut found = Vec::new();
            let mut updates = Vec::new();
            for index in 0..collection.Count()? {
                let object = collection.get_Item(index)?;
                let update = read(&object)?;
                found.push((update.identity.clone(), object));
                updates.push(update);
            }
            self.found.replace(found);
            let mut warnings = Vec::new();
            // A search that has nothing to warn of may have no collection either.
            if let Ok(exceptions) = result.Warnings() {
                for index in 0..exceptions.Count()? {
                    warnings.push(exceptions.get_Item(index)?.HResult()? as u32);
                }
            }
            Ok(Found { code, updates, warnings })
        }
    }

    fn try_history(&self, most: i32) -> windows::core::Result<Vec<Entry>> {
        // SAFETY: all objects live on this thread; the indexes are below the counts.
        unsafe {
            let searcher = self.session.CreateUpdateSearcher()?;
            let total = searcher.GetTotalHistoryCount()?.min(most);
            if total <= 0 {
                // A question for no entries fails.
                return Ok(Vec::new());
            }
            let history = searcher.QueryHistory(0, total)?;
            let mut entries = Vec::new();
            for index in 0..history.Count()? {
                let entry = history.get_Item(index)?;
                let identity = entry.UpdateIdentity()?;
                entries.push(Entry {
                    identity: Identity {
                        id: identity.UpdateID()?.to_string().to_ascii_lowercase(),
                        revision: identity.RevisionNumber()?,
                    },
                    operation: entry.Operation()?.0,
                    code: entry.ResultCode()?.0,
                    hresult: entry.HResult()? as u32,
                    at: ole_date(entry.Date()?),
                    title: entry.Title()?.to_string(),
                    client: entry.ClientApplicationID()?.to_string(),
                });
            }
            Ok(entries)
        }
    }

    fn try_download(&self, updates: &IUpdateCollection) -> windows::core::Result<Ended> {
        keep_awake();
        // SAFETY: all objects live on this thread; the collection has exactly one update.
        unsafe {
            let downloader = self.session.CreateUpdateDownloader()?;
            downloader.SetUpdates(updates)?;
            let result = downloader.Download()?.GetUpdateResult(0)?;
            let (code, hresult) = (result.ResultCode()?.0, result.HResult()? as u32);
            Ok(Ended { code, hresult, reboot_required: false })
        }
    }

    fn try_install(
        &self,
        updates: &IUpdateCollection,
        client: &str,
        go: &mut dyn FnMut() -> bool,
    ) -> windows::core::Result<Option<Ended>> {
        keep_awake();
        // SAFETY: all objects live on this thread; the collection has exactly one update.
        unsafe {
            let installer = self.session.CreateUpdateInstaller()?;
            installer.SetClientApplicationID(&BSTR::from(client))?;
            installer.SetAllowSourcePrompts(VARIANT_FALSE)?;
            // A service has nobody to ask; an update that insists on a person fails here, with
            // 0x80242004, before anything begins.
            installer.cast::<IUpdateInstaller2>()?.SetForceQuiet(VARIANT_TRUE)?;
            installer.SetUpdates(updates)?;
            if !go() {
                return Ok(None);
            }
            let result = installer.Install()?.GetUpdateResult(0)?;
            Ok(Some(Ended {
                code: result.ResultCode()?.0,
                hresult: result.HResult()? as u32,
                reboot_required: result.RebootRequired()?.as_bool(),
            }))
        }
    }
}

impl Wua for Session {
    fn search(&self, query: Query) -> Result<Found, Failure> {
        self.try_search(query).map_err(failure)
    }

    fn history(&self, most: i32) -> Result<Vec<Entry>, Failure> {
        self.try_history(most).map_err(failure)
    }

    fn is_busy(&self) -> Result<bool, Failure> {
        // SAFETY: all objects live on this thread.
        let is_busy = unsafe { self.session.CreateUpdateInstaller().and_then(|one| one.IsBusy()) };
        is_busy.map(VARIANT_BOOL::as_bool).map_err(failure)
    }

    fn reboot_required(&self) -> Result<bool, Failure> {
        let system: ISystemInformation = create(&SystemInformation).map_err(failure)?;
        // SAFETY: the object lives on this thread.
        unsafe { system.RebootRequired() }.map(VARIANT_BOOL::as_bool).map_err(failure)
    }

    fn accept_eula(&self, update: &Identity) -> Result<(), Failure> {
        // SAFETY: the object lives on this thread.
        unsafe { self.update(update)?.AcceptEula() }.map_err(failure)
    }

    fn download(&self, update: &Identity) -> Result<Ended, Failure> {
        self.try_download(&self.alone(update)?).map_err(failure)
    }

    fn install(
        &self,
        update: &Identity,
        client: &str,
        go: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Ended>, Failure> {
        self.try_install(&self.alone(update)?, client, go).map_err(failure)
    }

    fn register_microsoft_update(&self) -> Result<(), Failure> {
        // Pending registration allowed, online registration allowed, for Automatic Updates, too: as in
        // `wua_sdk/opt-in-to-microsoft-update.md`.
        const FLAGS: i32 = 7;
        // SAFETY: all objects live on this thread, and the texts through the calls.
        let register = || unsafe {
            let manager = self.session.CreateUpdateServiceManager()?;
            manager.SetClientApplicationID(&BSTR::from(CLIENT))?;
            manager.AddService2(&BSTR::from(MICROSOFT_UPDATE), FLAGS, &BSTR::new())
        };
        register().map(drop).map_err(failure)
    }

    fn commit(&self) -> Result<(), Failure> {
        // SAFETY: all objects live on this thread; the flags must be 0.
        let commit = || unsafe {
            let installer = self.session.CreateUpdateInstaller()?;
            installer.cast::<IUpdateInstaller4>()?.Commit(0)
        };
        commit().map_err(failure)
    }

    fn set_hidden(&self, update: &Identity, is_hidden: bool) -> Result<(), Failure> {
        // SAFETY: the object lives on this thread.
        unsafe { self.update(update)?.SetIsHidden(variant(is_hidden)) }.map_err(failure)
    }
}

/// Keeps the device from falling asleep as long as this thread lives.
fn keep_awake() {
    // SAFETY: plain flags; Windows takes them back with the thread. The old flags are of no interest.
    let _ = unsafe { SetThreadExecutionState(ES_CONTINUOUS | ES_SYSTEM_REQUIRED) };
}

fn variant(value: bool) -> VARIANT_BOOL {
    if value { VARIANT_TRUE } else { VARIANT_FALSE }
}

/// Reads everything that is wanted of an update. What older agents do not tell is what they would
/// say: no restart is due, and it is not optional.
fn read(update: &IUpdate) -> windows::core::Result<Update> {
    // SAFETY: the object and all that it hands out live on this thread.
    unsafe {
        let identity = update.Identity()?;
        let behavior = update.InstallationBehavior().ok();
        let impact = behavior.as_ref().and_then(|one| one.Impact().ok());
        let reboot_behavior = behavior.and_then(|one| one.RebootBehavior().ok());
        let second = update.cast::<IUpdate2>().and_then(|one| one.RebootRequired());
        let third = update.cast::<IUpdate3>().and_then(|one| one.BrowseOnly());
        let is_set =
            |value: windows::core::Result<VARIANT_BOOL>| value.is_ok_and(VARIANT_BOOL::as_bool);
        Ok(Update {
            identity: Identity {
                id: identity.UpdateID()?.to_string().to_ascii_lowercase(),
                revision: identity.RevisionNumber()?,
            },
            title: update.Title()?.to_string(),
            kbs: texts(&update.KBArticleIDs()?)?.iter().filter_map(|article| kb(article)).collect(),
            categories: categories(update)?,
            severity: update.MsrcSeverity().map(|text| text.to_string()).unwrap_or_default(),
            is_driver: update.Type()? == utDriver,
            is_for_installation: update.DeploymentAction().is_ok_and(|one| one == daInstallation),
            size_bytes: update.MaxDownloadSize().map(|size| bytes(&size)).unwrap_or_default(),
            is_installed: update.IsInstalled()?.as_bool(),
            is_downloaded: update.IsDownloaded()?.as_bool(),
            is_hidden: update.IsHidden()?.as_bool(),
            is_uninstallable: is_set(update.IsUninstallable()),
            reboot_required: is_set(second),
            is_optional: is_set(third),
            is_eula_accepted: update.EulaAccepted()?.as_bool(),
            is_exclusive: impact == Some(iiRequiresExclusiveHandling),
            // It may, where it does not say.
            reboot_behavior: reboot_behavior.map_or(2, |behavior| behavior.0),
            supersedes: texts(&update.SupersededUpdateIDs()?)?
                .iter()
                .map(|id| id.to_ascii_lowercase())
                .collect(),
            changed_at: update.LastDeploymentChangeTime().ok().and_then(ole_date),
        })
    }
}

fn texts(collection: &IStringCollection) -> windows::core::Result<Vec<String>> {
    // SAFETY: the object lives on this thread; the index is below the count.
    unsafe {
        (0..collection.Count()?)
            .map(|index| collection.get_Item(index).map(|text| text.to_string()))
            .collect()
    }
}

fn categories(update: &IUpdate) -> windows::core::Result<Vec<String>> {
    // SAFETY: the object lives on this thread; the index is below the count.
    unsafe {
        let collection = update.Categories()?;
        (0..collection.Count()?)
            .map(|index| {
                let id = collection.get_Item(index)?.CategoryID()?;
                Ok(id.to_string().to_ascii_uppercase())
            })
            .collect()
    }
}

/// A size: whole bytes below 2^64.
fn bytes(size: &DECIMAL) -> u64 {
    // SAFETY: both halves of the union are plain numbers of the same size.
    unsafe { size.Anonymous2.Lo64 }
}
