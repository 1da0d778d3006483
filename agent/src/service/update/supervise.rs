//! Trying a new program: the running one stands aside, watches it, and decides.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::windows::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use super::TRIAL;
use super::ground::Device;
use super::marker::{End, Underway};
use super::steps::{Ground, proven, take_back, try_next};
use super::verdict::{Heard, Verdict, judge};
use crate::ffi::ProcessGroup;
use crate::service::program;

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a program on trial may take to end when it is told to.
const END_WITHIN: Duration = Duration::from_secs(20);
const CREATE_NO_WINDOW: u32 = 0x0800_0000;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// There was nothing to try.
    Nothing,
    /// The service is to end, and Windows starts the new program.
    Switched(String),
    /// This program stays the agent; the text says why.
    Stays(String),
    /// The service was told to stop meanwhile.
    Stopped,
}

/// Tries the program that lies there. Blocks until that is decided. `refusal` says why this agent
/// cannot let go of its work just now.
///
/// # Errors
/// What was under way is cleared by the next start.
pub fn take_up(
    device: &mut Device,
    refusal: Option<&str>,
    was_in_contact: bool,
    stop: &watch::Receiver<bool>,
) -> io::Result<Tried> {
    let marker = device.marker();
    let Some(staged) = &marker.underway else { return Ok(Tried::Nothing) };
    let version = staged.version.clone();
    let stays = |why: &str| Tried::Stays(format!("The update to {version} was not made: {why}."));
    if let Some(why) = refusal {
        take_back(device, End::Refused, why, Timestamp::now())?;
        return Ok(stays(why));
    }
    // It lay there since it was looked at, and stays as it is now until it runs.
    let held = program::hold(device.next());
    let is_the_one = program::sum(device.next()).is_ok_and(|sum| sum == staged.sha256);
    let Some(held) = held.ok().filter(|_| is_the_one) else {
        let why = "the program is not the one that was checked";
        take_back(device, End::TakenBack, why, Timestamp::now())?;
        return Ok(stays(why));
    };
    device.keep_journal()?;
    let Some(underway) = try_next(device)? else { return Ok(Tried::Nothing) };
    match watched(device, &underway, held, was_in_contact, stop) {
        Ok(Verdict::Wait) => Ok(Tried::Stopped),
        Ok(Verdict::Proven) => {
            proven(device)?;
            Ok(Tried::Switched(format!("The agent {version} works and takes over.")))
        }
        Ok(Verdict::Failed(why)) => {
            take_back(device, End::TakenBack, &why, Timestamp::now())?;
            Ok(Tried::Stays(format!("The agent {version} was tried and taken back: {why}.")))
        }
        Err(error) => {
            let why = format!("it could not be started: {error}");
            take_back(device, End::TakenBack, &why, Timestamp::now())?;
            Ok(Tried::Stays(format!("The agent {version} was tried and taken back: {why}.")))
        }
    }
}

/// Runs the new program, which is held until then, until it is judged; [`Verdict::Wait`] when the service
/// is told to stop.
fn watched(
    device: &Device,
    underway: &Underway,
    held: File,
    was_in_contact: bool,
    stop: &watch::Receiver<bool>,
) -> io::Result<Verdict> {
    // It ends with this process, whatever becomes of it.
    let group = ProcessGroup::new()?;
    let mut command = Command::new(device.next());
    command.args([TRIAL, "--data-dir"]).arg(device.folder());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.creation_flags(CREATE_NO_WINDOW);
    let began = Instant::now();
    let mut child = command.spawn()?;
    // Windows lets nobody write to a program that runs.
    drop(held);
    if let Err(error) = group.add(&child) {
        let _ = child.kill();
        return Err(error.into());
    }
    let said = listen(&mut child);
    let within = Duration::from_secs(underway.within_s);
    let mut heard = Heard::default();
    let verdict = loop {
        while let Ok(word) = said.try_recv() {
            match word.trim() {
                "running" => heard.is_running = true,
                "contact" => heard.has_contact = true,
                _ => {}
            }
        }
        heard.has_ended = child.try_wait()?.is_some();
        match judge(was_in_contact, heard, began.elapsed(), within) {
            Verdict::Wait if *stop.borrow() => break Verdict::Wait,
            Verdict::Wait => std::thread::sleep(LOOK_EVERY),
            verdict => break verdict,
        }
    };
    // Its standard input closes, and it ends; the group ends one that does not.
    drop(child.stdin.take());
    let told = Instant::now();
    while child.try_wait()?.is_none() && told.elapsed() < END_WITHIN {
        std::thread::sleep(LOOK_EVERY);
    }
    drop(group);
    child.wait()?;
    Ok(verdict)
}

/// The lines that it says.
fn listen(child: &mut Child) -> mpsc::Receiver<String> {
    let (tx, rx) = mpsc::channel();
    if let Some(out) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tx.send(line).is_err() {
                    return;
                }
            }
        });
    }
    rx
}
