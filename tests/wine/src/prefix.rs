//! A Windows of its own for one test: a Wine prefix in a temporary folder, with a real registry and
//! a real service control manager. Ending its server is a restart of this Windows.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::clock::Clock;
use crate::killer::Killer;
use crate::registry::Changes;
use crate::template;

pub(crate) const TARGET: &str = "x86_64-pc-windows-gnu";
/// The C compiler for Windows.
pub(crate) const COMPILER: &str = "x86_64-w64-mingw32-gcc";

/// Builds the agent for Windows and returns the program's path.
///
/// # Errors
/// A tool is missing or the build fails.
pub fn build_agent() -> anyhow::Result<PathBuf> {
    build(["--bin", "wardring-agent"])
}

/// Builds a program of the agent's package for Windows.
pub(crate) fn build(program: [&str; 2]) -> anyhow::Result<PathBuf> {
    build_with(&[program[0], program[1], "--target", TARGET])
}

/// Builds the agent as it goes to devices, for Windows or for this machine.
///
/// # Errors
/// A tool is missing or the build fails.
pub fn build_optimised(is_for_windows: bool) -> anyhow::Result<PathBuf> {
    let mut arguments = vec!["--profile", "agent", "--bin", "wardring-agent"];
    if is_for_windows {
        arguments.extend(["--target", TARGET]);
    }
    build_with(&arguments)
}

fn build_with(arguments: &[&str]) -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(&root)
        .args(["build", "--quiet", "--package", "wardring-agent"])
        .args(arguments)
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("failed to start cargo")?;
    ensure!(
        output.status.success(),
        "the agent does not build; for Windows it needs `rustup target add {TARGET}` and `apt-get \
         install gcc-mingw-w64-x86-64`"
    );
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = lines.lines().filter_map(|line| serde_json::from_str(line).ok());
    let path = messages
        .filter_map(|message: serde_json::Value| message["executable"].as_str().map(PathBuf::from))
        .next_back();
    path.context("cargo did not say where the program is")
}

/// A Windows of its own. It ends with the value.
pub struct Prefix {
    folder: TempDir,
    apart: Apart,
}

/// How a program of Windows ended, and what it printed.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    /// On standard error; what else runs in this Windows may have printed into it.
    pub(crate) errors: String,
}

impl Ended {
    /// Whether this is one of the lines on standard output.
    pub(crate) fn has_printed(&self, line: &str) -> bool {
        self.output.lines().any(|printed| printed.ends_with(line))
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ended { status, output, errors } = self;
        write!(formatter, "ended with {status}: {output:?}; it complained: {errors:?}")
    }
}

/// What a prefix has of its own beneath its Windows, where it has: Wine is started with it preloaded.
#[derive(Default)]
pub struct Apart {
    /// Its time.
    pub clock: Option<Clock>,
    /// What ends its agent.
    pub killer: Option<Killer>,
}

impl Prefix {
    /// Sets up a new Windows with the agent in `C:\wardring`.
    ///
    /// # Errors
    /// A tool is missing, or Wine does not work.
    pub fn create(agent: &Path) -> anyhow::Result<Prefix> {
        Prefix::create_with(agent, Apart::default())
    }

    /// The same with this beneath it.
    ///
    /// # Errors
    /// A tool is missing, or Wine does not work.
    pub fn create_with(agent: &Path, apart: Apart) -> anyhow::Result<Prefix> {
        let prefix = Prefix { folder: tempfile::tempdir()?, apart };
        template::copy(prefix.folder.path())?;
        prefix.boot()?;
        let system = prefix.drive().join("windows/system32");
        let shim = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/bcryptprimitives.c");
        let built = Command::new(COMPILER)
            .args(["-O2", "-shared", "-o"])
            .arg(system.join("bcryptprimitives.dll"))
            .arg(shim)
            .args(["-ladvapi32", "-luser32"])
            .status()
            .with_context(|| format!("failed to start {COMPILER}"))?;
        ensure!(built.success(), "the shim does not build");
        std::fs::create_dir(prefix.drive().join("wardring"))?;
        std::fs::copy(agent, prefix.drive().join(r"wardring/wardring-agent.exe"))?;
        // Wine says that it is Windows 7, on which nothing installs the agent.
        let version = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
        prefix.set(version, "CurrentBuildNumber", "REG_SZ", "20348")?;
        Ok(prefix)
    }

    /// Its clock, where that is not this computer's.
    pub fn clock(&self) -> Option<&Clock> {
        self.apart.clock.as_ref()
    }

    /// What ends its agent, where it has such a thing.
    pub fn killer(&self) -> Option<&Killer> {
        self.apart.killer.as_ref()
    }

