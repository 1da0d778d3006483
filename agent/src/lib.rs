//! The agent: a pure state machine, a journal, and thin shells around them.

pub mod state;
