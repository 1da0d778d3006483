//! Short commands: run one to its end and keep what it said.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What a command that has ended left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What was run, for messages.
    pub command: String,
    /// The exit code, or -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the command exited with 0.
    pub fn succeeded(&self) -> bool {
        self.code == 0
    }

    /// Standard output if the command succeeded, else an error with all it said.
    pub fn ok(self) -> Result<String> {
        if !self.succeeded() {
            let Output { command, code, stdout, stderr } = self;
            bail!("`{command}` exited with {code}: {}{}", stderr.trim(), stdout.trim());
        }
        Ok(self.stdout)
    }
}

/// Runs a command to its end with `input` on its standard input.
pub(crate) async fn run(mut command: Command, input: &str) -> Result<Output> {
    let shown = display(command.as_std());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("failed to start `{shown}`"))?;
    let mut stdin = child.stdin.take().context("a child started with a pipe has one")?;
    // At the same time as the reading: a large input meets a command that already prints. A command
    // that does not care for its input closes it, which is no failure.
    let feed = async move {
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    let output = output.with_context(|| format!("failed to wait for `{shown}`"))?;
    Ok(Output {
        command: shown,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The command as a person would type it, without the folder of the program.
pub(crate) fn display(command: &std::process::Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
