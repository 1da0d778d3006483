//! A device that does not answer its agent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use wardring_protocol::{
    Facts, JobAnswer, JobQuery, PermitAnswer, PermitRequest, ReportAck, ReportBatch,
};
use wardring_seal::{
    Action, ActiveHours, DeviceIdentity, DeviceKey, Hook, JobKey, Probe, Roots, UpdateTarget,
};

use super::{Agent, effects};
use crate::gateway::{Gateway, GatewayError};
use crate::identity::{Credentials, Identity};
use crate::journal::{Durability, Journal};
use crate::platform::{
    Checks, Machine, Network, Performed, Permit, RunningBoot, Services, Terms, Updates,
};
use crate::state::{
    Answer, BootKind, DownloadFailure, Inspection, InstallFound, Me, ProbeSample, Question, Reply,
    ServiceSample, Surroundings, Witness,
};

/// Changes of a device; it rests afterwards.
const CHANGES: usize = 30;
/// What it does before a restart takes so long.
const COMMIT: Duration = Duration::from_millis(100);

/// A device without a job that changes all the time and whose facts come when the test lets them.
struct Hanging {
    begun: AtomicUsize,
    changes: AtomicUsize,
    let_go: Mutex<mpsc::Receiver<()>>,
}

impl Hanging {
    fn new() -> (mpsc::Sender<()>, Hanging) {
        let (let_go, waits) = mpsc::channel();
        let zero = || AtomicUsize::new(0);
        (let_go, Hanging { begun: zero(), changes: zero(), let_go: Mutex::new(waits) })
    }
}

impl Machine for Hanging {
    fn refuses(&self) -> Option<&'static str> {
        None
    }
    fn boot(&self) -> RunningBoot {
        RunningBoot { id: "boot".to_owned(), kind: BootKind::Unknown, off: None, uptime_ms: 0 }
    }
    fn build(&self) -> String {
        "20348.2700".to_owned()
    }
    fn roles(&self) -> Vec<String> {
        Vec::new()
    }
    fn facts(&self) -> Facts {
        self.begun.fetch_add(1, Ordering::SeqCst);
        // Where nobody lets go any more, the test is over.
        let _ = self.let_go.lock().unwrap().recv();
        Facts::default()
    }
    fn announce(&self, _: Option<&str>, _: u64) {}
    fn ask_to_leave(&self, _: Option<&str>, _: u64) {}
    async fn ask_people(&self, _: Question) -> Reply {
        unreachable!("there is no job")
    }
    async fn surroundings(&self, _: Option<ActiveHours>) -> Surroundings {
        Surroundings::default()
    }
    fn before_restart(&self, _: &str, force: bool) -> bool {
        std::thread::sleep(COMMIT);
        force
    }
    fn reboot(&self, _: &JobKey, _: &str, _: bool) -> Result<(), String> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn take_back_restart(&self) {}
    async fn changed(&self) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if self.changes.fetch_add(1, Ordering::SeqCst) >= CHANGES {
            std::future::pending::<()>().await;
        }
    }
    async fn ended(&self) {
        std::future::pending().await
    }
}

impl Updates for Hanging {
    async fn inspect(
        &self,
        _: &[UpdateTarget],
        _: &[String],
        _: Terms,
    ) -> Result<Inspection, String> {
        unreachable!("there is no job")
    }
    async fn download(
        &self,
        _: &JobKey,
        _: &[UpdateTarget],
        _: Terms,
    ) -> Result<(), DownloadFailure> {
        unreachable!("there is no job")
    }
    async fn install(
        &self,
        _: &JobKey,
        _: &UpdateTarget,
        _: u32,
        _: Terms,
        _: Permit,
    ) -> Performed {
        unreachable!("there is no job")
    }
    async fn find_install(&self, _: &JobKey, _: &UpdateTarget, _: u32, _: Terms) -> InstallFound {
        unreachable!("there is no job")
    }
    async fn uninstall(
        &self,
        _: &JobKey,
        _: &UpdateTarget,
        _: &[String],
        _: u32,
        _: Permit,
    ) -> Performed {
        unreachable!("there is no job")
    }
}

