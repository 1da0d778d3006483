//! The agent as a Windows service: installing it, being it, removing it.

mod command;
pub mod fit;
pub mod token_file;
mod undo;
pub mod update;

#[cfg(windows)]
mod contact;
#[cfg(windows)]
mod event_log;
#[cfg(windows)]
pub mod exercise;
#[cfg(windows)]
mod host;
#[cfg(windows)]
mod install;
#[cfg(windows)]
mod manager;
#[cfg(windows)]
mod program;
#[cfg(windows)]
mod uninstall;

pub use command::Command;
#[cfg(windows)]
pub use event_log::{left_out, refused};
#[cfg(windows)]
pub use host::{HostError, host};
#[cfg(windows)]
pub use install::{InstallError, Installed, Order, install};
#[cfg(windows)]
pub use manager::{ManagerError, create_right};
#[cfg(windows)]
pub use program::used_folder;
pub use undo::Undo;
#[cfg(windows)]
pub use uninstall::{Data, Removal, Removed, uninstall};
#[cfg(windows)]
pub use update::trial;

/// Name of the service.
pub const NAME: &str = "WardringAgent";
/// The name that people see.
pub const DISPLAY_NAME: &str = "Wardring agent";
/// What people read about it.
pub const DESCRIPTION: &str = "Installs updates on behalf of a Wardring controller, and proves after \
                               the restart that this device works.";
/// Name of the source in the event log.
pub const EVENT_SOURCE: &str = "Wardring";
/// First argument of the program when it is started as a service.
pub const ARGUMENT: &str = "service";
