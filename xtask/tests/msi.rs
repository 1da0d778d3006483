//! The installer under Wine's own Windows Installer: what it holds, what it does on a device, and what
//! it leaves.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use serde_json::json;
use wardring_protocol::PermitAnswer;
use wardring_seal::{Action, UpdateKind};
use wardring_wine_tests::fakewua::FakeWua;
use wardring_wine_tests::gateway::TestGateway;
use wardring_wine_tests::jobs::job;
use wardring_wine_tests::prefix::{Prefix, build_agent};

/// An older version and the one that takes its place; the program is the same.
const VERSIONS: [&str; 2] = ["0.0.9", "0.1.0"];
const PRODUCTS: &str = r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall";
const SERVICE: &str = r"HKLM\SYSTEM\CurrentControlSet\Services\WardringAgent";
const WINDOWS: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const REMOVED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A folder that lives as long as the tests need it, and is made anew by the next run.
fn kept(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The agent that the tests under Wine use, without what debuggers need.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = kept("msi-program").join("wardring-agent.exe");
        let mut strip = Command::new("x86_64-w64-mingw32-strip");
        strip.arg(build_agent().unwrap()).arg("-o").arg(&program);
        assert!(strip.status().unwrap().success());
        program
    })
}

/// Packs a program into a folder; the installer's path.
fn package(folder: &Path, program: &Path, version: &str, arguments: &[&str]) -> PathBuf {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["package", "--package-version", version, "--program"])
        .arg(program)
        .arg("--out")
        .arg(folder)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join(name(version))
}

fn name(version: &str) -> String {
    format!("wardring-agent-{version}-x64-unsigned.msi")
}

/// The folder with an installer of the agent for each of the versions.
fn installers() -> &'static Path {
    static INSTALLERS: OnceLock<PathBuf> = OnceLock::new();
    INSTALLERS.get_or_init(|| {
        let folder = kept("msi-installers");
        for version in VERSIONS {
            package(&folder, program(), version, &[]);
        }
        folder
    })
}

/// Rows of a table, without the three lines above them.
fn table(installer: &Path, name: &str) -> Vec<Vec<String>> {
    let output = Command::new("msiinfo").arg("export").arg(installer).arg(name).output().unwrap();
    assert!(output.status.success(), "{name}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().skip(3).map(|row| row.split('\t').map(str::to_owned).collect()).collect()
}

/// The row of a table that begins with this.
fn row(installer: &Path, name: &str, key: &str) -> Vec<String> {
    let found = table(installer, name).into_iter().find(|row| row[0] == key);
    found.unwrap_or_else(|| panic!("{name} has no {key}"))
}

fn property(installer: &Path, name: &str) -> String {
    row(installer, "Property", name)[1].clone()
}

#[test]
fn an_installer_hides_the_token_and_is_known_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let share = r"TOKENFILE=\\files.example.com\wardring$\token.txt";
    // What is packed is never started here.
    let program = folder.path().join("program.exe");
    fs::write(&program, "MZ").unwrap();
    let old = package(&folder.path().join("old"), &program, "0.0.9", &[]);
    let again = package(&folder.path().join("again"), &program, "0.0.9", &[]);
    let new = package(&folder.path().join("new"), &program, "0.1.0", &["--set", share]);

    // The same content is the same product, another version another one of the same family.
    for code in ["ProductCode", "UpgradeCode"] {
        assert_eq!(property(&old, code), property(&again, code));
    }
    assert_ne!(property(&old, "ProductCode"), property(&new, "ProductCode"));
    assert_eq!(property(&new, "UpgradeCode"), "{1C3E9F4A-6B7D-4B0E-9A53-6E0D0B7C2F18}");
    let related: Vec<_> =
        table(&new, "Upgrade").into_iter().map(|row| row[1..3].to_vec()).collect();
    assert!(related.contains(&vec!["0.0.0".to_owned(), "0.1.1".to_owned()]), "{related:?}");
    assert!(related.contains(&vec!["0.1.1".to_owned(), String::new()]), "{related:?}");

    // Nobody but an administrator may say where a device goes, and nobody reads the token in a log.
    assert_eq!(property(&new, "MsiHiddenProperties"), "TOKEN");
    let secure = property(&new, "SecureCustomProperties");
    for name in ["GATEWAY", "TOKEN", "TOKENFILE", "PROXY", "DEVICENAME", "PURGE"] {
        assert!(!secure.contains(name), "{secure}");
    }
    let calls = |action: &str| row(&new, "CustomAction", action);
    let kind: u32 = calls("InstallAgent")[1].parse().unwrap();
    // A program of the package, in the script, as SYSTEM, its line hidden, its failure a failure.
    assert_eq!(kind, 0x2 | 0x400 | 0x800 | 0x2000);
    assert!(calls("InstallAgent")[3].contains("\"--token=[TOKEN]\""));
    assert_eq!(calls("UninstallAgent")[1].parse::<u32>().unwrap(), 0x2 | 0x400 | 0x800);
    let removal = row(&new, "InstallExecuteSequence", "UninstallAgent");
    assert_eq!(removal[1], "REMOVE=\"ALL\" AND NOT UPGRADINGPRODUCTCODE");

    let conditions = table(&new, "LaunchCondition");
    for condition in ["NOT NEWERFOUND", "WINDOWSPROCESSOR=\"AMD64\"", "WINDOWSBUILD>=14393"] {
        assert!(conditions.iter().any(|row| row[0].ends_with(condition)), "{condition}");
    }
    assert_eq!(property(&new, "TOKENFILE"), share.split_once('=').unwrap().1);
    let suminfo = Command::new("msiinfo").arg("suminfo").arg(&new).output().unwrap();
    let suminfo = String::from_utf8(suminfo.stdout).unwrap();
    assert!(suminfo.contains("x64;1033") && suminfo.contains("(NOT SIGNED)"), "{suminfo}");
}

