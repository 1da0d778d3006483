//! The binary itself: what it says when it is ready, when it cannot start, and when it is stopped.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, response::IntoResponse};
use http::{StatusCode, header};
use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_wardring-gateway");

/// A kubeconfig for an API server that nobody runs.
fn nowhere() -> tempfile::NamedTempFile {
    kubeconfig_for(SocketAddr::from(([127, 0, 0, 1], 1)))
}

fn kubeconfig_for(server: SocketAddr) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{ "name": "c", "cluster": { "server": format!("http://{server}") } }],
        "users": [{ "name": "u", "user": {} }],
        "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
    });
    std::fs::write(file.path(), text.to_string()).unwrap();
    file
}

/// What is wrong with a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Credentials,
    NoCrds,
    NoNamespace,
    NoRoles,
    NoRolesInNamespace,
    /// Answers this many requests with an internal error.
    Broken(usize),
    /// Seconds that its clock is behind ours.
    Clock(i64),
}

/// The API server's answer to a read, the `number`th that it gives.
fn answer(wrong: Wrong, path: &str, number: usize) -> (StatusCode, Value) {
    let code = match wrong {
        Wrong::Credentials => StatusCode::UNAUTHORIZED,
        Wrong::NoCrds if path.contains("wardring.dev") => StatusCode::NOT_FOUND,
        Wrong::NoNamespace if path.starts_with("/api/v1/namespaces/") => StatusCode::NOT_FOUND,
        Wrong::NoRoles if path != "/version" => StatusCode::FORBIDDEN,
        Wrong::NoRolesInNamespace if path.contains("/configmaps/") => StatusCode::FORBIDDEN,
        Wrong::Broken(times) if number < times => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::OK,
    };
    let body = json!({
        "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "1" }, "items": [],
    });
    (code, body)
}

/// Plays an API server, which a real one cannot be wrong in these ways; counts its answers.
async fn play(wrong: Wrong) -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::<AtomicUsize>::default();
    let counted = count.clone();
    let serve = move |request: axum::extract::Request| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        let (code, body) = answer(wrong, request.uri().path(), number);
        let behind = if let Wrong::Clock(seconds) = wrong { seconds } else { 0 };
        let time = Timestamp::now() - SignedDuration::from_secs(behind);
        let date = jiff::fmt::rfc2822::to_string(&Zoned::new(time, TimeZone::UTC)).unwrap();
        async move {
            let headers = [
                (header::CONTENT_TYPE, "application/json".to_owned()),
                (header::DATE, date.replace("+0000", "GMT")),
            ];
            (code, headers, body.to_string()).into_response()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(serve);
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, count)
}

/// A gateway of this kubeconfig.
fn command(kubeconfig: &tempfile::NamedTempFile) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--name", "gw-1"])
        .env("KUBECONFIG", kubeconfig.path())
        .env("RUST_BACKTRACE", "1")
        .env_remove("RUST_LOG");
    command
}

/// The one sentence at the end.
#[track_caller]
fn complaint(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(output.stdout.is_empty(), "it says that it is ready");
    let is_log = |line: &&str| line.contains("presence is not sent");
    let lines: Vec<_> = text.lines().filter(|line| !is_log(line)).collect();
    assert!(lines.len() == 1 && lines[0].starts_with("error: "), "{text}");
    lines[0].to_owned()
}

/// The first line of a log that contains a text, and all lines up to it.
fn log_until(child: &mut Child, wanted: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(child.stderr.as_mut().unwrap()).lines() {
        lines.push(line.unwrap());
        if lines.last().is_some_and(|line| line.contains(wanted)) {
            return lines;
        }
    }
    panic!("the log ended without {wanted:?}: {lines:#?}");
}

#[tokio::test]
async fn a_cluster_that_cannot_be_worked_with_ends_the_start_in_one_sentence() {
    for (wrong, sentence) in [
        (Wrong::Credentials, "does not accept our credentials: renew the token"),
        (Wrong::NoCrds, "devices.wardring.dev is missing: apply the chart's crds/ folder first"),
        (Wrong::NoNamespace, "namespace nope does not exist: name the installation's with --sys"),
        (Wrong::NoRoles, "not allowed to read namespaces: install the chart's roles"),
        (Wrong::NoRolesInNamespace, "namespace nope: name the installation's namespace with --sys"),
    ] {
        let (address, _) = play(wrong).await;
        let kubeconfig = kubeconfig_for(address);
        let mut command = command(&kubeconfig);
        command.args(["--system-namespace", "nope"]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let complaint = complaint(&output);
        assert!(complaint.contains(sentence), "{wrong:?}: {complaint}");
    }
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_waited_for_with_one_line() {
    let (address, count) = play(Wrong::Broken(6)).await;
    let kubeconfig = kubeconfig_for(address);
    let mut child = command(&kubeconfig).stderr(Stdio::piped()).spawn().unwrap();
    let (mut child, log) = tokio::task::spawn_blocking(move || {
        let log = log_until(&mut child, "the API server answers");
        (child, log)
    })
    .await
    .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();

    assert!(count.load(Ordering::Relaxed) > 6);
    let said: Vec<_> = log.iter().filter(|line| line.contains("cannot be reached")).collect();
    assert_eq!(said.len(), 1, "{log:#?}");
    assert!(log.len() <= 3, "{log:#?}");
}

#[tokio::test]
async fn a_gateway_whose_clock_is_off_is_not_ready_and_says_that_it_is_its_own() {
    let (address, _) = play(Wrong::Clock(5 * 60 * 60)).await;
    let kubeconfig = kubeconfig_for(address);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = command(&kubeconfig);
    command.args(["--http-listen", &free.to_string()]).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let sentence = "The clock of gateway gw-1 is 5 h ahead of the API server's";
    let mut child = tokio::task::spawn_blocking(move || {
        log_until(&mut child, sentence);
        child
    })
    .await
    .unwrap();

    // Another test of this process may have done so already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let answer = reqwest::get(format!("http://{free}/readyz")).await.unwrap();
    let (code, text) = (answer.status(), answer.text().await.unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains(sentence), "{text}");
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let kubeconfig = nowhere();
    let output = Command::new(BINARY)
        .args(["--listen", &address, "--http-listen", "127.0.0.1:0"])
        .env("KUBECONFIG", kubeconfig.path())
        .output()
        .unwrap();
    let text = complaint(&output);
    assert!(text.contains(&address) && text.contains("using the port"), "{text}");
    assert!(text.contains("choose a free address with --listen"), "{text}");
}

#[test]
fn without_a_cluster_it_says_how_to_name_one() {
    let output = Command::new(BINARY)
        .env("KUBECONFIG", "no-such-file")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let text = complaint(&output);
    assert!(text.contains("set KUBECONFIG"), "{text}");
}

#[test]
fn an_unknown_flag_or_a_wrong_span_is_explained() {
    for (flag, value) in [("--colour", "red"), ("--poll-interval", "soon")] {
        let output = Command::new(BINARY).args([flag, value]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(flag), "{text}");
    }
}

#[test]
fn it_stops_on_sigterm_also_while_it_still_waits_for_the_cluster() {
    let kubeconfig = nowhere();
    let mut child = Command::new(BINARY)
        .args(["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--drain", "2s"])
        .env("KUBECONFIG", kubeconfig.path())
        .env("RUST_LOG", "info")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first line of the log says that the process has begun.
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut log, &mut line).unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
