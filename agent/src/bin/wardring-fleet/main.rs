//! `wardring-fleet`: many scripted devices in one process, for the demo, benches and tests. There are
//! no scripted devices on Windows, whatever the features say.

use std::process::ExitCode;

#[cfg(not(windows))]
mod fleet;

#[cfg(not(windows))]
fn main() -> ExitCode {
    fleet::main()
}

#[cfg(windows)]
fn main() -> ExitCode {
    eprintln!("wardring-fleet: there are no scripted devices on Windows");
    ExitCode::FAILURE
}
