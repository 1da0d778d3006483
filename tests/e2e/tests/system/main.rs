//! Whole installations: real controllers and gateways under the service accounts of the chart, real
//! agents with scripted Windows, a real API server. What is claimed here is read from the API
//! server's watch history and from the devices' own journals.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod approvals;
mod autonomous;
mod calendar;
mod certificates;
mod checks;
mod crashes;
mod emergency;
mod garbage;
mod hostile;
mod irregular;
mod jobs;
mod measured;
mod monitoring;
mod notifiers;
mod orders;
mod outages;
mod restore;
mod stories;
mod support;
mod windows;
mod writes;
