//! Windows itself. This version observes: it reports services, signs of a pending restart, the
//! product and its build, and refuses every job with a sentence.

#[cfg(windows)]
mod device;
mod pending;
mod product;
pub mod updates;

#[cfg(windows)]
pub use device::{OpenError, Windows};
