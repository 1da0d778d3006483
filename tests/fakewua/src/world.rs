//! The world: what this Windows Update offers, has installed and is doing, in one file that outlives
//! processes and restarts.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use windows_core::HRESULT;

const FOLDER: &str = r"C:\fakewua";
/// One thread at a time; there is one agent at a time, and a test changes the world between its acts.
static ALONE: Mutex<()> = Mutex::new(());

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct World {
    pub updates: Vec<Update>,
    /// Oldest first.
    pub history: Vec<Entry>,
    /// Installations that go on whoever watches.
    pub under_way: Vec<UnderWay>,
    /// ISystemInformation.RebootRequired.
    pub reboot_required: bool,
    /// Somebody else installs until then, milliseconds since 1970.
    pub busy_until: u64,
    /// What a search of the source answers, `0x8024402C`.
    pub search_fails: Option<String>,
    /// ServiceIDs that are registered beside Windows' own.
    pub services: Vec<String>,
    /// What registering one answers.
    pub register_fails: Option<String>,
    /// A search of the source never ends.
    pub search_hangs: bool,
    /// Calls to be written down once the world is.
    #[serde(skip)]
    pub said: Vec<String>,
}

/// An update and its script.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Update {
    pub id: String,
    pub revision: i32,
    pub title: String,
    pub kbs: Vec<String>,
    pub categories: Vec<String>,
    pub severity: String,
    pub size: u64,
    pub is_driver: bool,
    pub is_installed: bool,
    pub is_downloaded: bool,
    pub is_hidden: bool,
    pub is_optional: bool,
    pub is_uninstallable: bool,
    pub reboot_required: bool,
    /// Its licence terms are still to be accepted.
    pub needs_eula: bool,
    pub is_exclusive: bool,
    pub reboot_behavior: i32,
    pub supersedes: Vec<String>,
    /// LastDeploymentChangeTime, an OLE date.
    pub changed: f64,
    pub download: Script,
    pub install: Script,
}

/// How an act goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Script {
    pub takes_ms: u64,
    pub hangs: bool,
    /// HRESULT of the update's result; without it the act succeeds.
    pub fails: Option<String>,
    /// HRESULT of the call itself.
    pub call_fails: Option<String>,
    /// So many times `fails` holds, then it succeeds; without it, always.
    pub fails_left: Option<u32>,
    /// It asks for a restart.
    pub needs_reboot: bool,
}

/// An entry of the history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Entry {
    pub id: String,
    pub revision: i32,
    pub title: String,
    pub operation: i32,
    pub code: i32,
    pub hresult: String,
    /// An OLE date.
    pub date: f64,
    pub client: String,
}

/// An installation that goes on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UnderWay {
    pub id: String,
    pub client: String,
    /// Milliseconds since 1970; it hangs without.
    pub ends: Option<u64>,
}

/// A line of the log of calls.
#[derive(Serialize)]
struct Call<'a> {
    call: &'a str,
    update: &'a str,
    client: &'a str,
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// An HRESULT from its text.
pub fn hresult(text: &str) -> HRESULT {
    let digits = text.trim_start_matches("0x");
    HRESULT(u32::from_str_radix(digits, 16).unwrap_or(0x8000_FFFF) as i32)
}

/// Uses the world alone, with everything ended that is over by now, and keeps what was changed.
pub fn with<T>(use_it: impl FnOnce(&mut World) -> T) -> windows_core::Result<T> {
    try_with(use_it).map_err(|error| {
        // Nobody sees this but whoever debugs a test.
        eprintln!("fakewua: {error}");
        windows::Win32::Foundation::E_FAIL.into()
    })
}

fn try_with<T>(use_it: impl FnOnce(&mut World) -> T) -> io::Result<T> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let path = format!(r"{FOLDER}\world.json");
    let before: World = serde_json::from_slice(&fs::read(&path)?)?;
    let mut world = before.clone();
    world.settle();
    let result = use_it(&mut world);
    // A look leaves the file alone: a test may be about to put another world there.
    let said = std::mem::take(&mut world.said);
    if world != before {
        let new = format!(r"{FOLDER}\world.new");
        fs::write(&new, serde_json::to_vec_pretty(&world)?)?;
        fs::rename(&new, &path)?;
    }
    // Whoever reads of a call may end the caller: what it began is in the world by then.
    write_down(&said)?;
    Ok(result)
}

impl World {
    /// Ends what is over.
    fn settle(&mut self) {
        let now = now_ms();
        let (over, goes_on) = std::mem::take(&mut self.under_way)
            .into_iter()
            .partition(|act| act.ends.is_some_and(|ends| ends <= now));
        self.under_way = goes_on;
        for act in over {
            self.end(&act);
        }
    }

    fn end(&mut self, act: &UnderWay) {
        let Some(update) = self.updates.iter_mut().find(|update| update.id == act.id) else {
            return;
        };
        let fails = update.install.fails.clone();
        if fails.is_none() {
            let waits = update.install.needs_reboot;
            (update.is_installed, update.reboot_required) = (!waits, waits);
            self.reboot_required |= waits;
        }
        self.history.push(Entry {
            id: update.id.clone(),
            revision: update.revision,
            title: update.title.clone(),
            operation: 1,
            code: if fails.is_none() { 2 } else { 4 },
            hresult: fails.unwrap_or_else(|| "0x00000000".to_owned()),
            date: now_ms() as f64 / 86_400_000.0 + 25_569.0,
            client: act.client.clone(),
        });
    }

    /// The update of this id.
    pub fn update(&mut self, id: &str) -> Option<&mut Update> {
        self.updates.iter_mut().find(|update| update.id == id)
    }

    /// Whether an installation of anybody runs.
    pub fn is_busy(&self) -> bool {
        !self.under_way.is_empty() || self.busy_until > now_ms()
    }

    /// Writes a call down.
    pub fn log(&mut self, call: &str, update: &str, client: &str) {
        let line = Call { call, update, client };
        self.said.push(serde_json::to_string(&line).unwrap_or_default());
    }
}

fn write_down(calls: &[String]) -> io::Result<()> {
    if calls.is_empty() {
        return Ok(());
    }
    let path = format!(r"{FOLDER}\calls.jsonl");
    let lines: String = calls.iter().map(|call| format!("{call}\n")).collect();
    OpenOptions::new().create(true).append(true).open(path)?.write_all(lines.as_bytes())
}