/// A Windows with the installers in `C:\wardring`.
struct Device {
    prefix: Prefix,
    gateway: TestGateway,
}

impl Device {
    async fn new() -> Device {
        let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
        let made = tokio::task::spawn_blocking(|| {
            let prefix = Prefix::create(program()).unwrap();
            for version in VERSIONS {
                let place = prefix.drive().join(format!("wardring/{version}.msi"));
                fs::copy(installers().join(name(version)), place).unwrap();
            }
            prefix
        });
        Device { prefix: made.await.unwrap(), gateway }
    }

    /// Runs Windows Installer without a window; whether it succeeded, and its log.
    fn msiexec(&self, act: &str, version: &str, properties: &[&str]) -> (bool, String) {
        let installer = format!(r"C:\wardring\{version}.msi");
        let line = ["msiexec", act, &installer, "/qn", "/l*v", r"C:\wardring\msi.log"];
        let log = self.prefix.drive().join("wardring/msi.log");
        let _ = fs::remove_file(&log);
        let (is_done, _) = self.prefix.attempt(&[&line[..], properties].concat()).unwrap();
        (is_done, text(&fs::read(log).unwrap_or_default()))
    }

    fn install(&self, version: &str, properties: &[&str]) {
        let (is_done, log) = self.msiexec("/i", version, properties);
        assert!(is_done, "{version} {properties:?}: {log}");
    }

    fn remove(&self, version: &str, properties: &[&str]) {
        let (is_done, log) = self.msiexec("/x", version, properties);
        assert!(is_done, "{version} {properties:?}: {log}");
        // The service manager removes a service with the last handle to it, after the answer.
        let begun = Instant::now();
        while self.has_service() {
            assert!(begun.elapsed() < REMOVED_WITHIN, "the service stays: {}\n{log}", self.state());
            std::thread::sleep(LOOK_AGAIN);
        }
        assert_eq!(self.listed(), [""; 0], "{log}");
    }

