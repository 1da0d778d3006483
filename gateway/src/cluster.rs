//! Whether a gateway can work in its cluster, asked before anything is watched. What a person got
//! wrong is one sentence that says what to do; an API server that does not answer is waited for.

use std::time::Duration;

use http::Request;
use kube::{Client, client::Body};
use tokio::time::{self, Instant};
use wardring_api::names::ROOTS_CONFIGMAP;

use crate::clock::Clock;
use crate::fresh::{self, PATIENCE, ReadError};

/// Between attempts to reach the API server.
const PAUSE: Duration = Duration::from_secs(2);
/// Between log lines about an API server that does not answer.
const SAY_EVERY: Duration = Duration::from_secs(30);
/// The kinds that a gateway reads everywhere.
const KINDS: [&str; 7] = [
    "devices",
    "patchjobs",
    "patchrollouts",
    "patchrolloutslices",
    "devicegroups",
    "maintenancewindows",
    "enrollmentrequests",
];

/// Why a gateway cannot work here until a person did something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// 401.
    #[error(
        "the API server does not accept our credentials: renew the token or certificate in the kubeconfig, or the service account's"
    )]
    Credentials,
    /// 403.
    #[error("not allowed to read {what}: install the chart's roles for this service account")]
    Forbidden {
        /// What we may not read.
        what: String,
    },
    /// 404 for a kind.
    #[error(
        "CustomResourceDefinition {kind}.wardring.dev is missing: apply the chart's crds/ folder first"
    )]
    NoCrd {
        /// Its plural name.
        kind: &'static str,
    },
    /// 404 for the installation's namespace.
    #[error(
        "namespace {namespace} does not exist: name the installation's with --system-namespace"
    )]
    NoNamespace {
        /// What was given.
        namespace: String,
    },
    /// 403 within it.
    #[error(
        "not allowed to read ConfigMap {ROOTS_CONFIGMAP} in namespace {namespace}: name the installation's namespace with --system-namespace, or install the chart's roles there"
    )]
    ForbiddenNamespace {
        /// What was given.
        namespace: String,
    },
}

/// Waits until the API server answers, and says whether a gateway can work with it.
pub async fn reach(client: &Client, system_namespace: &str, clock: &Clock) -> Result<(), Unfit> {
    let mut said: Option<Instant> = None;
    loop {
        match ask(client, system_namespace, clock).await {
            Ok(verdict) => {
                if said.is_some() {
                    tracing::info!("the API server answers");
                }
                return verdict;
            }
            Err(error) => {
                if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                    said = Some(Instant::now());
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the API server cannot be reached: check the kubeconfig's address and that it runs; we go on asking"
                    );
                }
                time::sleep(PAUSE).await;
            }
        }
    }
}

async fn ask(
    client: &Client,
    namespace: &str,
    clock: &Clock,
) -> Result<Result<(), Unfit>, ReadError> {
    if let Some(ahead) = fresh::server_clock(client).await? {
        clock.note(ahead);
    }
    let missing = Unfit::NoNamespace { namespace: namespace.to_owned() };
    let forbidden = Unfit::Forbidden { what: "namespaces".to_owned() };
    let mut questions = vec![(format!("/api/v1/namespaces/{namespace}"), Some(missing), forbidden)];
    questions.extend(KINDS.map(|kind| {
        let url = format!("/apis/{}/{}/{kind}?limit=1", wardring_api::GROUP, wardring_api::VERSION);
        (url, Some(Unfit::NoCrd { kind }), Unfit::Forbidden { what: kind.to_owned() })
    }));
    questions.push((
        format!("/api/v1/namespaces/{namespace}/configmaps/{ROOTS_CONFIGMAP}"),
        // The controller makes it.
        None,
        Unfit::ForbiddenNamespace { namespace: namespace.to_owned() },
    ));
    for (url, missing, forbidden) in questions {
        let unfit = match status(client, &url).await? {
            200..300 => None,
            401 => Some(Unfit::Credentials),
            403 => Some(forbidden),
            404 => missing,
            code => return Err(ReadError::Answer { code }),
        };
        if let Some(unfit) = unfit {
            return Ok(Err(unfit));
        }
    }
    Ok(Ok(()))
}

async fn status(client: &Client, url: &str) -> Result<u16, ReadError> {
    // A namespace that does not fit into a URL is none.
    let Ok(request) = Request::get(url).body(Body::empty()) else { return Ok(404) };
    let asked = time::timeout(PATIENCE, client.send(request)).await;
    let response = asked.map_err(|_| ReadError::Timeout)?.map_err(ReadError::Call)?;
    Ok(response.status().as_u16())
}
