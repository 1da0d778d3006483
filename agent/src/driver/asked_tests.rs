//! A whole agent on a scripted Windows whose people are asked about its restart.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use wardring_protocol::{
    JobAnswer, JobQuery, Mode, PermitAnswer, PermitRequest, ReportAck, ReportBatch, ReportBody,
};
use wardring_seal::{
    Action, HealthChecks, JobKey, JobPayload, OnUnhealthy, PAYLOAD_VERSION, Preflight, RebootRules,
    StorePolicy, UnlistedServices, UpdateKind, UpdateSource, UpdateTarget,
};

use super::hung_tests::credentials;
use super::{Agent, RunEnd};
use crate::gateway::{Gateway, GatewayError};
use crate::journal::{Durability, Journal, Loaded, Saved};
use crate::pause::Pause;
use crate::platform::scripted::{Scripted, World};
use crate::platform::wall_clock;
use crate::state::{self, Awaits, BootKind, BootRecord, Event, Me, Now, Start, State};

/// A gateway that grants everything, and what it was told.
#[derive(Default)]
struct Granting {
    permits: Mutex<Vec<String>>,
    told: Mutex<Vec<String>>,
}

impl Granting {
    fn tell(&self, what: String) {
        self.told.lock().unwrap().push(what);
    }

    /// Whether anybody was told this, in whatever sentence.
    fn was_told(&self, what: &str) -> bool {
        self.told.lock().unwrap().iter().any(|told| told.contains(what))
    }

    async fn until_told(&self, what: &str) {
        let told = async {
            while !self.was_told(what) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let is_told = tokio::time::timeout(Duration::from_secs(60), told).await;
        is_told.unwrap_or_else(|_| panic!("never told {what:?}: {:?}", self.told.lock().unwrap()));
    }
}

impl Gateway for Granting {
    async fn poll(&self, query: &JobQuery) -> Result<JobAnswer, GatewayError> {
        tokio::time::sleep(Duration::from_secs(query.wait)).await;
        Ok(JobAnswer { job: None, mode: Mode::Manage, next_poll_ms: 0, now: wall_clock() })
    }

    async fn permit(&self, request: &PermitRequest) -> Result<PermitAnswer, GatewayError> {
        self.permits.lock().unwrap().push(format!("{:?}", request.step));
        Ok(PermitAnswer::Granted)
    }

    async fn report(&self, batch: &ReportBatch) -> Result<ReportAck, GatewayError> {
        for report in &batch.reports {
            match &report.body {
                ReportBody::Progress(progress) => self.tell(progress.message.clone()),
                ReportBody::Outcome(outcome) => self.tell(outcome.payload.clone()),
                ReportBody::Facts(_) => {}
            }
        }
        let acked_through = batch.reports.last().map_or(0, |report| report.seq);
        Ok(ReportAck { acked_through, highest_seen: acked_through, retry_ms: 0 })
    }

    async fn is_there(&self) -> bool {
        true
    }
}

const WORLD: &str = "
product: Windows Server 2022
build: '20348.2700'
services: {Spooler: Running}
updates: [{kb: KB1, targetBuild: '20348.2762', installMs: 20}]
rebootMs: 50
";

fn job() -> JobPayload {
    let (rollout_uid, device_id) = ("r".to_owned(), "srv-1".to_owned());
    let later = |hours| wall_clock() + SignedDuration::from_hours(hours);
    JobPayload {
        version: PAYLOAD_VERSION,
        namespace: "srv-1".to_owned(),
        device: "srv-1".to_owned(),
        rollout: "r".to_owned(),
        stage: "s".to_owned(),
        slice: "r-s-0".to_owned(),
        key: JobKey { rollout_uid, device_id, attempt: 1, action: Action::Install },
        sequence: 1,
        updates: vec![UpdateTarget {
            kb: "KB1".to_owned(),
            product: "Windows Server 2022".to_owned(),
            kind: UpdateKind::Quality,
            target_build: Some("20348.2762".to_owned()),
            identities: Vec::new(),
            package: None,
        }],
        source: UpdateSource::Default,
        accept_eula: false,
        start_by: later(1),
        finish_by: later(24),
        preflight: Preflight {
            reboot_first: false,
            min_free_disk_gb: 1,
            require_reversible: false,
            ignore_attended_boot: false,
            ignore_battery: false,
            component_store: StorePolicy::Block,
            sole_source: false,
        },
        health: HealthChecks {
            services: vec!["Spooler".to_owned()],
            probes: Vec::new(),
            unlisted: UnlistedServices::Report,
            settle_ms: 100,
            restart_attempts: 1,
            sample_interval_ms: 50,
        },
        reboot: RebootRules {
            countdown_ms: 200,
            message: Some("Helpdesk: 4711".to_owned()),
            stuck_after_ms: 60_000,
            wait_ms: 7_200_000,
            deferrals: 3,
            force: false,
            active_hours: None,
        },
        on_unhealthy: OnUnhealthy::Report,
        hooks: Vec::new(),
        autonomous_rollback: None,
    }
}

/// An agent that has just accepted the job, on a Windows whose people are like this.
struct Story {
    folder: tempfile::TempDir,
    agent: Agent<Scripted, Granting>,
}

impl Story {
    fn new(people: &str) -> Story {
        let folder = tempfile::tempdir().unwrap();
        let world: World = serde_yaml::from_str(&format!("{WORLD}people: {people}")).unwrap();
        let life = folder.path().join("windows");
        let device = Scripted::open("srv-1", Arc::new(world), &life).unwrap();
        let journal = Journal::new(folder.path(), Durability::Process);
        let mut state = State::default();
        let id = || "srv-1".to_owned();
        let boot = BootRecord {
            boot_id: "before".to_owned(),
            at: wall_clock(),
            kind: BootKind::Unknown,
            off: None,
        };
        let start = Start {
            run: "before".to_owned(),
            me: Me { namespace: id(), device: id(), device_id: id() },
            boot,
            build: "20348.2700".to_owned(),
            lost: false,
            refuses: None,
            roles: Vec::new(),
            paused: None,
        };
        let offered = Event::Offered(Box::new(job()));
        for event in [Event::Started(Box::new(start)), Event::ModeSet(Mode::Manage), offered] {
            let now = Now { wall: wall_clock(), mono_ms: 0 };
            state = state::step(&state, now, event).unwrap().0;
        }
        journal.save(&Saved { state, ..Saved::default() }).unwrap();
        let agent = Agent {
            platform: Arc::new(device),
            gateway: Arc::new(Granting::default()),
            credentials: credentials(),
            journal,
            poll_wait_s: 5,
        };
        Story { folder, agent }
    }

