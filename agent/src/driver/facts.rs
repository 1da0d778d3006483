//! Looking at the device: its facts, and how it is since installations that ended well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wardring_protocol::{Facts, PauseFact, ReportBody};

use super::{Msg, Run};
use crate::chance;
use crate::gateway::Gateway;
use crate::platform::Platform;
use crate::state::{Event, Look, Lookout};

/// How often the device is looked at for changed facts, with the first answer to a poll after that: a
/// timer of its own would wake an idle device, and without contact nobody could be told.
const FACTS_EVERY: Duration = Duration::from_secs(300);
/// Pause between something that may change facts and looking at them.
const FACTS_SOON: Duration = Duration::from_millis(300);
/// Shortest time between two looks at the device's health after installations. They go with a look for
/// changed facts, also the first one of a run: no timer, and nothing without contact.
pub(super) const HEALTH_EVERY: Duration = Duration::from_secs(150);

impl<P: Platform, G: Gateway> Run<'_, P, G> {
    /// Looks at the device in a moment, together with what else may change until then.
    pub(super) fn look_soon(&mut self) {
        self.facts_at.get_or_insert_with(|| Instant::now() + FACTS_SOON);
    }

    /// Looks at the device; a scan of services may take a while.
    pub(super) fn look_at_facts(&mut self) {
        self.facts_at = None;
        self.facts_due = Instant::now() + chance::around(FACTS_EVERY);
        self.read_facts();
        self.look_at_health();
    }

    fn read_facts(&mut self) {
        let now = Instant::now();
        if !self.reading.begin(now) {
            if self.reading.tells_hung(now) {
                let device = self.device();
                tracing::warn!(device, "the device does not tell its facts: the last look hangs");
            }
            return;
        }
        let (platform, tx) = (Arc::clone(&self.agent.platform), self.tx.clone());
        self.tasks.spawn(async move {
            let read = tokio::task::spawn_blocking(move || Box::new(platform.facts())).await;
            // Nobody reads it when the run is over.
            let _ = tx.send(Msg::Facts(read.ok()));
        });
    }

    /// A reading of the facts ended; one that panicked has none.
    pub(super) async fn read(&mut self, facts: Option<Box<Facts>>) {
        if self.reading.end() {
            self.look_soon();
        }
        if let Some(facts) = facts {
            self.facts(*facts).await;
        }
    }

    /// Looks at what finished jobs asked for, if it is time to.
    fn look_at_health(&mut self) {
        if !self.saved.state.is_watched() || Instant::now() < self.health_due {
            return;
        }
        self.health_due = Instant::now() + HEALTH_EVERY;
        let lookouts = self.saved.state.lookouts();
        let (platform, tx) = (Arc::clone(&self.agent.platform), self.tx.clone());
        if self.looking.is_under_way() {
            let why = "the last look at the device has not ended".to_owned();
            // We are the one who reads it.
            let _ = tx.send(Msg::Event(Event::Looked(Err(why))));
            return;
        }
        if lookouts.is_empty() {
            // What was seen last grows old. We are the one who reads it.
            let _ = tx.send(Msg::Looked(Ok(Vec::new())));
            return;
        }
        self.looking.begin(Instant::now());
        self.tasks.spawn(async move {
            // Nobody reads it when the run is over.
            let _ = tx.send(Msg::Looked(look(&platform, lookouts).await));
        });
    }

    /// A look at the device's health ended: what follows from it is told with the facts as last seen.
    pub(super) async fn looked(&mut self, looks: Result<Vec<Look>, String>) {
        let is_late = self.looking.is_hung(Instant::now());
        self.looking.end();
        if is_late {
            // It was told as no look already, and what it saw is not how the device is.
            return;
        }
        if let Err(why) = &looks {
            tracing::warn!(device = self.device(), why, "the device's health cannot be looked at");
        }
        self.take(Event::Looked(looks)).await;
        if let Some(facts) = self.last_facts.clone() {
            self.facts(facts).await;
        }
    }

    /// Reports facts that are not as they were.
    pub(super) async fn facts(&mut self, mut facts: Facts) {
        let state = &self.saved.state;
        facts.pause = state.paused.as_ref().map(|pause| PauseFact {
            reason: pause.reason.clone(),
            since: pause.since,
            until: pause.until,
        });
        facts.health = state.health_facts();
        if self.last_facts.as_ref() == Some(&facts) {
            return;
        }
        self.last_facts = Some(facts.clone());
        self.saved.outbox.push(ReportBody::Facts(Box::new(facts)), None);
        self.commit().await;
        self.send_soon();
    }
}

/// Services by one question, and the probes of each lookout.
async fn look<P: Platform>(platform: &Arc<P>, lookouts: Vec<Lookout>) -> Result<Vec<Look>, String> {
    let mut names: Vec<String> =
        lookouts.iter().flat_map(|lookout| lookout.services.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let services = Arc::clone(platform);
    let sampled = tokio::task::spawn_blocking(move || services.sample(&names)).await;
    let sampled =
        sampled.map_err(|_| "the service manager was not asked to the end".to_owned())??;
    let mut looks = Vec::new();
    for Lookout { key, services, probes } in lookouts {
        let of = |name: String| sampled.get(&name).cloned().map(|sample| (name, sample));
        let services = services.into_iter().filter_map(of).collect();
        let probes = platform.probe(&probes).await;
        looks.push(Look { key, services, probes });
    }
    Ok(looks)
}

#[cfg(all(test, feature = "scripted", not(windows)))]
mod tests {
    use super::*;
    use crate::platform::scripted::{Scripted, World};
    use crate::state::{ProbeSample, ServiceState};
    use wardring_seal::{Action, Check, JobKey, Probe};

    fn lookout(attempt: u32, services: &[&str], probes: &[&str]) -> Lookout {
        let probe = |name: &&str| Probe {
            name: (*name).to_owned(),
            timeout_ms: 1_000,
            check: Check::Tcp { host: None, port: 443 },
        };
        let id = "id".to_owned();
        let action = Action::Install;
        Lookout {
            key: JobKey { rollout_uid: id.clone(), device_id: id, attempt, action },
            services: services.iter().map(|name| (*name).to_owned()).collect(),
            probes: probes.iter().map(probe).collect(),
        }
    }

    #[tokio::test]
    async fn each_lookout_gets_a_look_at_what_it_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let world: World = serde_yaml::from_str(
            "{product: P, build: '1.1', services: {A: Running, B: Stopped}, failingProbes: [web]}",
        )
        .unwrap();
        let device = Scripted::open("srv-1", Arc::new(world), folder.path()).unwrap();
        let lookouts = vec![lookout(1, &["A", "Gone"], &[]), lookout(2, &["B", "A"], &["web"])];
        let looks = look(&Arc::new(device), lookouts).await.unwrap();
        let states = |look: &Look| -> Vec<(String, ServiceState)> {
            look.services.iter().map(|(name, sample)| (name.clone(), sample.state)).collect()
        };
        let of = |name: &str, state| (name.to_owned(), state);
        assert_eq!((looks[0].key.attempt, looks[1].key.attempt), (1, 2));
        let first = [of("A", ServiceState::Running), of("Gone", ServiceState::Missing)];
        assert_eq!(states(&looks[0]), first);
        let second = [of("A", ServiceState::Running), of("B", ServiceState::Stopped)];
        assert_eq!(states(&looks[1]), second);
        assert!(looks[0].probes.is_empty());
        assert!(matches!(looks[1].probes["web"], ProbeSample::Failed(_)));
    }
}
