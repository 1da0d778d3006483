//! The controller: decides (through the planner), signs, and publishes. Its pass is observe →
//! validate → plan → apply → publish, a namespace at a time.
//!
//! This crate must not speak the agents' protocol, and decides nothing itself: what is to be done
//! stands in the plan.

pub mod activity;
pub mod approvals;
pub mod cache;
pub mod clock;
mod crds;
pub mod events;
pub mod gates;
pub mod health;
pub mod identity;
pub mod leader;
pub mod lease;
mod limit;
pub mod metrics;
pub mod notify;
pub mod outbound;
pub mod pass;
pub mod presence;
pub mod progress;
pub mod settings;
pub mod start;
pub mod stops;
