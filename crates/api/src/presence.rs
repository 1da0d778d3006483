//! What gateways tell the leader about devices in contact. Internal and in memory only: presence is a
//! hint, never proof.
//!
//! A gateway opens a *session* with each leader it finds and numbers its batches from 0. The first
//! batches carry the full set; the leader answers 409 to anything it cannot place, and the gateway
//! begins a new session. So a restarted leader or gateway is whole again after one round.

use serde::{Deserialize, Serialize};

/// Annotation the leader writes on its Lease: base URL of its presence endpoint.
pub const PRESENCE_URL_ANNOTATION: &str = "wardring.dev/presence-url";
/// Path below that URL.
pub const PRESENCE_PATH: &str = "/v1/presence";
/// Largest batch, bytes.
pub const MAX_PRESENCE_BODY: usize = 1024 * 1024;
/// Most entries in one batch, chosen so that the longest names stay below [`MAX_PRESENCE_BODY`].
pub const MAX_PRESENCE_ENTRIES: usize = 5_000;
/// A gateway that has nothing to say says so this often, milliseconds.
pub const PRESENCE_HEARTBEAT_MS: u64 = 5_000;

/// One POST to [`PRESENCE_PATH`]. Answers: 204 taken, 409 begin a new session, 401 or 403 not a
/// gateway, 503 not the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PresenceBatch {
    /// The gateway, unique per process.
    pub gateway: String,
    /// Session, random.
    pub session: String,
    /// Position of this batch in the session, from 0.
    pub number: u64,
    /// Whether the full set is complete with this batch and those before it. Devices are judged only
    /// once it is.
    pub complete: bool,
    /// Devices in contact: `(namespace, name, highest sealed sequence the agent holds)`.
    #[serde(default)]
    pub online: Vec<(String, String, i64)>,
    /// Devices no longer in contact: `(namespace, name)`.
    #[serde(default)]
    pub offline: Vec<(String, String)>,
}
