//! Windows itself: its updates, packages, boots, services and signs of a pending restart.

#[cfg_attr(not(windows), allow(dead_code, reason = "asked on Windows only"))]
mod around;
#[cfg_attr(not(windows), allow(dead_code, reason = "there are sessions on Windows alone"))]
mod asking;
#[cfg(windows)]
mod bitlocker;
mod boots;
#[cfg(windows)]
mod checks;
#[cfg(windows)]
mod configmgr;
#[cfg(windows)]
mod device;
mod dism;
#[cfg(windows)]
mod name;
mod neighbours;
#[cfg_attr(not(windows), allow(dead_code, reason = "ordered on Windows only"))]
mod order;
mod pending;
#[cfg(windows)]
mod power;
mod product;
mod query;
mod registry;
mod renames;
#[cfg(windows)]
pub mod selftest;
mod services;
#[cfg_attr(not(windows), allow(dead_code, reason = "there are sessions on Windows alone"))]
mod sessions;
mod smbios;
#[cfg_attr(not(windows), allow(dead_code, reason = "asked on Windows only"))]
mod store;
#[cfg(windows)]
mod support;
pub mod updates;

#[cfg_attr(not(windows), allow(unused_imports, reason = "asked on Windows only"))]
use query::events_query;

/// Whatever DISM may print, for the fuzzer.
#[cfg(fuzzing)]
pub(crate) fn read_dism(output: &str) {
    dism::read_anything(output);
}

#[cfg(windows)]
pub use device::{OpenError, Windows};
#[cfg(windows)]
pub use name::computer_name;
#[cfg(windows)]
pub use support::{for_support, hardware, others, roles, unrest};
