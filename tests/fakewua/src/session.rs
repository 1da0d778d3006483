//! The session and the searcher.

use std::sync::{Mutex, PoisonError};

use windows::Win32::Foundation::{VARIANT_BOOL, VARIANT_FALSE};
use windows::Win32::System::Com::IDispatch;
use windows::Win32::System::UpdateAgent::{
    ICategoryCollection, ISearchJob, ISearchResult, ISearchResult_Impl, IUpdate, IUpdateCollection,
    IUpdateDownloader, IUpdateExceptionCollection, IUpdateHistoryEntryCollection, IUpdateInstaller,
    IUpdateSearcher, IUpdateSearcher_Impl, IUpdateServiceManager2, IUpdateSession,
    IUpdateSession_Impl, IUpdateSession2, IUpdateSession2_Impl, IUpdateSession3,
    IUpdateSession3_Impl, IWebProxy, OperationResultCode, ServerSelection, orcSucceeded, ssOthers,
};
use windows::Win32::System::Variant::VARIANT;
use windows_core::{BSTR, HRESULT, IUnknown, Ref, Result, implement};

use crate::acts::{Downloader, Installer};
use crate::lists::{Entries, NoWarnings, Updates};
use crate::services::Services;
use crate::update::{Found, Past};
use crate::world::{self, Update, hresult};

/// WU_E_DS_UNKNOWNSERVICE.
const UNKNOWN_SERVICE: HRESULT = HRESULT(0x8024_8014_u32 as i32);
/// WU_E_INVALID_CRITERIA.
const INVALID_CRITERIA: HRESULT = HRESULT(0x8024_0032_u32 as i32);

/// A text that is set and read.
#[derive(Default)]
pub struct Name(Mutex<String>);

impl Name {
    /// What was set.
    pub fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets it.
    pub fn set(&self, value: &BSTR) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value.to_string();
    }
}

/// A session.
#[implement(IUpdateSession3, IUpdateSession2, IUpdateSession, IDispatch)]
#[derive(Default)]
pub struct Session {
    client: Name,
}

no_dispatch!(Session_Impl);

impl IUpdateSession_Impl for Session_Impl {
    absent! {
        WebProxy() -> IWebProxy;
        SetWebProxy(Ref<IWebProxy>) -> ();
    }

    fn ClientApplicationID(&self) -> Result<BSTR> {
        Ok(BSTR::from(self.client.get().as_str()))
    }

    fn SetClientApplicationID(&self, value: &BSTR) -> Result<()> {
        self.client.set(value);
        Ok(())
    }

    fn ReadOnly(&self) -> Result<VARIANT_BOOL> {
        Ok(VARIANT_FALSE)
    }

    fn CreateUpdateSearcher(&self) -> Result<IUpdateSearcher> {
        Ok(Searcher::default().into())
    }

    fn CreateUpdateDownloader(&self) -> Result<IUpdateDownloader> {
        Ok(Downloader::default().into())
    }

    fn CreateUpdateInstaller(&self) -> Result<IUpdateInstaller> {
        Ok(Installer::default().into())
    }
}

impl IUpdateSession2_Impl for Session_Impl {
    absent! {
        UserLocale() -> u32;
        SetUserLocale(u32) -> ();
    }
}

impl IUpdateSession3_Impl for Session_Impl {
    fn CreateUpdateServiceManager(&self) -> Result<IUpdateServiceManager2> {
        Ok(Services.into())
    }

    absent! {
        QueryHistory(&BSTR, i32, i32) -> IUpdateHistoryEntryCollection;
    }
}

#[implement(IUpdateSearcher, IDispatch)]
struct Searcher {
    is_online: Mutex<bool>,
    selection: Mutex<ServerSelection>,
    service: Name,
}

impl Default for Searcher {
    fn default() -> Searcher {
        Searcher {
            is_online: Mutex::new(true),
            selection: Mutex::default(),
            service: Name::default(),
        }
    }
}

no_dispatch!(Searcher_Impl);

