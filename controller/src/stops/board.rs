//! What each stop keeps back, added up over the namespaces and written into its status.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use kube::{Api, Client, ResourceExt, api::PostParams};
use tokio::sync::Notify;
use wardring_api::{
    EmergencyStop, EmergencyStopStatus,
    conditions::{self, Truth, clip},
    names::CONTROLLER_MANAGER,
    reasons::Reason,
};
use wardring_planner::StopTally;

use crate::cache::Cache;

/// Statuses are written this often at most: about as often as people look again.
const EVERY: Duration = Duration::from_secs(2);
/// Without any news the stops are looked at this often; what did not change is not written.
const IDLE: Duration = Duration::from_secs(5);
/// Devices named in a status.
const SAMPLE: usize = 20;
/// Longest entry of the sample.
const MAX_ENTRY: usize = 256;

/// The last tallies of every namespace; clones share it. Losing it is safe: passes fill it anew.
#[derive(Clone, Debug, Default)]
pub struct Board {
    tallies: Arc<Mutex<BTreeMap<String, Vec<StopTally>>>>,
    changed: Arc<Notify>,
}

impl Board {
    fn tallies(&self) -> MutexGuard<'_, BTreeMap<String, Vec<StopTally>>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass looked at a namespace with these stops in force.
    pub fn note(&self, namespace: &str, tallies: &[StopTally]) {
        let mut all = self.tallies();
        if all.get(namespace).map(Vec::as_slice) != Some(tallies) {
            all.insert(namespace.to_owned(), tallies.to_vec());
            self.changed.notify_one();
        }
    }

    /// What `stop` keeps back, given the namespaces in which something may be under way.
    fn status(
        &self,
        stop: &EmergencyStop,
        namespaces: &[String],
        now: Timestamp,
    ) -> EmergencyStopStatus {
        let (all, name) = (self.tallies(), stop.name_any());
        let generation = stop.metadata.generation;
        let before = stop.status.clone().unwrap_or_default();
        let mut status = EmergencyStopStatus {
            observed_generation: generation,
            conditions: before.conditions,
            ..EmergencyStopStatus::default()
        };
        let mut unseen = 0;
        for namespace in namespaces {
            let tallies = all.get(namespace).into_iter().flatten();
            let Some(tally) = tallies.into_iter().find(|tally| *tally.name == *name) else {
                unseen += 1;
                continue;
            };
            status.rollouts += tally.rollouts;
            status.held += tally.held;
            status.mid_flight += tally.mid_flight;
            status.awaiting_reboot += tally.awaiting_reboot;
            let entry = |text: &String| clip(&format!("{namespace}/{text}"), MAX_ENTRY);
            let room = SAMPLE.saturating_sub(status.mid_flight_sample.len());
            status.mid_flight_sample.extend(tally.sample.iter().take(room).map(entry));
        }
        let list = &mut status.conditions;
        let mut set = |kind: &str, truth: Truth, reason: Reason, message: &str| {
            conditions::set(list, kind, truth, reason, message, generation, now);
        };
        if unseen > 0 {
            let message = format!(
                "In force at every gateway; the controller still looks at {unseen} of {} namespaces.",
                namespaces.len()
            );
            set(conditions::READY, Truth::False, Reason::NewGeneration, &message);
            set(conditions::RECONCILING, Truth::True, Reason::NewGeneration, &message);
        } else {
            let message = "In force: nothing that it matches begins.";
            set(conditions::READY, Truth::True, Reason::Planned, message);
            conditions::clear(list, conditions::RECONCILING);
        }
        status
    }
}

/// Writes the statuses of stops that changed, until dropped.
pub async fn publish(client: Client, cache: Cache, board: Board) {
    let api: Api<EmergencyStop> = Api::all(client);
    let params =
        PostParams { field_manager: Some(CONTROLLER_MANAGER.to_owned()), ..PostParams::default() };
    loop {
        let namespaces = cache.namespaces(|space| space.has_runs());
        board.tallies().retain(|namespace, _| namespaces.contains(namespace));
        for stop in cache.stops(|known| known.objects()) {
            let status = board.status(&stop, &namespaces, Timestamp::now());
            if stop.status.as_ref() == Some(&status) {
                continue;
            }
            let mut object = EmergencyStop::clone(&stop);
            object.status = Some(status);
            let name = object.name_any();
            match api.replace_status(&name, &params, &object).await {
                // So that the next look compares with what was written, whatever the watch's delay.
                Ok(written) => cache.change_stops(|known| known.refresh(written)),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    tracing::debug!(name, "an EmergencyStop changed meanwhile");
                    board.changed.notify_one();
                }
                Err(error) => {
                    tracing::warn!(name, %error, "failed to write what an EmergencyStop keeps back");
                    board.changed.notify_one();
                }
            }
        }
        tokio::time::sleep(EVERY).await;
        // A stop in a cluster without a run is no event of any pass.
        let _ = tokio::time::timeout(IDLE, board.changed.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(name: &str, held: u32, sample: &[&str]) -> StopTally {
        StopTally {
            name: name.into(),
            rollouts: 1,
            held,
            mid_flight: sample.len() as u32,
            awaiting_reboot: 0,
            sample: sample.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    fn stop() -> EmergencyStop {
        let spec = serde_json::json!({ "reason": "the ERP does not answer" });
        EmergencyStop::new("erp-down", serde_json::from_value(spec).expect("a stop"))
    }

    #[test]
    fn a_stop_is_ready_once_every_namespace_was_looked_at_and_adds_them_up() {
        let (board, now) = (Board::default(), Timestamp::now());
        let namespaces = ["clinic".to_owned(), "lab".to_owned()];
        board.note("clinic", &[tally("erp-down", 3, &["ws-1 is Installing"])]);
        // Planned before the stop was there.
        board.note("lab", &[]);
        let status = board.status(&stop(), &namespaces, now);
        assert!(!conditions::is_true(&status.conditions, conditions::READY));
        assert!(conditions::is_true(&status.conditions, conditions::RECONCILING));
        assert_eq!(status.held, 3);

        let many: Vec<String> = (0..40).map(|number| format!("x-{number} is Installing")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        board.note("lab", &[tally("other", 9, &[]), tally("erp-down", 2, &many)]);
        let status = board.status(&stop(), &namespaces, now);
        assert!(conditions::is_true(&status.conditions, conditions::READY));
        assert_eq!(status.conditions.len(), 1);
        assert_eq!((status.rollouts, status.held, status.mid_flight), (2, 5, 41));
        assert_eq!(status.mid_flight_sample.len(), SAMPLE);
        assert_eq!(status.mid_flight_sample[0], "clinic/ws-1 is Installing");

        let mut written = stop();
        written.status = Some(status.clone());
        let later = now + jiff::SignedDuration::from_mins(5);
        assert_eq!(board.status(&written, &namespaces, later), status, "idle means no write");
    }
}
