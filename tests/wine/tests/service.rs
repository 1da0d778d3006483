//! The agent as a service under Wine's real service control manager, from its installation to the
//! last trace of it.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use serde_json::Value;
use tokio::sync::watch;
use wardring_agent::journal::{Durability, Journal, Loaded};
use wardring_agent::platform::scripted::World;
use wardring_agent::run::{Setup, live_scripted};
use wardring_agent::state::{Event, Now, step};
use wardring_protocol::Mode;
use wardring_seal::Action;
use wardring_wine_tests::gateway::TestGateway;
use wardring_wine_tests::jobs::job;
use wardring_wine_tests::prefix::{Prefix, build_agent};

const AGENT: &str = r"C:\wardring\wardring-agent.exe";
const INSTALLED: &str = r"C:\Program Files\Wardring\wardring-agent.exe";
const SERVICE: &str = r"HKLM\SYSTEM\CurrentControlSet\Services\WardringAgent";
const SOURCE: &str = r"HKLM\SYSTEM\CurrentControlSet\Services\EventLog\Application\Wardring";
const NOBODY: u32 = 65_534;

/// A Windows on which the agent can be installed.
struct Device {
    prefix: Prefix,
    url: String,
    token: String,
}

impl Device {
    async fn new(gateway: &TestGateway) -> Device {
        let created = tokio::task::spawn_blocking(|| Prefix::create(&build_agent()?));
        let (url, token) = (gateway.url(), gateway.token.reveal());
        Device { prefix: created.await.unwrap().unwrap(), url, token }
    }

    fn agent(&self, arguments: &[&str]) -> (bool, String) {
        self.prefix.attempt(&[&[AGENT], arguments].concat()).unwrap()
    }

    /// Succeeds and returns what was said.
    fn does(&self, arguments: &[&str]) -> String {
        let (is_done, said) = self.agent(arguments);
        assert!(is_done, "{arguments:?}: {said}");
        said
    }

    /// Is refused and returns why.
    fn refuses(&self, arguments: &[&str]) -> String {
        let (is_done, said) = self.agent(arguments);
        assert!(!is_done, "{arguments:?}: {said}");
        said
    }

    fn install(&self) -> String {
        let (url, token) = (&self.url, &self.token);
        self.does(&["install", "--gateway", url, "--token", token, "--name", "srv-1"])
    }

    fn data(&self) -> PathBuf {
        self.prefix.drive().join("ProgramData/Wardring")
    }

    fn program(&self) -> PathBuf {
        self.prefix.drive().join("Program Files/Wardring/wardring-agent.exe")
    }

