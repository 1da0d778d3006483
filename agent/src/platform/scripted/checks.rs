//! Probes and hooks of a scripted Windows: they end as the world file says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use wardring_seal::{Hook, Probe};

use super::Scripted;
use super::life::Stand;
use crate::platform::Checks;
use crate::state::ProbeSample;

impl Checks for Scripted {
    async fn probe(&self, probes: &[Probe]) -> BTreeMap<String, ProbeSample> {
        let life = self.advanced();
        let in_force = |kb: &str| life.stand(kb) == Stand::Installed;
        let by_updates = self
            .world
            .updates
            .iter()
            .filter(|update| in_force(&update.kb))
            .flat_map(|update| &update.effects.fail_probes);
        let failing: BTreeSet<&String> = by_updates.chain(&self.world.failing_probes).collect();
        let sample = |probe: &Probe| match failing.contains(&probe.name) {
            true => ProbeSample::Failed("it fails as the world file says".to_owned()),
            false => ProbeSample::Good,
        };
        probes.iter().map(|probe| (probe.name.clone(), sample(probe))).collect()
    }

    fn ports(&self) -> BTreeSet<u16> {
        BTreeSet::new()
    }

    async fn run_hook(&self, hook: &Hook) -> Result<(), String> {
        let Some(scripted) = self.world.hooks.get(&hook.program).cloned() else {
            return Err(format!("there is no {} in the hooks folder", hook.program));
        };
        {
            let life = self.advanced();
            let details = json!({ "program": hook.program, "moment": hook.moment.as_str() });
            self.record("hook", &life, details);
        }
        let limit = Duration::from_millis(hook.timeout_ms);
        let takes = Duration::from_millis(scripted.takes_ms);
        tokio::time::sleep(takes.min(limit)).await;
        match scripted.exit_code {
            _ if takes > limit => Err("it was not over in time and was ended".to_owned()),
            0 => Ok(()),
            code => Err(format!("it ended with exit code {code}")),
        }
    }
}
