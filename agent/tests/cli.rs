//! What a person reads when the agent cannot do what it is asked, from the real program: one
//! sentence with the next step, and a failing exit code.

#![cfg(all(unix, feature = "scripted"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use wardring_agent::journal::SCHEMA;
use wardring_seal::tls::{Clients, server_config};
use wardring_seal::{Authority, Token};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wardring-agent");
const NOBODY: u32 = 65_534;

/// A device that was never switched on, and what its agent is told.
struct Device {
    folder: tempfile::TempDir,
    gateway: String,
    token: String,
    /// Another user to run as, with a program that this user may start.
    user: Option<(u32, PathBuf)>,
}

impl Device {
    fn new(gateway: &str, token: &str) -> Device {
        let folder = tempfile::tempdir().unwrap();
        let world = "{product: Windows Server 2022, build: '20348.2700'}";
        fs::write(folder.path().join("world.yaml"), world).unwrap();
        Device { folder, gateway: gateway.to_owned(), token: token.to_owned(), user: None }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Lets a user without rights run the agent, whoever runs the tests.
    fn run_by_nobody(mut self) -> Device {
        fs::set_permissions(self.folder.path(), Permissions::from_mode(0o755)).unwrap();
        if fs::metadata(self.folder.path()).unwrap().uid() == 0 {
            let program = self.folder.path().join("wardring-agent");
            // By another process: a test that starts a program meanwhile would inherit our open file, and
            // a file that is open for writing cannot be started.
            assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().unwrap().success());
            self.user = Some((NOBODY, program));
        }
        self
    }

    fn command(&self) -> Command {
        match &self.user {
            Some((user, program)) => {
                let mut command = Command::new(program);
                command.uid(*user).gid(*user);
                command
            }
            None => Command::new(PROGRAM),
        }
    }

    fn run(&self) -> Failure {
        let mut command = self.command();
        command.args(["run", "--name", "srv-1", "--enrol-within", "0"]);
        command.args(["--gateway", &self.gateway, "--token", &self.token]);
        command.arg("--data-dir").arg(self.data());
        command.arg("--world").arg(self.folder.path().join("world.yaml"));
        Failure::of(command)
    }

    fn status(&self) -> Failure {
        let mut command = self.command();
        command.args(["status", "-o", "json", "--data-dir"]).arg(self.data());
        Failure::of(command)
    }
}

/// How the program ended.
struct Failure {
    /// The one sentence.
    sentence: String,
    stdout: String,
    stderr: String,
}

impl Failure {
    fn of(command: Command) -> Failure {
        let Output { status, stdout, stderr } = ended(command);
        let stdout = String::from_utf8(stdout).unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        let sentences: Vec<&str> =
            stderr.lines().filter_map(|line| line.strip_prefix("wardring-agent: ")).collect();
        let [sentence] = sentences[..] else { panic!("not one sentence: {stderr}") };
        assert_eq!(stderr.lines().last(), Some(format!("wardring-agent: {sentence}").as_str()));
        Failure { sentence: sentence.to_owned(), stdout, stderr }
    }

    #[track_caller]
    fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.sentence.contains(part), "no {part:?} in: {}", self.sentence);
        }
    }
}

/// Waits for a program that must end by itself: when both of its ends are closed.
fn ended(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (said, heard) = mpsc::channel();
    thread::spawn(move || {
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).map(|_| text)
        });
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).unwrap();
        // Nobody listens any more when it took too long.
        let _ = said.send((text, errors.join().unwrap().unwrap()));
    });
    let Ok((stdout, stderr)) = heard.recv_timeout(Duration::from_secs(60)) else {
        child.kill().unwrap();
        child.wait().unwrap();
        let (_, stderr) = heard.recv().unwrap();
        panic!("it does not end: {}", String::from_utf8_lossy(&stderr));
    };
    Output { status: child.wait().unwrap(), stdout, stderr }
}

fn authority() -> Authority {
    Authority::create(Timestamp::now() - SignedDuration::from_hours(48)).unwrap()
}

fn token_of(authority: &Authority) -> String {
    Token::generate("clinic", "ward-3", authority.roots().fingerprint()).unwrap().reveal()
}

/// A server whose certificate is valid for two hours from `since` on.
fn tls(authority: &Authority, host: &str, since: Timestamp) -> Arc<ServerConfig> {
    let life = SignedDuration::from_hours(2);
    let serving = authority.issue_serving(&[host.to_owned()], since, life).unwrap();
    let config = server_config(Clients::Anonymous, &serving.chain_pem, &serving.key_pem);
    Arc::new(config.unwrap())
}

/// Serves every connection in a thread of its own, as long as the test runs; its URL.
fn serve(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || answer(stream));
        }
    });
    format!("https://{address}")
}

