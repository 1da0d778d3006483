//! How a device gets its certificate, and the next one.

use std::time::{Duration, Instant};

use wardring_protocol::{EnrolAnswer, EnrolRequest};
use wardring_seal::{
    DeviceKey, EnrolmentClaim, IssuedError, KeyError, PAYLOAD_VERSION, SignedClaim, Token,
    TokenError, Trust, accept_issued,
};

use crate::chance;
use crate::client::{Addresses, ClientError, HttpGateway};
use crate::gateway::GatewayError;
use crate::identity::{Applicant, Identity, IdentityError, IdentityFile, Known};
use crate::milestone::Milestone;
use crate::platform::wall_clock;
use crate::state::Me;

/// Pause after no gateway answered.
const RETRY: Duration = Duration::from_secs(5);
/// Shortest and longest pause that a gateway may ask for.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 100..=300_000;

/// Why a device has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token cannot be read.
    #[error("the token cannot be used")]
    Token(#[from] TokenError),
    /// There is none.
    #[error(
        "this device is not enrolled yet; give a token with --token (kubectl wardring enroll makes one)"
    )]
    NoToken,
    /// The device was enrolled under another name.
    #[error("this data folder belongs to device {found}; use another folder for device {wanted}")]
    OtherDevice {
        /// Name in the folder.
        found: String,
        /// Name asked for.
        wanted: String,
    },
    /// The answer was no.
    #[error("enrolment was refused ({reason}): {message}{}", next_step(reason))]
    Refused {
        /// Reason word.
        reason: String,
        /// The sentence.
        message: String,
    },
    /// Nobody answered for so long that somebody should look.
    #[error(
        "no gateway accepted this device within {waited_s} s; check --gateway and the way there"
    )]
    Unanswered {
        /// How long it was tried.
        waited_s: u64,
        /// Why the last try failed.
        source: GatewayError,
    },
    /// The claim is filed, and nobody answers it.
    #[error(
        "the gateway filed this device's claim, and no controller answered it within {waited_s} s; \
         check that the controller runs, and start the agent again"
    )]
    Pending {
        /// How long it was tried.
        waited_s: u64,
    },
    /// What answers is no gateway of ours, and no waiting will change that.
    #[error("this device cannot be enrolled")]
    Untrusted(#[source] GatewayError),
    /// A gateway refused the message.
    #[error("the gateway does not accept the claim; check the device's name and the token")]
    Gateway(#[source] GatewayError),
    /// The certificate is not ours.
    #[error("the answer of the gateway is not a certificate for this device")]
    Issued(#[from] IssuedError),
    /// Keys.
    #[error("failed to make or use the device's key")]
    Key(#[from] KeyError),
    /// The file.
    #[error("failed to keep the device's identity")]
    Identity(#[from] IdentityError),
    /// The connection.
    #[error("failed to prepare the connection")]
    Client(#[from] ClientError),
}

/// What helps against a refusal whose sentence says only what is wrong.
fn next_step(reason: &str) -> &'static str {
    match reason {
        "TokenRefused" | "BadProof" => "; `kubectl wardring enroll` makes another token",
        _ => "",
    }
}

/// The identity of this device: the one it has, or a new one by the token.
///
/// # Errors
/// There is neither, or the enrolment was refused. An unreachable gateway is waited for, `within`
/// this time: whoever mistyped an address must hear of it.
pub async fn enrol(
    file: &IdentityFile,
    addresses: &Addresses,
    token: Option<&str>,
    name: &str,
    within: Duration,
) -> Result<Identity, EnrolError> {
    let applicant = match file.load()? {
        Known::Enrolled(identity) if identity.me.device == name => return Ok(*identity),
        Known::Enrolled(identity) => {
            let (found, wanted) = (identity.me.device, name.to_owned());
            return Err(EnrolError::OtherDevice { found, wanted });
        }
        Known::Applicant(applicant) if applicant.device == name => Some(*applicant),
        Known::Applicant(_) | Known::Nothing => None,
    };
    let token = Token::parse(token.ok_or(EnrolError::NoToken)?)?;
    let applicant = match applicant.filter(|known| known.namespace == token.namespace()) {
        Some(applicant) => applicant,
        None => {
            let applicant = Applicant {
                namespace: token.namespace().to_owned(),
                device: name.to_owned(),
                key: DeviceKey::generate()?,
            };
            file.keep_applicant(&applicant)?;
            applicant
        }
    };
    let claim = EnrolmentClaim {
        version: PAYLOAD_VERSION,
        namespace: applicant.namespace.clone(),
        device: applicant.device.clone(),
        token: Some(token.name().to_owned()),
        csr: applicant.key.csr(name)?,
        at: wall_clock(),
    };
    let gateway = HttpGateway::first_contact(addresses, token.root())?;
    let trust = Trust::Pinned(token.root());
    let signed = token.sign_claim(&claim);
    let identity =
        obtain(&gateway, "/v1/enroll", signed, &trust, Wish::New(within), applicant).await?;
    file.keep_identity(&identity)?;
    tracing::info!(device = name, enrolment = identity.me.device_id, "enrolled");
    Milestone::Enrolled.tell(&format!("The device is enrolled as {name}."));
    Ok(identity)
}

/// A new certificate, for a new key, by the right of the one in hand.
///
/// # Errors
/// It was refused.
pub async fn renew(
    file: &IdentityFile,
    addresses: &Addresses,
    current: &Identity,
) -> Result<Identity, EnrolError> {
    let next = Applicant {
        namespace: current.me.namespace.clone(),
        device: current.me.device.clone(),
        key: DeviceKey::generate()?,
    };
    let claim = EnrolmentClaim {
        version: PAYLOAD_VERSION,
        namespace: next.namespace.clone(),
        device: next.device.clone(),
        token: None,
        csr: next.key.csr(&next.device)?,
        at: wall_clock(),
    };
    let gateway = HttpGateway::anonymous(addresses, current)?;
    let trust = Trust::Roots(current.roots.clone());
    let signed = current.key.sign_renewal(&claim, &current.certificate)?;
    let wish = Wish::Renewal(&current.me.device_id);
    let identity = obtain(&gateway, "/v1/renew", signed, &trust, wish, next).await?;
    file.keep_identity(&identity)?;
    tracing::info!(device = identity.me.device, "certificate renewed");
    Ok(identity)
}

/// What a claim asks for.
#[derive(Clone, Copy)]
enum Wish<'a> {
    /// A first certificate, within this time.
    New(Duration),
    /// The next one of this enrolment. An enrolled device waits as long as it takes.
    Renewal(&'a str),
}

impl Wish<'_> {
    /// Whether somebody must look, after so long.
    fn is_over(self, begun: Instant) -> bool {
        matches!(self, Wish::New(within) if begun.elapsed() >= within)
    }

    /// Whether this is the first contact, and the fault one that waiting does not mend.
    fn is_hopeless(self, error: &GatewayError) -> bool {
        let is_new = matches!(self, Wish::New(_));
        is_new && matches!(error, GatewayError::Untrusted { fault, .. } if !fault.may_pass())
    }
}

/// Hands in a claim until it is answered for good.
async fn obtain(
    gateway: &HttpGateway,
    path: &str,
    signed: SignedClaim,
    trust: &Trust,
    wish: Wish<'_>,
    applicant: Applicant,
) -> Result<Identity, EnrolError> {
    let begun = Instant::now();
    let SignedClaim { claim, proof, certificate } = signed;
    let request = EnrolRequest { claim, proof, certificate };
    loop {
        match gateway.claim(path, &request).await {
            Ok(EnrolAnswer::Pending { .. }) if wish.is_over(begun) => {
                return Err(EnrolError::Pending { waited_s: begun.elapsed().as_secs() });
            }
            Ok(EnrolAnswer::Pending { retry_ms }) => {
                let pause = retry_ms.clamp(*PAUSE_MS.start(), *PAUSE_MS.end());
                tokio::time::sleep(chance::around(Duration::from_millis(pause))).await;
            }
            Ok(EnrolAnswer::Refused { reason, message }) => {
                return Err(EnrolError::Refused { reason, message });
            }
            Ok(EnrolAnswer::Issued { certificate, roots }) => {
                let enrolment = match wish {
                    Wish::New(_) => None,
                    Wish::Renewal(enrolment) => Some(enrolment),
                };
                return accept(&certificate, &roots, trust, enrolment, applicant);
            }
            Err(error @ GatewayError::Refused { .. }) => return Err(EnrolError::Gateway(error)),
            Err(error) if wish.is_hopeless(&error) => return Err(EnrolError::Untrusted(error)),
            Err(source) if wish.is_over(begun) => {
                let waited_s = begun.elapsed().as_secs();
                return Err(EnrolError::Unanswered { waited_s, source });
            }
            Err(error) => {
                tracing::warn!(device = applicant.device, %error, "no certificate yet");
                tokio::time::sleep(chance::around(RETRY)).await;
            }
        }
    }
}

fn accept(
    certificate: &str,
    offered: &[String],
    trust: &Trust,
    enrolment: Option<&str>,
    applicant: Applicant,
) -> Result<Identity, EnrolError> {
    use base64::Engine;
    let Applicant { namespace, device, key } = applicant;
    let now = wall_clock();
    let (details, roots) =
        accept_issued(certificate, offered, &key, trust, &namespace, enrolment, now)?;
    let certificate = base64::engine::general_purpose::STANDARD
        .decode(certificate)
        .expect("a certificate that was verified is base64");
    let me = Me { namespace, device, device_id: details.enrolment_id.clone() };
    Ok(Identity { me, key, certificate, details, roots })
}
