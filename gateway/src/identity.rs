//! Who speaks: certificate → enrolment → device. The only place that reads a peer's certificate.
//!
//! The chain is judged once per connection (and again when the roots change), its end and the device
//! at every request: a device that was enrolled anew or deleted is refused at the next request, and a
//! certificate that expires on an open connection too.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use axum::{extract::FromRequestParts, http::request::Parts};
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::CertificateDer;
use tokio::time;
use wardring_seal::{CertificateError, DeviceIdentity, verify_device_certificate};

use crate::{
    Gateway,
    answer::Refusal,
    cache::{Bound, KnownDevice, path},
    peers::Peer,
    roots::TrustedRoots,
};

/// How long a request of an enrolment that no device has waits for the watch: the signer may have
/// bound it a moment ago.
const WATCH_LAG: Duration = Duration::from_secs(2);

/// A connection's certificate with what was made of it.
#[derive(Debug)]
pub struct Connection {
    certificate: Option<CertificateDer<'static>>,
    judged: Mutex<Option<Judged>>,
}

#[derive(Clone, Debug)]
struct Judged {
    /// Generation of the roots it was judged by.
    generation: u64,
    verdict: Result<Arc<Proven>, CertificateError>,
}

/// An enrolment that a certificate of ours proves.
#[derive(Debug)]
struct Proven {
    identity: DeviceIdentity,
    /// `namespace/enrolmentId`.
    key: String,
    /// Made once the enrolment is a device's.
    peer: OnceLock<Arc<Peer>>,
}

impl Connection {
    /// A connection whose peer holds the key of `certificate`.
    pub fn new(certificate: Option<CertificateDer<'static>>) -> Connection {
        Connection { certificate, judged: Mutex::new(None) }
    }

    fn proven(&self, roots: &TrustedRoots, now: Timestamp) -> Result<Arc<Proven>, Refusal> {
        let Some(certificate) = &self.certificate else {
            return Err(Refusal::unproven(
                "this needs a device certificate; enrol at /v1/enroll to get one",
            ));
        };
        let generation = roots.generation();
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = judged.as_ref().filter(|judged| judged.generation == generation);
        let verdict = match fresh {
            Some(judged) => judged.verdict.clone(),
            None => {
                let Some(trusted) = roots.current() else {
                    return Err(Refusal::not_now("the roots are not known yet"));
                };
                let none = SignedDuration::ZERO;
                let verdict = verify_device_certificate(certificate, &trusted, now, none)
                    .map(|identity| Arc::new(Proven::new(identity)));
                *judged = Some(Judged { generation, verdict: verdict.clone() });
                verdict
            }
        };
        let proven = verdict.map_err(|error| Refusal::unproven(hint(&error)))?;
        let not_after = proven.identity.not_after;
        if now > not_after {
            return Err(Refusal::unproven(hint(&CertificateError::Expired { not_after })));
        }
        Ok(proven)
    }
}

impl Proven {
    fn new(identity: DeviceIdentity) -> Proven {
        let key = path(&identity.namespace, &identity.enrolment_id);
        Proven { identity, key, peer: OnceLock::new() }
    }
}

fn hint(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired { .. } => format!("{error}; renew it at /v1/renew"),
        _ => error.to_string(),
    }
}

/// The device that speaks, its request counted. Extracting it is the proof of identity.
#[derive(Clone, Debug)]
pub struct Speaker {
    /// The device, as of the cache.
    pub device: Arc<KnownDevice>,
    /// What is remembered of it.
    pub peer: Arc<Peer>,
    proven: Arc<Proven>,
}

impl Speaker {
    /// Enrolment that the certificate proves; it is the device's current one.
    pub fn enrolment_id(&self) -> &str {
        &self.proven.identity.enrolment_id
    }

    /// Who speaks on a connection, if that is a device of ours that does not ask too often.
    pub async fn of(
        connection: &Connection,
        gateway: &Gateway,
        now: Timestamp,
    ) -> Result<Speaker, Refusal> {
        let proven = connection.proven(&gateway.roots, now)?;
        let device = match gateway.cache.bound(&proven.key) {
            Bound::Device(device) => device,
            other => Box::pin(unbound(&proven, other, gateway)).await?,
        };
        let peer = proven.peer.get_or_init(|| gateway.peers.peer(&proven.key)).clone();
        gateway.peers.admit(&peer).map_err(Refusal::too_often)?;
        Ok(Speaker { device, peer, proven })
    }
}

/// The device of an enrolment that the cache does not bind to exactly one.
async fn unbound(
    proven: &Proven,
    bound: Bound,
    gateway: &Gateway,
) -> Result<Arc<KnownDevice>, Refusal> {
    match bound {
        Bound::Device(device) => Ok(device),
        Bound::Several => Err(Refusal::forbidden(
            "more than one Device carries this enrolment id; a person must say which one is meant",
        )),
        Bound::Nobody => {
            if !gateway.readiness.is_ready() {
                return Err(Refusal::not_now("the gateway does not know its devices yet"));
            }
            match wait_for_binding(gateway, &proven.key).await {
                Some(device) => Ok(device),
                None => Err(Refusal::forbidden(
                    "no Device carries this enrolment id: the device was deleted or enrolled anew; \
                     enrol again",
                )),
            }
        }
    }
}

/// The device that becomes bound to an enrolment within the watch's lag, if one does.
pub async fn wait_for_binding(gateway: &Gateway, key: &str) -> Option<Arc<KnownDevice>> {
    // Few may wait at once: a revoked device asks for ever.
    let _slot = gateway.unbound.try_acquire().ok()?;
    let mut moved = gateway.cache.devices_moved();
    let waiting = async {
        loop {
            if let Bound::Device(device) = gateway.cache.bound(key) {
                return Some(device);
            }
            moved.changed().await.ok()?;
        }
    };
    time::timeout(WATCH_LAG, waiting).await.ok().flatten()
}

impl FromRequestParts<Arc<Gateway>> for Speaker {
    type Rejection = Refusal;

    async fn from_request_parts(
        parts: &mut Parts,
        gateway: &Arc<Gateway>,
    ) -> Result<Speaker, Refusal> {
        match parts.extensions.get::<Arc<Connection>>().cloned() {
            Some(connection) => Speaker::of(&connection, gateway, Timestamp::now()).await,
            None => Err(Refusal::unproven("this needs a connection over TLS")),
        }
    }
}
