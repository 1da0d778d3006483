//! What the controller says when it cannot start: one sentence with the next step, and nothing written.
//! The API server is played, since a real one cannot be wrong in these ways.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::response::IntoResponse;
use http::{Method, StatusCode, header};
use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};
use kube::ResourceExt;
use serde_json::{Value, json};
use wardring_api::crd::all_crds;

const BINARY: &str = env!("CARGO_BIN_EXE_wardring-controller");

/// What is wrong with the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Credentials,
    /// Seconds that its clock is ahead of ours.
    Clock(i64),
    NoCrds,
    ForbiddenCrds,
    /// One of the CRDs lacks a field.
    OldCrds,
    NoNamespace,
    /// The roles are those of another namespace.
    ForbiddenSecret,
}

/// The API server's answer to a read.
fn answer(wrong: Wrong, path: &str) -> (StatusCode, Value) {
    let failure = |code: StatusCode| {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(),
            "reason": code.canonical_reason().unwrap_or_default().replace(' ', ""),
            "message": "made up by a test",
        });
        (code, status)
    };
    let name = path.rsplit('/').next().unwrap_or_default();
    match wrong {
        Wrong::Credentials => failure(StatusCode::UNAUTHORIZED),
        _ if path == "/version" => (StatusCode::OK, json!({ "major": "1", "minor": "36" })),
        Wrong::NoCrds => failure(StatusCode::NOT_FOUND),
        Wrong::ForbiddenCrds => failure(StatusCode::FORBIDDEN),
        Wrong::ForbiddenSecret if path.ends_with("/secrets/wardring-ca") => {
            failure(StatusCode::FORBIDDEN)
        }
        Wrong::ForbiddenSecret if path.starts_with("/api/v1/namespaces/") => {
            (StatusCode::OK, json!({ "metadata": { "name": name } }))
        }
        _ => match all_crds().into_iter().find(|crd| crd.name_any() == name) {
            Some(crd) => {
                let mut crd = json!(crd);
                let status = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties";
                if wrong == Wrong::OldCrds && name.starts_with("patchledgers") {
                    crd.pointer_mut(status).unwrap().as_object_mut().unwrap().remove("batch");
                }
                (StatusCode::OK, crd)
            }
            None => failure(StatusCode::NOT_FOUND),
        },
    }
}

/// Plays the API server; gives its address and the writes that it saw.
async fn play(wrong: Wrong) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let writes = Arc::new(Mutex::new(Vec::new()));
    let seen = writes.clone();
    let serve = move |request: axum::extract::Request| {
        let path = request.uri().path().to_owned();
        if request.method() != Method::GET {
            seen.lock().unwrap().push(format!("{} {path}", request.method()));
        }
        let (code, body) = answer(wrong, &path);
        let ahead = if let Wrong::Clock(seconds) = wrong { seconds } else { 0 };
        let time = Timestamp::now() + SignedDuration::from_secs(ahead);
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
    (address, writes)
}

/// Starts the controller against an API server at `address` and waits until it gave up.
async fn start(address: SocketAddr, more: &[&str]) -> Output {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let kubeconfig = folder.join(format!("start-{}.kubeconfig", address.port()));
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{ "name": "c", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "u", "user": {} }],
        "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    run(kubeconfig, more).await
}

async fn run(kubeconfig: PathBuf, more: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.env("KUBECONFIG", kubeconfig).env_remove("KUBERNETES_SERVICE_HOST");
    if !more.contains(&"--http-listen") {
        command.args(["--http-listen", "127.0.0.1:0"]);
    }
    command.args(["--presence-listen", "127.0.0.1:0"]).args(more);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The one sentence at the end.
#[track_caller]
fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "it says that it is ready");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let errors: Vec<_> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    errors[0].to_owned()
}

