//! The agent with its scripted device against a gateway over real TLS.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wardring_agent::journal::{Durability, Journal, Loaded};
use wardring_agent::pause::{self, Pause};
use wardring_agent::platform::scripted::World;
use wardring_agent::run::{Setup, SetupError, live_scripted};
use wardring_protocol::{PermitAnswer, Step};
use wardring_seal::{Action, OutcomeResult};
use wardring_wine_tests::gateway::{Seen, TestGateway};
use wardring_wine_tests::jobs::job;
use wardring_wine_tests::proxy::{Proxy, Tunnel};

const SERVER: &str = r#"
product: Windows Server 2022
build: "20348.2700"
rebootMs: 50
services: {MSSQLSERVER: Running, Spooler: Running, wuauserv: Stopped}
updates:
  - {kb: KB5068787, targetBuild: "20348.2762", installMs: 50}
"#;

/// An agent on a scripted device that is stopped when the test ends.
struct Device {
    stop: watch::Sender<bool>,
    life: JoinHandle<Result<(), SetupError>>,
}

fn setup(gateway: &TestGateway, name: &str, folder: &Path) -> Setup {
    Setup {
        gateways: vec![gateway.url()],
        proxy: None,
        token: Some(gateway.token.reveal()),
        name: name.to_owned(),
        folder: folder.join("data"),
        durability: Durability::Disk,
        poll_wait_s: 5,
        enrol_within: Duration::from_secs(60),
    }
}

fn switch_on(gateway: &TestGateway, name: &str, world: &str, folder: &Path) -> Device {
    switch_on_as(setup(gateway, name, folder), world, folder)
}

fn switch_on_as(setup: Setup, world: &str, folder: &Path) -> Device {
    let world_file = folder.join("world.yaml");
    std::fs::write(&world_file, world).unwrap();
    let world = Arc::new(World::read(&world_file).unwrap());
    let (stop, stopped) = watch::channel(false);
    Device { stop, life: tokio::spawn(live_scripted(setup, world, stopped, || {})) }
}

impl Device {
    async fn switch_off(self) {
        self.stop.send_replace(true);
        self.life.await.unwrap().unwrap();
    }

    /// As `kill -9` does: nothing is said, nothing is written.
    async fn kill(self) {
        self.life.abort();
        // The lock of the folder goes with the agent; one that ended by itself has let go, too.
        let _ = self.life.await;
    }
}

