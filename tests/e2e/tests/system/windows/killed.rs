//! The agent is killed wherever a job of it can stand, on the way there and on the way back: when what
//! led there is done and not written down, and when it is written down and nothing else is begun.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::api::ListParams;
use serde_json::json;
use wardring_api::{
    LineState, PatchRollout, PermitStep, RolloutPhase, UpdateHold, reasons::Reason,
};
use wardring_wine_tests::{
    killer::Moment,
    registry::Changes,
    server::{Ends, installed, removed, service_refuses},
};

use super::site::{ROLLUP, Site, UBRS, rollup};
use crate::support::place::ROLLOUT;

/// Two dozen starts of the agent and two of Windows, beside other tests.
const LIMIT: Duration = Duration::from_secs(480);
/// Where a job stands between its offer and the end of its rollback.
const PLACES: [&str; 12] = [
    "Preflight",
    "Downloading",
    "AwaitingInstall",
    "Installing",
    "AwaitingReboot",
    "Rebooting",
    "Settling",
    "Verifying",
    "Remediating",
    "Surveying",
    "AwaitingUninstall",
    "Uninstalling",
];

/// A site, and what was done to it so far.
struct Story {
    site: Site,
    kills: u64,
    has_installed: bool,
    /// Restarts ordered when Windows was restarted last: two orders of one boot, by an agent that died
    /// between them, are one restart.
    ordered: usize,
    restarts: usize,
}

impl Story {
    /// Does what is due: starts the agent's service again, ends the installation, restarts Windows.
    fn go_on(&mut self) -> Result<()> {
        let server = &self.site.server;
        let killer = server.prefix.killer().context("this server has no killer")?;
        let is_ordered = server.restarts_ordered() > self.ordered;
        if is_ordered {
            // Off first: the boot starts an agent that was killed since it ordered that.
            server.prefix.switch_off()?;
        }
        if killer.kills() > self.kills {
            self.kills += 1;
            server.place().context("the journal after a kill")?;
            if !is_ordered {
                server.recover_agent()?;
            }
        }
        if !is_ordered && !self.has_installed && self.site.installs() > 0 {
            server.end_installation(ROLLUP)?;
            self.has_installed = true;
        }
        if is_ordered {
            let (ubr, ends, changes) = if server.removals().is_empty() {
                let broken = installed(Changes::new(), ROLLUP);
                (UBRS[1], Ends::Installed, service_refuses(broken, "MSSQLSERVER", 42))
            } else {
                let mended = removed(Changes::new(), ROLLUP);
                (UBRS[0], Ends::Offered, service_refuses(mended, "MSSQLSERVER", 0))
            };
            server.restart(ubr, ends, changes)?;
            self.ordered = server.restarts_ordered();
            self.restarts += 1;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_whose_agent_is_killed_wherever_a_job_stands_installs_once_and_takes_it_back_once()
-> Result<()> {
    let hangs = json!({ "hangs": true, "needsReboot": true });
    let site = Site::open_mortal("win-killed", &[rollup(hangs)]).await?;
    let mut story = Story { site, kills: 0, has_installed: false, ordered: 0, restarts: 0 };
    story.site.server.prefix.killer().context("this server has no killer")?.arm_everywhere();
    story.site.roll_out(json!({ "onFailure": { "action": "Rollback" } })).await?;

    let (begun, rollouts) = (Instant::now(), story.site.place.api::<PatchRollout>());
    let status = loop {
        story.go_on()?;
        let status = rollouts.get(ROLLOUT).await?.status.unwrap_or_default();
        if status.phase == Some(RolloutPhase::RolledBack) {
            break status;
        }
        if begun.elapsed() > LIMIT {
            bail!("{} kills, {status:?}: {}", story.kills, story.site.server.log());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (site, restarts) = (&story.site, story.restarts);
    let killer = site.server.prefix.killer().context("this server has no killer")?;
    killer.disarm();

    for place in PLACES {
        for moment in [Moment::Flushed, Moment::InPlace] {
            let at = (place.to_owned(), moment);
            assert!(killer.places().contains(&at), "never killed at {at:?}");
        }
    }
    assert_eq!(status.halted.map(|halted| halted.reason).as_deref(), Some("FailureBudgetSpent"));
    let line = site.line().await?;
    assert_eq!((line.state, line.was), (LineState::RolledBack, Some(LineState::Failed)));
    assert_eq!(line.was_reason, Some(Reason::ServiceDown), "{line:?}");
    assert_eq!((site.installs(), site.server.removals().len(), restarts), (1, 1, 2));
    // Each question of an agent that died with the answer is answered anew, and no step comes back.
    let mut permitted = site.permitted();
    permitted.dedup();
    use PermitStep::{Install, Reboot, Uninstall};
    assert_eq!(permitted, [Install, Reboot, Uninstall, Reboot]);
    assert!(site.a_job_told("MSSQLSERVER"), "the job names the cause");
    site.until_told("RollbackSucceeded").await?;
    let holds = site.place.api::<UpdateHold>().list(&ListParams::default()).await?.items;
    assert_eq!(holds.len(), 1, "{holds:?}");
    Ok(())
}
