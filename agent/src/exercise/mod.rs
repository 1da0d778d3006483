//! `selftest --exercise`: on a device that may be thrown away, one update is really installed, proven,
//! removed again and proven to be gone, restarts included.
//!
//! What looking cannot show is shown by doing it, by the very code that carries out jobs: the same
//! state machine, driver, journal and platform. Only the two ends differ. The job is not sealed: it is
//! put into a journal of the exercise's own, as if the run that accepted it had been killed right
//! after, and the usual driver takes it up from there. And permits come from [`Desk`], which knows this
//! one job and asks each time whether the device is still nobody's.
//!
//! Nothing here can reach a managed device: the folder is another one than the agent's, no agent may
//! be installed or have run ([`refusal`]), and a run of it trusts no root, so it takes no sealed job.

mod choose;
mod conduct;
mod desk;
mod ground;
mod record;
mod rows;
#[cfg(all(test, feature = "scripted", not(windows)))]
mod stories;

pub use choose::{NoChoice, choose};
pub use conduct::{Paused, Trouble, conduct};
pub use desk::Desk;
pub use ground::{Consent, Ground, is_copy, refusal};
pub use record::{Chosen, Ran, Record, RecordError, Restarts, Wish};
pub use rows::rows;
