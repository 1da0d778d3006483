//! A whole Wardring on a real API server: the chart, real controllers and gateways under the service
//! accounts that the chart made, and fleets of real agents. The demo, the benchmarks and the end-to-end
//! tests stand on it.

mod fleet;
mod installation;
mod tenant;
pub mod writes;

pub use fleet::{Fleet, FleetFile};
pub use installation::{Controller, Gateway, Installation, SYSTEM_NAMESPACE};
pub use tenant::{Tenant, TokenOptions};

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// A program of ours, as built next to the running one.
pub fn binary(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("failed to find the running program")?;
    // Tests run in `debug/deps`, xtask in `debug`.
    match me.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file())
    {
        Some(path) => Ok(path),
        None => bail!("{name} is not built; `cargo build --workspace` builds it"),
    }
}
