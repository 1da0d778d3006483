//! Windows that nobody answers any more, and one to which everybody but our gateway does. Hours of the
//! device pass in seconds: its clock is the test's.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use wardring_api::{LineState, PatchRolloutStatus, PermitStep, RolloutPhase, reasons::Reason};
use wardring_wine_tests::{
    clock::Hurry,
    registry::Changes,
    server::{Ends, installed, removed, router_answers},
};

use super::{
    restarts,
    site::{GROUP, ROLLUP, Site, UBRS, rollup},
};
use crate::support::place::{LONG, stage_of};

/// A quarter of an hour is the least that a rollout may say, and the device adds up to as much.
fn when_the_network_is_lost() -> serde_json::Value {
    json!({ "autonomousRollback": {
        "triggers": ["NetworkLost"], "networkLost": { "after": "15m" },
    } })
}

/// Restarts the device into the new build, out of our gateway's reach.
async fn restart_out_of_reach(site: &mut Site, router: bool) -> Result<()> {
    site.server.until_restarts_ordered(1).await?;
    site.reach_gateway(false).await?;
    let there = router_answers(installed(Changes::new(), ROLLUP), router);
    site.server.restart(UBRS[1], Ends::Installed, there)?;
    // The clock may run once Windows has come up: it gives services seconds to start.
    site.server.until_runs("MSSQLSERVER").await
}

fn hurry(site: &Site, times: u32) -> Result<Hurry> {
    site.server.prefix.clock().context("a site apart has a clock")?.hurry(times)
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_whose_network_an_update_kills_takes_it_back_by_itself_and_tells_when_it_can()
-> Result<()> {
    let mut site = Site::open_apart("win-lost", &[rollup(restarts())]).await?;
    site.roll_out(when_the_network_is_lost()).await?;
    restart_out_of_reach(&mut site, false).await?;
    let began = site.server.prefix.clock().context("a clock")?.ahead();
    let hurrying = hurry(&site, 60)?;
    site.server.until_restarts_ordered(2).await?;
    drop(hurrying);
    let waited = site.server.prefix.clock().context("a clock")?.ahead() - began;
    assert!(waited > Duration::from_secs(14 * 60), "an outage of {waited:?} is no reason");
    assert_eq!(site.server.removals().len(), 1);

    site.reach_gateway(true).await?;
    let mended = router_answers(removed(Changes::new(), ROLLUP), true);
    site.server.restart(UBRS[0], Ends::Offered, mended)?;
    let is_back = |status: &PatchRolloutStatus| stage_of(status, GROUP).counts.rolled_back == 1;
    site.place.until_status(LONG, "to have the device rolled back", is_back).await?;

    let line = site.line().await?;
    assert_eq!((line.state, line.was), (LineState::RolledBack, Some(LineState::Failed)));
    assert_eq!(line.was_reason, Some(Reason::NetworkLost), "{line:?}");
    let note = line.note.unwrap_or_default();
    assert!(note.contains("nothing on the network has answered for"), "{note}");
    assert_eq!(site.permitted(), [PermitStep::Install, PermitStep::Reboot]);
    assert_eq!((site.installs(), site.server.removals().len()), (1, 1));
    assert_eq!(site.server.restarts_ordered(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_that_only_our_gateway_does_not_answer_for_a_day_keeps_its_update() -> Result<()> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let mut site = Site::open_apart("win-alone", &[rollup(restarts())]).await?;
    site.roll_out(when_the_network_is_lost()).await?;
    restart_out_of_reach(&mut site, true).await?;
    let clock = site.server.prefix.clock().context("a clock")?;
    let began = clock.ahead();
    let hurrying = hurry(&site, 60)?;
    let log = || site.server.log();
    site.server.until("the job to end", || log().contains("\"job ended\"")).await?;
    drop(hurrying);
    let hurrying = hurry(&site, 3_600)?;
    site.server.until("a day to pass", || clock.ahead() - began > DAY).await?;
    drop(hurrying);
    assert_eq!((site.server.removals().len(), site.server.restarts_ordered()), (0, 1));

    site.reach_gateway(true).await?;
    let status = site.until_phase(LONG, RolloutPhase::Completed).await?;
    assert_eq!(stage_of(&status, GROUP).counts.succeeded, 1);
    assert_eq!(site.line().await?.state, LineState::Succeeded);
    assert_eq!((site.server.removals().len(), site.server.restarts_ordered()), (0, 1));
    Ok(())
}
