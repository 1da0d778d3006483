//! A fleet, its gateways and its controllers on virtual time, with the real planner, the real permit
//! rule, the gateways' real merge and the real state machine of the agent, around a fake API server.
//!
//! Everything that can go wrong is drawn from a seed: lost, doubled, late and reordered messages, watches
//! that lag, processes that die between two writes or stand still and go on, devices that fall silent,
//! restart in loops, lose their journal or have a wrong clock, and people who interfere. A monitor that
//! sees the truth holds every change against the rules. The same seed tells the same story.

pub mod api;
pub mod clock;
pub mod controller;
pub mod device;
pub mod gateway;
pub mod hub;
pub mod model;
pub mod monitor;
pub mod person;
pub mod random;
pub mod scenario;
mod seal;
pub mod simulation;
pub mod trace;
pub mod world;

pub use scenario::Setup;
pub use simulation::{Simulation, Verdict, simulate};
