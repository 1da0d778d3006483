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
pub(super) use {classify::Shutdown, own::OwnBoot};

/// What an event Kernel-Power 109, as XML, says that Windows went down for; none if it is read as neither.
#[cfg(windows)]
pub(super) fn shutdown(xml: &str) -> Option<Shutdown> {
    Shutdown::of(&event::Event::parse(xml)?)
}
