//! A whole Windows Server in a prefix: Windows Update, DISM, a database's service that can be told to
//! fail, and the agent installed as a service, as an administrator does it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::clock::Clock;
use crate::eventlog::{Came, EventLog};
use crate::fakewua::FakeWua;
use crate::killer::{self, Killer};
use crate::prefix::{Apart, Prefix, build_agent};
use crate::programs::{OWN_LIBRARIES, compile, compile_library};
use crate::registry::Changes;

const AGENT: &str = r"C:\wardring\wardring-agent.exe";
const CURRENT_VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const CBS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing";
/// What a service of the tests is told; see `programs/service.c`.
const ORDERS: &str = r"SOFTWARE\WardringTests";
/// Whether the router answers; see `programs/iphlpapi.c`.
const NETWORK: &str = r"SOFTWARE\WardringTests\Network";
/// Words of a package's state in the registry.
const INSTALL_PENDING: u32 = 0x60;
const INSTALLED: u32 = 0x70;
/// How long the agent may take for anything that a test waits for.
const PATIENCE: Duration = Duration::from_secs(90);

/// The server.
pub struct Server {
    /// Its Windows.
    pub prefix: Prefix,
    /// Its Windows Update.
    pub updates: FakeWua,
    events: EventLog,
}

impl Server {
    /// Sets up a Windows Server 2022 of this UBR, whose Windows Update has these updates, and whose
    /// registry has `changes`. Its services: MSSQLSERVER, which starts with Windows, and Reports, which
    /// nobody started.
    ///
    /// # Errors
    /// A tool is missing, or Wine does not work.
    pub fn create(ubr: u32, updates: &[Value], changes: Changes) -> anyhow::Result<Server> {
        Server::create_in(Prefix::create(&build_agent()?)?, ubr, updates, changes)
    }

    /// The same in a network of its own, whose one router answers, and with a clock of its own.
    ///
    /// # Errors
    /// A tool is missing, or Wine does not work.
    pub fn create_apart(ubr: u32, updates: &[Value], changes: Changes) -> anyhow::Result<Server> {
        let apart = Apart { clock: Some(Clock::new()?), killer: None };
        let prefix = Prefix::create_with(&build_agent()?, apart)?;
        compile_library("iphlpapi.c", &prefix.drive().join("windows/system32/iphlpapi.dll"))?;
        prefix.wine(["reg", "add", OWN_LIBRARIES, "/v", "iphlpapi", "/d", "native", "/f"])?;
        Server::create_in(prefix, ubr, updates, router_answers(changes, true))
    }

    /// The same as [`Server::create`], with a killer of its agent.
    ///
    /// # Errors
    /// A tool is missing, or Wine does not work.
    pub fn create_mortal(ubr: u32, updates: &[Value], changes: Changes) -> anyhow::Result<Server> {
        let apart = Apart { clock: None, killer: Some(Killer::new()?) };
        Server::create_in(Prefix::create_with(&build_agent()?, apart)?, ubr, updates, changes)
    }

    fn create_in(
        prefix: Prefix,
        ubr: u32,
        updates: &[Value],
        changes: Changes,
    ) -> anyhow::Result<Server> {
        let updates = FakeWua::install(&prefix, &json!({ "updates": updates }))?;
        let events = EventLog::install(&prefix)?;
        compile("dism.c", &prefix.drive().join("windows/system32/dism.exe"))?;
        compile("service.c", &prefix.drive().join("wardring/service.exe"))?;
        let overrides = r"HKCU\Software\Wine\DllOverrides";
        prefix.wine(["reg", "add", overrides, "/v", "dism.exe", "/d", "native", "/f"])?;
        for (name, start) in [("MSSQLSERVER", "auto"), ("Reports", "demand")] {
            let program = format!(r"C:\wardring\service.exe {name}");
            prefix.create_service(&[name, "binPath=", &program, "start=", start])?;
        }
        let server = Server { prefix, updates, events };
        server.prefix.switch_off()?;
        let windows = changes
            .text(CURRENT_VERSION, "ProductName", "Windows Server 2022 Datacenter")
            .text(CURRENT_VERSION, "InstallationType", "Server")
            .text(CURRENT_VERSION, "CurrentBuild", "20348");
        server.prefix.while_off(&with_ubr(windows, ubr))?;
        server.prefix.switch_on()?;
        Ok(server)
    }

