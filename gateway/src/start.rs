//! Starts and stops a gateway: listeners, watches, writer, presence.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use kube::{Client, Config};
use tokio::{net::TcpListener, task::JoinSet, time};
use tokio_util::sync::CancellationToken;

use crate::{
    Gateway,
    cache::path,
    cluster::{self, Unfit},
    config::Settings,
    health,
    presence::{self, TokenSource},
    server,
    tls::Asks,
    watches,
};

/// How often devices with an old scan are looked for, and how many are dealt with each time.
const AGE_EVERY: Duration = Duration::from_secs(600);
const AGE_MOST: usize = 1_000;
const SCAN_IS_FRESH: i64 = 48 * 3_600;
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// How long the first lists may take before we say what is missing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No cluster.
    #[error("failed to find a cluster: set KUBECONFIG, or run inside one with a service account")]
    NoCluster(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The client.
    #[error("failed to set up the client of the API server")]
    Client(#[source] kube::Error),
    /// A port.
    #[error(
        "failed to listen on {address}; is another process using the port? choose a free address with {flag}"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What chooses another.
        flag: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// What a person has to put right in the cluster.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// A gateway that listens.
pub struct Running {
    /// The gateway.
    pub gateway: Arc<Gateway>,
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Where agents enrol and renew without being asked for a certificate.
    pub renew_listen: Option<SocketAddr>,
    /// Where health and metrics are.
    pub http_listen: SocketAddr,
    /// What the API server's first answers said.
    reached: Arc<OnceLock<Result<(), Unfit>>>,
    serving: JoinSet<()>,
    background: JoinSet<()>,
    writing: tokio::task::JoinHandle<()>,
    stop_writing: CancellationToken,
}

/// Starts a gateway in the cluster that the environment names.
pub async fn start(settings: Settings) -> Result<Running, StartError> {
    let config = Config::infer().await.map_err(|error| StartError::NoCluster(Box::new(error)))?;
    let token = token_source(&config);
    let client = Client::try_from(config).map_err(StartError::Client)?;
    start_with(settings, client, token).await
}

/// Starts a gateway with a given client.
pub async fn start_with(
    mut settings: Settings,
    client: Client,
    token: Option<TokenSource>,
) -> Result<Running, StartError> {
    let (listener, listen) = bind(settings.listen, "--listen").await?;
    let (health_listener, http_listen) = bind(settings.http_listen, "--http-listen").await?;
    let renew = match settings.renew_listen {
        Some(address) => Some(bind(address, "--renew-listen").await?),
        None => None,
    };
    let name = settings.name.get_or_insert_with(random_name).clone();
    let system_namespace = settings.system_namespace.clone();
    let gateway = Arc::new(Gateway::new(settings, client.clone()));

    let mut background = JoinSet::new();
    let reached = Arc::<OnceLock<_>>::default();
    let (reaching, verdict) = (gateway.clone(), reached.clone());
    background.spawn(async move {
        let clock = &reaching.clock;
        let answer = cluster::reach(&client, &system_namespace, clock).await;
        if verdict.get_or_init(|| answer).is_ok() {
            tokio::join!(
                watches::run(client.clone(), &system_namespace, reaching.sinks()),
                clock.keep_measuring(&client),
            );
        }
    });
    let health_gateway = gateway.clone();
    background.spawn(async move {
        if let Err(error) = health::serve(health_gateway, health_listener).await {
            tracing::error!(%error, "health and metrics are no longer served");
        }
    });
    match token {
        Some(token) => drop(background.spawn(presence::stream(gateway.clone(), name, token))),
        None => tracing::warn!(
            "the credentials in use carry no service account token, so presence is not sent"
        ),
    }
    background.spawn(age(gateway.clone()));

    let stop_writing = CancellationToken::new();
    let stop = stop_writing.clone();
    let writer = gateway.writer.clone();
    let writing = tokio::spawn(writer.run(async move { stop.cancelled().await }));

    let mut serving = JoinSet::new();
    serving.spawn(server::serve(gateway.clone(), listener, Asks::Certificate));
    let renew_listen = renew.map(|(listener, address)| {
        serving.spawn(server::serve(gateway.clone(), listener, Asks::Nothing));
        address
    });
    Ok(Running {
        gateway,
        listen,
        renew_listen,
        http_listen,
        reached,
        serving,
        background,
        writing,
        stop_writing,
    })
}

impl Running {
    /// Resolves when devices can be served, or never will be; says what is missing while it takes long.
    pub async fn ready(&self) -> Result<(), StartError> {
        let mut waited = Duration::ZERO;
        let step = Duration::from_millis(20);
        while !self.gateway.readiness.is_ready() || self.gateway.clock.fault().is_some() {
            time::sleep(step).await;
            // Who does not answer, and a clock that is off, have their own lines.
            let Some(reached) = self.reached.get() else { continue };
            reached.clone()?;
            waited += step;
            let missing = self.gateway.readiness.missing().join(", ");
            if waited.as_millis().is_multiple_of(PATIENCE.as_millis()) && !missing.is_empty() {
                tracing::warn!(missing, "the gateway cannot serve yet; is the controller running?");
            }
        }
        Ok(())
    }

    /// Stops: no new connections, long polls end, open requests and waiting writes are finished.
    pub async fn stop(mut self) {
        self.gateway.draining.cancel();
        while self.serving.join_next().await.is_some() {}
        self.stop_writing.cancel();
        if time::timeout(self.gateway.settings.drain, self.writing).await.is_err() {
            tracing::warn!("some writes were left; agents still hold those reports");
        }
        self.background.shutdown().await;
    }
}

async fn bind(
    address: SocketAddr,
    flag: &'static str,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let fail = |source| StartError::Listen { address, flag, source };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    let local = listener.local_addr().map_err(fail)?;
    Ok((listener, local))
}

/// Lets `UpToDate` become Unknown where the last scan has grown old and nothing is reported any more.
async fn age(gateway: Arc<Gateway>) {
    let mut tick = time::interval(AGE_EVERY);
    loop {
        tick.tick().await;
        let now = jiff::Timestamp::now().as_second();
        let old = gateway.cache.devices_where(|device| {
            device.scanned.is_some_and(|at| now - at > SCAN_IS_FRESH) && device.says_up_to_date()
        });
        for device in old.into_iter().take(AGE_MOST) {
            let device = path(&device.namespace, &device.name);
            if let Err(error) = gateway.writer.age(&device).await {
                tracing::debug!(device, %error, "an old scan was not shown");
            }
        }
    }
}

fn token_source(config: &Config) -> Option<TokenSource> {
    use secrecy::ExposeSecret;
    let auth = &config.auth_info;
    if let Some(file) = &auth.token_file {
        return Some(TokenSource::File(PathBuf::from(file)));
    }
    if let Some(token) = &auth.token {
        return Some(TokenSource::Text(token.expose_secret().to_owned()));
    }
    let file = PathBuf::from(SERVICE_ACCOUNT_TOKEN);
    file.exists().then_some(TokenSource::File(file))
}

fn random_name() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "gateway".to_owned());
    format!("{host}-{:08x}", rand::random::<u32>())
}
