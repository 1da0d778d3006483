//! The bytes that are signed, and how payloads are read back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::PAYLOAD_VERSION;

/// What a signature is for. Its prefix is signed along, so a signature made for one purpose does
/// not verify for another, even if the payloads' JSON were the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    Job,
    Outcome,
    Claim,
    Renewal,
}

impl Domain {
    fn prefix(self) -> &'static [u8] {
        match self {
            Domain::Job => b"wardring job v1\0",
            Domain::Outcome => b"wardring outcome v1\0",
            Domain::Claim => b"wardring claim v1\0",
            Domain::Renewal => b"wardring renewal v1\0",
        }
    }

    /// The bytes a signature of this domain covers.
    pub(crate) fn message(self, payload: &str) -> Vec<u8> {
        [self.prefix(), payload.as_bytes()].concat()
    }
}

/// Why the text of a payload cannot be used although its signature may be fine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Not the JSON we know. Only the position is kept: the text may be hostile, and this sentence
    /// ends in logs.
    #[error("the payload is malformed at line {line}, column {column}")]
    Malformed {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Written by a newer program.
    #[error(
        "the payload has version {found}, but this program reads only up to {PAYLOAD_VERSION}; update it"
    )]
    NewerVersion {
        /// The version found.
        found: u32,
    },
}

/// Reads a payload. The version is looked at first, since a newer payload may have fields that
/// would only be called malformed.
pub(crate) fn read_payload<T: DeserializeOwned>(text: &str) -> Result<T, PayloadError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let malformed = |error: serde_json::Error| PayloadError::Malformed {
        line: error.line(),
        column: error.column(),
    };
    let Versioned { version } = serde_json::from_str(text).map_err(malformed)?;
    if version > PAYLOAD_VERSION {
        return Err(PayloadError::NewerVersion { found: version });
    }
    serde_json::from_str(text).map_err(malformed)
}

/// The text of a payload that is about to be signed.
pub(crate) fn write_payload<T: Serialize>(payload: &T) -> String {
    serde_json::to_string(payload).expect(
        "payloads hold only structs, strings, numbers and enums, which JSON can always hold",
    )
}

pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// SHA-256 as lower-case hex: the form of key ids and fingerprints.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, bytes))
}
