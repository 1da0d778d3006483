//! What the fuzzers call: everything that reads bytes of others. A panic or a broken promise here is
//! a fault.

use std::path::Path;

use jiff::Timestamp;
use wardring_protocol::Mode;
use wardring_seal::JobPayload;

use crate::{
    hresult::Hresult,
    journal::{self, Saved},
    platform::windows,
    probes,
    state::{self, BootKind, BootRecord, Event, Me, Now, Start, State},
};

/// A job with much in it that may be left out; what is missing is in the protocol's own tests.
const JOB: &str = r#"{"version":1,"namespace":"tenant","device":"srv-1","rollout":"november",
"stage":"test","slice":"s-1","key":{"rolloutUid":"u","deviceId":"e","attempt":1,"action":"Install"},
"sequence":7,"updates":[{"kb":"KB5068787","product":"Windows Server 2022","kind":"Quality",
"targetBuild":"20348.2762","identities":["0c1a5d3e-6f0d-4c57-9f27-0d4a3a5b6c7d/200"]}],
"source":"Default","acceptEula":false,"startBy":"2026-11-21T04:00:00Z",
"finishBy":"2026-11-21T10:00:00Z","preflight":{"rebootFirst":true,"minFreeDiskGb":10,
"requireReversible":false},"health":{"services":["Spooler"],"probes":[{"name":"web",
"timeoutMs":1000,"check":{"type":"Http","url":"http://127.0.0.1/","statuses":[200],
"contains":"ok"}}],"settleMs":180000,"restartAttempts":2,"sampleIntervalMs":10000},
"reboot":{"countdownMs":60000,"message":"soon","stuckAfterMs":600000},"onUnhealthy":"Report",
"hooks":[{"moment":"BeforeInstall","program":"drain.cmd","timeoutMs":300000}]}"#;

const DISM: &str = "Package Identity | State | Release Type | Install Time\r\n\
    Package_for_RollupFix~31bf3856ad364e35~amd64~~20348.2762.1.12 | Uninstall Pending | Update |\r\n\
    Error: 0x800f0825\r\n";

/// A journal that is read says the same when it is written and read again.
pub fn journal(bytes: &[u8]) {
    for bytes in [bytes, &journal::framed(bytes)] {
        if let Some(saved) = journal::reread(bytes) {
            let again = journal::reread(&journal::rewritten(&saved));
            assert_eq!(again.as_ref(), Some(&saved));
        }
    }
}

/// What DISM may print.
pub fn dism(bytes: &[u8]) {
    windows::read_dism(&String::from_utf8_lossy(bytes));
}

/// A job that is believed is decided on without a panic.
pub fn job(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(payload) = wardring_seal::fuzz::job(text) {
        let _ = state::step(&idle(), now(), Event::Offered(Box::new(payload)));
    }
}

/// A code is the same after it was written and read again.
pub fn hresult(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(code) = text.parse::<Hresult>() {
        assert_eq!(code.to_string().parse(), Ok(code));
        assert!(!code.explanation().is_empty());
    }
}

/// What a server may answer to a probe.
pub fn probes(bytes: &[u8]) {
    probes::judge_anything(bytes);
}

/// Writes where the fuzzer of that name begins into the folder `WARDRING_SEEDS`, if it is set.
pub fn write_seeds(fuzzer: &str) {
    let Some(folder) = std::env::var_os("WARDRING_SEEDS") else { return };
    for (number, seed) in seeds(fuzzer).into_iter().enumerate() {
        let file = Path::new(&folder).join(format!("seed-{number}"));
        std::fs::write(file, seed).expect("the folder of the seeds is there");
    }
}

fn seeds(fuzzer: &str) -> Vec<Vec<u8>> {
    match fuzzer {
        "journal" => {
            let offered = Event::Offered(Box::new(payload()));
            let (state, _) = state::step(&idle(), now(), offered).expect("it takes a job");
            assert!(state.job.is_some());
            vec![journal::body(&Saved { state, ..Saved::default() })]
        }
        "dism" => vec![DISM.into()],
        "job" => {
            payload();
            vec![JOB.into()]
        }
        "hresult" => ["0x80070643", "3010", "-2145124329"].map(Vec::from).into(),
        "probes" => vec![
            b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00".into(),
            b"\x04\x01\x00\x0c\x00\x00\x01\x00\xff\x00\x00\x00".into(),
            b"\x00\x07\x81\x00\x00\x01\x00\x01\x00\x00\x00\x00".into(),
        ],
        _ => Vec::new(),
    }
}

fn payload() -> JobPayload {
    wardring_seal::fuzz::job(JOB).expect("the example is a job")
}

fn now() -> Now {
    Now { wall: "2026-11-21T02:00:00Z".parse().expect("a time"), mono_ms: 1 }
}

/// An agent that waits for work.
fn idle() -> State {
    let now = now();
    let start = Start {
        run: "run-1".to_owned(),
        me: Me {
            namespace: "tenant".to_owned(),
            device: "srv-1".to_owned(),
            device_id: "e".to_owned(),
        },
        boot: BootRecord {
            boot_id: "boot-1".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            kind: BootKind::Foreign,
            off: None,
        },
        build: "20348.2700".to_owned(),
        roles: Vec::new(),
        paused: None,
        lost: false,
        refuses: None,
    };
    let started = state::step(&State::default(), now, Event::Started(Box::new(start)));
    let (state, _) = started.expect("a run begins");
    let (state, _) = state::step(&state, now, Event::ModeSet(Mode::Manage)).expect("a mode is set");
    state
}