    /// Is refused, and the agent goes on as if nothing had been.
    fn refuses(&self, act: &str, version: &str, properties: &[&str]) {
        let (is_done, log) = self.msiexec(act, version, properties);
        assert!(!is_done, "{act} {version} {properties:?}: {log}");
        assert!(self.state().contains("RUNNING"), "{act} {version}: {}\n{log}", self.state());
        assert!(self.path("Program Files/Wardring/wardring-agent.exe").exists());
    }

    fn path(&self, path: &str) -> PathBuf {
        self.prefix.drive().join(path)
    }

    fn settings(&self) -> String {
        fs::read_to_string(self.path("ProgramData/Wardring/settings.json")).unwrap()
    }

    fn state(&self) -> String {
        self.prefix.attempt(&["sc", "query", "WardringAgent"]).unwrap().1
    }

    fn has_service(&self) -> bool {
        self.prefix.attempt(&["reg", "query", SERVICE]).unwrap().0
    }

    /// Versions under which the agent stands among the installed programs.
    fn listed(&self) -> Vec<String> {
        let all = self.prefix.wine(["reg", "query", PRODUCTS, "/s"]).unwrap();
        let entries =
            all.split("HKEY_LOCAL_MACHINE").filter(|entry| entry.contains("Wardring agent"));
        let version = |entry: &str| {
            let line = entry.lines().find(|line| line.contains("DisplayVersion"))?;
            line.split_whitespace().last().map(str::to_owned)
        };
        entries.filter_map(version).collect()
    }

    async fn runs(&self, count: usize) {
        let seen = self.gateway.wait_for("srv-1", "a run", |seen| seen.runs.len() >= count).await;
        assert_eq!((seen.runs.len(), seen.certificates), (count, 1), "one device all the time");
    }

    /// Restarts this Windows.
    async fn restarted(self) -> Device {
        let restart = tokio::task::spawn_blocking(move || {
            self.prefix.restart().unwrap();
            self
        });
        restart.await.unwrap()
    }

    /// Files that hold this text: those of the registry, Windows Installer's log and what it keeps,
    /// temporary ones, the agent's and the test's.
    fn holding(&self, secret: &str) -> Vec<PathBuf> {
        let root = self.prefix.drive().parent().unwrap().to_owned();
        let registry = ["system.reg", "user.reg", "userdef.reg"].map(|name| root.join(name));
        let mut files: Vec<PathBuf> = registry.into_iter().filter(|file| file.exists()).collect();
        let mut folders = ["ProgramData", "windows/Installer", "windows/temp", "wardring", "users"]
            .map(|folder| self.path(folder))
            .to_vec();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    files.push(entry.path());
                }
            }
        }
        files.retain(|file| text(&fs::read(file).unwrap_or_default()).contains(secret));
        files
    }
}

