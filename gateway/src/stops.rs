//! EmergencyStops as a watch tells of them: what a list that was read a moment ago cannot know.
//!
//! The watch may be late or broken, so nothing is granted because of it. It only adds what is newer than
//! the list that a permit rests on anyway.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::{ResourceExt, core::ObjectList};
use wardring_api::EmergencyStop;
use wardring_planner::StopView;

use crate::cache::is_older;

/// The EmergencyStops of the cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// All of them, and those that were added since.
    pub stops: Vec<Arc<StopView>>,
    /// Resource version of the list.
    version: String,
}

impl Listed {
    /// What the API server answered.
    pub fn new(list: &ObjectList<EmergencyStop>) -> Listed {
        Listed {
            stops: list.iter().map(|stop| Arc::new(StopView::new(stop))).collect(),
            version: list.metadata.resource_version.clone().unwrap_or_default(),
        }
    }
}

/// What the watch told.
#[derive(Debug, Default)]
pub struct Followed {
    /// By name: resource version and stop.
    known: Mutex<BTreeMap<String, (String, Arc<StopView>)>>,
}

impl Followed {
    /// Takes in a stop that was made or changed.
    pub fn put(&self, stop: &EmergencyStop) {
        let version = stop.resource_version().unwrap_or_default();
        self.known().insert(stop.name_any(), (version, Arc::new(StopView::new(stop))));
    }

    /// Takes in that a stop was lifted.
    pub fn remove(&self, name: &str) {
        self.known().remove(name);
    }

    /// Forgets all but these.
    pub fn retain(&self, names: &HashSet<String>) {
        self.known().retain(|name, _| names.contains(name));
    }

    /// Whether the watch told of a stop that was not lifted since.
    pub fn knows(&self, name: &str) -> bool {
        self.known().contains_key(name)
    }

    /// Adds the stops that were made or changed after the list was read. One that the list has not, although
    /// it is older, was lifted before.
    pub fn add_newer(&self, listed: &mut Arc<Listed>) {
        let newer: Vec<_> = {
            let known = self.known();
            let is_newer =
                |version: &str| *version != listed.version && !is_older(version, &listed.version);
            known
                .values()
                .filter(|(version, _)| is_newer(version))
                .map(|(_, stop)| stop.clone())
                .collect()
        };
        if !newer.is_empty() {
            Arc::make_mut(listed).stops.extend(newer);
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, (String, Arc<StopView>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stop(name: &str, version: &str) -> EmergencyStop {
        serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "EmergencyStop",
            "metadata": { "name": name, "resourceVersion": version },
            "spec": { "reason": "the ERP does not answer" },
        }))
        .unwrap()
    }

    fn list(version: &str, stops: &[EmergencyStop]) -> Arc<Listed> {
        let list = serde_json::from_value(json!({
            "apiVersion": "wardring.dev/v1alpha1", "kind": "EmergencyStopList",
            "metadata": { "resourceVersion": version }, "items": stops,
        }));
        Arc::new(Listed::new(&list.unwrap()))
    }

    fn names(listed: &Listed) -> Vec<&str> {
        listed.stops.iter().map(|stop| &*stop.name).collect()
    }

    #[test]
    fn what_came_after_the_list_counts_and_what_was_lifted_before_it_does_not() {
        let followed = Followed::default();
        followed.put(&stop("lifted", "97"));
        followed.put(&stop("known", "98"));
        followed.put(&stop("new", "101"));
        let mut listed = list("99", &[stop("known", "98")]);
        followed.add_newer(&mut listed);
        assert_eq!(names(&listed), ["known", "new"]);

        followed.remove("new");
        let mut listed = list("99", &[stop("known", "98")]);
        followed.add_newer(&mut listed);
        assert_eq!(names(&listed), ["known"]);
    }

    #[test]
    fn where_nobody_can_say_what_is_newer_a_stop_counts() {
        let followed = Followed::default();
        followed.put(&stop("erp-down", "98"));
        let mut listed = list("", &[]);
        followed.add_newer(&mut listed);
        assert_eq!(names(&listed), ["erp-down"]);
    }

    #[test]
    fn a_watch_that_begins_anew_forgets_what_was_lifted_meanwhile() {
        let followed = Followed::default();
        followed.put(&stop("lifted", "101"));
        followed.put(&stop("here", "102"));
        followed.retain(&HashSet::from(["here".to_owned()]));
        let mut listed = list("99", &[]);
        followed.add_newer(&mut listed);
        assert_eq!(names(&listed), ["here"]);
    }
}
