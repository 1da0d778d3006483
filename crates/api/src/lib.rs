//! API types of group `wardring.dev`, version `v1alpha1`: what people, Git, the controller and the
//! gateway write to the API server, and the words they share.
//!
//! This crate holds shapes only. It must not decide anything, and it knows neither a client nor an
//! async runtime, so that every process can depend on it.

mod approval;
pub mod approval_policy;
mod autonomous;
mod canary;
pub mod conditions;
mod correlated;
pub mod crd;
mod device;
mod emergency;
mod enrollment;
mod gate;
mod gate_provider;
mod group;
mod health;
mod hold;
mod hooks;
mod job;
mod ledger;
pub mod names;
mod notifier;
mod package;
mod predownload;
pub mod presence;
pub mod reasons;
mod restart;
mod rollback;
mod rollout;
mod rollout_status;
mod scalars;
mod slice;
mod update;
mod window;

pub use approval::*;
pub use autonomous::*;
pub use canary::*;
pub use correlated::*;
pub use device::*;
pub use emergency::*;
pub use enrollment::*;
pub use gate::*;
pub use gate_provider::*;
pub use group::*;
pub use health::*;
pub use hold::*;
pub use hooks::*;
pub use job::*;
pub use ledger::*;
pub use notifier::*;
pub use package::*;
pub use predownload::*;
pub use restart::*;
pub use rollback::*;
pub use rollout::*;
pub use rollout_status::*;
pub use scalars::*;
pub use slice::*;
pub use update::*;
pub use window::*;

/// The API group of every object of this crate.
pub const GROUP: &str = "wardring.dev";
/// The one served and stored version.
pub const VERSION: &str = "v1alpha1";
