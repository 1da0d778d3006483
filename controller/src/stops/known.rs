//! The stops in force, as the watch tells them.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use kube::ResourceExt;
use wardring_api::EmergencyStop;
use wardring_planner::StopView;

/// One stop: the object, for its status, and what the planner reads.
#[derive(Clone, Debug)]
struct Stop {
    object: Arc<EmergencyStop>,
    view: Arc<StopView>,
}

/// Every stop of the cluster.
#[derive(Debug, Default)]
pub struct Known {
    stops: BTreeMap<String, Stop>,
    /// The full list being read.
    listing: Option<BTreeMap<String, Stop>>,
    synced: bool,
    changes: u64,
}

impl Known {
    /// Whether the first full list is in.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Counts what people changed: a pass that is still writing looks at it again then.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What the planner reads, by name.
    pub fn views(&self) -> Vec<Arc<StopView>> {
        self.stops.values().map(|stop| stop.view.clone()).collect()
    }

    /// Since when the stop of that name is in force.
    pub fn since(&self, name: &str) -> Option<Timestamp> {
        self.stops.get(name)?.view.since
    }

    /// The objects, by name.
    pub fn objects(&self) -> Vec<Arc<EmergencyStop>> {
        self.stops.values().map(|stop| stop.object.clone()).collect()
    }

    /// A stop was made or changed, or is named by a full list. Says whether it stops anything new.
    pub fn put(&mut self, mut object: EmergencyStop) -> bool {
        object.metadata.managed_fields = None;
        let name = object.name_any();
        let stop = Stop { view: Arc::new(StopView::new(&object)), object: Arc::new(object) };
        if let Some(listing) = &mut self.listing {
            listing.insert(name, stop);
            return false;
        }
        let is_same = self.stops.get(&name).is_some_and(|known| known.view == stop.view);
        self.stops.insert(name, stop);
        self.changes += u64::from(!is_same);
        !is_same
    }

    /// Takes in what a write of our own answered, unless the stop is gone meanwhile. Never news.
    pub fn refresh(&mut self, object: EmergencyStop) -> bool {
        if let Some(known) = self.stops.get_mut(&object.name_any())
            && known.object.metadata.uid == object.metadata.uid
        {
            known.object = Arc::new(object);
        }
        false
    }

    /// A stop is gone. Says whether it was in force.
    pub fn drop(&mut self, name: &str) -> bool {
        let was_there = self.stops.remove(name).is_some();
        self.changes += u64::from(was_there);
        was_there
    }

    /// A full list begins. What is known stays in force until it ends.
    pub fn list_began(&mut self) {
        self.listing = Some(BTreeMap::new());
    }

    /// A full list ended: it is the truth. Says whether that changed anything.
    pub fn list_ended(&mut self) -> bool {
        let listed = self.listing.take().unwrap_or_default();
        let views = |stops: &BTreeMap<String, Stop>| -> Vec<Arc<StopView>> {
            stops.values().map(|stop| stop.view.clone()).collect()
        };
        let changed = views(&listed) != views(&self.stops);
        self.stops = listed;
        self.changes += u64::from(changed);
        self.synced = true;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(name: &str, reason: &str) -> EmergencyStop {
        let spec = serde_json::json!({ "reason": reason });
        EmergencyStop::new(name, serde_json::from_value(spec).expect("a stop"))
    }

    #[test]
    fn a_new_list_keeps_every_stop_in_force_until_it_is_whole() {
        let mut known = Known::default();
        known.list_began();
        known.put(stop("erp-down", "r"));
        assert!(known.views().is_empty() && !known.is_synced());
        assert!(known.list_ended() && known.is_synced());
        known.list_began();
        assert_eq!(known.views().len(), 1, "a broken watch lifts nothing");
        assert!(known.list_ended(), "what the list does not name is gone");
        assert!(known.views().is_empty());
    }

    #[test]
    fn a_status_is_no_news_and_another_reason_is() {
        let mut known = Known::default();
        assert!(known.put(stop("erp-down", "r")));
        let mut told = stop("erp-down", "r");
        told.status = Some(Default::default());
        assert!(!known.put(told));
        assert_eq!(known.changes(), 1);
        assert!(known.put(stop("erp-down", "the ERP does not answer")));
        assert!(known.drop("erp-down") && !known.drop("erp-down"));
        assert_eq!(known.changes(), 3);
    }
}
