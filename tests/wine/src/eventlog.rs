//! The System log of a server: why each of its boots came. Wine writes none that could be read.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;

use crate::prefix::Prefix;
use crate::programs::{OWN_LIBRARIES, compile_library};

/// Why a boot came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// A program ordered a restart, and Windows carried it out.
    OrderedBy(&'static str),
    /// Windows stopped with a bug check.
    AfterBugCheck,
}

impl Came {
    /// The agent ordered it.
    pub const BY_AGENT: Came = Came::OrderedBy(r"C:\Program Files\Wardring\wardring-agent.exe");
    /// A person did.
    pub const BY_PERSON: Came = Came::OrderedBy(r"C:\Windows\System32\shutdown.exe");
}

/// The log.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    record: AtomicU64,
}

impl EventLog {
    /// Puts a log that tells of one boot into a prefix whose Windows is switched off or on.
    ///
    /// # Errors
    /// The compiler is missing, or the registry refuses.
    pub fn install(prefix: &Prefix) -> anyhow::Result<EventLog> {
        compile_library("wevtapi.c", &prefix.drive().join("windows/system32/wevtapi.dll"))?;
        prefix.wine(["reg", "add", OWN_LIBRARIES, "/v", "wevtapi", "/d", "native", "/f"])?;
        let folder = prefix.drive().join("events");
        fs::create_dir(&folder)?;
        let log = EventLog { path: folder.join("System.xml"), record: AtomicU64::new(1) };
        log.write(Duration::ZERO, &BEGAN)?;
        Ok(log)
    }

    /// Tells of the next boot; `ahead` is how much longer than this computer Windows says it is up.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tell(&self, came: Came, ahead: Duration) -> anyhow::Result<()> {
        let mut events: Vec<(&str, u32, String)> = Vec::new();
        match came {
            Came::OrderedBy(program) => {
                let orderer = format!("<Data Name='param1'>{program} (WIN-1)</Data>");
                events.push(("User32", 1074, orderer));
                events.push(("EventLog", 6006, String::new()));
                events.push(("Microsoft-Windows-Kernel-General", 13, String::new()));
                events.extend(BEGAN);
            }
            Came::AfterBugCheck => {
                events.extend(BEGAN);
                let code = "<Data Name='BugcheckCode'>159</Data>".to_owned();
                events.push(("Microsoft-Windows-Kernel-Power", 41, code));
                events.push(("EventLog", 6008, String::new()));
            }
        }
        self.write(ahead, &events)
    }

    fn write(&self, ahead: Duration, events: &[(&str, u32, String)]) -> anyhow::Result<()> {
        // To Wine, Windows is up for as long as this computer is.
        let uptime = fs::read_to_string("/proc/uptime").context("failed to read the uptime")?;
        let seconds = uptime.split(' ').next().and_then(|text| text.parse().ok());
        let up = Duration::from_secs_f64(seconds.context("the uptime is no number")?) + ahead;
        let at = Timestamp::now() - up;
        let mut lines = String::new();
        for (provider, id, data) in events {
            let record = self.record.fetch_add(1, Ordering::SeqCst);
            writeln!(
                lines,
                "<Event><System><Provider Name='{provider}'/><EventID>{id}</EventID><TimeCreated \
                 SystemTime='{at}'/><EventRecordID>{record}</EventRecordID></System><EventData>{data}\
                 </EventData></Event>"
            )
            .expect("a string takes everything");
        }
        let mut file = File::options().create(true).append(true).open(&self.path)?;
        file.write_all(lines.as_bytes()).context("failed to write the System log")
    }
}

/// What the beginning of every boot leaves.
const BEGAN: [(&str, u32, String); 3] = [
    ("Microsoft-Windows-Kernel-General", 12, String::new()),
    ("EventLog", 6009, String::new()),
    ("EventLog", 6005, String::new()),
];