    /// Installs the agent as a service.
    ///
    /// # Errors
    /// It refuses.
    pub fn install_agent(
        &self,
        gateways: &[String],
        token: &str,
        name: &str,
    ) -> anyhow::Result<()> {
        let mut line = vec![AGENT, "install", "--token", token, "--name", name];
        line.extend(gateways.iter().flat_map(|gateway| ["--gateway", gateway.as_str()]));
        let begun = Instant::now();
        loop {
            let (is_done, said) = self.prefix.attempt(&line)?;
            if is_done {
                return Ok(());
            }
            // For a moment after its start, the service manager of this Windows takes nothing.
            ensure!(begun.elapsed() < PATIENCE, "the agent is not installed: {said}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Starts the agent's service after its process was killed, as Windows' recovery action does. The
    /// service manager may not have noticed yet, or not be up.
    ///
    /// # Errors
    /// The service does not start within a minute, or this server has no killer.
    pub fn recover_agent(&self) -> anyhow::Result<()> {
        let killer = self.prefix.killer().context("nobody kills this agent")?;
        let seen = || (killer.writes(), killer.kills());
        let (before, begun) = (seen(), Instant::now());
        self.prefix.keep_up()?;
        loop {
            let (is_done, said) = self.prefix.attempt(&["sc", "start", "WardringAgent"])?;
            // A run writes its journal first, whatever became of the order.
            if is_done || seen() != before {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "the agent is not started again: {said}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Where the job in the agent's journal stands, if there is one.
    ///
    /// # Errors
    /// The journal is not whole.
    pub fn place(&self) -> anyhow::Result<Option<String>> {
        killer::place(&self.prefix.drive().join("ProgramData/Wardring"))
    }

    /// The agent's log.
    pub fn log(&self) -> String {
        let path = self.prefix.drive().join("ProgramData/Wardring/log/agent.jsonl");
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Waits until the agent has ordered so many restarts of this Windows since it was installed.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn until_restarts_ordered(&self, times: usize) -> anyhow::Result<()> {
        let ordered = || self.restarts_ordered() >= times;
        self.until(&format!("{times} restarts to be ordered"), ordered).await
    }

    /// Waits until Windows Update was called so many times.
    ///
    /// # Errors
    /// It was not in time.
    pub async fn until_called(&self, call: &str, times: usize) -> anyhow::Result<()> {
        let called = || self.updates.calls(call).len() >= times;
        self.until(&format!("{times} calls of {call}"), called).await
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// It is not in time.
    pub async fn until(&self, what: &str, is_so: impl Fn() -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !is_so() {
            if begun.elapsed() > PATIENCE {
                bail!("waited in vain for {what}; the agent's log: {}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Ends an installation that hangs, as servicing does: its package waits for a restart.
    ///
    /// # Errors
    /// Wine does not answer.
    pub fn end_installation(&self, package: &str) -> anyhow::Result<()> {
        let key = format!(r"{CBS}\Packages\{package}");
        self.prefix.set(&key, "CurrentState", "REG_DWORD", &INSTALL_PENDING.to_string())?;
        self.prefix.make_key(&format!(r"{CBS}\RebootPending"))?;
        self.updates.end_installations()
    }

    /// Restarts Windows as the agent ordered. What waited for that is carried out, and `changes` are
    /// made, before any service runs.
    ///
    /// # Errors
    /// Wine does not answer.
    pub fn restart(&self, ubr: u32, ends: Ends, changes: Changes) -> anyhow::Result<()> {
        self.restart_as(Came::BY_AGENT, ubr, ends, changes)
    }

    /// The same, and the System log tells another cause.
    ///
    /// # Errors
    /// Wine does not answer.
    pub fn restart_as(
        &self,
        came: Came,
        ubr: u32,
        ends: Ends,
        changes: Changes,
    ) -> anyhow::Result<()> {
        self.prefix.switch_off()?;
        self.updates.finish_at_boot()?;
        if ends == Ends::Offered {
            let mut world = self.updates.world()?;
            let updates = world["updates"].as_array_mut().context("a world has updates")?;
            updates.iter_mut().for_each(|update| update["isInstalled"] = json!(false));
            self.updates.set_world(&world)?;
        }
        self.prefix.while_off(&with_ubr(changes.gone(&format!(r"{CBS}\RebootPending")), ubr))?;
        self.events.tell(came, self.prefix.clock().map(Clock::ahead).unwrap_or_default())?;
        self.prefix.switch_on()
    }

    /// Windows comes up once more, with everything as it was.
    ///
    /// # Errors
    /// Wine does not answer.
    pub fn comes_again(&self, came: Came) -> anyhow::Result<()> {
        self.prefix.switch_off()?;
        self.events.tell(came, self.prefix.clock().map(Clock::ahead).unwrap_or_default())?;
        self.prefix.switch_on()
    }

    /// How many restarts the agent has ordered since it was installed.
    pub fn restarts_ordered(&self) -> usize {
        self.log().matches("ordering a restart").count()
    }

    /// Waits until a service runs.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn until_runs(&self, service: &str) -> anyhow::Result<()> {
        let runs = || {
            let (_, said) = self.prefix.attempt(&["sc", "query", service]).unwrap_or_default();
            said.contains("RUNNING")
        };
        self.until(&format!("{service} to run"), runs).await
    }

    /// Gives Windows a standalone installer whose packages bring `package`; a folder for what a test needs.
    ///
    /// # Errors
    /// The compiler is missing, or the registry refuses.
    pub fn take_packages(&self, package: &str) -> anyhow::Result<TempDir> {
        compile("wusa.c", &self.prefix.drive().join("windows/system32/wusa.exe"))?;
        let overrides = r"HKCU\Software\Wine\DllOverrides";
        self.prefix.wine(["reg", "add", overrides, "/v", "wusa.exe", "/d", "native", "/f"])?;
        self.prefix.set(&format!(r"{ORDERS}\Wusa"), "Package", "REG_SZ", package)?;
        Ok(tempfile::tempdir()?)
    }

    /// Lines of the standalone installer's log.
    pub fn standalone_runs(&self) -> Vec<String> {
        let log = fs::read_to_string(self.prefix.drive().join("wusa.log")).unwrap_or_default();
        log.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Lines of DISM's log that tell of removals.
    pub fn removals(&self) -> Vec<String> {
        let log = fs::read_to_string(self.prefix.drive().join("dism.log")).unwrap_or_default();
        let removals = log.lines().filter(|line| line.contains("/Remove-Package"));
        removals.map(str::to_owned).collect()
    }
}

/// What a restart makes of the updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Those that waited for it are installed.
    Installed,
    /// None is there: they are offered.
    Offered,
}

fn with_ubr(changes: Changes, ubr: u32) -> Changes {
    changes.number(CURRENT_VERSION, "UBR", ubr)
}

/// Windows waits for a restart from an earlier installation.
pub fn waits_for_restart(changes: Changes) -> Changes {
    changes.number(&format!(r"{CBS}\RebootPending"), "SessionCount", 1)
}

/// The router of a server apart answers, or no longer does.
pub fn router_answers(changes: Changes, answers: bool) -> Changes {
    changes.number(NETWORK, "Answers", u32::from(answers))
}

/// A package is installed.
pub fn installed(changes: Changes, package: &str) -> Changes {
    changes.number(&format!(r"{CBS}\Packages\{package}"), "CurrentState", INSTALLED)
}

/// A package is gone.
pub fn removed(changes: Changes, package: &str) -> Changes {
    changes.gone(&format!(r"{CBS}\Packages\{package}"))
}

/// A service of the tests starts as it should, or stops right after its start with a code of its own.
pub fn service_refuses(changes: Changes, service: &str, code: u32) -> Changes {
    changes.number(&format!(r"{ORDERS}\{service}"), "Refuse", code)
}
