//! The Windows Update Agent as plain values: what it tells about updates, and what may be asked of it.
//!
//! Names and numbers are those of `wuapi.idl` (Microsoft's sdk-api, `sdk-api-src/content/wuapi`).
//! Nothing here depends on the language of Windows: titles are shown to people and never compared.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wardring_seal::UpdateSource;

use crate::hresult::Hresult;

/// Definitions of Defender; `CategoryIDs` of Windows Update never change.
pub const DEFINITIONS: &str = "E0789628-CE08-4437-BE74-2495B842F43B";

/// Other versions of Windows.
pub const UPGRADES: &str = "3689BDC8-B205-4AF4-8D4A-A63924C5E9D5";

/// Classifications by their `CategoryIDs`, in Microsoft's English names, which a rollout selects by.
const CLASSIFICATIONS: [(&str, &str); 7] = [
    ("0FA1201D-4330-4FA8-8AE9-B877473B6441", "Security Updates"),
    ("E6CF1350-C01B-414D-A61F-263D14D133B4", "Critical Updates"),
    (DEFINITIONS, "Definition Updates"),
    ("28BC880E-0592-4CBF-8F95-C79B17911D5F", "Update Rollups"),
    ("CD5FFD1E-E932-4E3A-BF74-18BF0B1BBD83", "Updates"),
    (UPGRADES, "Upgrades"),
    ("EBFC1FC5-71A4-4F7B-9ACA-3B9A503104A0", "Drivers"),
];

/// WU_S_ALREADY_INSTALLED.
pub const ALREADY_INSTALLED: u32 = 0x0024_0006;
/// WU_E_NO_UPDATE: there is no such update here.
pub const NO_UPDATE: u32 = 0x8024_0024;
/// WU_E_EULAS_DECLINED.
pub const EULAS_DECLINED: u32 = 0x8024_0023;
/// WU_E_INSTALL_NOT_ALLOWED: another installation runs, or a restart is due first.
pub const INSTALL_NOT_ALLOWED: u32 = 0x8024_0016;
/// WU_E_CALL_CANCELLED.
pub const CALL_CANCELLED: u32 = 0x8024_000B;
/// WU_E_TIME_OUT.
pub const TIME_OUT: u32 = 0x8024_0021;
/// WU_E_DS_UNKNOWNSERVICE: the source is not registered on this device.
pub const UNKNOWN_SERVICE: u32 = 0x8024_8014;
/// E_UNEXPECTED, where the agent itself could not go on.
pub const UNEXPECTED: u32 = 0x8000_FFFF;

/// What identifies an update: the same id under another revision is another offer.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// UpdateID, a GUID in lower case.
    pub id: String,
    /// RevisionNumber.
    pub revision: i32,
}

impl Identity {
    /// Reads `<UpdateID>/<revision>`.
    pub fn parse(text: &str) -> Option<Identity> {
        let (id, revision) = text.split_once('/')?;
        Some(Identity { id: id.to_ascii_lowercase(), revision: revision.parse().ok()? })
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.id, self.revision)
    }
}

/// One update as a search finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Update {
    /// Its identity.
    pub identity: Identity,
    /// Title, in the language of the device.
    pub title: String,
    /// KB articles, `KB5068787`.
    pub kbs: Vec<String>,
    /// `CategoryIDs`, GUIDs in upper case: classification and products.
    pub categories: Vec<String>,
    /// MsrcSeverity; empty where there is none.
    pub severity: String,
    /// A driver; anything else is software.
    pub is_driver: bool,
    /// Deployed for installation, and not for removal by an administrator of a WSUS.
    pub is_for_installation: bool,
    /// MaxDownloadSize.
    pub size_bytes: u64,
    /// IsInstalled.
    pub is_installed: bool,
    /// IsDownloaded.
    pub is_downloaded: bool,
    /// IsHidden: somebody does not want it offered here.
    pub is_hidden: bool,
    /// IsUninstallable, by the word of the update alone.
    pub is_uninstallable: bool,
    /// RebootRequired: a restart must finish it.
    pub reboot_required: bool,
    /// BrowseOnly: optional, as previews are.
    pub is_optional: bool,
    /// EulaAccepted.
    pub is_eula_accepted: bool,
    /// Impact is iiRequiresExclusiveHandling.
    pub is_exclusive: bool,
    /// RebootBehavior: 0 never, 1 always, 2 can request.
    pub reboot_behavior: i32,
    /// SupersededUpdateIDs, in lower case.
    pub supersedes: Vec<String>,
    /// LastDeploymentChangeTime.
    pub changed_at: Option<Timestamp>,
}

impl Update {
    /// Its classification; none where the GUID is not a known one.
    pub fn classification(&self) -> Option<&'static str> {
        CLASSIFICATIONS.into_iter().find(|(id, _)| self.is_in(id)).map(|(_, name)| name)
    }

    /// Whether it is of this category.
    pub fn is_in(&self, category: &str) -> bool {
        self.categories.iter().any(|own| own.eq_ignore_ascii_case(category))
    }
}

/// What is asked of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Where.
    pub source: UpdateSource,
    /// Whether the source itself is asked, or what Windows knows of its last answer.
    pub is_online: bool,
    /// Drivers, too.
    pub with_drivers: bool,
}

impl Query {
    /// The search criteria: everything that is installed, and everything that is not, hidden or not.
    /// There is no criterion for KBs, so what is wanted is picked from the answer. `or` may stand at
    /// the top level only (`nf-wuapi-iupdatesearcher-search.md`).
    pub fn criteria(&self) -> &'static str {
        if self.with_drivers {
            "(IsInstalled=0) or (IsInstalled=1)"
        } else {
            "(IsInstalled=0 and Type='Software') or (IsInstalled=1 and Type='Software')"
        }
    }
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// OperationResultCode: 2, or 3 when parts of the source did not answer.
    pub code: i32,
    /// The updates.
    pub updates: Vec<Update>,
    /// HRESULTs of warnings.
    pub warnings: Vec<u32>,
}