impl Searcher_Impl {
    fn is_online(&self) -> bool {
        *self.is_online.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an update meets the criteria: groups joined by `or`, each made of comparisons joined by
/// `and`; only those of the agent are known.
fn meets(update: &Update, criteria: &str) -> Result<bool> {
    let mut any = false;
    for group in criteria.split(" or ") {
        let mut all = true;
        for term in group.trim_matches(['(', ')']).split(" and ") {
            all &= match term {
                "IsInstalled=0" => !update.is_installed,
                "IsInstalled=1" => update.is_installed,
                "Type='Software'" => !update.is_driver,
                _ => return Err(INVALID_CRITERIA.into()),
            };
        }
        any |= all;
    }
    Ok(any)
}

impl IUpdateSearcher_Impl for Searcher_Impl {
    absent! {
        CanAutomaticallyUpgradeService() -> VARIANT_BOOL;
        SetCanAutomaticallyUpgradeService(VARIANT_BOOL) -> ();
        ClientApplicationID() -> BSTR;
        SetClientApplicationID(&BSTR) -> ();
        IncludePotentiallySupersededUpdates() -> VARIANT_BOOL;
        SetIncludePotentiallySupersededUpdates(VARIANT_BOOL) -> ();
        ServerSelection() -> ServerSelection;
        BeginSearch(&BSTR, Ref<IUnknown>, &VARIANT) -> ISearchJob;
        EndSearch(Ref<ISearchJob>) -> ISearchResult;
        EscapeString(&BSTR) -> BSTR;
        ServiceID() -> BSTR;
    }

    fn SetServerSelection(&self, value: ServerSelection) -> Result<()> {
        *self.selection.lock().unwrap_or_else(PoisonError::into_inner) = value;
        Ok(())
    }

    fn SetServiceID(&self, id: &BSTR) -> Result<()> {
        self.service.set(id);
        Ok(())
    }

    fn Online(&self) -> Result<VARIANT_BOOL> {
        Ok(self.is_online().into())
    }

    fn SetOnline(&self, value: VARIANT_BOOL) -> Result<()> {
        *self.is_online.lock().unwrap_or_else(PoisonError::into_inner) = value.as_bool();
        Ok(())
    }

    fn Search(&self, criteria: &BSTR) -> Result<ISearchResult> {
        let service = self.service.get();
        if *self.selection.lock().unwrap_or_else(PoisonError::into_inner) == ssOthers
            && !world::with(|world| world.services.contains(&service))?
        {
            return Err(UNKNOWN_SERVICE.into());
        }
        let is_online = self.is_online();
        let (updates, fails, hangs) = world::with(|world| {
            world.log(if is_online { "SearchOnline" } else { "SearchOffline" }, "", "");
            (world.updates.clone(), world.search_fails.clone(), world.search_hangs)
        })?;
        if is_online {
            if hangs {
                loop {
                    std::thread::park();
                }
            }
            if let Some(fails) = fails {
                return Err(hresult(&fails).into());
            }
        }
        let criteria = criteria.to_string();
        let mut found: Vec<IUpdate> = Vec::new();
        for update in updates {
            if meets(&update, &criteria)? {
                found.push(Found(update).into());
            }
        }
        Ok(Answer(Updates::of(found)).into())
    }

    fn GetTotalHistoryCount(&self) -> Result<i32> {
        world::with(|world| i32::try_from(world.history.len()).unwrap_or(i32::MAX))
    }

    fn QueryHistory(&self, start: i32, count: i32) -> Result<IUpdateHistoryEntryCollection> {
        let (start, count) = (start.max(0) as usize, count.max(0) as usize);
        let history = world::with(|world| world.history.clone())?;
        let newest_first = history.into_iter().rev().skip(start).take(count);
        Ok(Entries(newest_first.map(|entry| Past(entry).into()).collect()).into())
    }
}

#[implement(ISearchResult, IDispatch)]
struct Answer(IUpdateCollection);

no_dispatch!(Answer_Impl);

impl ISearchResult_Impl for Answer_Impl {
    absent! { RootCategories() -> ICategoryCollection; }

    fn ResultCode(&self) -> Result<OperationResultCode> {
        Ok(orcSucceeded)
    }

    fn Updates(&self) -> Result<IUpdateCollection> {
        Ok(self.0.clone())
    }

    fn Warnings(&self) -> Result<IUpdateExceptionCollection> {
        Ok(NoWarnings.into())
    }
}
