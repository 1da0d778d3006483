//! Boots: which one runs, and why it came.
//!
//! The identity is ours and dies with the boot. Why it came stands in the System log; where that
//! cannot be read the answer is Unknown, never a guess.

mod ask;
mod classify;
mod event;
#[cfg(windows)]
mod own;

#[cfg(windows)]
pub(super) use own::OwnBoot;

/// What Windows went down for, as a number of POWER_ACTION: what an event Kernel-Power 109 says, as XML.
#[cfg(windows)]
pub(super) fn shutdown_action(xml: &str) -> Option<u32> {
    event::Event::parse(xml)?.field("ShutdownActionType")?.parse().ok()
}