    /// `C:`.
    pub fn drive(&self) -> PathBuf {
        self.folder.path().join("drive_c")
    }

    /// Starts this Windows and keeps it up without programs: otherwise it would end with the first
    /// command, and every command would be a boot. Services are no programs to Wine: a device on which
    /// only the agent's service runs ends after this time, which is longer than any test waits. A
    /// test that is killed leaves it for as long.
    fn boot(&self) -> anyhow::Result<()> {
        self.keep_up()?;
        let kills = || self.killer().map(Killer::kills);
        let before = kills();
        let Err(error) = self.run(&["wineboot"]) else { return Ok(()) };
        // Wine's server now and then does not outlive the end of an agent in its middle, and leaves all
        // others waiting. Who was killed is for the test to look at before it is started again.
        self.end_all()?;
        if kills() != before {
            return Ok(());
        }
        self.keep_up().and_then(|()| self.wine(["wineboot"])).map(|_| ()).context(error)
    }

    /// Has this Windows stay up without programs, and starts its server where there is none.
    pub(crate) fn keep_up(&self) -> anyhow::Result<()> {
        // By a clock that runs ahead, days may be a minute.
        self.server([if self.clock().is_some() { "-p200000" } else { "-p600" }])
    }

    /// Ends every process of this Windows, also those that wait for a server that is gone.
    fn end_all(&self) -> anyhow::Result<()> {
        self.switch_off()?;
        let own = format!("WINEPREFIX={}", self.folder.path().display());
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let is_ours = environment.split(|byte| *byte == 0).any(|each| each == own.as_bytes());
            if let Some(pid) = entry.file_name().to_str().filter(|_| is_ours) {
                // It may have ended since.
                let _ = Command::new("kill").args(["-9", pid]).stderr(Stdio::null()).status();
            }
        }
        Ok(())
    }

    /// Ends this Windows, as hard as a power failure, and starts it again.
    ///
    /// # Errors
    /// Wine does not answer.
    pub fn restart(&self) -> anyhow::Result<()> {
        self.switch_off()?;
        self.boot()
    }

    /// Ends this Windows, as hard as a power failure.
    ///
    /// # Errors
    /// Wine does not answer.
    pub fn switch_off(&self) -> anyhow::Result<()> {
        self.server(["-k"])?;
        self.server(["-w"])
    }

    /// Starts this Windows after it was switched off.
    ///
    /// # Errors
    /// Wine does not answer.
    pub fn switch_on(&self) -> anyhow::Result<()> {
        self.boot()
    }

    /// Changes `HKEY_LOCAL_MACHINE` of a Windows that is switched off, as its start would before any
    /// service runs.
    ///
    /// # Errors
    /// The registry's file cannot be read or written.
    pub fn while_off(&self, changes: &Changes) -> anyhow::Result<()> {
        let path = self.folder.path().join("system.reg");
        let before = std::fs::read(&path).with_context(|| format!("failed to read {path:?}"))?;
        let after = changes.applied(&String::from_utf8_lossy(&before));
        std::fs::write(&path, after).with_context(|| format!("failed to write {path:?}"))
    }

    fn server<const N: usize>(&self, arguments: [&str; N]) -> anyhow::Result<()> {
        let status = self.command("wineserver").args(arguments).status();
        // `-k` says with 1 that there was nothing to end.
        status.map(|_| ()).context(MISSING)
    }

    /// Runs a program of Windows and returns what it printed. What may as well run twice runs up to three
    /// times: on a busy machine Wine's programs end with 1 and without a word once in a long while.
    ///
    /// # Errors
    /// It fails.
    pub fn wine<const N: usize>(&self, arguments: [&str; N]) -> anyhow::Result<String> {
        let run = || self.run(&arguments);
        match arguments.as_slice() {
            ["wineboot" | "reg", ..] | ["sc", "query", ..] => {
                run().or_else(|_| run()).or_else(|_| run())
            }
            _ => run(),
        }
    }

    /// Starts a service, and waits until it runs.
    ///
    /// # Errors
    /// It does not within a minute.
    pub fn start_service(&self, name: &str) -> anyhow::Result<()> {
        self.bring_service(name, "start", ["STOPPED", "RUNNING"])
    }

    /// Stops a service, and waits until it has.
    ///
    /// # Errors
    /// It has not within a minute.
    pub fn stop_service(&self, name: &str) -> anyhow::Result<()> {
        self.bring_service(name, "stop", ["RUNNING", "STOPPED"])
    }

    fn bring_service(&self, name: &str, order: &str, [from, to]: [&str; 2]) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (_, state) = self.attempt(&["sc", "query", name])?;
            if state.contains(to) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "`sc {order} {name}` does nothing: {state}");
            if state.contains(from) {
                self.attempt(&["sc", order, name])?;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The same for any number of arguments.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let ended = self.ended(arguments)?;
        ensure!(ended.status.success(), "`wine {}` {ended}", arguments.join(" "));
        Ok(ended.output)
    }

    /// Runs a program of Windows: how it ended, and what it printed.
    pub(crate) fn ended(&self, arguments: &[&str]) -> anyhow::Result<Ended> {
        // Files, not pipes: what the first command starts (the services of this Windows) inherits them
        // and would keep a pipe open for ever.
        let [output, errors] = ["output", "errors"].map(|name| self.folder.path().join(name));
        let mut command = self.command("wine");
        command.args(arguments).stdout(File::create(&output)?).stderr(File::create(&errors)?);
        let limit = if arguments == ["wineboot"] { BOOT_LIMIT } else { LIMIT };
        let status = within(limit, &mut command)?;
        let read =
            |path| std::fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok(Ended { status, output: read(output)?, errors: read(errors)? })
    }

    /// Makes a service with `sc create` and these arguments, its name first. For a moment after its start,
    /// the service manager of this Windows takes nothing, and does not say so.
    ///
    /// # Errors
    /// It is not there within a minute.
    pub fn create_service(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let create = [&["sc", "create"], arguments].concat();
        let name = arguments.first().copied().unwrap_or_default();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let Err(error) = self.run(&create) else { return Ok(()) };
            if self.attempt(&["sc", "query", name])?.0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Runs a program of Windows that may fail: whether it succeeded, and all that it said.
    ///
    /// # Errors
    /// Wine does not start.
    pub fn attempt(&self, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
        let path = self.folder.path().join("said");
        let file = File::create(&path)?;
        let mut command = self.command("wine");
        command.args(arguments).stdout(file.try_clone()?).stderr(file);
        let status = within(LIMIT, &mut command)?;
        Ok((status.success(), String::from_utf8_lossy(&std::fs::read(&path)?).into_owned()))
    }

    /// Sets a value below `HKEY_LOCAL_MACHINE`.
    ///
    /// # Errors
    /// The registry refuses.
    pub fn set(&self, key: &str, name: &str, kind: &str, data: &str) -> anyhow::Result<()> {
        let key = format!(r"HKLM\{key}");
        self.wine(["reg", "add", &key, "/v", name, "/t", kind, "/d", data, "/f"]).map(|_| ())
    }

    /// Makes a key below `HKEY_LOCAL_MACHINE`.
    ///
    /// # Errors
    /// The registry refuses.
    pub fn make_key(&self, key: &str) -> anyhow::Result<()> {
        let key = format!(r"HKLM\{key}");
        self.wine(["reg", "add", &key, "/f"]).map(|_| ())
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// Wine does not start.
    pub fn start_agent<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Agent> {
        let child = self
            .command("wine")
            .arg(r"C:\wardring\wardring-agent.exe")
            .args(arguments)
            .stderr(Stdio::inherit())
            .spawn()
            .context(MISSING)?;
        Ok(Agent(child))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command(self.folder.path(), program);
        let clock = self.clock().map(Clock::preloaded);
        let killer = self.killer().map(Killer::preloaded);
        let (libraries, variables): (Vec<PathBuf>, Vec<_>) =
            clock.into_iter().chain(killer).unzip();
        if !libraries.is_empty() {
            let list = std::env::join_paths(libraries);
            command.env("LD_PRELOAD", list.expect("a temporary folder has no colon in its name"));
        }
        command.envs(variables);
        command
    }
}

/// Longest that a program of Wine may take, and that Windows may take to start.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// How a program ended; one that does not end is killed.
fn within(limit: Duration, command: &mut Command) -> anyhow::Result<ExitStatus> {
    let mut child = command.spawn().context(MISSING)?;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program of Wine in the prefix of a folder.
pub(crate) fn command(prefix: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("WINEPREFIX", prefix)
        .env("WINEDEBUG", "-all")
        .env("WINEARCH", "win64")
        // Neither Mono nor Gecko are needed, and their installers would ask.
        .env("WINEDLLOVERRIDES", "mscoree=;mshtml=")
        .env_remove("DISPLAY")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

pub(crate) const MISSING: &str = "failed to start Wine; install it with `apt-get install wine64`";

impl Drop for Prefix {
    fn drop(&mut self) {
        // Only this prefix's own server; the folder goes afterwards.
        let _ = self.server(["-k"]);
        let _ = self.server(["-w"]);
    }
}

/// An agent under Wine; killed with the value.
pub struct Agent(Child);

impl Agent {
    /// Its process, as the system under Wine knows it.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