    /// What the people of the device went through, from its own journal.
    fn acts(&self) -> Vec<(String, serde_json::Value)> {
        let text = std::fs::read_to_string(self.folder.path().join("windows/world-journal.jsonl"));
        let lines = text.unwrap_or_default();
        let acts = lines.lines().map(|line| serde_json::from_str(line).unwrap());
        acts.map(|act: serde_json::Value| (act["event"].as_str().unwrap().to_owned(), act))
            .collect()
    }

    fn saved(&self) -> State {
        let Loaded::Found(saved) = self.agent.journal.load() else { panic!("there is none") };
        saved.state
    }

    /// Until a run of the agent other than this one has looked who is there, and waits.
    async fn until_looked(&self, before: &str) {
        let waits = |state: State| state.job.is_some_and(|job| job.awaits == Awaits::Time);
        let looked = async {
            while self.saved().run == before || !waits(self.saved()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), looked).await.expect("it looks again");
    }

    fn names(&self) -> Vec<String> {
        let of_interest = ["install", "askPeople", "askToLeave", "reboot", "boot"];
        let names = self.acts().into_iter().map(|(name, _)| name);
        names.filter(|name| of_interest.contains(&name.as_str())).collect()
    }
}

#[tokio::test]
async fn a_person_who_agrees_has_her_restart_at_once_with_its_countdown_and_its_permit() {
    let story = Story::new("{active: 1, answers: [Now], answerAfterMs: 50}");
    let (stop, stopped) = watch::channel(false);
    assert_eq!(story.agent.run(stopped.clone()).await, RunEnd::DeviceDown);
    assert_eq!(story.names(), ["install", "askPeople", "reboot"]);
    let asked = story.acts().into_iter().find(|(name, _)| name == "askPeople").unwrap().1;
    assert_eq!(
        (&asked["message"], &asked["againMs"]),
        (&"Helpdesk: 4711".into(), &2_400_000.into())
    );
    assert_eq!(*story.agent.gateway.permits.lock().unwrap(), ["Install", "Reboot"]);
    let at = |name: &str| -> Timestamp {
        let act = story.acts().into_iter().find(|(act, _)| act == name).unwrap().1;
        act["at"].as_str().unwrap().parse().unwrap()
    };
    let took = at("reboot").duration_since(at("askPeople"));
    assert!(
        took >= SignedDuration::from_millis(250),
        "she thinks, and then it counts down: {took:?}"
    );
    // And the device proves what it was restarted for.
    story.agent.platform.up().await;
    let proven = async {
        story.agent.gateway.until_told("\"result\":\"Succeeded\"").await;
        stop.send_replace(true);
    };
    assert_eq!(tokio::join!(story.agent.run(stopped), proven).0, RunEnd::Stopped);
}

#[tokio::test]
async fn a_person_who_puts_it_off_is_left_alone_and_the_rollout_hears_of_it() {
    let story = Story::new("{active: 1, answers: [Later, Now]}");
    let (stop, stopped) = watch::channel(false);
    let told = async {
        story.agent.gateway.until_told("put off 1 of 3 times; asks again at").await;
        stop.send_replace(true);
    };
    assert_eq!(tokio::join!(story.agent.run(stopped.clone()), told).0, RunEnd::Stopped);
    // Another run of the agent does not ask her again before her time is over, and forgets nothing.
    stop.send_replace(false);
    let permits = || story.agent.gateway.permits.lock().unwrap().len();
    let before = story.saved().run;
    let again = async {
        story.until_looked(&before).await;
        stop.send_replace(true);
    };
    tokio::join!(story.agent.run(stopped), again);
    assert_eq!((story.names(), permits()), (vec!["install".to_owned(), "askPeople".to_owned()], 1));
}

#[tokio::test]
async fn an_administrator_need_not_wait_until_the_question_is_over() {
    let story = Story::new("{active: 1, answers: [Nothing]}");
    let (stop, stopped) = watch::channel(false);
    let paused = async {
        story.agent.gateway.until_told("; asks now; ").await;
        let pause = Pause::new("surgery", None, wall_clock()).unwrap();
        pause.set(story.folder.path()).unwrap();
        // The question is open for five minutes.
        story.agent.gateway.until_told("an administrator paused the agent").await;
        stop.send_replace(true);
    };
    assert_eq!(tokio::join!(story.agent.run(stopped), paused).0, RunEnd::Stopped);
    assert_eq!(story.names(), ["install", "askPeople"]);
}