    /// Every file in the data folder with its content, the folders below it included.
    fn files(&self) -> Vec<(PathBuf, String)> {
        let (mut files, mut folders) = (Vec::new(), vec![self.data()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    let content = fs::read(entry.path()).unwrap_or_default();
                    files.push((entry.path(), String::from_utf8_lossy(&content).into_owned()));
                }
            }
        }
        files
    }

    fn log(&self) -> String {
        fs::read_to_string(self.data().join("log/agent.jsonl")).unwrap_or_default()
    }

    /// What the service control manager says.
    fn state(&self) -> String {
        self.prefix.attempt(&["sc", "query", "WardringAgent"]).unwrap().1
    }

    fn has_service(&self) -> bool {
        self.has_key(SERVICE)
    }

    fn has_key(&self, key: &str) -> bool {
        self.prefix.attempt(&["reg", "query", key]).unwrap().0
    }

    /// Nothing of an installation is there.
    fn is_untouched(&self) -> bool {
        !self.has_service()
            && !self.has_key(SOURCE)
            && !self.program().exists()
            && !self.program().with_extension("new").exists()
    }

    fn wait(&self, what: &str, met: impl Fn(&Device) -> bool) {
        let begun = Instant::now();
        while !met(self) {
            assert!(
                begun.elapsed() < Duration::from_secs(90),
                "{what} did not come: {}\n{}",
                self.state(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_installs_itself_enrols_as_a_service_and_leaves_nothing_behind() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let device = Device::new(&gateway).await;

    let said = device.install();
    assert!(said.contains("is installed and runs as device srv-1"), "{said}");
    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    assert!(device.state().contains("RUNNING"), "{}", device.state());
    let registry = device.prefix.wine(["reg", "query", SERVICE]).unwrap();
    let line = r#""C:\Program Files\Wardring\wardring-agent.exe" service --data-dir C:\ProgramData\Wardring"#;
    assert!(registry.contains(line), "{registry}");
    let has = |name, value| registry.lines().any(|l| l.contains(name) && l.contains(value));
    assert!(has("Start", "0x2") && has("ObjectName", "LocalSystem"), "{registry}");
    assert!(has("PreshutdownTimeout", "0x4e20"), "{registry}");
    assert!(device.has_key(SOURCE));

    // Neither token nor key are there in the clear, and nobody else may look.
    let files = device.files();
    assert!(!device.data().join("token").exists(), "the device is enrolled");
    let secret = device.token.split('.').nth(1).unwrap();
    for (path, content) in &files {
        assert!(!content.contains(secret) && !content.contains("PRIVATE KEY"), "{path:?}");
    }
    assert!(files.iter().any(|(_, content)| content.contains("wrappedKey")));
    assert_eq!(fs::metadata(device.data()).unwrap().mode() & 0o007, 0);
    let status: Value =
        serde_json::from_str(device.prefix.wine([AGENT, "status", "-o", "json"]).unwrap().as_str())
            .unwrap();
    assert_eq!(status["identity"]["device"], "srv-1", "{status}");
    let log = device.log();
    let told = |event: u32| log.lines().any(|line| line.contains(&format!("\"event\":{event}}}")));
    assert!(told(1) && told(3), "started and enrolled: {log}");

    // The service comes back with Windows, as the same device.
    let device = tokio::task::spawn_blocking(move || {
        device.prefix.restart().unwrap();
        device
    });
    let device = device.await.unwrap();
    let seen = gateway.wait_for("srv-1", "a second run", |seen| seen.runs.len() == 2).await;
    assert_eq!(seen.certificates, 1);

    // A second installation needs no token and changes what it is told.
    let said =
        device.does(&["install", "--gateway", &device.url, "--gateway", "https://other:8443"]);
    assert!(said.contains("is updated and runs as device srv-1"), "{said}");
    gateway.wait_for("srv-1", "a third run", |seen| seen.runs.len() == 3).await;
    let settings = fs::read_to_string(device.data().join("settings.json")).unwrap();
    assert!(settings.contains("https://other:8443"), "{settings}");
    let said = device.refuses(&["install", "--gateway", &device.url, "--name", "srv-2"]);
    assert!(said.contains("enrolled as srv-1, and a name is for life"), "{said}");
    let elsewhere = ["install", "--gateway", &device.url, "--data-dir", r"C:\elsewhere"];
    let said = device.refuses(&elsewhere);
    assert!(said.contains(r"keeps its data in C:\ProgramData\Wardring"), "{said}");
    assert!(device.state().contains("RUNNING"), "what is refused changes nothing");

    // One that is told no gateway changes nothing but the program.
    device.does(&["install", "--gateway=", "--token=", "--token-file=", "--name=", "--proxy="]);
    gateway.wait_for("srv-1", "a fourth run", |seen| seen.runs.len() == 4).await;
    assert_eq!(fs::read_to_string(device.data().join("settings.json")).unwrap(), settings);

    // One that fails in the middle leaves the agent running as it was.
    let in_the_way = device.program().with_extension("new");
    fs::create_dir(&in_the_way).unwrap();
    let said = device.refuses(&["install", "--gateway", "https://third:8443"]);
    assert!(said.contains("failed to put the program to"), "{said}");
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(fs::read_to_string(device.data().join("settings.json")).unwrap(), settings);
    gateway.wait_for("srv-1", "a fifth run", |seen| seen.runs.len() == 5).await;

    device.prefix.stop_service("WardringAgent").unwrap();
    device.wait("the stop", |device| device.state().contains("STOPPED"));
    let last = device.log().lines().last().unwrap().to_owned();
    assert!(last.contains("told to stop"), "{last}");
    assert!(device.state().contains("SERVICE_EXIT_CODE  : 0"), "{}", device.state());

    let said = device.does(&["uninstall"]);
    assert!(said.contains("identity and log stay"), "{said}");
    assert!(device.is_untouched() && device.data().join("identity.json").exists());

    // It is still the same device, and goes from the installed program.
    device.does(&["install", "--gateway", &device.url]);
    gateway.wait_for("srv-1", "a sixth run", |seen| seen.runs.len() == 6).await;
    assert_eq!(gateway.seen("srv-1").certificates, 1);
    let said = device.prefix.wine([INSTALLED, "uninstall", "--purge"]).unwrap();
    assert!(said.contains("Windows deletes it at the next restart"), "{said}");
    assert!(device.is_untouched() && !device.data().exists());
    assert!(!device.program().parent().unwrap().exists());
    assert!(!device.has_key(r"HKLM\SOFTWARE\Wardring"));
    let said = device.does(&["uninstall", "--purge"]);
    assert!(said.contains("There was no service"), "{said}");
    let device = tokio::task::spawn_blocking(move || {
        device.prefix.restart().unwrap();
        device
    });
    let temporary = device.await.unwrap().prefix.drive().join("windows/temp");
    let left = fs::read_dir(temporary).map(Iterator::count).unwrap_or_default();
    assert_eq!(left, 0, "the removed program went with the restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_installed_is_refused_and_leaves_nothing_half_done() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let device = Device::new(&gateway).await;
    let (url, token) = (device.url.as_str(), device.token.as_str());
    let whole = ["install", "--gateway", url, "--token", token, "--name", "srv-1"];
    let refused = |arguments: &[&str], why: &str| {
        let said = device.refuses(arguments);
        assert!(said.contains(why), "{arguments:?}: {said}");
        assert!(device.is_untouched(), "{arguments:?}: {said}");
    };
    refused(&["install", "--gateway", "http://x", "--token", token], "https://HOST:PORT");
    refused(&["install", "--gateway", url, "--token", "half"], "copy it whole");
    refused(
        &["install", "--gateway", url, "--token", token, "--name", "A_1"],
        "lower-case letters",
    );
    assert!(!device.data().exists());
    refused(&["install", "--gateway", url], "give a token with --token");
    assert!(!device.data().exists(), "the folder that was made is gone again");
    refused(&["install", "--token", token], "give the address of a gateway with --gateway");
    let no_file = ["install", "--gateway", url, "--token-file", r"C:\wardring\none.txt"];
    refused(&no_file, "failed to read the token file");
    fs::write(device.prefix.drive().join("wardring/two.txt"), format!("{token} {token}")).unwrap();
    let two = ["install", "--gateway", url, "--token-file", r"C:\wardring\two.txt"];
    refused(&two, "one token and nothing else");
    assert!(!device.data().exists());
    refused(&["status", "--data-dir", r"C:\wardring\wardring-agent.exe"], "failed to look into");

    // Something keeps the program from its place.
    fs::create_dir_all(device.program().join("in-the-way")).unwrap();
    let said = device.refuses(&whole);
    assert!(said.contains("failed to put the program to"), "{said}");
    assert!(!device.has_service() && !device.data().exists(), "{said}");
    fs::remove_dir_all(device.program().parent().unwrap()).unwrap();

    // It is another Windows than the agent is made for.
    let version = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
    let number = |build| device.prefix.set(version, "CurrentBuildNumber", "REG_SZ", build).unwrap();
    let environment = r"SYSTEM\CurrentControlSet\Control\Session Manager\Environment";
    let processor =
        |is| device.prefix.set(environment, "PROCESSOR_ARCHITECTURE", "REG_SZ", is).unwrap();
    number("10240");
    refused(&whole, "build 10240; the agent needs 14393");
    number("20348");
    processor("ARM64");
    refused(&whole, "for ARM64 processors");
    processor("AMD64");
    assert!(!device.data().exists());

    // Somebody prepared the data folder.
    fs::create_dir_all(device.data()).unwrap();
    fs::set_permissions(device.data(), Permissions::from_mode(0o755)).unwrap();
    refused(&whole, "is open to S-1-1-0 beside SYSTEM and the administrators");
    fs::set_permissions(device.data(), Permissions::from_mode(0o700)).unwrap();
    if std::os::unix::fs::chown(device.data(), Some(NOBODY), None).is_ok() {
        refused(&whole, "who could have put anything into it");
    }
    fs::remove_dir(device.data()).unwrap();

    // Somebody else's service has the name.
    let create = ["sc", "create", "WardringAgent", "binPath=", r"C:\windows\notepad.exe"];
    device.prefix.run(&create).unwrap();
    let said = device.refuses(&whole);
    assert!(said.contains(r"exists and starts C:\windows\notepad.exe, not"), "{said}");
    let said = device.refuses(&["uninstall"]);
    assert!(said.contains("remove that one first"), "{said}");
    device.prefix.wine(["sc", "delete", "WardringAgent"]).unwrap();
    // The service manager removes it with the last handle to it, after the answer.
    device.wait("the removal", |device| !device.has_service());
    assert!(device.is_untouched() && !device.data().exists());

    let said = device.refuses(&["service", "--data-dir", r"C:\x"]);
    assert!(said.contains("wardring-agent install"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_folder_was_opened_to_others_does_not_run() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let device = Device::new(&gateway).await;
    device.install();
    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    device.prefix.stop_service("WardringAgent").unwrap();
    // Its last words come before that.
    device.wait("the end of the first run", |device| device.state().contains("STOPPED"));
    let length = device.log().len();

    fs::set_permissions(device.data(), Permissions::from_mode(0o777)).unwrap();
    // How soon it ends decides whether Wine calls that a start.
    device.wait("the end", |device| {
        let has_ended = || {
            let state = device.state();
            state.contains("STOPPED") && state.contains("1066")
        };
        has_ended() || device.prefix.wine(["sc", "start", "WardringAgent"]).is_err() && has_ended()
    });
    let state = device.state();
    assert!(state.contains("1066") && state.contains("SERVICE_EXIT_CODE  : 1"), "{state}");
    assert_eq!(device.log().len(), length, "nothing is written to a folder that is not ours");
    let run = ["run", "--gateway", &device.url, "--name", "srv-1", "--data-dir"];
    let said = device.refuses(&[&run[..], &[r"C:\ProgramData\Wardring"]].concat());
    assert!(said.contains("is open to S-1-1-0") && said.contains("icacls"), "{said}");

    fs::set_permissions(device.data(), Permissions::from_mode(0o750)).unwrap();
    device.prefix.start_service("WardringAgent").unwrap();
    gateway.wait_for("srv-1", "a second run", |seen| seen.runs.len() == 2).await;
    device.prefix.stop_service("WardringAgent").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_an_older_agent_is_wrapped_and_a_bundle_for_helpers_shows_no_key() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let device = Device::new(&gateway).await;
    device.install();
    let seen = gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    device.prefix.stop_service("WardringAgent").unwrap();
    device.wait("the stop", |device| device.state().contains("STOPPED"));

    // The same device, as an agent left it that did not wrap keys.
    let elsewhere = tempfile::tempdir().unwrap();
    let plain = enrolled_without_wrapping(&gateway, elsewhere.path()).await;
    assert!(plain.contains("PRIVATE KEY"));
    let identity = device.data().join("identity.json");
    fs::write(&identity, &plain).unwrap();
    device.prefix.start_service("WardringAgent").unwrap();
    let runs = seen.runs.len() + 2;
    gateway.wait_for("srv-1", "a run with that key", |seen| seen.runs.len() >= runs).await;
    let wrapped = fs::read_to_string(&identity).unwrap();
    assert!(wrapped.contains("wrappedKey") && !wrapped.contains("PRIVATE KEY"), "{wrapped}");

    let said = device.does(&["support-bundle", "--out", r"C:\wardring\help.zip"]);
    assert!(said.contains("holds no keys"), "{said}");
    let bundle = fs::read(device.prefix.drive().join("wardring/help.zip")).unwrap();
    let text = String::from_utf8_lossy(&bundle);
    // Nothing in it is compressed.
    assert!(text.contains("pendingReboot") && text.contains("\"device\": \"srv-1\""));
    assert!(text.contains("log/agent.jsonl") && text.contains("runs as device srv-1"));
    let wrapped: Value = serde_json::from_str(&wrapped).unwrap();
    let seed = device.token.split('.').nth(1).unwrap();
    for secret in [wrapped["wrappedKey"].as_str().unwrap(), "PRIVATE KEY", seed] {
        assert!(!text.contains(secret), "{secret}");
    }
    device.does(&["uninstall", "--purge"]);
}

/// Enrols the device with the build for Linux, which wraps nothing; its identity file.
async fn enrolled_without_wrapping(gateway: &TestGateway, folder: &Path) -> String {
    let world = folder.join("world.yaml");
    fs::write(&world, "{product: Windows Server 2022, build: '20348.2700'}").unwrap();
    let setup = Setup {
        gateways: vec![gateway.url()],
        proxy: None,
        token: Some(gateway.token.reveal()),
        name: "srv-1".to_owned(),
        folder: folder.join("data"),
        durability: Durability::Disk,
        poll_wait_s: 5,
        enrol_within: Duration::from_secs(60),
    };
    let (before, world) = (gateway.seen("srv-1").runs.len(), World::read(&world).unwrap());
    let (stop, stopped) = watch::channel(false);
    let life = tokio::spawn(live_scripted(setup, Arc::new(world), stopped, || {}));
    gateway.wait_for("srv-1", "its run", |seen| seen.runs.len() > before).await;
    stop.send_replace(true);
    life.await.unwrap().unwrap();
    fs::read_to_string(folder.join("data/identity.json")).unwrap()
}

/// Gives the agent whose service stands still a job in its journal, as it would have left one.
fn leave_a_job(device: &Device) {
    let journal = Journal::new(&device.data(), Durability::Disk);
    let Loaded::Found(mut saved) = journal.load() else { panic!("no journal") };
    let mut payload = job(1, Action::Install);
    payload.key.device_id = saved.state.me.as_ref().unwrap().device_id.clone();
    let now = Now { wall: jiff::Timestamp::now(), mono_ms: 0 };
    for event in [Event::ModeSet(Mode::Manage), Event::Offered(Box::new(payload))] {
        saved.state = step(&saved.state, now, event).unwrap().0;
    }
    assert!(saved.state.job.is_some());
    journal.save(&saved).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_stopped_in_the_middle_of_a_job_is_removed_only_on_demand() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let device = Device::new(&gateway).await;
    device.install();
    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    device.prefix.stop_service("WardringAgent").unwrap();
    device.wait("the stop", |device| device.state().contains("STOPPED"));
    leave_a_job(&device);

    let said = device.refuses(&["uninstall"]);
    assert!(said.contains("carries out a job of rollout 2026-11"), "{said}");
    assert!(device.has_service());
    device.does(&["uninstall", "--abandon-job"]);
    assert!(device.is_untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_pauses_the_agent_over_its_restarts_and_nobody_else_can() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let device = Device::new(&gateway).await;
    let said = device.refuses(&["pause"]);
    assert!(said.contains("wardring-agent") || said.contains("data folder"), "{said}");
    device.install();
    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    let is_paused = |seen: &wardring_wine_tests::gateway::Seen| {
        seen.facts.as_ref().is_some_and(|facts| facts.pause.is_some())
    };

    let said = device.refuses(&["pause", "--until", "2001-01-01T00:00:00Z"]);
    assert!(said.contains("has passed"), "{said}");
    let said = device.does(&["pause", "--reason", "disk swap"]);
    assert!(said.contains("until `wardring-agent resume`"), "{said}");
    assert!(device.does(&["status"]).contains("disk swap"));
    gateway.give("srv-1", job(1, Action::Install));
    let seen = gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
    let outcome = &seen.outcomes[0];
    assert_eq!(outcome.reason.as_deref(), Some("Paused"), "{}", outcome.message);
    assert!(outcome.message.ends_with(": disk swap") && !outcome.started);
    let seen = gateway.wait_for("srv-1", "its report", is_paused).await;
    assert_eq!(seen.facts.unwrap().pause.unwrap().reason, "disk swap");
    assert!(device.log().contains("Nothing more is begun"), "milestone 17");

    device.prefix.stop_service("WardringAgent").unwrap();
    device.wait("the stop", |device| device.state().contains("STOPPED"));
    device.prefix.start_service("WardringAgent").unwrap();
    gateway.wait_for("srv-1", "a second run", |seen| seen.runs.len() == 2).await;
    gateway.give("srv-1", job(2, Action::Install));
    let seen = gateway.wait_for("srv-1", "another outcome", |seen| seen.outcomes.len() == 2).await;
    assert_eq!(seen.outcomes[1].reason.as_deref(), Some("Paused"));

    // What lies in a folder that is open to others may be anybody's word.
    fs::set_permissions(device.data(), Permissions::from_mode(0o777)).unwrap();
    for verb in ["pause", "resume"] {
        let said = device.refuses(&[verb]);
        assert!(said.contains("is open to S-1-1-0"), "{said}");
    }
    fs::set_permissions(device.data(), Permissions::from_mode(0o750)).unwrap();
    assert!(device.does(&["resume"]).contains("goes on"));
    assert!(device.does(&["resume"]).contains("was not paused"));
    gateway.wait_for("srv-1", "the end of it", |seen| !is_paused(seen)).await;
    // A device that is set up anew must not begin with a pause that nobody remembers.
    device.does(&["pause"]);
    device.does(&["uninstall", "--purge"]);
    assert!(!device.data().exists());
}
