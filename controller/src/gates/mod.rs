//! Gates as far as they are measured outside: who may be asked.

mod provider;
mod registry;

pub use provider::{Provider, Tenants, Unusable};
pub use registry::{Registry, Standing, keep};
