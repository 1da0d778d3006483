//! Manifests with the answer that the API server owes them.
//!
//! A fixture is a YAML file below `fixtures/`: a `first` object, optionally a change to it (`then`), and
//! whether the last step is accepted or refused with which words. This crate knows nothing of what the
//! objects mean; it only asks a real API server.

mod cluster;
mod fixture;

pub use cluster::{in_own_namespace, install, resource_of};
pub use fixture::{Expect, Fixture, fixtures};
