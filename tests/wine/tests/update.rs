//! Updating the agent under Wine's real service control manager: what works takes over, what does not is
//! taken back, and after a power failure at any stage there is an agent.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use serde_json::{Value, json};
use wardring_wine_tests::gateway::TestGateway;
use wardring_wine_tests::prefix::{Prefix, build_agent};
use wardring_wine_tests::programs::compile;

const INSTALLED: &str = r"C:\Program Files\Wardring\wardring-agent.exe";
const SERVICE: &str = r"HKLM\SYSTEM\CurrentControlSet\Services\WardringAgent";
const WINDOWS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion";

/// A Windows with an agent that has reported, and programs to update it to.
#[derive(Clone)]
struct Device {
    prefix: Arc<Prefix>,
    gateway: Arc<TestGateway>,
}

impl Device {
    async fn new() -> Device {
        let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
        let (url, token) = (gateway.url(), gateway.token.reveal());
        let prefix = tokio::task::spawn_blocking(move || {
            let agent = build_agent().unwrap();
            let prefix = Prefix::create(&agent).unwrap();
            let folder = prefix.drive().join("wardring");
            // Other bytes behind the end of a program are another program that does the same.
            let mut bytes = fs::read(&agent).unwrap();
            bytes.extend(b"another build");
            fs::write(folder.join("good.exe"), bytes).unwrap();
            compile("nextagent.c", &folder.join("bad.exe")).unwrap();
            let line = [
                r"C:\wardring\wardring-agent.exe",
                "install",
                "--gateway",
                &url,
                "--token",
                &token,
                "--name",
                "srv-1",
            ];
            let (is_done, said) = prefix.attempt(&line).unwrap();
            assert!(is_done, "{said}");
            prefix
        });
        let prefix = Arc::new(prefix.await.unwrap());
        let device = Device { prefix, gateway: Arc::new(gateway) };
        device.runs(1).await;
        device
    }

    /// Waits for that many runs of the agent.
    async fn runs(&self, count: usize) {
        self.gateway.wait_for("srv-1", "a run", |seen| seen.runs.len() >= count).await;
    }

    fn path(&self, path: &str) -> PathBuf {
        self.prefix.drive().join(path)
    }

    fn update(&self, program: &str, more: &[&str]) -> (bool, String) {
        let from = format!(r"C:\wardring\{program}");
        let sum = sum(&self.path(&format!("wardring/{program}")));
        let line = [INSTALLED, "update", "--from", &from, "--sha256", &sum];
        self.prefix.attempt(&[&line[..], more].concat()).unwrap()
    }