/// Serves this body to every request over TLS. A client that goes away is none of its business.
fn serve_tls(config: Arc<ServerConfig>, body: &'static str) -> String {
    serve(move |tcp| {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp);
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        // The claim is the only thing in braces, and ends the request.
        while !request.ends_with(b"}") {
            match stream.read(&mut buffer) {
                Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
                _ => return,
            }
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
        let _ = write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.conn.send_close_notify();
        let _ = stream.flush();
    })
}

/// A port that nobody listens on.
fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("https://{}", listener.local_addr().unwrap())
}

fn write_journal(device: &Device, layout: u32) -> PathBuf {
    let body = "{}";
    let crc = crc32fast::hash(body.as_bytes());
    let text = format!("wardring-journal {layout} {} {crc:08x}\n{body}", body.len());
    fs::create_dir_all(device.data()).unwrap();
    let path = device.data().join("journal");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_token_that_is_none_is_named_and_never_repeated() {
    let token = token_of(&authority());
    let cut = &token[..token.len() - 5];
    for (text, part) in [
        ("hunter2-hunter2", "copy it whole"),
        (cut, "fingerprint is damaged; copy the token again"),
        (&token.replace("clinic/ward-3", "Clinic Ward"), "<namespace>"),
    ] {
        let failure = Device::new(&closed_port(), text).run();
        failure.says(&["the token cannot be used"]);
        if !part.starts_with('<') {
            failure.says(&[part]);
        }
        for secret in text.split('.').filter(|part| part.len() > 10) {
            assert!(!failure.stderr.contains(secret), "{}", failure.stderr);
        }
    }
}

#[test]
fn a_device_without_a_token_learns_where_tokens_come_from() {
    let device = Device::new(&closed_port(), "");
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--name", "srv-1", "--gateway", &device.gateway]).arg("--data-dir");
    command.arg(device.data()).arg("--world").arg(device.folder.path().join("world.yaml"));
    Failure::of(command).says(&["--token", "kubectl wardring enroll"]);
}

#[test]
fn a_gateway_of_another_controller_ends_the_enrolment_at_once() {
    let (ours, theirs) = (authority(), authority());
    let url = serve_tls(tls(&theirs, "127.0.0.1", Timestamp::now()), "{}");
    let failure = Device::new(&url, &token_of(&ours)).run();
    failure.says(&[&url, "does not lead to the root", "the token was made by"]);
}

#[test]
fn a_gateway_under_another_name_is_told_from_a_stranger() {
    let authority = authority();
    let url = serve_tls(tls(&authority, "gateway.example", Timestamp::now()), "{}");
    Device::new(&url, &token_of(&authority)).run().says(&[&url, "is for another host"]);
}

#[test]
fn addresses_that_are_none_are_shown_as_they_must_look() {
    let token = token_of(&authority());
    for text in ["gateway.example:8443", "http://gateway.example", "https://"] {
        let failure = Device::new(text, &token).run();
        failure.says(&[&format!("`{text}` is not a gateway address"), "https://HOST:PORT"]);
    }
}

#[test]
fn a_port_that_refuses_and_one_that_speaks_no_tls_are_named() {
    let token = token_of(&authority());
    let url = closed_port();
    let failure = Device::new(&url, &token).run();
    failure.says(&["no gateway accepted this device", "check --gateway", &url, "refused"]);

    let url = serve(|mut stream| {
        let mut request = [0; 16];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
    });
    Device::new(&url, &token).run().says(&[&url, "does not speak TLS 1.3", "address and port"]);
}

#[test]
fn a_clock_that_is_off_by_hours_is_named_with_what_it_says() {
    let authority = authority();
    let today = Timestamp::now().strftime("%Y-%m-%d").to_string();
    // To a device whose clock is right, a certificate of another time is what every certificate is
    // to a device whose clock is wrong.
    for (hours, validity) in [(5, "not valid yet"), (-5, "expired")] {
        let since = Timestamp::now() + SignedDuration::from_hours(hours);
        let url = serve_tls(tls(&authority, "127.0.0.1", since), "{}");
        let failure = Device::new(&url, &token_of(&authority)).run();
        failure.says(&[&url, validity, "by this device's clock", &today, "set the clock"]);
    }
    let refusal = r#"{"state":"refused","reason":"StaleClaim",
        "message":"the claim was signed 5 h before it was filed; check the device's clock"}"#;
    let url = serve_tls(tls(&authority, "127.0.0.1", Timestamp::now()), refusal);
    let failure = Device::new(&url, &token_of(&authority)).run();
    failure.says(&["enrolment was refused (StaleClaim)", "check the device's clock"]);
}

