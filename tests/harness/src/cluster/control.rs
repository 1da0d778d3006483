//! The process `devcluster up` and the socket on which it takes requests.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::tools;

/// What `up` takes to kill its children and remove its directory; after that it is killed itself.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The end comes in milliseconds, and `Drop` cannot await it.
const END_POLL: Duration = Duration::from_millis(10);

/// A running `devcluster up`.
#[derive(Debug)]
pub(super) struct Control {
    up: Child,
    ready: Answer,
}

/// The line that `up` prints when it is ready, and answers every request with.
#[derive(Debug, Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    error: String,
    kubeconfig: PathBuf,
    server: String,
    dir: PathBuf,
    control: PathBuf,
    pids: BTreeMap<String, u32>,
}

impl Control {
    pub(super) async fn start() -> Result<Control> {
        // Building and starting both block.
        tokio::task::spawn_blocking(|| {
            let binary = tools::devcluster()?;
            start_blocking(&binary.path, &std::env::temp_dir())
        })
        .await?
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        &self.ready.kubeconfig
    }

    pub(super) fn server(&self) -> &str {
        &self.ready.server
    }

    pub(super) fn folder(&self) -> &Path {
        &self.ready.dir
    }

    pub(super) async fn pids(&self) -> Result<BTreeMap<String, u32>> {
        Ok(self.answer("status").await?.pids)
    }

    /// Sends one request and returns when it is done.
    pub(super) async fn ask(&self, request: &str) -> Result<()> {
        self.answer(request).await.map(drop)
    }

    async fn answer(&self, request: &str) -> Result<Answer> {
        let converse = async {
            let mut socket = UnixStream::connect(&self.ready.control).await?;
            socket.write_all(format!("{request}\n").as_bytes()).await?;
            tokio::io::BufReader::new(socket).lines().next_line().await
        };
        let line = converse.await.with_context(|| format!("failed to ask for `{request}`"))?;
        let line = line.with_context(|| format!("the dev cluster ended during `{request}`"))?;
        let answer: Answer = serde_json::from_str(&line).context("failed to read the answer")?;
        if !answer.ok {
            bail!("the dev cluster refused `{request}`: {}", answer.error);
        }
        Ok(answer)
    }

    pub(super) async fn stop(self) -> Result<()> {
        // `Drop` does it, which blocks for a moment.
        Ok(tokio::task::spawn_blocking(move || drop(self)).await?)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The end of its standard input tells `up` to end in order.
        drop(self.up.stdin.take());
        let deadline = Instant::now() + END_LIMIT;
        while Instant::now() < deadline {
            if !matches!(self.up.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(END_POLL);
        }
        // Its children die with it; its directory is swept by the next start.
        let _ = self.up.kill();
        let _ = self.up.wait();
    }
}

fn start_blocking(binary: &Path, base: &Path) -> Result<Control> {
    let mut command = Command::new(binary);
    command.args(["up", "--die-with-parent", "--dir"]).arg(base);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Only the end of its standard input ends it with us, not the parent-death signal, which would
    // leave it no time to remove its directory. In a group of its own, or Ctrl-C would end the
    // cluster before those who use it.
    command.process_group(0);
    let mut up = command.spawn().context("failed to start its binary")?;
    let stdout = up.stdout.take().context("a child started with a pipe has one")?;
    let mut stderr = up.stderr.take().context("a child started with a pipe has one")?;
    let complaints = std::thread::spawn(move || {
        let mut text = String::new();
        // To the end of its life: a full pipe would stop it.
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    match serde_json::from_str(&line) {
        Ok(ready) => Ok(Control { up, ready }),
        Err(_) => {
            let _ = up.kill();
            let _ = up.wait();
            let complaints = complaints.join().unwrap_or_default();
            bail!("{}", complaints.trim())
        }
    }
}