    /// The same, beside everything else.
    async fn updated(&self, program: &str, more: &[&str]) -> (bool, String) {
        let (device, program) = (self.clone(), program.to_owned());
        let more: Vec<String> = more.iter().map(|&word| word.to_owned()).collect();
        let update =
            move || device.update(&program, &more.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(update).await.unwrap()
    }

    fn marker(&self) -> Value {
        let text = fs::read(self.path("ProgramData/Wardring/update.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or(Value::Null)
    }

    fn stage(&self) -> String {
        self.marker()["underway"]["stage"].as_str().unwrap_or_default().to_owned()
    }

    /// What the service starts.
    fn starts(&self) -> String {
        self.prefix.wine(["reg", "query", SERVICE, "/v", "ImagePath"]).unwrap()
    }

    fn state(&self) -> String {
        self.prefix.attempt(&["sc", "query", "WardringAgent"]).unwrap().1
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("ProgramData/Wardring/log/agent.jsonl")).unwrap_or_default()
    }

    /// Which of the test's programs is in the usual place.
    fn installed(&self) -> &'static str {
        let bytes = fs::read(self.path("Program Files/Wardring/wardring-agent.exe")).unwrap();
        ["wardring-agent.exe", "good.exe", "bad.exe"]
            .into_iter()
            .find(|name| fs::read(self.path(&format!("wardring/{name}"))).unwrap() == bytes)
            .unwrap()
    }

    fn has_next(&self) -> bool {
        self.path("Program Files/Wardring/wardring-agent-next.exe").exists()
    }

    /// Nothing is under way, and the service starts the program in the usual place.
    fn is_settled(&self) -> bool {
        self.stage().is_empty() && !self.has_next() && !self.starts().contains("next")
    }

    async fn wait(&self, what: &str, met: impl Fn(&Device) -> bool) {
        let begun = Instant::now();
        while !met(self) {
            let (marker, log) = (self.marker(), self.log());
            assert!(begun.elapsed() < Duration::from_secs(90), "{what}: {marker}\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The power fails, and comes back, and an agent reports that was not there before.
    async fn power_fails(&self) {
        let prefix = Arc::clone(&self.prefix);
        tokio::task::spawn_blocking(move || prefix.switch_off().unwrap()).await.unwrap();
        let (prefix, before) = (Arc::clone(&self.prefix), self.gateway.seen("srv-1").runs.len());
        tokio::task::spawn_blocking(move || prefix.switch_on().unwrap()).await.unwrap();
        self.wait("an agent", |device| {
            let is_back = device.gateway.seen("srv-1").runs.len() > before;
            // Windows starts a service again that ended to be started again; Wine knows no recovery
            // actions.
            if !is_back && device.state().contains("STOPPED") {
                let _ = device.prefix.attempt(&["sc", "start", "WardringAgent"]);
            }
            is_back
        })
        .await;
    }
}

fn sum(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_reports_takes_over_and_moves_into_the_place_of_the_old_one() {
    let device = Device::new().await;
    let (is_done, said) = device.updated("good.exe", &[]).await;
    assert!(is_done && said.contains("is updated and runs as version"), "{said}");
    device.wait("the move", |device| device.installed() == "good.exe").await;
    // The trial, and then the service.
    device.runs(3).await;
    device.wait("its service", |device| device.state().contains("RUNNING")).await;
    device.wait("its line", |device| !device.starts().contains("next")).await;
    assert!(device.log().contains("\"event\":15}"), "{}", device.log());
    assert_eq!(device.gateway.seen("srv-1").certificates, 1);

    // The next start is the last of it.
    let (is_done, said) = device.updated("bad.exe", &[]).await;
    assert!(!is_done && said.contains("another update of the agent is under way"), "{said}");
    device.power_fails().await;
    device.wait("the end", Device::is_settled).await;
    assert_eq!(
        (device.installed(), device.marker()["last"]["end"].clone()),
        ("good.exe", json!("done"))
    );
    let (is_done, said) = device.updated("good.exe", &[]).await;
    assert!(is_done && said.contains("runs already"), "{said}");
    device.prefix.wine([r"C:\wardring\wardring-agent.exe", "uninstall", "--purge"]).unwrap();
    assert!(!device.path("Program Files/Wardring").exists());
    assert!(!device.path("ProgramData/Wardring").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_dies_or_never_reports_is_taken_back_and_not_tried_again() {
    let device = Device::new().await;
    let (is_done, said) = device.updated("bad.exe", &[]).await;
    assert!(!is_done && said.contains("it ended at its start"), "{said}");
    device.runs(2).await;
    assert!(device.is_settled() && device.installed() == "wardring-agent.exe");
    device.wait("its service", |device| device.state().contains("RUNNING")).await;
    assert!(device.log().contains("\"event\":16}"), "{}", device.log());
    let told = |failed: &Option<String>| failed.as_deref().is_some_and(|f| f.contains("9.9.9"));
    let seen = device.gateway.wait_for("srv-1", "the reason", |seen| {
        seen.facts.as_ref().is_some_and(|facts| told(&facts.agent_update_failed))
    });
    let failed = seen.await.facts.unwrap().agent_update_failed.unwrap();
    assert!(failed.contains("was taken back") && failed.contains("ended at its start"), "{failed}");

    let (is_done, said) = device.updated("bad.exe", &[]).await;
    assert!(!is_done && said.contains("was tried at") && said.contains("--retry"), "{said}");
    fs::write(device.path("wardring/silent"), "").unwrap();
    let (is_done, said) = device.updated("bad.exe", &["--retry", "--report-within", "10"]).await;
    assert!(!is_done && said.contains("no gateway answered it within 10 s"), "{said}");
    device.runs(3).await;
    assert!(device.is_settled() && device.installed() == "wardring-agent.exe");
    device.wait("its service", |device| device.state().contains("RUNNING")).await;

    // What is refused before anything is tried.
    let refused = |line: &[&str], why: &str| {
        let (is_done, said) =
            device.prefix.attempt(&[&[INSTALLED, "update"], line].concat()).unwrap();
        assert!(!is_done && said.contains(why), "{line:?}: {said}");
        assert!(device.is_settled(), "{line:?}");
    };
    let good = r"C:\wardring\good.exe";
    refused(&["--from", good], "with --sha256");
    refused(&["--from", good, "--sha256", &"0".repeat(64)], "fetch it again");
    refused(&["--from", r"C:\wardring\none.exe"], "failed to take the program");
    fs::write(device.path("wardring/noise.exe"), "no program").unwrap();
    let noise = sum(&device.path("wardring/noise.exe"));
    let line = ["--from", r"C:\wardring\noise.exe", "--sha256", &noise];
    refused(&line, "does not run here");
    let pending = format!(r"{WINDOWS}\Component Based Servicing\RebootPending");
    device.prefix.make_key(&pending).unwrap();
    let sum = sum(&device.path("wardring/good.exe"));
    refused(&["--from", good, "--sha256", &sum], "waits for a restart (ComponentBasedServicing)");
    let count = device.gateway.seen("srv-1").runs.len();
    assert_eq!(count, 3, "nothing that is refused stops the agent");

    // What every user of a device may tell a service ends nothing either.
    compile("control.c", &device.path("wardring/control.exe")).unwrap();
    device.prefix.wine([r"C:\wardring\control.exe"]).unwrap();
    device.wait("the word", |device| device.log().contains("told of a new program")).await;
    assert_eq!(device.gateway.seen("srv-1").runs.len(), count);

    // An older installer sets up a newer program, and puts itself in its place only when told to.
    let new = device.path("Program Files/Wardring/copy.exe");
    fs::copy(device.path("wardring/bad.exe"), &new).unwrap();
    fs::rename(&new, device.path("Program Files/Wardring/wardring-agent.exe")).unwrap();
    let install = [r"C:\wardring\wardring-agent.exe", "install"];
    let (is_done, said) = device.prefix.attempt(&install).unwrap();
    assert!(!is_done, "that program cannot be a service: {said}");
    assert_eq!(device.installed(), "bad.exe", "{said}");
    let downgrade = [&install[..], &["--allow-downgrade"]].concat();
    let (is_done, said) = device.prefix.attempt(&downgrade).unwrap();
    assert!(is_done && device.installed() == "wardring-agent.exe", "{said}");
    device.runs(count + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_failure_at_any_stage_of_an_update_there_is_an_agent() {
    let device = Device::new().await;
    for (stage, program) in [
        ("trying", "bad.exe"),
        ("trying", "good.exe"),
        ("proven", "good.exe"),
        ("hosted", "good.exe"),
        ("placed", "good.exe"),
    ] {
        let before = device.installed();
        fs::write(device.path("wardring/silent"), "").unwrap();
        let order = tokio::spawn({
            let device = device.clone();
            async move { device.updated(program, &["--retry", "--allow-downgrade"]).await }
        });
        // Some stages are over in no time; a later one is as good.
        let reached =
            ["trying", "proven", "hosted", "placed"].into_iter().skip_while(|all| *all != stage);
        let reached: Vec<_> = reached.take(if stage == "trying" { 1 } else { 4 }).collect();
        device.wait(stage, |device| reached.contains(&device.stage().as_str())).await;
        device.power_fails().await;
        let _ = order.await.unwrap();
        device.wait("the move", |device| device.stage() != "hosted").await;
        // One more start clears what only a start can.
        device.power_fails().await;
        device.wait("the end", Device::is_settled).await;
        let installed = device.installed();
        assert!(
            [before, program].contains(&installed) && installed != "bad.exe",
            "{stage}: {installed}"
        );
        assert!(device.state().contains("RUNNING"), "{stage}: {}", device.state());
        if installed == "good.exe" {
            // Back to the first one, for the next round.
            let before = device.gateway.seen("srv-1").runs.len();
            let install = [r"C:\wardring\wardring-agent.exe", "install"];
            let (is_done, said) = device.prefix.attempt(&install).unwrap();
            assert!(is_done, "{stage}: {said}");
            device.runs(before + 1).await;
            assert!(device.is_settled() && device.installed() == "wardring-agent.exe", "{stage}");
        }
    }
}