/// Text of a file that may be UTF-16, as Windows Installer's logs are.
fn text(bytes: &[u8]) -> String {
    if bytes.contains(&0) {
        return String::from_utf8_lossy(
            &bytes.iter().copied().filter(|byte| *byte != 0).collect::<Vec<_>>(),
        )
        .into_owned();
    }
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_installed_updated_and_cleared_by_windows_installer() {
    let device = Device::new().await;
    let token = device.gateway.token.reveal();
    fs::write(device.path("wardring/token.txt"), format!("{token}\r\n")).unwrap();
    let gateway = format!("GATEWAY={}", device.gateway.url());

    device.install("0.0.9", &[&gateway, r"TOKENFILE=C:\wardring\token.txt", "DEVICENAME=srv-1"]);
    device.runs(1).await;
    assert!(device.state().contains("RUNNING"), "{}", device.state());
    for file in ["wardring-agent.exe", "LICENSE.txt"] {
        assert!(device.path("Program Files/Wardring").join(file).exists(), "{file}");
    }
    assert!(device.settings().contains(&device.gateway.url()), "{}", device.settings());
    assert_eq!(device.listed(), ["0.0.9"]);

    // The token is nowhere but in its file, also not once Windows has written its registry.
    let device = device.restarted().await;
    device.runs(2).await;
    let seed = token.split('.').nth(1).unwrap();
    assert_eq!(device.holding(seed), [device.path("wardring/token.txt")]);
    assert!(device.holding("DEVICENAME").contains(&device.path("wardring/msi.log")));
    let identity = fs::read(device.path("ProgramData/Wardring/identity.json")).unwrap();
    let settings = device.settings();

    // An update needs nothing to be said again.
    device.install("0.1.0", &[]);
    device.runs(3).await;
    assert_eq!(device.listed(), ["0.1.0"]);
    assert_eq!(device.settings(), settings);
    assert_eq!(fs::read(device.path("ProgramData/Wardring/identity.json")).unwrap(), identity);
    assert!(device.path("Program Files/Wardring/LICENSE.txt").exists());
    let (is_done, log) = device.msiexec("/i", "0.0.9", &[]);
    assert!(!is_done, "a newer agent is not replaced: {log}");
    assert_eq!(device.listed(), ["0.1.0"]);
    device.runs(3).await;

    device.remove("0.1.0", &[]);
    assert!(!device.path("Program Files/Wardring").exists());
    assert_eq!(fs::read(device.path("ProgramData/Wardring/identity.json")).unwrap(), identity);

    // It is still the same device, and leaves nothing when that is wanted.
    device.install("0.1.0", &[]);
    device.runs(4).await;
    device.remove("0.1.0", &["PURGE=1"]);
    assert!(!device.path("ProgramData/Wardring").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_at_work_is_neither_updated_nor_removed_unless_its_job_is_abandoned() {
    let device = Device::new().await;
    for (name, kind, value) in [
        ("ProductName", "REG_SZ", "Windows Server 2022 Datacenter"),
        ("InstallationType", "REG_SZ", "Server"),
        ("CurrentBuild", "REG_SZ", "20348"),
        ("UBR", "REG_DWORD", "2700"),
    ] {
        device.prefix.set(WINDOWS, name, kind, value).unwrap();
    }
    let offered = json!({"id": "aaaaaaaa-0000-0000-0000-000000000001", "revision": 200,
        "title": "Update (KB5068787)", "kbs": ["5068787"]});
    let fake = FakeWua::install(&device.prefix, &json!({ "updates": [offered] })).unwrap();
    let [gateway, token] = [device.gateway.url(), device.gateway.token.reveal()];
    let said = [format!("GATEWAY={gateway}"), format!("TOKEN={token}")];
    device.install("0.0.9", &[&said[0], &said[1], "DEVICENAME=srv-1"]);
    device.runs(1).await;

    // It waits for its permit to install.
    let refused = PermitAnswer::Refused {
        reason: "Held".to_owned(),
        message: "not now".to_owned(),
        retry_ms: 1_000,
    };
    device.gateway.answer_permits("srv-1", vec![refused; 1_000]);
    let mut work = job(1, Action::Install);
    work.updates[0].kind = UpdateKind::Other;
    work.updates[0].target_build = None;
    work.health.services.clear();
    device.gateway.give("srv-1", work);
    device.gateway.wait_for("srv-1", "work", |seen| seen.progress.is_some()).await;

    for act in ["install", "uninstall"] {
        let line = [r"C:\wardring\wardring-agent.exe", act];
        let (is_done, said) = device.prefix.attempt(&line).unwrap();
        assert!(!is_done && said.contains("a job of rollout 2026-11 just now"), "{act}: {said}");
    }
    device.refuses("/x", "0.0.9", &[]);
    device.runs(1).await;
    device.remove("0.0.9", &["ABANDONJOB=1"]);

    // The journal stayed, and with it the job.
    device.install("0.0.9", &[]);
    device.runs(2).await;
    device.refuses("/i", "0.1.0", &[]);
    device.refuses("/i", "0.1.0", &["GATEWAY=https://other:8443"]);
    device.runs(2).await;
    assert!(device.settings().contains(&gateway), "{}", device.settings());
    assert!(fake.calls("Install").is_empty());
}
