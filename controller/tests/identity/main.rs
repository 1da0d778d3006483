//! The signer and the certificate authority on a real API server, with the service accounts that the
//! chart makes and under its roles; requests are filed as the gateways file them.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod enrolment;
mod flood;
mod told;
mod world;
