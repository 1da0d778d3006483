//! What Windows Update last said about the whole device, kept over restarts of the agent.
//!
//! A source is asked rarely and never by the whole fleet at once: 20,000 agents behind one WSUS must
//! not scan because the power came back. What changes on the device itself, after an installation or
//! a restart, is read from Windows' own copy, which costs the source nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wardring_protocol::{MAX_OFFERED, Offered, RebootBehavior, Scan};

use super::record;
use super::wua::{DEFINITIONS, Entry, Identity, Update, kb_in};

/// Mean age at which a source is asked again; each time is spread by half to one and a half of it.
/// Windows itself asks once in 17 to 22 hours, and what the controller believes ends at 48.
pub const ASK_EVERY: Duration = Duration::from_secs(12 * 3600);
/// Mean pause after a search that failed.
pub const ASK_AGAIN: Duration = Duration::from_secs(3600);
/// Layout of the file; another one is not read, and Windows is asked instead.
const SCHEMA: u32 = 1;
/// Most KBs of one list in a report; the protocol takes 1,024 and 512.
const MOST_KBS: usize = 500;

/// Seconds since 1970 between which a date can be that of an update: until the end of 9999, as dates
/// of Windows do.
const RELEASED: std::ops::RangeInclusive<i64> = 0..=253_402_300_799;

/// Everything known about the updates of this device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    schema: u32,
    /// The last question to the source.
    pub scan: Option<Scan>,
    /// Before this, the source is not asked again.
    pub ask_at: Option<Timestamp>,
    /// Boot in which the updates were read.
    pub boot: String,
    /// The updates, installed and offered.
    pub updates: Vec<Update>,
    /// KBs whose newest installation failed, by the history.
    pub failed: Vec<String>,
    /// Whether the Windows Update Agent says that Windows waits for a restart.
    pub reboot_required: bool,
}

/// What is to be read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Windows' own copy.
    Offline,
    /// The source.
    Online,
}

impl Inventory {
    /// Reads the file; an empty inventory when there is none that can be read.
    pub fn load(path: &Path) -> Inventory {
        let read = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        read.filter(|inventory: &Inventory| inventory.schema == SCHEMA).unwrap_or_default()
    }

    /// Writes the file. It is a copy of what can be asked again, so a failure is only told.
    pub fn save(&self, path: &Path) {
        let kept = Inventory { schema: SCHEMA, ..self.clone() };
        let bytes = serde_json::to_vec(&kept).expect("an inventory has only string keys");
        if let Err(error) = record::write(path, &bytes) {
            tracing::warn!(%error, "failed to keep the inventory of updates");
        }
    }

    /// What is to be read next.
    pub fn due(&self, now: Timestamp, boot: &str) -> Due {
        // A clock that was set back must not keep a device from its next scan for years.
        let longest = now + ASK_EVERY * 2;
        match self.ask_at {
            Some(at) if now < at && at < longest && self.boot == boot => Due::Nothing,
            Some(at) if now < at && at < longest => Due::Offline,
            // A device that was never scanned is new, and devices are rolled out over time anyway.
            _ => Due::Online,
        }
    }

    /// KBs that are installed, newest first.
    pub fn installed(&self) -> Vec<String> {
        let mut installed: Vec<&Update> = self.software(|update| update.is_installed);
        installed.sort_by_key(|update| std::cmp::Reverse(update.changed_at));
        kbs(installed)
    }

    /// KBs that are offered, not installed, and wait for nobody: definitions come and go by
    /// themselves every day, previews are offered to those who look for them, and what was hidden on
    /// the device is not offered on it.
    pub fn missing(&self) -> Vec<String> {
        kbs(self.software(is_missing))
    }

    /// More about the first of them, from the update that is behind each.
    pub fn offered(&self) -> Vec<Offered> {
        let updates = self.software(is_missing);
        let of = |kb: &String| updates.iter().find(|update| update.kbs.contains(kb));
        let missing = self.missing();
        let known = missing.iter().filter_map(|kb| Some((kb, of(kb)?)));
        known.take(MAX_OFFERED).map(|(kb, update)| offered(kb, update)).collect()
    }

    fn software(&self, is_wanted: impl Fn(&Update) -> bool) -> Vec<&Update> {
        self.updates.iter().filter(|update| !update.is_driver && is_wanted(update)).collect()
    }
}

