//! Nothing outlives the process that started it: no process, no directory with keys in it.

#![expect(clippy::unwrap_used, reason = "helpers of tests may, as tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use wardring_harness::process::{is_alive, wait_until_gone};
use wardring_harness::{DevCluster, Process, tools, wait_until, wait_until_ok};

const LIMIT: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct Ready {
    dir: PathBuf,
    pids: BTreeMap<String, u32>,
}

/// A shell that runs `up` as its child and holds the other end of its standard input.
async fn parent_of_up(base: &Path) -> (Process, Ready) {
    let script = r#"
        mkfifo "$1/stdin"
        exec 3<>"$1/stdin"
        "$0" up --die-with-parent --dir "$1" <"$1/stdin" 3>&- &
        wait
    "#;
    let binary = tokio::task::spawn_blocking(tools::devcluster).await.unwrap().unwrap();
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(binary.path).arg(base);
    let mut parent = Process::spawn("parent", command, &base.join("up.log")).unwrap();
    let line = parent.wait_for_line(LIMIT, "kubeconfig").await.unwrap();
    (parent, serde_json::from_str(&line).unwrap())
}

fn pids(ready: &Ready) -> Vec<u32> {
    ready.pids.values().copied().collect()
}

#[tokio::test]
async fn a_parent_killed_with_9_leaves_no_process_and_no_directory() {
    let base = tempfile::tempdir().unwrap();
    let (mut parent, ready) = parent_of_up(base.path()).await;
    assert!(pids(&ready).into_iter().all(is_alive));

    parent.kill().unwrap();

    wait_until_gone(&pids(&ready)).await.unwrap();
    assert!(!ready.dir.exists());
}

#[tokio::test]
async fn up_killed_with_9_leaves_no_process_and_the_next_start_removes_its_directory() {
    let base = tempfile::tempdir().unwrap();
    let (_parent, killed) = parent_of_up(base.path()).await;

    rustix::process::kill_process(
        rustix::process::Pid::from_raw(killed.pids["up"] as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();

    wait_until_gone(&pids(&killed)).await.unwrap();
    assert!(killed.dir.exists());
    fs::remove_file(base.path().join("stdin")).unwrap();
    fs::remove_file(base.path().join("up.log")).unwrap();
    let (_other_parent, next) = parent_of_up(base.path()).await;
    assert!(!killed.dir.exists());
    // What a living run holds is not swept.
    fs::remove_file(base.path().join("stdin")).unwrap();
    fs::remove_file(base.path().join("up.log")).unwrap();
    let (_third_parent, _) = parent_of_up(base.path()).await;
    assert!(next.dir.exists());
}

#[tokio::test]
async fn a_cluster_that_is_dropped_takes_everything_with_it() {
    let cluster = DevCluster::start().await.unwrap();
    let pids: Vec<u32> = cluster.pids().await.unwrap().into_values().collect();
    let folder = cluster.folder().unwrap().to_owned();
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);

    drop(cluster);

    wait_until_gone(&pids).await.unwrap();
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_component_that_fails_ends_the_run_with_its_reason() {
    let base = tempfile::tempdir().unwrap();
    let (parent, ready) = parent_of_up(base.path()).await;

    rustix::process::kill_process(
        rustix::process::Pid::from_raw(ready.pids["etcd"] as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();

    wait_until_gone(&pids(&ready)).await.unwrap();
    assert!(parent.log().contains("etcd ended by itself (signal: killed)"), "{}", parent.log());
}

#[tokio::test]
async fn a_second_start_builds_nothing() {
    let build = || tokio::task::spawn_blocking(tools::devcluster);
    build().await.unwrap().unwrap();
    let started = std::time::Instant::now();

    let tool = build().await.unwrap().unwrap();
    let cluster = DevCluster::start().await.unwrap();

    // Printed and not asserted: the machine may be busy.
    println!("a second start took {:?}", started.elapsed());
    assert_eq!(tool.origin, tools::Origin::Cached);
    cluster.stop().await.unwrap();
}

/// Set for this test binary when it plays the process that is killed.
const VICTIM: &str = "WARDRING_TEST_VICTIM_FOLDER";

#[tokio::test]
async fn a_test_killed_with_9_takes_the_processes_it_started_with_it() {
    if let Some(folder) = std::env::var_os(VICTIM) {
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        let sleeper =
            Process::spawn("sleeper", sleep, &Path::new(&folder).join("sleeper")).unwrap();
        println!("sleeper={}.", sleeper.pid());
        std::future::pending::<()>().await;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let this_test = "a_test_killed_with_9_takes_the_processes_it_started_with_it";
    command.args(["--exact", this_test, "--nocapture"]).env(VICTIM, folder.path());
    let mut victim = Process::spawn("victim", command, &folder.path().join("victim")).unwrap();
    let line = victim.wait_for_line(LIMIT, "sleeper=").await.unwrap();
    let (_, pid) = line.split_once("sleeper=").unwrap();
    let pid = pid.split('.').next().unwrap().parse().unwrap();
    assert!(is_alive(pid));

    victim.kill().unwrap();

    wait_until_gone(&[pid]).await.unwrap();
}

#[tokio::test]
async fn a_process_outlives_the_thread_that_asked_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let asking = std::thread::spawn(move || {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::spawn("sleeper", command, &log).unwrap()
    });

    let mut sleeper = asking.join().unwrap();

    assert!(sleeper.is_running());
    let pid = sleeper.pid();
    drop(sleeper);
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_frozen_process_does_nothing_until_it_is_thawed() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do date +%s%N; done"]);
    let mut clock = Process::spawn("clock", command, &folder.path().join("log")).unwrap();
    wait_until(LIMIT, "a first line", async || clock.log().lines().next().map(drop)).await.unwrap();

    clock.freeze().unwrap();
    wait_until_ok(LIMIT, "the process to be stopped", async || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", clock.pid())).unwrap();
        if stat.contains(") T ") { Ok(()) } else { Err(stat) }
    })
    .await
    .unwrap();
    let length = clock.log().len();
    assert!(clock.is_running());

    clock.thaw().unwrap();
    wait_until(LIMIT, "more lines", async || (clock.log().len() > length).then_some(()))
        .await
        .unwrap();
    clock.kill().unwrap();
}

#[tokio::test]
async fn a_process_that_ends_without_the_line_waited_for_is_an_error_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo one thing; exit 3"]);
    let mut process = Process::spawn("talker", command, &folder.path().join("log")).unwrap();

    let line = process.wait_for_line(LIMIT, "one").await.unwrap();
    let error = process.wait_for_line(LIMIT, "another").await.unwrap_err().to_string();

    assert_eq!(line, "one thing");
    assert!(error.contains("talker ended without printing \"another\""), "{error}");
    assert_eq!(process.wait_for_exit(LIMIT).await.unwrap().code(), Some(3));
}
