//! A Windows with its Windows Update, its gateway and its agent: what stories of whole jobs under Wine
//! begin with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use wardring_seal::{Action, JobPayload, OutcomePayload, UpdateKind};

use crate::fakewua::FakeWua;
use crate::gateway::TestGateway;
use crate::jobs::job;
use crate::prefix::{Agent, Prefix, build_agent};
use crate::programs::compile;

const CURRENT_VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
/// Identity of the update of [`world`].
pub const ID: &str = "aaaaaaaa-0000-0000-0000-000000000001";

/// A device with its Windows Update, its gateway and its agent.
pub struct Rig {
    /// Where it polls.
    pub gateway: TestGateway,
    /// Its Windows.
    pub prefix: Prefix,
    /// Its Windows Update.
    pub fake: FakeWua,
    agent: Option<Agent>,
    jobs: i64,
}

impl Rig {
    /// A device in that world, enrolled and polling.
    ///
    /// # Panics
    /// A tool is missing, or Wine does not work.
    pub async fn new(world: Value) -> Rig {
        let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
        let made = tokio::task::spawn_blocking(move || {
            let prefix = Prefix::create(&build_agent()?)?;
            let fake = FakeWua::install(&prefix, &world)?;
            prefix.set(
                CURRENT_VERSION,
                "ProductName",
                "REG_SZ",
                "Windows Server 2022 Datacenter",
            )?;
            prefix.set(CURRENT_VERSION, "InstallationType", "REG_SZ", "Server")?;
            prefix.set(CURRENT_VERSION, "CurrentBuild", "REG_SZ", "20348")?;
            prefix.set(CURRENT_VERSION, "UBR", "REG_DWORD", "2700")?;
            anyhow::Ok((prefix, fake))
        });
        let (prefix, fake) = made.await.unwrap().unwrap();
        let mut rig = Rig { gateway, prefix, fake, agent: None, jobs: 0 };
        rig.start().await;
        rig
    }

    /// Starts the agent, and waits until it polls.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(&mut self) {
        let (url, token) = (self.gateway.url(), self.gateway.token.reveal());
        let fixed = ["--name", "srv-1", "--data-dir", r"C:\wardring\data", "--poll-wait", "5"];
        let given = ["run", "--gateway", &url, "--token", &token];
        let runs = self.gateway.seen("srv-1").runs.len();
        self.agent = Some(self.prefix.start_agent(given.into_iter().chain(fixed)).unwrap());
        self.gateway.wait_for("srv-1", "a run", |seen| seen.runs.len() > runs).await;
    }

    /// Ends the agent in the middle of whatever it does.
    pub fn kill(&mut self) {
        self.agent = None;
    }

    /// Restarts Windows, as an order of the agent that Wine only accepts would, into this build.
    ///
    /// # Panics
    /// Wine does not come back.
    pub async fn restart(self, ubr: &'static str) -> Rig {
        let Rig { gateway, prefix, fake, agent, jobs } = self;
        drop(agent);
        let again = tokio::task::spawn_blocking(move || {
            fake.finish_at_boot()?;
            prefix.set(CURRENT_VERSION, "UBR", "REG_DWORD", ubr)?;
            prefix.restart()?;
            anyhow::Ok((prefix, fake))
        });
        let (prefix, fake) = again.await.unwrap().unwrap();
        let mut rig = Rig { gateway, prefix, fake, agent: None, jobs };
        rig.start().await;
        rig
    }

    /// Makes the world this one and gives a job of a rollout of its own, which names no services.
    ///
    /// # Panics
    /// The world cannot be written.
    pub fn give(&mut self, world: Option<&Value>, change: impl FnOnce(&mut JobPayload)) {
        if let Some(world) = world {
            self.fake.set_world(world).unwrap();
        }
        self.jobs += 1;
        let mut job = job(self.jobs, Action::Install);
        job.key.rollout_uid = format!("rollout-{}", self.jobs);
        job.updates[0].kind = UpdateKind::Other;
        job.updates[0].target_build = None;
        job.health.services.clear();
        change(&mut job);
        self.gateway.give("srv-1", job);
    }

    /// The outcome of the newest job.
    ///
    /// # Panics
    /// None comes.
    pub async fn outcome(&self) -> OutcomePayload {
        let attempt = u32::try_from(self.jobs).unwrap();
        let find = |outcomes: &[OutcomePayload]| {
            outcomes.iter().find(|outcome| outcome.key.attempt == attempt).cloned()
        };
        let ended =
            self.gateway.wait_for("srv-1", "an outcome", |seen| find(&seen.outcomes).is_some());
        find(&ended.await.outcomes).unwrap()
    }

    /// Installations that were begun.
    ///
    /// # Panics
    /// The journal of Windows Update cannot be read.
    pub fn installs(&self) -> usize {
        self.fake.calls("Install").len()
    }

    /// Waits until Windows Update was called so many times.
    ///
    /// # Panics
    /// It is not.
    pub async fn called(&self, name: &str, times: usize) {
        let called = async {
            while self.fake.calls(name).len() < times {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), called).await.unwrap();
    }
}

/// A Windows Update that offers one update, KB5068787, with these fields changed.
///
/// # Panics
/// `update` is no object.
pub fn world(update: &Value) -> Value {
    let mut whole = json!({
        "id": ID, "revision": 200, "title": "Update (KB5068787)", "kbs": ["5068787"],
    });
    for (name, value) in update.as_object().unwrap() {
        whole[name] = value.clone();
    }
    json!({ "updates": [whole] })
}

/// Puts a service of the tests in the place of what has this name, and starts it.
///
/// # Panics
/// It cannot be compiled or made.
pub fn serve(prefix: &Prefix, name: &str, start: &str) {
    // Most are new.
    let _ = prefix.wine(["sc", "delete", name]);
    let file = prefix.drive().join("wardring/service.exe");
    if !file.exists() {
        compile("service.c", &file).unwrap();
    }
    let program = format!(r"C:\wardring\service.exe {name}");
    prefix.create_service(&[name, "binPath=", &program, "start=", start]).unwrap();
    prefix.start_service(name).unwrap();
}

/// What `sc query` tells of a service.
///
/// # Panics
/// There is none.
pub fn stands(prefix: &Prefix, name: &str) -> String {
    prefix.wine(["sc", "query", name]).unwrap()
}

/// Changes what a service of the tests does: `Refuse`, `SlowMs`, `CrashMs` or `Flap`.
///
/// # Panics
/// The registry does not take it.
pub fn behaves(prefix: &Prefix, name: &str, how: &str, number: &str) {
    prefix.set(&format!(r"SOFTWARE\WardringTests\{name}"), how, "REG_DWORD", number).unwrap();
}
