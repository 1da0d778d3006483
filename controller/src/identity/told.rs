//! What people and dashboards are told of the signer's work: numbers, and few Events.

use std::time::Duration;

use kube::Resource;
use kube::runtime::events::EventType;
use wardring_api::reasons::Reason;
use wardring_api::{Device, EnrollmentKind, EnrollmentRequest, EnrollmentToken, Refusal};

use super::triage::{Removal, Round};
use crate::events::Events;
use crate::metrics::{AnswerLabels, CertificateLabels, Metrics, RemovalLabels, RequestLabels};

/// Events about requests with a proof that fits: in a wave of enrolments some are enough.
const PROVEN: (u32, Duration) = (20, Duration::from_secs(3));
/// Events about others. Anybody can cause these, so they have a budget of their own.
const UNPROVEN: (u32, Duration) = (5, Duration::from_secs(60));

/// Tells; clones share the budgets.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    metrics: Metrics,
    proven: Events,
    unproven: Events,
}

impl Teller {
    pub(super) fn new(metrics: Metrics, events: &Events) -> Teller {
        Teller {
            metrics,
            proven: events.with_limit(PROVEN.0, PROVEN.1),
            unproven: events.with_limit(UNPROVEN.0, UNPROVEN.1),
        }
    }

    /// How much there is to do.
    pub(super) fn began(&self, round: &Round) {
        for (state, count) in [("open", round.open), ("answered", round.answered)] {
            let gauge = self.metrics.enrolment_requests.get_or_create(&RequestLabels { state });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A certificate was handed out. `newly` is the Device if it was bound just now; a renewal, or an
    /// answer given twice, is worth a number and no Event.
    pub(super) async fn issued(&self, request: &EnrollmentRequest, newly: Option<&Device>) {
        self.count(request, Reason::Issued.as_str());
        let labels = CertificateLabels { certificate: "device" };
        self.metrics.certificates_issued.get_or_create(&labels).inc();
        let Some(device) = newly else { return };
        let token = request.spec.token.as_deref().unwrap_or_default();
        let id = device.spec.enrolment_id.as_deref().unwrap_or_default();
        let note = format!("enrolled with token {token}; the enrolment is {id}");
        let about = device.object_ref(&());
        self.proven.publish(&about, EventType::Normal, Reason::Issued, &note).await;
    }

    /// A request was refused. The Event goes where a person looks: at the Device if there is one,
    /// else at the token.
    pub(super) async fn refused(
        &self,
        request: &EnrollmentRequest,
        device: Option<&Device>,
        token: Option<&EnrollmentToken>,
        refusal: &Refusal,
        is_proven: bool,
    ) {
        self.count(request, Reason::parse(&refusal.reason).map_or("Other", Reason::as_str));
        let Some(reason) = Reason::parse(&refusal.reason) else { return };
        let about = device
            .map(|device| device.object_ref(&()))
            .or_else(|| token.map(|token| token.object_ref(&())))
            .unwrap_or_else(|| request.object_ref(&()));
        let note =
            format!("no certificate for device {}: {}", request.spec.device, refusal.message);
        let events = if is_proven { &self.proven } else { &self.unproven };
        events.publish(&about, EventType::Warning, reason, &note).await;
    }

    /// A request was removed.
    pub(super) fn removed(&self, why: Removal) {
        let why = match why {
            Removal::Answered => "answered",
            Removal::Surplus => "surplus",
            Removal::Old => "old",
        };
        self.metrics.enrolment_removals.get_or_create(&RemovalLabels { why }).inc();
    }

    fn count(&self, request: &EnrollmentRequest, reason: &'static str) {
        let kind = match request.spec.kind {
            EnrollmentKind::Enroll => "Enroll",
            EnrollmentKind::Renew => "Renew",
        };
        self.metrics.enrolment_answers.get_or_create(&AnswerLabels { kind, reason }).inc();
    }
}
