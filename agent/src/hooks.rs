//! The hooks folder: programs that an administrator of this device put there, and nothing else.
//!
//! A job names a file; what is in it never comes from a job. The name is taken letter by letter, so
//! that it can name nothing outside of the folder, and folder and file must belong to those who
//! could do everything on this device anyway.

#[cfg(windows)]
use wardring_seal::Hook;

/// Name of the folder within the data folder.
pub const FOLDER: &str = "hooks";

/// Names that Windows takes for devices, whatever follows the first dot (Microsoft Learn, "Naming
/// Files, Paths, and Namespaces").
const DEVICES: [&str; 22] = [
    "CON", "PRN", "AUX", "NUL", "COM1", "COM2", "COM3", "COM4", "COM5", "COM6", "COM7", "COM8",
    "COM9", "LPT1", "LPT2", "LPT3", "LPT4", "LPT5", "LPT6", "LPT7", "LPT8", "LPT9",
];
const MAX_NAME: usize = 64;

/// What starts a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is an executable.
    Exe,
    /// The command interpreter.
    Cmd,
    /// Windows PowerShell.
    Ps1,
}

/// What kind of program the file name stands for.
///
/// # Errors
/// It is no name of a hook.
pub fn kind(program: &str) -> Result<Kind, String> {
    let refused = || format!("{program:?} is no name of a hook, such as `drain.ps1`");
    let (stem, extension) = program.split_once('.').ok_or_else(refused)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let starts_well = stem.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let is_device = DEVICES.iter().any(|device| device.eq_ignore_ascii_case(stem));
    if !starts_well || !stem.bytes().all(is_plain) || is_device || program.len() > MAX_NAME {
        return Err(refused());
    }
    match extension {
        "exe" => Ok(Kind::Exe),
        "cmd" => Ok(Kind::Cmd),
        "ps1" => Ok(Kind::Ps1),
        _ => Err(refused()),
    }
}

/// Runs a hook of `folder` to its end, or ends it with everything it started. Blocks.
///
/// # Errors
/// A sentence: it is not there, not protected, or did not end well.
#[cfg(windows)]
pub fn run(folder: &std::path::Path, hook: &Hook) -> Result<(), String> {
    use std::os::windows::process::CommandExt;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    const CREATE_SUSPENDED: u32 = 0x4;
    const CREATE_NO_WINDOW: u32 = 0x0800_0000;
    const LOOK_EVERY: Duration = Duration::from_millis(200);

    let mut command = command(folder, hook)?;
    command.current_dir(folder).env("WARDRING_HOOK", hook.moment.as_str());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // It runs once we have hold of it: what it started before that would not be ended with it.
    command.creation_flags(CREATE_NO_WINDOW | CREATE_SUSPENDED);
    let limit = Duration::from_millis(hook.timeout_ms);
    let began = Instant::now();
    // Everything in it ends with it, and it ends with this function or with the agent.
    let group = crate::ffi::ProcessGroup::new()
        .map_err(|error| format!("cannot keep hold of a program: {error}"))?;
    let mut child = command.spawn().map_err(|error| format!("cannot start it: {error}"))?;
    if let Err(error) = group.begin(&child) {
        // It never ran, and would be there for good.
        let _ = child.kill();
        return Err(format!("cannot keep hold of it: {error}"));
    }
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("it ended with {status}")),
            Ok(None) if began.elapsed() >= limit => {
                return Err(format!("it was not over in {} s and was ended", limit.as_secs()));
            }
            Ok(None) => std::thread::sleep(LOOK_EVERY),
            Err(error) => return Err(format!("nobody can tell how it ended: {error}")),
        }
    }
}

#[cfg(windows)]
fn command(folder: &std::path::Path, hook: &Hook) -> Result<std::process::Command, String> {
    let kind = kind(&hook.program)?;
    let file = folder.join(&hook.program);
    // The folder first: whoever may write there could exchange the file between two looks at it.
    for path in [folder, &file] {
        crate::folder::check(path).map_err(|error| unsafe_place(path, &error))?;
    }
    if !file.is_file() {
        return Err(format!("{} is not a file", file.display()));
    }
    Ok(match kind {
        Kind::Exe | Kind::Cmd => std::process::Command::new(file),
        Kind::Ps1 => {
            let system = crate::ffi::system_folder()
                .map_err(|error| format!("Windows does not tell where it is: {error}"))?;
            let shell = system.join(r"WindowsPowerShell\v1.0\powershell.exe");
            let mut command = std::process::Command::new(shell);
            // A local script runs; a stricter policy of the domain stays in force (Microsoft Learn,
            // "about_Execution_Policies").
            command.args(["-NoLogo", "-NoProfile", "-NonInteractive"]);
            command.args(["-ExecutionPolicy", "RemoteSigned", "-File"]).arg(file);
            command
        }
    })
}

#[cfg(windows)]
fn unsafe_place(path: &std::path::Path, error: &crate::folder::FolderError) -> String {
    use crate::folder::FolderError;
    let what = match error {
        FolderError::Access { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            "is not there".to_owned()
        }
        FolderError::Access { source, .. } => format!("cannot be looked at: {source}"),
        FolderError::Owner { owner, .. } => {
            format!("belongs to {owner} and not to SYSTEM or the administrators")
        }
        FolderError::Open { accounts, .. } => {
            format!("is open to {} beside SYSTEM and the administrators", accounts.join(", "))
        }
        FolderError::Unlisted { .. } => "is open to everybody".to_owned(),
        FolderError::Link { .. } => "is a link to another place".to_owned(),
    };
    format!("{} {what}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_file_of_the_folder_and_nothing_else() {
        assert_eq!(kind("drain-node_2.ps1"), Ok(Kind::Ps1));
        assert_eq!(kind("a.exe"), Ok(Kind::Exe));
        assert_eq!(kind("tell.cmd"), Ok(Kind::Cmd));
        for name in [
            "",
            "drain",
            ".ps1",
            "-f.ps1",
            r"..\drain.ps1",
            "../drain.ps1",
            r"C:\drain.ps1",
            r"\\attacker\share\drain.ps1",
            "C:drain.ps1",
            "drain.ps1:stream.exe",
            "drain.txt.ps1",
            "drain.ps1.",
            "drain.ps1 ",
            "dr ain.ps1",
            "drain.bat",
            "drain.PS1",
            "nul.cmd",
            "Com1.exe",
            "drän.ps1",
            "a\0.exe",
            &format!("{}.exe", "a".repeat(61)),
        ] {
            assert!(kind(name).is_err(), "{name:?}");
        }
    }
}