#[test]
fn a_controller_that_never_answers_is_named() {
    let authority = authority();
    let pending = r#"{"state":"pending","retryMs":100}"#;
    let url = serve_tls(tls(&authority, "127.0.0.1", Timestamp::now()), pending);
    let failure = Device::new(&url, &token_of(&authority)).run();
    failure.says(&["filed", "no controller answered", "check that the controller runs"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let device = Device::new(&closed_port(), &token_of(&authority())).run_by_nobody();
    fs::create_dir(device.data()).unwrap();
    fs::set_permissions(device.data(), Permissions::from_mode(0o555)).unwrap();
    let name = device.data().display().to_string();
    device.run().says(&[&name, "Permission denied", "let the agent's account write", "--data-dir"]);
    // Not even a folder.
    fs::remove_dir(device.data()).unwrap();
    fs::write(device.data(), "a file").unwrap();
    device.run().says(&[&name, "failed to use the data folder"]);
}

#[test]
fn a_folder_that_belongs_to_somebody_else_is_refused() {
    let device = Device::new(&closed_port(), &token_of(&authority())).run_by_nobody();
    if device.user.is_none() {
        // Only root can make a folder that is somebody else's.
        return;
    }
    fs::create_dir(device.data()).unwrap();
    fs::set_permissions(device.data(), Permissions::from_mode(0o777)).unwrap();
    let failure = device.run();
    failure.says(&["belongs to user 0", "runs as user 65534", "change its owner"]);
    let left: Vec<_> = fs::read_dir(device.data()).unwrap().flatten().collect();
    assert!(left.iter().all(|entry| entry.file_name() == "lock"), "{left:?}");
}

#[test]
fn a_folder_that_nobody_made_yet_is_closed_to_others() {
    let device = Device::new(&closed_port(), &token_of(&authority()));
    device.run();
    assert_eq!(fs::metadata(device.data()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_damaged_journal_is_told_by_status_and_does_not_keep_the_agent_from_reporting_it() {
    let device = Device::new(&closed_port(), &token_of(&authority()));
    let path = write_journal(&device, 1);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let failure = device.status();
    failure.says(&["is damaged (it has 1 of 2 bytes)", "start the agent"]);
    assert!(failure.stdout.contains(r#""state": "lost""#), "{}", failure.stdout);
    // It goes on to the gateways, which is the only way to tell what was lost.
    let failure = device.run();
    failure.says(&["no gateway accepted this device"]);
    assert!(failure.stderr.contains("the journal is damaged"), "{}", failure.stderr);
}

#[test]
fn the_status_reads_like_a_few_lines_and_needs_to_know_where_to_look() {
    let device = Device::new(&closed_port(), &token_of(&authority()));
    device.run().says(&["no gateway accepted this device"]);
    let mut command = Command::new(PROGRAM);
    let told = command.arg("status").arg("--data-dir").arg(device.data()).output().unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(told.status.success(), "{text}");
    assert!(text.starts_with("device       srv-1, waits for its enrolment\n"), "{text}");
    assert!(text.contains("\nmode         Observe\n") && text.ends_with("job          none\n"));
    let mut command = Command::new(PROGRAM);
    command.arg("status").env_remove("WARDRING_DATA_DIR");
    let nowhere = command.output().unwrap();
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("--data-dir"));
}

#[test]
fn the_journal_of_a_newer_agent_is_refused_and_left_alone() {
    let device = Device::new(&closed_port(), &token_of(&authority()));
    let newer = SCHEMA + 1;
    let path = write_journal(&device, newer);
    let told = format!("written by a newer agent (layout {newer}; this one reads {SCHEMA})");
    let before = fs::read(&path).unwrap();
    for failure in [device.run(), device.status()] {
        failure.says(&[&told, "newer agent"]);
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(!previous(&path).exists());
}

fn previous(journal: &Path) -> PathBuf {
    journal.with_extension("prev")
}

#[test]
fn a_code_of_windows_is_explained_and_a_text_that_is_none_is_shown_as_it_must_look() {
    let explain = |code: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["explain", code]);
        ended(command)
    };
    let told = explain("-2145124329");
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.status.success() && text.starts_with("0x80240017 WU_E_NOT_APPLICABLE: "),
        "{text}"
    );
    let refused = explain("banana");
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(text.contains("`banana` is no code of Windows; write it like 0x80070643"), "{text}");
}

#[test]
fn a_damaged_identity_and_a_missing_world_are_named() {
    let device = Device::new(&closed_port(), &token_of(&authority()));
    fs::create_dir(device.data()).unwrap();
    fs::write(device.data().join("identity.json"), "{").unwrap();
    for failure in [device.run(), device.status()] {
        failure.says(&["identity.json is damaged", "delete it and enrol the device again"]);
    }
    fs::remove_file(device.folder.path().join("world.yaml")).unwrap();
    device.run().says(&["failed to read the world file"]);
}