fn is_missing(update: &Update) -> bool {
    !update.is_installed
        && !update.reboot_required
        && !update.is_hidden
        && !update.is_optional
        && update.is_for_installation
        && !update.is_in(DEFINITIONS)
}

fn offered(kb: &str, update: &Update) -> Offered {
    // MsrcSeverity is not translated (`nf-wuapi-iupdate-get_msrcseverity.md`); anything else than
    // Microsoft's words is not repeated.
    const SEVERITIES: [&str; 4] = ["Critical", "Important", "Moderate", "Low"];
    let severity = SEVERITIES.into_iter().find(|word| *word == update.severity);
    Offered {
        kb: kb.to_owned(),
        classification: update.classification().map(str::to_owned),
        msrc_severity: severity.map(str::to_owned),
        size_bytes: update.size_bytes,
        uninstallable: update.is_uninstallable,
        reboot: match update.reboot_behavior {
            0 => RebootBehavior::Never,
            1 => RebootBehavior::Always,
            _ => RebootBehavior::CanRequest,
        },
        // An update without a date says that it was changed in 1899, which no report may carry.
        released: update.changed_at.filter(|at| RELEASED.contains(&at.as_second())),
    }
}

/// The KBs of these updates, once each, in order.
fn kbs(updates: Vec<&Update>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let all = updates.iter().flat_map(|update| &update.kbs);
    all.filter(|kb| seen.insert(kb.as_str())).take(MOST_KBS).cloned().collect()
}

/// KBs whose newest installation failed and that are not installed: `history` is newest first. The
/// KB comes from the update where it is still known, else from the entry's title.
pub fn failed(history: &[Entry], updates: &[Update]) -> Vec<String> {
    let find = |identity: &Identity| updates.iter().find(|update| update.identity == *identity);
    let mut judged: BTreeSet<&str> = BTreeSet::new();
    let mut failed = BTreeSet::new();
    for entry in history.iter().filter(|entry| entry.operation == 1) {
        let is_newest = judged.insert(&entry.identity.id);
        let is_there = find(&entry.identity)
            .is_some_and(|update| update.is_installed || update.reboot_required);
        if !is_newest || is_there || !matches!(entry.code, 4 | 5) {
            continue;
        }
        let known = find(&entry.identity).and_then(|update| update.kbs.first().cloned());
        failed.extend(known.or_else(|| kb_in(&entry.title)));
    }
    let installed: BTreeSet<&String> = updates
        .iter()
        .filter(|update| update.is_installed)
        .flat_map(|update| &update.kbs)
        .collect();
    failed.into_iter().filter(|kb| !installed.contains(kb)).take(MOST_KBS).collect()
}

#[cfg(test)]
mod tests {
    use super::super::wua::ole_date;
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn update(kb: &str) -> Update {
        Update {
            identity: Identity { id: format!("id-{kb}"), revision: 1 },
            kbs: vec![kb.to_owned()],
            is_for_installation: true,
            ..Update::default()
        }
    }

    fn entry(kb: &str, code: i32) -> Entry {
        Entry {
            identity: Identity { id: format!("id-{kb}"), revision: 1 },
            operation: 1,
            code,
            hresult: 0x8024_200B,
            at: None,
            title: format!("Mise à jour ({kb})"),
            client: String::new(),
        }
    }

    #[test]
    fn what_is_missing_is_what_somebody_should_install() {
        let inventory = Inventory {
            updates: vec![
                update("KB1000001"),
                Update { is_optional: true, ..update("KB1000002") },
                Update { is_hidden: true, ..update("KB1000003") },
                Update { is_installed: true, ..update("KB1000004") },
                Update { reboot_required: true, ..update("KB1000005") },
                Update { categories: vec![DEFINITIONS.to_lowercase()], ..update("KB2267602") },
                Update { is_driver: true, ..update("KB1000006") },
                Update { is_for_installation: false, ..update("KB1000007") },
            ],
            ..Inventory::default()
        };
        assert_eq!(inventory.missing(), ["KB1000001"]);
    }