/// How a download or an installation of one update ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// OperationResultCode.
    pub code: i32,
    /// HRESULT.
    pub hresult: u32,
    /// RebootRequired.
    pub reboot_required: bool,
}

/// One entry of the update history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Of which update.
    pub identity: Identity,
    /// UpdateOperation: 1 installation, 2 removal.
    pub operation: i32,
    /// OperationResultCode.
    pub code: i32,
    /// HRESULT.
    pub hresult: u32,
    /// When it ended.
    pub at: Option<Timestamp>,
    /// Title, in the language of the device.
    pub title: String,
    /// ClientApplicationID of whoever asked for it.
    pub client: String,
}

/// A call that failed, with its HRESULT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", Hresult(*.0).explanation())]
pub struct Failure(pub u32);

/// The Windows Update Agent, as one thread speaks to it. Updates are those of the last search.
pub trait Wua {
    /// Searches.
    ///
    /// # Errors
    /// The agent's HRESULT.
    fn search(&self, query: Query) -> Result<Found, Failure>;

    /// The newest entries of the history, newest first.
    ///
    /// # Errors
    /// The agent's HRESULT.
    fn history(&self, most: i32) -> Result<Vec<Entry>, Failure>;

    /// Whether an installation or a removal of anybody runs.
    ///
    /// # Errors
    /// The agent's HRESULT.
    fn is_busy(&self) -> Result<bool, Failure>;

    /// Whether Windows waits for a restart.
    ///
    /// # Errors
    /// The agent's HRESULT.
    fn reboot_required(&self) -> Result<bool, Failure>;

    /// Accepts the licence terms of an update.
    ///
    /// # Errors
    /// The agent's HRESULT.
    fn accept_eula(&self, update: &Identity) -> Result<(), Failure>;

    /// Downloads one update.
    ///
    /// # Errors
    /// The agent's HRESULT.
    fn download(&self, update: &Identity) -> Result<Ended, Failure>;

    /// Installs one update under a ClientApplicationID that tells whose installation it is. `go` is
    /// asked right before the call; `None` when it said no.
    ///
    /// # Errors
    /// The agent's HRESULT.
    fn install(
        &self,
        update: &Identity,
        client: &str,
        go: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Ended>, Failure>;

    /// Finishes the installations of this boot, right before the restart.
    ///
    /// # Errors
    /// The agent's HRESULT.
    fn commit(&self) -> Result<(), Failure>;

    /// Registers Microsoft Update as a source of this device, which stays so.
    ///
    /// # Errors
    /// The agent's HRESULT.
    fn register_microsoft_update(&self) -> Result<(), Failure>;

    /// Hides an update, or shows it again.
    ///
    /// # Errors
    /// The agent's HRESULT.
    fn set_hidden(&self, update: &Identity, is_hidden: bool) -> Result<(), Failure>;
}

/// `KB5068787` from what an update or a title says, if that is a KB number.
pub fn kb(article: &str) -> Option<String> {
    let digits = article.strip_prefix("KB").unwrap_or(article);
    let is_kb = (5..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_kb.then(|| format!("KB{digits}"))
}

/// The KB in a title: `KB` and its number are written the same in every language.
pub fn kb_in(title: &str) -> Option<String> {
    title
        .split(|char: char| !char.is_ascii_alphanumeric())
        .find_map(|word| word.starts_with("KB").then(|| kb(word)).flatten())
}

/// An OLE date: days since 1899-12-30, as WUA gives its dates.
pub fn ole_date(days: f64) -> Option<Timestamp> {
    /// Days from the first OLE date to 1970-01-01.
    const TO_UNIX: f64 = 25_569.0;
    // A cast of a number that is out of range is the last one in range, which no date is.
    Timestamp::from_second(((days - TO_UNIX) * 86_400.0).round() as i64).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kb_is_read_from_numbers_and_titles_in_any_language() {
        assert_eq!(kb("5068787").as_deref(), Some("KB5068787"));
        assert_eq!(kb("KB890830").as_deref(), Some("KB890830"));
        assert_eq!(kb("x"), None);
        let title = "2026-11 Kumulatives Update für Windows Server (KB5068787) (20348.2762)";
        assert_eq!(kb_in(title).as_deref(), Some("KB5068787"));
        assert_eq!(kb_in("更新プログラム（KB2267602）バージョン").as_deref(), Some("KB2267602"));
        assert_eq!(kb_in("Keyboard driver 10.0"), None);
    }

    #[test]
    fn an_identity_is_an_id_and_a_revision() {
        let parsed = Identity::parse("ABCD/201").unwrap();
        assert_eq!((parsed.id.as_str(), parsed.revision), ("abcd", 201));
        assert_eq!(parsed.to_string(), "abcd/201");
        assert_eq!(Identity::parse("abcd"), None);
    }

    #[test]
    fn an_ole_date_is_days_since_1899() {
        assert_eq!(ole_date(25_569.5).unwrap().to_string(), "1970-01-01T12:00:00Z");
        assert_eq!(ole_date(f64::INFINITY), None);
    }

    #[test]
    fn the_criteria_have_their_or_at_the_top_level() {
        let query = Query { source: UpdateSource::Default, is_online: true, with_drivers: false };
        let criteria = query.criteria();
        assert!(criteria.contains(") or ("));
        assert!(!Query { with_drivers: true, ..query }.criteria().contains("Type"));
    }
}
