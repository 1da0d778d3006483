//! What tests, the demo and the benchmarks stand on: tools that are built once, a real API server
//! that is started in seconds, and processes that never outlive the test that started them.
//!
//! Nothing here knows what Wardring does, and nothing here skips a test: what is missing is an
//! error with the next step in it.

pub mod cluster;
mod command;
pub mod https;
pub mod monitoring;
pub mod process;
pub mod tools;
mod waiting;

pub use cluster::DevCluster;
pub use command::Output;
pub use monitoring::{MetricsPage, Monitor};
pub use process::Process;
pub use waiting::{wait_until, wait_until_ok};
