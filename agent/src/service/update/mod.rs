//! Updating the agent by itself: a new program beside the present one, tried by the present one, and
//! put into its place after it has shown that it works.
//!
//! Until then the service starts the present program, and afterwards one that ran here and reported.
//! So whatever ends in between, there is a program for the service to start. Everything that changes
//! something stands in [`steps`], over a [`Ground`] that a test can cut off at any of them.

mod admit;
mod marker;
mod steps;
mod verdict;

#[cfg(windows)]
mod ground;
#[cfg(windows)]
mod order;
#[cfg(windows)]
mod supervise;
#[cfg(test)]
mod sweep;
#[cfg(windows)]
mod trial;

#[cfg(windows)]
pub(super) use ground::{Device, forget};
#[cfg(windows)]
pub(super) use supervise::{Tried, take_up};
#[cfg(windows)]
pub(super) use trial::{OnTrial, say};

pub use admit::{Known, Offered, Refusal, Signer, Terms, admit, is_older};
pub use marker::{End, Failed, Last, Marker, Stage, Underway, failure};
#[cfg(windows)]
pub use order::{Order, UpdateError, Updated, update};
pub use steps::{
    Begin, Ground, Heed, Which, begin, heed, move_in, proven, take_back, try_next, unstage,
};
#[cfg(windows)]
pub use trial::trial;
pub use verdict::{Heard, Verdict, judge};

/// What the service control manager is asked to tell the service: that a new program lies there.
pub const CONTROL: u32 = 128;
/// First argument of a program that is tried.
pub const TRIAL: &str = "trial";
/// How long a new program has to report, seconds, when nobody said another time.
pub const WITHIN_S: u64 = 600;
