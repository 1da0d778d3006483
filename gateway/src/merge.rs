//! How reports become statuses: pure, so that the order in which they arrive, doubles and losses
//! make no difference (the property tests below, and the simulator).
//!
//! Facts and progress are joined by their number: the highest wins and late copies change nothing.
//! An outcome is final: the first that is stored for an attempt stays.

mod facts;
mod health;
mod offered;
mod progress;
mod reduce;

pub use facts::{FactsReport, apply_facts, fingerprint, is_quarantined, judge_age, quarantine};
pub use progress::{
    apply_outcome, apply_permit, apply_progress, apply_refused_step, note_run, sighting,
};
pub use reduce::{OutcomeReport, ProgressReport, Reduced, reduce};

#[cfg(test)]
mod health_tests;
#[cfg(test)]
mod tests;
