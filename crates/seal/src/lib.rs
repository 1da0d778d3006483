//! What is signed between the controller and devices, and the certificates behind it.
//!
//! Payloads are signed and verified as exact bytes: whoever verifies reads the very text that was
//! signed. This crate does no I/O and knows neither the API types nor an async runtime.

mod payload;

pub use payload::*;
