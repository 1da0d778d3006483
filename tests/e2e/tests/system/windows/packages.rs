//! An out-of-band fix that no update service offers, by the address of its package.

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::json;
use wardring_api::{LineState, PermitStep, RolloutPhase};
use wardring_seal::Authority;
use wardring_wine_tests::{
    registry::Changes,
    server::{Ends, installed},
    signing::package,
    web::{Files, sha256, trust},
};

use super::site::{GROUP, ROLLUP, Site, UBRS};
use crate::support::{
    manifests::{BUILDS, PRODUCT},
    place::{LONG, stage_of},
};

const OUT_OF_BAND: &str = "KB5070001";

#[tokio::test(flavor = "multi_thread")]
async fn windows_fetches_a_package_by_its_address_and_installs_it_once_and_proves_it() -> Result<()>
{
    let site = Site::open("win-package", &[]).await?;
    let folder = site.server.take_packages(ROLLUP)?;
    let authority = Authority::create(Timestamp::now()).context("an authority")?;
    trust(&site.server.prefix, folder.path(), &authority)?;
    let content = package(folder.path(), Some("Microsoft Corporation"))?;
    let sum = sha256(&content, folder.path())?;
    let files = Files::serve(&authority, content).await?;
    site.roll_out(json!({ "updates": { "packages": [{
        "kb": OUT_OF_BAND, "product": PRODUCT, "url": files.url, "sha256": sum,
        "targetBuild": BUILDS[1],
    }] } }))
    .await?;

    site.server.until_restarts_ordered(1).await?;
    site.server.restart(UBRS[1], Ends::Installed, installed(Changes::new(), ROLLUP))?;
    let status = site.until_phase(LONG, RolloutPhase::Completed).await?;

    assert_eq!(stage_of(&status, GROUP).counts.succeeded, 1);
    let line = site.line().await?;
    assert_eq!((line.state, line.attempt), (LineState::Succeeded, 1), "{line:?}");
    assert_eq!(site.permitted(), [PermitStep::Install, PermitStep::Reboot]);
    let [run] = &site.server.standalone_runs()[..] else { panic!("it is to run once") };
    assert!(run.contains(&sum) && run.ends_with("/quiet /norestart"), "{run}");
    assert_eq!((files.asked(), site.installs()), (1, 0));
    Ok(())
}
