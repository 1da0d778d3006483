//! The binary itself: what it says when it is ready, when it cannot start, and when it is stopped.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::{
    net::TcpListener,
    process::{Command, Stdio},
};

const BINARY: &str = env!("CARGO_BIN_EXE_wardring-gateway");

/// A kubeconfig for an API server that nobody runs.
fn nowhere() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "
apiVersion: v1
kind: Config
clusters: [{ name: c, cluster: { server: \"http://127.0.0.1:1\" } }]
users: [{ name: u, user: {} }]
contexts: [{ name: x, context: { cluster: c, user: u } }]
current-context: x
";
    std::fs::write(file.path(), text).unwrap();
    file
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
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&address) && text.contains("using the port"), "{text}");
    assert!(output.stdout.is_empty());
}

#[test]
fn without_a_cluster_it_says_how_to_name_one() {
    let output = Command::new(BINARY)
        .env("KUBECONFIG", "no-such-file")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
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