    #[test]
    fn what_is_missing_is_told_with_what_its_source_says_of_it() {
        let security = "0FA1201D-4330-4FA8-8AE9-B877473B6441";
        let cumulative = Update {
            categories: vec!["A-PRODUCT".to_owned(), security.to_owned()],
            severity: "Critical".to_owned(),
            size_bytes: 734_003_200,
            is_uninstallable: true,
            reboot_behavior: 1,
            changed_at: Some(at("2026-11-10T18:00:00Z")),
            ..update("KB1000001")
        };
        let silent = Update { severity: "Kritisch".to_owned(), ..update("KB1000002") };
        let installed = Update { is_installed: true, ..update("KB1000003") };
        let updates = vec![cumulative, silent, installed];
        let offered = Inventory { updates, ..Inventory::default() }.offered();
        assert_eq!(offered.len(), 2);
        let expected = Offered {
            kb: "KB1000001".to_owned(),
            classification: Some("Security Updates".to_owned()),
            msrc_severity: Some("Critical".to_owned()),
            size_bytes: 734_003_200,
            uninstallable: true,
            reboot: RebootBehavior::Always,
            released: Some(at("2026-11-10T18:00:00Z")),
        };
        assert_eq!(offered[0], expected);
        assert_eq!((&offered[1].classification, &offered[1].msrc_severity), (&None, &None));
        for days in [0.0, -1e9, 1e9, 3_000_000.0] {
            let odd = Update { changed_at: ole_date(days), ..update("KB1000001") };
            let odd = Inventory { updates: vec![odd], ..Inventory::default() };
            assert_eq!(odd.offered()[0].released, None, "{days}");
        }
        let updates = (0..40).map(|n| update(&format!("KB10000{n:02}"))).collect();
        let many = Inventory { updates, ..Inventory::default() };
        assert_eq!((many.missing().len(), many.offered().len()), (40, MAX_OFFERED));
    }

    #[test]
    fn installed_updates_are_listed_newest_first_and_once() {
        let installed =
            |kb, day| Update { is_installed: true, changed_at: Some(at(day)), ..update(kb) };
        let inventory = Inventory {
            updates: vec![
                installed("KB1000001", "2026-01-01T00:00:00Z"),
                installed("KB1000002", "2026-03-01T00:00:00Z"),
                installed("KB1000002", "2026-02-01T00:00:00Z"),
            ],
            ..Inventory::default()
        };
        assert_eq!(inventory.installed(), ["KB1000002", "KB1000001"]);
    }

    #[test]
    fn only_the_newest_word_of_the_history_makes_a_failure() {
        let history = [
            entry("KB1000001", 2),
            entry("KB1000001", 4),
            entry("KB1000002", 4),
            entry("KB1000003", 5),
        ];
        let updates = [update("KB1000002"), Update { is_installed: true, ..update("KB1000003") }];
        assert_eq!(failed(&history, &updates), ["KB1000002"]);
        assert_eq!(failed(&history[2..3], &[]), ["KB1000002"], "by its title");
    }

    #[test]
    fn a_source_is_asked_when_it_is_time_and_windows_itself_after_a_restart() {
        let now = at("2026-11-21T02:00:00Z");
        let later = Some(now + Duration::from_secs(3600));
        let inventory = Inventory { ask_at: later, boot: "b1".to_owned(), ..Inventory::default() };
        assert_eq!(Inventory::default().due(now, "b1"), Due::Online);
        assert_eq!(inventory.due(now, "b1"), Due::Nothing);
        assert_eq!(inventory.due(now, "b2"), Due::Offline);
        assert_eq!(inventory.due(now + Duration::from_secs(3601), "b1"), Due::Online);
        let long_ago = now - Duration::from_secs(30 * 24 * 3600);
        assert_eq!(inventory.due(long_ago, "b1"), Due::Online, "the clock was set back");
    }

    #[test]
    fn an_inventory_outlives_the_agent_and_a_torn_one_is_asked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inventory");
        let inventory = Inventory {
            schema: SCHEMA,
            updates: vec![update("KB1000001")],
            boot: "b1".to_owned(),
            ..Inventory::default()
        };
        inventory.save(&path);
        assert_eq!(Inventory::load(&path), inventory);
        fs::write(&path, &fs::read(&path).unwrap()[..20]).unwrap();
        assert_eq!(Inventory::load(&path), Inventory::default());
    }
}