#[tokio::test]
async fn a_cluster_that_cannot_be_worked_with_ends_the_start_in_one_sentence() {
    for (wrong, sentence) in [
        (Wrong::Credentials, "does not accept our credentials: renew the token"),
        (Wrong::Clock(3 * 60 * 60), "clock is 3 h behind the API server's: set it right"),
        (Wrong::Clock(-600), "clock is 10 min ahead of the API server's: set it right"),
        (Wrong::NoCrds, "is missing: apply the chart's crds/ folder first"),
        (Wrong::ForbiddenCrds, "install the chart's roles for this service account"),
        (Wrong::NoNamespace, "namespace wardring-system does not exist: create it with `kubectl"),
        (Wrong::ForbiddenSecret, "not allowed to read the CA Secret in namespace wardring-system"),
        (Wrong::OldCrds, "older than this controller (1 fields are missing, such as status.batch)"),
    ] {
        let (address, writes) = play(wrong).await;
        let complaint = complaint(&start(address, &[]).await);
        assert!(complaint.contains(sentence), "{wrong:?}: {complaint}");
        assert!(!complaint.contains("Status {"), "{wrong:?}: {complaint}");
        assert_eq!(*writes.lock().unwrap(), Vec::<String>::new(), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_told_from_one_that_is_not_configured() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = complaint(&start(free, &[]).await);
    assert!(dead.contains("cannot be reached: check the kubeconfig's address"), "{dead}");

    let none = complaint(&run(PathBuf::from("no-such-file"), &[]).await);
    assert!(none.contains("set KUBECONFIG to a readable file"), "{none}");
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();

    let complaint = complaint(&start(address, &["--http-listen", &address.to_string()]).await);

    let sentence = format!("cannot listen on {address}: choose a free address with --http-listen");
    assert!(complaint.contains(&sentence), "{complaint}");
}

#[tokio::test]
async fn settings_with_which_nobody_could_lead_are_refused_before_anything_is_asked_for() {
    for (flags, sentence) in [
        (
            ["--lease-duration=1s", "--lease-renew=5s"],
            "--lease-renew 5s is too slow for --lease-duration 1s: choose at most half",
        ),
        (["--lease-duration=10s", "--lease-renew=5001ms"], "choose at most half"),
        (["--lease-duration=0s", "--lease-renew=0s"], "--lease-duration is zero: give it a span"),
        (["--lease-duration=15s", "--lease-renew=0s"], "--lease-renew is zero: give it a span"),
        (["--lease-duration=1900ms", "--lease-renew=500ms"], "not a number of whole seconds"),
        (["--offline-after=0s", "--lease-renew=5s"], "--offline-after is zero: give it a span"),
    ] {
        let complaint = complaint(&run(PathBuf::from("no-such-file"), &flags).await);
        assert!(complaint.contains(sentence), "{flags:?}: {complaint}");
    }
    // The slowest renewal that is taken: the next complaint is about the cluster.
    let flags = ["--lease-duration=10s", "--lease-renew=5s"];
    let none = complaint(&run(PathBuf::from("no-such-file"), &flags).await);
    assert!(none.contains("set KUBECONFIG to a readable file"), "{none}");
}

#[tokio::test]
async fn a_host_for_which_no_certificate_can_be_made_is_refused_by_name() {
    let start = async |host: &str| {
        let flags = ["--gateway-host=patch.clinic", &format!("--gateway-host={host}")];
        complaint(&run(PathBuf::from("no-such-file"), &flags).await)
    };
    for host in ["bad host", "https://patch.clinic", "patch.clinic:8443", "patch.clinic.", "", "*"]
    {
        let complaint = start(host).await;
        let sentence = format!("--gateway-host {host:?} is neither a DNS name nor an IP address");
        assert!(complaint.contains(&sentence), "{complaint}");
    }
    for host in ["PATCH_01", "*.clinic", "10.0.0.7", "fd00::7", "wardring-gateway.a.svc"] {
        let complaint = start(host).await;
        assert!(complaint.contains("set KUBECONFIG to a readable file"), "{host}: {complaint}");
    }
}