impl Services for Hanging {
    fn sample(&self, _: &[String]) -> Result<BTreeMap<String, ServiceSample>, String> {
        unreachable!("nothing is watched")
    }
    async fn restart(&self, _: &str) -> Result<(), String> {
        unreachable!("there is no job")
    }
}

impl Checks for Hanging {
    async fn probe(&self, _: &[Probe]) -> BTreeMap<String, ProbeSample> {
        unreachable!("nothing is watched")
    }
    fn ports(&self) -> BTreeSet<u16> {
        BTreeSet::new()
    }
    async fn run_hook(&self, _: &Hook) -> Result<(), String> {
        unreachable!("there is no job")
    }
}

impl Network for Hanging {
    async fn answering(&self, _: &BTreeSet<Witness>) -> BTreeSet<Witness> {
        BTreeSet::new()
    }
}

/// A gateway that never answers.
struct Silent;

fn unreachable() -> GatewayError {
    GatewayError::Unreachable { detail: "nobody is there".to_owned() }
}

impl Gateway for Silent {
    async fn poll(&self, _: &JobQuery) -> Result<JobAnswer, GatewayError> {
        std::future::pending().await
    }
    async fn permit(&self, _: &PermitRequest) -> Result<PermitAnswer, GatewayError> {
        Err(unreachable())
    }
    async fn report(&self, _: &ReportBatch) -> Result<ReportAck, GatewayError> {
        Err(unreachable())
    }
    async fn is_there(&self) -> bool {
        false
    }
}

pub(super) fn credentials() -> Credentials {
    let key = DeviceKey::generate().unwrap();
    let text = || "srv-1".to_owned();
    let details = DeviceIdentity {
        namespace: text(),
        enrolment_id: text(),
        name: text(),
        not_before: Timestamp::MIN,
        not_after: Timestamp::MAX,
        key_id: key.key_id(),
        roots: Vec::new(),
    };
    let me = Me { namespace: text(), device: text(), device_id: text() };
    Credentials::new(Identity { me, key, certificate: Vec::new(), details, roots: Roots::none() })
}

async fn until(met: impl Fn() -> bool) {
    let met = async {
        while !met() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), met).await.expect("it comes to that");
}

#[tokio::test]
async fn facts_that_hang_are_asked_for_once_however_much_changes_and_once_more_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let (let_go, platform) = Hanging::new();
    let platform = Arc::new(platform);
    let agent = Agent {
        platform: Arc::clone(&platform),
        gateway: Arc::new(Silent),
        credentials: credentials(),
        journal: Journal::new(folder.path(), Durability::Process),
        poll_wait_s: 5,
    };
    let (stop, stopped) = watch::channel(false);
    let begun = || platform.begun.load(Ordering::SeqCst);
    let story = async {
        // Facts are looked at six times a second at the most.
        until(|| platform.changes.load(Ordering::SeqCst) > CHANGES).await;
        assert_eq!(begun(), 1, "no second look beside the one that hangs");
        let_go.send(()).unwrap();
        until(|| begun() == 2).await;
        drop(let_go);
        stop.send_replace(true);
    };
    tokio::join!(agent.run(stopped), story);
}

#[test]
fn nobody_restarts_by_a_permit_that_ended_while_windows_update_was_at_work() {
    let (_let_go, platform) = Hanging::new();
    let (rollout_uid, device_id) = ("r".to_owned(), "srv-1".to_owned());
    let key = JobKey { rollout_uid, device_id, attempt: 1, action: Action::Install };
    let restart = |lives: Duration, is_stopping: bool| {
        let permit = Permit { until: Instant::now() + lives };
        let order = effects::Order { key: &key, boot_before: "boot", force: false };
        effects::restart(&platform, order, permit, || is_stopping)
    };
    assert_eq!(restart(COMMIT / 2, false), Some(Answer::PermitExpired));
    assert_eq!(
        restart(100 * COMMIT, true),
        Some(Answer::PermitExpired),
        "it was stopped meanwhile"
    );
    assert_eq!(platform.begun.load(Ordering::SeqCst), 0);
    assert_eq!(restart(100 * COMMIT, false), None);
    assert_eq!(platform.begun.load(Ordering::SeqCst), 1);
}
