//! The decisions of a patch rollout: `plan(&Snapshot) -> Plan`, `check(&Snapshot, &Plan)` and
//! `permit(&PermitFacts)`, all pure.
//!
//! This crate must know no async runtime, clock, environment, file, network or random source, and
//! no map whose order is random: time and every measurement are fields of the snapshot, so one
//! input always has one answer. `clippy.toml` beside this crate enforces it.

mod devices;
mod permit;
mod plan_types;
mod selector;
mod snapshot;

pub use devices::*;
pub use permit::*;
pub use plan_types::*;
pub use selector::Selector;
pub use snapshot::*;
