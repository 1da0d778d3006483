//! Windows Update. What it tells and what it is told are plain values ([`wua`]), so everything that
//! is decided about them is tested on any system; the calls into COM are in `ffi/wua.rs`.

mod agent;
mod calls;
mod install;
mod inventory;
mod look;
mod matching;
#[cfg(test)]
mod package_tests;
mod policy;
#[cfg(windows)]
mod real;
mod record;
mod shelf;
mod standalone;
#[cfg(test)]
mod tests;
pub(crate) mod wua;

pub use agent::{Device, Limits, Seen, WindowsUpdate};
pub use calls::Connect;
pub(crate) use matching::builds_in;
pub use policy::{AUTOMATIC, POLICY, Policy};
#[cfg(windows)]
pub use real::{open, read_policy};
pub use shelf::Shelf;
pub use standalone::Standalone;
#[cfg(test)]
pub(crate) use wua::Identity;
pub(crate) use wua::{DEFINITIONS, UPGRADES, Update};
