//! Gates as far as they are measured outside: who may be asked, what is asked, and what the answers come
//! to.
//!
//! What follows from a measurement is the planner's. A pass never waits for anything in here.

pub mod alertmanager;
mod context;
mod measure;
pub mod prometheus;
mod provider;
mod reading;
mod registry;
mod shell;
mod speak;
mod tickets;
mod webhook;

pub use context::{Context, Member};
pub use provider::{Provider, Tenants, Unusable};
pub use reading::{Found, Reading};
pub use registry::{Registry, Standing, keep};
pub use shell::Gates;
