//! Installations, places with living devices, and the witnesses: the API server's watch history and
//! the devices' own journals.

pub mod history;
pub mod impostor;
pub mod journal;
pub mod manifests;
pub mod people;
pub mod place;
pub mod relay;

use std::path::PathBuf;

use anyhow::{Context, Result};
use tokio::sync::OnceCell;
use wardring_e2e::Installation;
use wardring_harness::DevCluster;

pub use history::History;
pub use manifests::{Plan, rollout, stage, world, world_with};
pub use place::{LONG, Place, SHORT};

/// A leader that dies is replaced after three seconds.
pub const CONTROLLER: [&str; 4] = ["--lease-duration", "3s", "--lease-renew", "1s"];
/// Facts and progress are seen soon; a gateway in production saves writes instead.
pub const GATEWAY: [&str; 6] =
    ["--progress-delay", "300ms", "--facts-delay", "1s", "--poll-interval", "2s"];

/// The installation of all tests that harm none of its processes: one controller, two gateways.
pub async fn shared() -> Result<&'static Installation> {
    static SHARED: OnceCell<Installation> = OnceCell::const_new();
    // It ends with this process, and its cluster too.
    let patient = ["--lease-duration", "15s", "--lease-renew", "2s"];
    SHARED.get_or_try_init(|| install("shared", &patient)).await
}

/// An installation of a test's own, on a cluster of its own: one controller, two gateways.
///
/// Never on a cluster that exists: these tests stop API servers and take policies away.
pub async fn install(name: &str, controller: &[&str]) -> Result<Installation> {
    install_with(name, controller, &GATEWAY).await
}

/// The same with other flags for the gateways.
pub async fn install_with(
    name: &str,
    controller: &[&str],
    gateway: &[&str],
) -> Result<Installation> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("system").join(name);
    // Logs of the last run; those of this run stay for whoever looks into a failure.
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("failed to clear {folder:?}"))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {folder:?}"))?;
    let mut installation = Installation::install(DevCluster::start().await?, &folder).await?;
    installation.start_controller(controller).await?;
    for _ in 0..2 {
        installation.start_gateway(gateway).await?;
    }
    Ok(installation)
}
