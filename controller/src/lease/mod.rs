//! Leader election on a `coordination.k8s.io/v1` Lease. It keeps two controllers from doing the same
//! work; it does not fence. What keeps a stale leader from harm is the ledger's sequence.

mod decide;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wardring_api::names::{CONTROLLER_MANAGER, LEASE_NAME};

use crate::progress::Progress;
use decide::{Observation, Record, Step, decide, term_end};

/// Annotation on the Lease: where gateways stream who is in contact.
pub const PRESENCE_URL_ANNOTATION: &str = "wardring.dev/presence-url";

/// How this process stands for election.
#[derive(Clone, Debug)]
pub struct Candidacy {
    /// Name in the Lease.
    pub holder: String,
    /// Namespace of the Lease.
    pub namespace: String,
    /// How long others wait after our last renewal.
    pub duration: Duration,
    /// Pause between renewals.
    pub renew: Duration,
    /// Where gateways find our presence endpoint.
    pub presence_url: String,
}

/// A time in office. Whoever acts checks [`Term::is_current`] right before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Counts this process's times in office.
    pub number: u64,
    /// Not to act from here on, unless renewed.
    pub until: Instant,
}

impl Term {
    /// Whether the term still runs.
    pub fn is_current(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Whether we lead, and until when.
pub type Office = watch::Receiver<Option<Term>>;

/// Whether `office` still holds the term with this number.
pub fn holds(office: &Office, number: u64) -> bool {
    office.borrow().is_some_and(|term| term.number == number && term.is_current())
}

/// Stands for election until `stop`, then releases the Lease if we hold it.
pub async fn stand(
    client: Client,
    candidacy: Candidacy,
    progress: Progress,
    office: watch::Sender<Option<Term>>,
    stop: CancellationToken,
) {
    let mut shell = Shell {
        leases: Api::namespaced(client, &candidacy.namespace),
        candidacy,
        began: Instant::now(),
        observed: None,
        lease: None,
        terms: 0,
    };
    loop {
        let pause = shell.turn(&progress, &office).await;
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        // A term that ran out is over even if nobody has asked yet: waiting tasks must hear of it.
        office.send_if_modified(|term| {
            let is_over = term.is_some_and(|term| !term.is_current());
            if is_over {
                *term = None;
            }
            is_over
        });
    }
    office.send_replace(None);
    shell.release().await;
}

struct Shell {
    leases: Api<Lease>,
    candidacy: Candidacy,
    began: Instant,
    observed: Option<Observation>,
    lease: Option<Lease>,
    terms: u64,
}

impl Shell {
    /// One look at the Lease and one step. Answers how long to pause.
    async fn turn(
        &mut self,
        progress: &Progress,
        office: &watch::Sender<Option<Term>>,
    ) -> Duration {
        // Look often enough that a take-over is not late, without hammering the API server.
        let pause = self.candidacy.renew;
        let limit = self.candidacy.duration / 3;
        match tokio::time::timeout(limit, self.leases.get_opt(LEASE_NAME)).await {
            Ok(Ok(lease)) => self.observe(lease),
            Ok(Err(error)) => {
                tracing::warn!(%error, "failed to read the Lease");
                return pause;
            }
            Err(_) => {
                tracing::warn!("reading the Lease took too long");
                return pause;
            }
        }
        let sent = self.began.elapsed();
        let step = decide(&self.candidacy.holder, self.observed.as_ref(), sent);
        if step == Step::Renew && !progress.is_moving() {
            tracing::error!("passes do not progress: the Lease is not renewed");
            return pause;
        }
        let written = match step {
            Step::Wait => {
                office.send_if_modified(|term| term.take().is_some());
                return pause.min(Duration::from_secs(2));
            }
            Step::Create | Step::Take | Step::Renew => {
                tokio::time::timeout(limit, self.write(step)).await
            }
        };
        match written {
            Ok(Ok(lease)) => {
                self.observe(Some(lease));
                self.in_office(office, term_end(sent, self.candidacy.duration));
            }
            // Somebody was faster, or the answer got lost: the next look tells which.
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() => {
                tracing::info!("another controller was faster with the Lease");
            }
            Ok(Err(error)) => tracing::warn!(%error, "failed to write the Lease"),
            Err(_) => tracing::warn!("writing the Lease took too long"),
        }
        pause
    }

    fn observe(&mut self, lease: Option<Lease>) {
        let now = self.began.elapsed();
        let default = self.candidacy.duration;
        self.observed = lease
            .as_ref()
            .map(|lease| Observation::next(self.observed.take(), read(lease, default), now));
        self.lease = lease;
    }

    fn in_office(&mut self, office: &watch::Sender<Option<Term>>, until: Duration) {
        let until = self.began + until;
        let number = match *office.borrow() {
            Some(term) if term.is_current() => term.number,
            _ => {
                self.terms += 1;
                tracing::info!(holder = self.candidacy.holder, "leading");
                self.terms
            }
        };
        office.send_replace(Some(Term { number, until }));
    }

    async fn write(&self, step: Step) -> Result<Lease, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let params = PostParams {
            field_manager: Some(CONTROLLER_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let mut lease = self.lease.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(LEASE_NAME.to_owned()), ..ObjectMeta::default() },
            spec: None,
        });
        let mut spec = lease.spec.take().unwrap_or_default();
        if step != Step::Renew {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(-1).saturating_add(1));
        }
        let seconds = self.candidacy.duration.as_secs().max(1);
        spec.holder_identity = Some(self.candidacy.holder.clone());
        spec.lease_duration_seconds = Some(i32::try_from(seconds).unwrap_or(i32::MAX));
        spec.renew_time = Some(now);
        lease.spec = Some(spec);
        lease.metadata.managed_fields = None;
        lease
            .metadata
            .annotations
            .get_or_insert_with(BTreeMap::new)
            .insert(PRESENCE_URL_ANNOTATION.to_owned(), self.candidacy.presence_url.clone());
        if step == Step::Create {
            self.leases.create(&params, &lease).await
        } else {
            self.leases.replace(LEASE_NAME, &params, &lease).await
        }
    }

    /// Lets go, so that another replica need not wait for the Lease to expire.
    async fn release(&mut self) {
        let Ok(Some(mut lease)) = self.leases.get_opt(LEASE_NAME).await else { return };
        let is_ours = lease
            .spec
            .as_ref()
            .is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.candidacy.holder));
        if !is_ours {
            return;
        }
        let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        if let Some(annotations) = &mut lease.metadata.annotations {
            annotations.remove(PRESENCE_URL_ANNOTATION);
        }
        lease.metadata.managed_fields = None;
        match self.leases.replace(LEASE_NAME, &PostParams::default(), &lease).await {
            Ok(_) => tracing::info!("released the Lease"),
            Err(error) => tracing::warn!(%error, "failed to release the Lease"),
        }
    }
}

fn read(lease: &Lease, default: Duration) -> Record {
    let spec = lease.spec.as_ref();
    Record {
        resource_version: lease.metadata.resource_version.clone().unwrap_or_default(),
        holder: spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
        duration: spec
            .and_then(|spec| spec.lease_duration_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(default, Duration::from_secs),
    }
}
