//! The gateway against a real API server, under the real roles of the chart, over real TLS.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod emergency;
mod enrolment;
mod facts;
mod holds;
mod jobs;
mod orders;
mod permits;
mod presence;
mod refusals;
mod slow;
mod support;
mod windows;
