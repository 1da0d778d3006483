//! What the agent costs a device that has nothing to do: memory and wake-ups, of the build for Linux
//! on a scripted device and of the one for Windows under Wine, and the size of that one. Real TLS to a
//! gateway that holds polls as long as it is asked to.
//!
//! Prints one JSON object; `cargo xtask bench agent` compares it with its limits.

#![allow(clippy::unwrap_used, reason = "a measurement may panic")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use wardring_protocol::Facts;
use wardring_seal::{Action, Check, OutcomeResult, Probe};
use wardring_wine_tests::fakewua::FakeWua;
use wardring_wine_tests::gateway::{Seen, TestGateway};
use wardring_wine_tests::jobs::job;
use wardring_wine_tests::prefix::{Agent, Prefix, build_optimised};

/// After its first reports an agent rests so long before it is measured.
const REST: Duration = Duration::from_secs(20);
/// Two polls of the default length and a little: each round has the same number of them.
const ROUND: Duration = Duration::from_secs(112);
const ROUNDS: usize = 3;
/// Name of the device whose last installation is looked after.
const WATCHED: &str = "watched";
/// Updates of a device that is looked after, and of one whose Windows Update knows far too many.
const FEW: usize = 20;
const MANY: usize = 2_000;

/// A process that ends with the value.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Resident memory of a process now, or at its peak, in MiB.
fn memory(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    field_of(&status, field) / 1024.0
}

/// How often the threads of a process were woken up so far: each time, they had gone to sleep by
/// themselves before.
fn wakeups(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    let statuses = tasks.filter_map(|task| status(task.unwrap()));
    statuses.map(|status| field_of(&status, "voluntary_ctxt_switches:")).sum()
}

fn field_of(status: &str, field: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Wake-ups per minute and resident memory of an idle agent, once per round.
async fn idle(pid: u32) -> (Vec<f64>, Vec<f64>) {
    tokio::time::sleep(REST).await;
    let (mut woken, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = wakeups(pid);
        tokio::time::sleep(ROUND).await;
        woken.push((wakeups(pid) - before) * 60.0 / ROUND.as_secs_f64());
        resident.push(memory(pid, "VmRSS:"));
    }
    (woken, resident)
}

/// The agent on Linux, on a scripted device.
fn on_linux(program: &Path, gateway: &TestGateway, folder: &Path, name: &str) -> Ends {
    let (world, data) = (folder.join(format!("{name}.yaml")), folder.join(name));
    let server = "{product: Windows Server 2022, build: '20348.2700', services: {W32Time: Running}, \
                  updates: [{kb: KB5068787, targetBuild: '20348.2762', rebootRequired: false}]}";
    fs::write(&world, server).unwrap();
    let mut command = Command::new(program);
    command.args(["run", "--gateway", &gateway.url(), "--token", &gateway.token.reveal()]);
    command.args(["--name", name, "--data-dir"]).arg(data);
    command.arg("--world").arg(world).stdout(Stdio::null()).stderr(Stdio::null());
    Ends(command.spawn().unwrap())
}

/// An installation is proven on the watched device, and looked after from then on: a service and a probe.
async fn prove(gateway: &TestGateway) {
    gateway.wait_for(WATCHED, "facts", |seen| seen.facts.is_some()).await;
    let mut job = job(1, Action::Install);
    WATCHED.clone_into(&mut job.device);
    job.health.services = vec!["W32Time".to_owned()];
    let check = Check::Tcp { host: None, port: 443 };
    job.health.probes = vec![Probe { name: "web".to_owned(), timeout_ms: 1_000, check }];
    gateway.give(WATCHED, job);
    let is_watched = |facts: &Facts| !facts.health.is_empty();
    let seen = gateway.wait_for(WATCHED, "to be looked after", |seen| {
        !seen.outcomes.is_empty() && seen.facts.as_ref().is_some_and(is_watched)
    });
    let outcomes = seen.await.outcomes;
    assert_eq!(outcomes[0].result, OutcomeResult::Succeeded, "{outcomes:?}");
}

/// The agent under Wine, after its first scan of so many updates.
async fn scanned(
    program: &Path,
    gateway: &TestGateway,
    name: &str,
    count: usize,
) -> (Prefix, Agent) {
    let prefix = Prefix::create(program).unwrap();
    FakeWua::install(&prefix, &updates(count)).unwrap();
    let (url, token) = (gateway.url(), gateway.token.reveal());
    let fixed = ["--name", name, "--data-dir", r"C:\wardring\data"];
    let line = ["run", "--gateway", &url, "--token", &token].into_iter().chain(fixed);
    let agent = prefix.start_agent(line).unwrap();
    let is_scanned = |facts: &Facts| facts.last_scan.is_some();
    let scanned = |seen: &Seen| seen.facts.as_ref().is_some_and(is_scanned);
    gateway.wait_for(name, "a scan", scanned).await;
    (prefix, agent)
}

/// What Windows Update knows of a device, by the number of its updates.
fn updates(count: usize) -> Value {
    let update = |number: usize| {
        json!({
            "id": format!("cccccccc-0000-0000-0000-{number:012}"), "revision": 200,
            "kbs": [format!("5{number:06}")], "isInstalled": number > 2,
            "title": format!("2026-11 Cumulative Update for Windows Server 2022 (KB5{number:06})"),
        })
    };
    json!({ "updates": (0..count).map(update).collect::<Vec<_>>() })
}

#[tokio::main]
async fn main() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let program = build_optimised(false).unwrap();
    let linux = on_linux(&program, &gateway, folder.path(), "linux");
    let watched = on_linux(&program, &gateway, folder.path(), WATCHED);
    gateway.wait_for("linux", "facts", |seen| seen.facts.is_some()).await;
    prove(&gateway).await;

    let program = build_optimised(true).unwrap();
    let (_many, many) = scanned(&program, &gateway, "many", MANY).await;
    let scan = memory(many.pid(), "VmHWM:");
    drop(many);
    let (_prefix, agent) = scanned(&program, &gateway, "wine", FEW).await;
    let growth = scan - memory(agent.pid(), "VmHWM:");
    let rest = (idle(linux.0.id()), idle(watched.0.id()), idle(agent.pid()));
    let ((woken, resident), watched, wine) = tokio::join!(rest.0, rest.1, rest.2);
    let size = fs::metadata(&program).unwrap().len() as f64 / (1024.0 * 1024.0);
    let result = json!({
        "size": [size],
        "resident": resident,
        "woken": woken,
        "watchedResident": watched.1,
        "watchedWoken": watched.0,
        "scanGrowth": [growth],
        "wineResident": wine.1,
        "wineWoken": wine.0,
    });
    println!("{result}");
}
