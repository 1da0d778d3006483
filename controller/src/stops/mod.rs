//! EmergencyStops: what the controller knows of them, and what it says they keep back.
//!
//! Gateways read the stops themselves, before every permit. Here they end what would only wait: grants
//! that have not begun are taken back, nothing new is granted, and everybody reads why.

mod board;
mod known;
mod watch;

pub use board::{Board, publish};
pub use known::Known;
pub use watch::watch_stops;