/// Lines of the world journal that tell of this event.
fn recorded(folder: &Path, event: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("data/world-journal.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["event"] == event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_enrols_reports_and_proves_an_update_after_the_restart() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let device = switch_on(&gateway, "srv-1", SERVER, folder.path());

    let seen = gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    assert_eq!(seen.claims, 2, "the first claim was answered with Pending");
    let facts = seen.facts.unwrap();
    assert_eq!((facts.build.as_str(), facts.missing.len()), ("20348.2700", 1));

    gateway.give("srv-1", job(1, Action::Install));
    let seen = gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
    let outcome = &seen.outcomes[0];
    assert_eq!(outcome.result, OutcomeResult::Succeeded, "{}", outcome.message);
    assert_eq!(outcome.build, "20348.2762");
    assert!(outcome.started && outcome.reboot_required);
    assert_ne!(Some(&outcome.boot_id), outcome.installed_in_boot.as_ref());
    assert_eq!(seen.granted, [Step::Install, Step::Reboot]);
    assert_eq!(seen.runs.len(), 2, "one run of the agent per boot");
    let newer = |facts: &wardring_protocol::Facts| facts.build == "20348.2762";
    gateway.wait_for("srv-1", "new facts", |seen| seen.facts.as_ref().is_some_and(newer)).await;
    device.switch_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stays_down_fails_the_device_and_a_rollback_repairs_it() {
    let world = SERVER.replace(
        "installMs: 50}",
        "installMs: 50, effects: {afterReboot: [{stopService: MSSQLSERVER, refusesRestart: true}]}}",
    );
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let device = switch_on(&gateway, "srv-1", &world, folder.path());
    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;

    gateway.give("srv-1", job(1, Action::Install));
    let seen = gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
    let outcome = &seen.outcomes[0];
    assert_eq!(outcome.result, OutcomeResult::Failed);
    assert_eq!(outcome.reason.as_deref(), Some("ServiceDown"));
    assert_eq!(recorded(folder.path(), "restartService").len(), 2, "it tried as often as told");

    gateway.give("srv-1", job(2, Action::Rollback));
    let seen = gateway.wait_for("srv-1", "the second", |seen| seen.outcomes.len() == 2).await;
    let outcome = &seen.outcomes[1];
    assert_eq!(outcome.result, OutcomeResult::RolledBack, "{}", outcome.message);
    assert_eq!(outcome.build, "20348.2700");
    assert_eq!(seen.granted, [Step::Install, Step::Reboot, Step::Uninstall, Step::Reboot]);
    device.switch_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_job_and_a_refused_permit_install_nothing() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let device = switch_on(&gateway, "srv-1", SERVER, folder.path());
    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;

    gateway.give_altered("srv-1", job(1, Action::Install));
    let halted = PermitAnswer::Refused {
        reason: "RolloutStopped".to_owned(),
        message: "the rollout is suspended".to_owned(),
        retry_ms: 200,
    };
    let ended = PermitAnswer::Ended {
        reason: "NoSuchJob".to_owned(),
        message: "there is no such job".to_owned(),
    };
    gateway.answer_permits("srv-1", [halted, ended]);
    gateway.give("srv-1", job(2, Action::Install));
    let seen = gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
    let outcome = &seen.outcomes[0];
    assert_eq!(outcome.result, OutcomeResult::NotStarted);
    assert_eq!(outcome.reason.as_deref(), Some("NoSuchJob"));
    assert!(recorded(folder.path(), "install").is_empty());
    assert!(seen.granted.is_empty());
    device.switch_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_at_many_moments_installs_once_and_comes_to_the_end() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut device = switch_on(&gateway, "srv-1", SERVER, folder.path());
    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    gateway.give("srv-1", job(1, Action::Install));
    for state in ["Downloading", "Installing", "AwaitingReboot", "Settling", "Verifying"] {
        gateway
            .wait_for("srv-1", state, |seen| {
                seen.states.iter().any(|known| known == state) || !seen.outcomes.is_empty()
            })
            .await;
        device.kill().await;
        device = switch_on(&gateway, "srv-1", SERVER, folder.path());
    }
    let seen = gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
    assert_eq!(seen.outcomes[0].result, OutcomeResult::Succeeded, "{}", seen.outcomes[0].message);
    assert_eq!(recorded(folder.path(), "install").len(), 1);
    assert!(recorded(folder.path(), "reboot").len() <= 2);
    device.switch_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_in_the_middle_keeps_the_restart_from_happening_over_a_restart_of_the_agent() {
    let world = SERVER.replace("installMs: 50", "installMs: 1500");
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let device = switch_on(&gateway, "srv-1", &world, folder.path());
    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    gateway.give("srv-1", job(1, Action::Install));
    until("the installation", || !recorded(folder.path(), "install").is_empty()).await;
    let data = folder.path().join("data");
    let mark = Pause::new("disk swap", None, jiff::Timestamp::now()).unwrap();
    mark.set(&data).unwrap();
    let waits = |seen: &Seen| {
        let told = |progress: &wardring_protocol::Progress| progress.message.contains("disk swap");
        seen.progress.as_ref().is_some_and(told)
    };
    let seen = gateway.wait_for("srv-1", "the job that waits", waits).await;
    assert_eq!(seen.progress.unwrap().state, "AwaitingReboot");
    assert_eq!(seen.granted, [Step::Install], "nobody is asked for a restart that may not be");

    device.kill().await;
    let device = switch_on(&gateway, "srv-1", &world, folder.path());
    let is_paused = |seen: &Seen| seen.facts.as_ref().is_some_and(|facts| facts.pause.is_some());
    let again = |seen: &Seen| seen.runs.len() == 2 && is_paused(seen);
    gateway.wait_for("srv-1", "the next run", again).await;
    assert!(recorded(folder.path(), "reboot").is_empty());

    assert!(pause::lift(&data).unwrap());
    let seen = gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
    assert_eq!(seen.outcomes[0].result, OutcomeResult::Succeeded, "{}", seen.outcomes[0].message);
    assert_eq!(seen.granted, [Step::Install, Step::Reboot]);
    gateway.wait_for("srv-1", "facts without it", |seen| !is_paused(seen)).await;
    device.switch_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_before_it_ends_and_the_enrolment_stays() {
    let gateway = TestGateway::start(SignedDuration::from_secs(15)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let device = switch_on(&gateway, "srv-1", SERVER, folder.path());
    let seen = gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    let enrolment = seen.enrolment_id;
    let seen = gateway.wait_for("srv-1", "a renewal", |seen| seen.certificates >= 2).await;
    assert_eq!(seen.enrolment_id, enrolment);
    // Its outcome is signed with the new key.
    gateway.give("srv-1", job(1, Action::Download));
    gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
    device.switch_off().await;
}

/// The world of [`SERVER`] with these effects of its update.
fn with_effects(effects: &str) -> String {
    SERVER.replace("installMs: 50}", &format!("installMs: 50, effects: {{{effects}}}}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_reverting_an_update_and_an_installer_that_fails_are_told_apart() {
    for (effects, result) in [
        ("revertAtBoot: true", OutcomeResult::RevertedByWindows),
        ("failInstall: '0x80070643'", OutcomeResult::Failed),
    ] {
        let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let device = switch_on(&gateway, "srv-1", &with_effects(effects), folder.path());
        gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
        gateway.give("srv-1", job(1, Action::Install));
        let seen = gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
        assert_eq!(seen.outcomes[0].result, result, "{}", seen.outcomes[0].message);
        device.switch_off().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_write_its_journal_says_so_does_nothing_and_goes_on_after() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let device = switch_on(&gateway, "srv-1", SERVER, folder.path());
    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    // It rests before the installation, with a journal that says so.
    let halted = PermitAnswer::Refused {
        reason: "RolloutStopped".to_owned(),
        message: "the rollout is suspended".to_owned(),
        retry_ms: 200,
    };
    gateway.answer_permits("srv-1", std::iter::repeat_n(halted, 1_000));
    gateway.give("srv-1", job(1, Action::Install));
    let says = |seen: &Seen, part: &str| {
        seen.progress.as_ref().is_some_and(|progress| progress.message.contains(part))
    };
    gateway.wait_for("srv-1", "the refusal", |seen| says(seen, "is suspended")).await;

    // A folder where the next journal is to be written is as good as a full disk.
    let in_the_way = folder.path().join("data/journal.new");
    until("a moment without a write", || std::fs::create_dir(&in_the_way).is_ok()).await;
    let seen =
        gateway.wait_for("srv-1", "the sentence", |seen| says(seen, "cannot write its")).await;
    assert!(seen.outcomes.is_empty() && recorded(folder.path(), "install").is_empty());
    gateway.grant_permits("srv-1");
    std::fs::remove_dir(&in_the_way).unwrap();
    let seen = gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
    assert_eq!(seen.outcomes[0].result, OutcomeResult::Succeeded, "{}", seen.outcomes[0].message);
    assert_eq!(recorded(folder.path(), "install").len(), 1);
    device.switch_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_never_share_a_data_folder() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let first = switch_on(&gateway, "srv-1", SERVER, folder.path());
    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    let second = switch_on(&gateway, "srv-1", SERVER, folder.path());
    let refused = second.life.await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("another agent uses the data folder"), "{refused}");
    first.switch_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_crashes_after_the_update_tells_of_a_boot_loop() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let device = switch_on(&gateway, "srv-1", &with_effects("bootLoop: 4"), folder.path());
    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    let mut patient = job(1, Action::Install);
    // No boot of this loop lasts as long as a boot must hold, however slow the test machine is.
    patient.health.settle_ms = 3_600_000;
    gateway.give("srv-1", patient);
    let seen = gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
    let outcome = &seen.outcomes[0];
    let end = (outcome.result, outcome.reason.as_deref());
    assert_eq!(end, (OutcomeResult::Failed, Some("BootLoop")), "{}", outcome.message);
    assert!(outcome.message.contains("2 of them after a crash"), "{}", outcome.message);
    assert_eq!(recorded(folder.path(), "reboot").len(), 1, "no restart of our own in a loop");
    // The rollback begins while it still crashes, and repairs it.
    gateway.give("srv-1", job(2, Action::Rollback));
    let seen = gateway.wait_for("srv-1", "the second", |seen| seen.outcomes.len() == 2).await;
    assert_eq!(seen.outcomes[1].result, OutcomeResult::RolledBack, "{:?}", seen.outcomes[1]);
    device.switch_off().await;
}

/// What the agent wrote down about the end of its last job.
fn journalled_end(folder: &Path) -> Option<OutcomeResult> {
    match Journal::new(&folder.join("data"), Durability::Disk).load() {
        Loaded::Found(saved) => saved.state.finished.last().map(|outcome| outcome.result),
        Loaded::Fresh | Loaded::Lost(_) | Loaded::Newer(_) => None,
    }
}

/// Waits for something that a device without a gateway does.
async fn until(what: &str, met: impl Fn() -> bool) {
    let wait = async {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        while !met() {
            look.tick().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok(), "{what}");
}

/// A device that was given its job, up to the state that is the last one anybody hears of.
async fn heard_last_of(
    gateway: &TestGateway,
    folder: &Path,
    effects: &str,
    last: &str,
) -> (Device, String) {
    let world = with_effects(effects);
    let device = switch_on(gateway, "srv-1", &world, folder);
    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    gateway.give("srv-1", job(1, Action::Install));
    let is_last = |seen: &Seen| seen.states.last().is_some_and(|state| state == last);
    gateway.wait_for("srv-1", last, is_last).await;
    (device, world)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_never_comes_back_says_nothing_more() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (device, _) =
        heard_last_of(&gateway, folder.path(), "neverReturn: true", "Rebooting").await;
    until("the boot that hangs", || !recorded(folder.path(), "boot").is_empty()).await;
    let seen = gateway.seen("srv-1");
    assert_eq!(seen.states.last().map(String::as_str), Some("Rebooting"));
    assert_eq!((seen.runs.len(), seen.outcomes.len()), (1, 0), "no agent ran after the restart");
    assert_eq!(journalled_end(folder.path()), None);
    device.switch_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_lost_its_network_says_nothing_more_whatever_it_knows() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let effects = "networkDeadAfterReboot: true";
    let (device, _) = heard_last_of(&gateway, folder.path(), effects, "Rebooting").await;
    let has_ended = || journalled_end(folder.path()) == Some(OutcomeResult::Succeeded);
    until("the end of the job, in the device's own journal", has_ended).await;
    let seen = gateway.seen("srv-1");
    assert_eq!(seen.states.last().map(String::as_str), Some("Rebooting"));
    assert_eq!((seen.runs.len(), seen.outcomes.len()), (1, 0));
    device.switch_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_hangs_is_neither_repeated_nor_called_ended() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (device, world) =
        heard_last_of(&gateway, folder.path(), "hangInstall: true", "Installing").await;
    device.kill().await;
    let device = switch_on(&gateway, "srv-1", &world, folder.path());
    gateway.wait_for("srv-1", "the next run", |seen| seen.runs.len() == 2).await;
    let seen = gateway.seen("srv-1");
    assert_eq!(seen.states.last().map(String::as_str), Some("Installing"));
    assert_eq!((seen.granted.as_slice(), seen.outcomes.len()), ([Step::Install].as_slice(), 0));
    assert_eq!(recorded(folder.path(), "install").len(), 1);
    device.switch_off().await;
}

/// Where nobody listens: only the proxy knows the way.
const BEHIND_PROXY: &str = "https://localhost:1";

#[tokio::test(flavor = "multi_thread")]
async fn a_device_behind_a_proxy_enrols_and_polls_and_patches_through_it_by_tls_of_its_own() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let proxy = Proxy::to(gateway.address).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup {
        gateways: vec![BEHIND_PROXY.to_owned()],
        proxy: Some(proxy.url.clone()),
        ..setup(&gateway, "srv-1", folder.path())
    };
    let device = switch_on_as(setup, SERVER, folder.path());

    gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    gateway.give("srv-1", job(1, Action::Install));
    let seen = gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
    // Polls, permits and reports are answered to nobody without a device's certificate.
    assert_eq!(seen.outcomes[0].result, OutcomeResult::Succeeded, "{}", seen.outcomes[0].message);
    assert_eq!(seen.granted, [Step::Install, Step::Reboot]);
    let tunnels = proxy.tunnels();
    // That of the claim, and that of the device with its certificate.
    assert!(tunnels.len() >= 2, "{tunnels:?}");
    let is_plain = |tunnel: &Tunnel| tunnel.target != "localhost:1" || !tunnel.is_tls;
    assert!(!tunnels.iter().any(is_plain), "{tunnels:?}");
    device.switch_off().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_reads_along_is_refused_with_a_sentence_that_names_it() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let proxy = Proxy::that_reads(gateway.address, "localhost").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup {
        gateways: vec![BEHIND_PROXY.to_owned()],
        proxy: Some(proxy.url.clone()),
        ..setup(&gateway, "srv-1", folder.path())
    };
    // It ends by itself: no waiting mends that.
    let error = switch_on_as(setup, SERVER, folder.path()).life.await.unwrap().unwrap_err();

    let said = format!("{:#}", anyhow::Error::from(error));
    let sentence = format!(
        "{BEHIND_PROXY} (by the proxy {}) cannot be trusted: the proxy opens TLS and presents a \
         certificate of its own, or leads elsewhere",
        proxy.url
    );
    assert!(said.contains(&sentence), "{said}");
    assert!(said.contains("exempt the gateways from inspection"), "{said}");
    let seen = gateway.seen("srv-1");
    assert_eq!((seen.claims, seen.certificates), (0, 0), "nothing was told to it");
    assert!(!proxy.tunnels().is_empty());
}
