//! What the agent's end-to-end tests stand on: a gateway in the test's own process, over real TLS,
//! and a Wine prefix of their own for the Windows build.

pub mod clock;
pub mod eventlog;
pub mod fakewua;
pub mod gateway;
pub mod jobs;
pub mod killer;
pub mod prefix;
pub mod programs;
pub mod proxy;
pub mod registry;
pub mod rig;
pub mod server;
pub mod signing;
mod template;
pub mod web;
