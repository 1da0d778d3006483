//! Courier and permit desk between Windows devices and the API server. It decides nothing: what an
//! agent may do is sealed by the controller, and whether it may do it *now* is the planner's permit
//! rule, evaluated on a fresh read.
//!
//! Any number of gateways run at once and none holds state that matters: identity comes from the
//! client certificate, what was reported lives in the objects, and everything in memory may be lost.
//!
//! Without the feature `server` only what is pure is left ([`merge`] and [`runs`]): the simulator uses
//! those, and must not know a client.

#[cfg(feature = "server")]
pub mod answer;
#[cfg(feature = "server")]
pub mod body;
#[cfg(feature = "server")]
pub mod bucket;
#[cfg(feature = "server")]
pub mod budget;
#[cfg(feature = "server")]
pub mod cache;
#[cfg(feature = "server")]
pub mod clock;
#[cfg(feature = "server")]
pub mod cluster;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod enroll;
#[cfg(feature = "server")]
pub mod fresh;
#[cfg(feature = "server")]
mod gateway;
#[cfg(feature = "server")]
pub mod health;
#[cfg(feature = "server")]
pub mod identity;
#[cfg(feature = "server")]
pub mod lane;
#[cfg(feature = "server")]
pub mod leader;
pub mod merge;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod peers;
#[cfg(feature = "server")]
pub mod permits;
#[cfg(feature = "server")]
pub mod poll;
#[cfg(feature = "server")]
pub mod presence;
#[cfg(feature = "server")]
pub mod reports;
#[cfg(feature = "server")]
pub mod roots;
pub mod runs;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
mod shared;
#[cfg(feature = "server")]
pub mod start;
#[cfg(feature = "server")]
pub mod stops;
#[cfg(feature = "server")]
pub mod tls;
#[cfg(feature = "server")]
pub mod watches;
#[cfg(feature = "server")]
pub mod writes;

#[cfg(feature = "server")]
pub use gateway::Gateway;
