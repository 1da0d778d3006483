//! Tests of the real agent.
