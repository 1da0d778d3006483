//! Being a service: the service control manager calls a function of ours.

use std::ffi::OsString;
use std::sync::OnceLock;

use windows_service::{define_windows_service, service_dispatcher};

static MAIN: OnceLock<fn()> = OnceLock::new();

define_windows_service!(service_main, begin);

fn begin(_arguments: Vec<OsString>) {
    // Set before Windows is told that we are here.
    if let Some(main) = MAIN.get() {
        main();
    }
}

/// Tells the service control manager that this process is the service `name` and lets it call
/// `main`, on a thread of its own; returns when `main` has.
///
/// # Errors
/// This process was not started as a service.
pub fn serve(name: &str, main: fn()) -> windows_service::Result<()> {
    // One process is one service; a second call keeps the first function.
    let _ = MAIN.set(main);
    service_dispatcher::start(name, service_main)
}
