//! EmergencyStops in force, as the people of a namespace are told of them: one alert for each that matches
//! a device of theirs, from when it was made until it is lifted. Who is mid-flight changes meanwhile, and
//! what the alert is does not.

use std::{collections::BTreeMap, sync::Arc};

use wardring_api::AlertKind;

use super::{Alert, words};
use crate::{Activity, Doings, JobView, Snapshot, StopView};

/// The stops that are in force for devices of the namespace.
pub fn in_force(snapshot: &Snapshot, in_flight: &[Activity]) -> Vec<Alert> {
    if snapshot.stops.is_empty() {
        return Vec::new();
    }
    let jobs: BTreeMap<&str, &Arc<JobView>> =
        snapshot.jobs.iter().map(|job| (&*job.device, job)).collect();
    snapshot.stops.iter().filter_map(|stop| of_stop(stop, snapshot, in_flight, &jobs)).collect()
}

fn of_stop(
    stop: &StopView,
    snapshot: &Snapshot,
    in_flight: &[Activity],
    jobs: &BTreeMap<&str, &Arc<JobView>>,
) -> Option<Alert> {
    let since = stop.since?;
    let rows = snapshot.devices.rows();
    if !rows.iter().any(|row| stop.selects(&row.labels)) {
        return None;
    }
    // Whoever fell silent is told of as such; what it does nobody knows.
    let is_at_work = |activity: &&Activity| {
        let job = jobs.get(activity.device.as_str());
        let row = snapshot.devices.get(&activity.device);
        activity.doing != Doings::Unreachable
            && job.zip(row).is_some_and(|(job, row)| {
                stop.stops(job.action, job.kbs.iter().map(String::as_str), &row.labels)
            })
    };
    let mid_flight: Vec<&Activity> = in_flight.iter().filter(is_at_work).collect();
    let kbs = stop.spec.kbs.iter().map(|kb| kb.as_str().to_owned()).collect();
    let summary = words::stop(stop, &mid_flight);
    let about = words::about(AlertKind::EmergencyStop, "", &stop.name, since, summary);
    Some(Alert { kbs, devices: mid_flight.len(), ..about })
}
