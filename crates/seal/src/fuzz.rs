//! What the fuzzers call.

use crate::{
    JobPayload,
    bytes::{read_payload, write_payload},
};

/// A job's payload is the same after it was written and read again.
pub fn job(text: &str) -> Option<JobPayload> {
    let payload: JobPayload = read_payload(text).ok()?;
    let again = read_payload(&write_payload(&payload)).ok();
    assert_eq!(again.as_ref(), Some(&payload));
    Some(payload)
}
