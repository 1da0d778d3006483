//! The agent: a pure state machine ([`state`]), a journal, and thin shells around them.
//!
//! The state machine decides, the driver writes its state down and carries out its effects, the
//! platform is the device, the client the gateways. Nothing here executes anything that came from
//! outside: a job names updates and services, and its actions are a closed set.

pub mod bundle;
mod chance;
pub mod client;
pub mod data;
pub mod driver;
pub mod enrol;
#[cfg(any(windows, test))]
pub mod exercise;
#[cfg(windows)]
mod ffi;
mod files;
pub mod folder;
#[cfg(fuzzing)]
pub mod fuzz;
pub mod gateway;
#[cfg_attr(not(windows), allow(dead_code, reason = "hooks run on Windows only"))]
mod hooks;
pub mod hresult;
pub mod identity;
pub mod journal;
pub mod log;
pub mod milestone;
pub mod outbox;
pub mod pause;
pub mod platform;
pub mod probes;
mod questions;
pub mod run;
pub mod selftest;
pub mod service;
pub mod settings;
pub mod state;
pub mod status;
mod tls_fault;
