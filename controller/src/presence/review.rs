//! Whether a bearer token is a gateway's: TokenReview, remembered briefly.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};

/// A gateway posts up to once per second; a token that was withdrawn is noticed after this long.
const REMEMBER: Duration = Duration::from_secs(60);
/// Gateways are few; whatever fills this map is not a gateway.
const REMEMBER_MOST: usize = 256;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A gateway's.
    Gateway,
    /// Somebody else's.
    Other,
    /// Nobody's.
    Invalid,
}

/// Asks the API server who a token belongs to.
pub struct Reviewer {
    client: Client,
    gateway: String,
    known: Mutex<HashMap<[u8; 32], (Instant, Verdict)>>,
}

impl Reviewer {
    /// Takes tokens of service account `wardring-gateway` in `system_namespace`.
    pub fn new(client: Client, system_namespace: &str) -> Reviewer {
        let gateway = format!("system:serviceaccount:{system_namespace}:wardring-gateway");
        Reviewer { client, gateway, known: Mutex::new(HashMap::new()) }
    }

    /// What `token` is.
    pub async fn review(&self, token: &str) -> Result<Verdict, kube::Error> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some((at, verdict)) = self.known().get(&key)
            && at.elapsed() < REMEMBER
        {
            return Ok(*verdict);
        }
        let spec = TokenReviewSpec { token: token.to_owned(), ..Default::default() };
        let review = TokenReview { spec, ..Default::default() };
        let answer = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let status = answer.status.unwrap_or_default();
        let verdict = if status.authenticated != Some(true) {
            Verdict::Invalid
        } else if status.user.and_then(|user| user.username).as_deref() == Some(&self.gateway) {
            Verdict::Gateway
        } else {
            Verdict::Other
        };
        let mut known = self.known();
        if known.len() >= REMEMBER_MOST {
            known.clear();
        }
        known.insert(key, (Instant::now(), verdict));
        Ok(verdict)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], (Instant, Verdict)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
