//! Packages of Windows: which are there, whether they can be taken back, and taking them back.
//!
//! Windows Update cannot remove what it installed unless WSUS orders it (WU_E_UNINSTALL_NOT_ALLOWED,
//! 0x80240028), and a KB number names no package: so the packages are told by the difference that
//! an installation makes, and removed by their identity with Windows' own `dism.exe`.

#[cfg_attr(not(windows), allow(dead_code, reason = "DISM runs on Windows only"))]
mod beside;
#[cfg_attr(not(windows), allow(dead_code, reason = "asked on Windows only"))]
mod health;
mod package;
mod plan;
mod reversible;
#[cfg(windows)]
mod run;
mod table;

#[cfg(fuzzing)]
pub(crate) use table::read_anything;

pub(super) use package::is_of;
#[cfg(windows)]
pub(super) use package::{Identity, State, in_force, installed};
#[cfg(windows)]
pub(super) use reversible::status;
#[cfg(windows)]
pub(super) use run::{health, listed, uninstall};
