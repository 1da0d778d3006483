//! Long-running processes: the real controller, gateways and agents of a test.
//!
//! A process started here ends with the process that started it, however that ends: by `Drop`, and
//! if there was no time for that, by the kernel's parent-death signal.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::command::display;
use crate::waiting::{wait_until, wait_until_ok};

/// How long a process may take to be gone after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A running program whose output goes to a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with its output appended to the file `log`. `name` is for messages.
    ///
    /// The child has no standard input and is in a process group of its own, so that Ctrl-C at the
    /// terminal reaches only us, and we end our children in order.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Process> {
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("failed to make the folder {}", folder.display()))?;
        }
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("failed to open the log {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = spawn_bound(command).with_context(|| format!("failed to start {name}"))?;
        Ok(Process { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file with everything the process has printed.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything the process has printed so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Whether the process still runs (also while it is frozen).
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the process at once, as a crash would (`kill -9`), and returns when it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("failed to kill {}", self.name))?;
        self.child.wait().with_context(|| format!("failed to wait for {}", self.name))?;
        Ok(())
    }

    /// Asks the process to end (SIGTERM) and returns how it ended.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_for_exit(limit).await
    }

    /// Freezes the process (SIGSTOP): it keeps its connections and its memory and does nothing.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen process go on (SIGCONT).
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits until the process has ended by itself.
    pub async fn wait_for_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait_until(limit, &what, async || self.child.try_wait().ok().flatten()).await
    }

    /// Waits until the process has printed a line that contains `text`, and returns that line. A
    /// line printed before the call counts. Fails at once if the process ends without it.
    pub async fn wait_for_line(&mut self, limit: Duration, text: &str) -> Result<String> {
        let what = format!("{} to print {text:?}", self.name);
        let found = wait_until_ok(limit, &what, async || {
            // In this order: what it printed last before its end is in the log by then.
            let running = self.is_running();
            let log = self.log();
            // A line that is being written is none yet.
            let mut whole = log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            match whole.find(|line| line.contains(text)) {
                Some(line) => Ok(Some(line.to_owned())),
                None if running => Err(format!("{:?}", log.lines().last().unwrap_or_default())),
                None => Ok(None),
            }
        })
        .await?;
        let Some(line) = found else {
            bail!("{} ended without printing {text:?}; it printed:\n{}", self.name, self.log());
        };
        Ok(line)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("failed to signal {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.kill();
    }
}

/// Waits until no process has one of these ids. Zombies that wait for their parent count as gone.
pub async fn wait_until_gone(pids: &[u32]) -> Result<()> {
    wait_until_ok(KILL_LIMIT, "processes to be gone", async || {
        let left: Vec<_> = pids.iter().filter(|pid| is_alive(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} still run")) }
    })
    .await
}

/// Whether a process with this id runs.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // `pid (name) state …`, where the name may hold anything, parentheses and spaces too.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Starts `command` so that the kernel kills it when this process ends.
///
/// The kernel sends the parent-death signal when the *thread* that started the child ends, and a
/// test's runtime ends threads all the time. So one thread starts all children and never ends.
fn spawn_bound(command: Command) -> Result<Child> {
    type Request = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in requests {
                end_with_parent(&mut command);
                // Nobody listens only if the asking thread panicked; its child ends by `Drop`.
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let shown = display(&command);
    let (answer, spawned) = mpsc::channel();
    spawner.send((command, answer)).context("the thread that starts processes has ended")?;
    spawned.recv()?.with_context(|| format!("failed to start `{shown}`"))
}

#[expect(unsafe_code, reason = "only code in the forked child can ask for the signal")]
fn end_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes
    // the system calls prctl and getppid, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have ended before the request; then no signal will come.
            if rustix::process::getppid() != Some(parent) {
                return Err(std::io::ErrorKind::NotFound.into());
            }
            Ok(())
        });
    }
}
