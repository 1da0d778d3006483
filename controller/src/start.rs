//! From flags to a running controller. Whatever a person got wrong ends here, in one sentence that
//! says what to do.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    approvals::Guardian,
    cache::{Cache, watch_all},
    clock::{ClockWatch, MAX_SKEW},
    crds,
    events::Events,
    gates::{self, Gates, Registry},
    health::{self, Health},
    identity::{self, CaError, Identity, SignerSettings},
    leader::lead,
    lease::{Candidacy, Office, Term, stand},
    metrics::Metrics,
    notify::{self, Bulletin},
    outbound::Allowed,
    pass::Desk,
    presence::{self, Presence},
    progress::Progress,
    settings::{Settings, std_duration},
    stops::{self, Board},
};

/// How often the API server's clock is asked for.
const CLOCK_EVERY: Duration = Duration::from_secs(30);
/// A request that takes longer is given up: a pass must not hang on one answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// How long requests under way may take when the process is told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Runs until `stop` is cancelled.
pub async fn run(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    settings.check()?;
    let http = bind(settings.http_listen, "--http-listen").await?;
    let presence_listener = bind(settings.presence_listen, "--presence-listen").await?;
    let presence_port = presence_listener.local_addr()?.port();

    let client = connect().await?;
    let clock = ClockWatch::default();
    reach(&client, &clock).await?;
    crds::verify(&client).await?;
    let system = settings.system_namespace.clone();
    let identity = open_identity(&client, &system).await?;

    let (metrics, progress) = (Metrics::new(), Progress::default());
    let health = Health::new(metrics.clone(), progress.clone());
    let http_address = http.local_addr()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(health::serve(http, health.clone(), stop.clone()));
    let presence = Presence::new(std_duration(settings.offline_after));
    let hosts = vec![settings.advertise_host.clone(), "localhost".to_owned()];
    spawn_presence(
        &mut tasks,
        &presence,
        presence_listener,
        &identity,
        &client,
        &hosts,
        &settings,
        &stop,
    )?;

    let cache = Cache::default();
    let watches = watch_all(&client, &cache);
    let (office_sender, office) = watch::channel(None::<Term>);
    let candidacy = Candidacy {
        holder: settings.holder(),
        namespace: system.clone(),
        duration: std_duration(settings.lease_duration),
        renew: std_duration(settings.lease_renew),
        presence_url: format!("https://{}:{presence_port}", host_in_url(&settings.advertise_host)),
    };
    let holder = candidacy.holder.clone();
    let election = tokio::spawn(stand(
        client.clone(),
        candidacy,
        progress.clone(),
        office_sender,
        stop.clone(),
    ));
    let measuring = clock.clone();
    let measured = client.clone();
    let clock_task =
        tokio::spawn(async move { measuring.keep_measuring(measured, CLOCK_EVERY).await });

    let ready = json!({
        "ready": true,
        "listen": http_address.to_string(),
        "presence": presence_port,
        "identity": holder,
    });
    println!("{ready}");
    let gates = Gates::new(Registry::default(), cache.clone(), metrics.clone());
    let desk = Desk {
        gates,
        events: Events::new(client.clone(), &holder),
        guardian: Guardian::new(
            client.clone(),
            &settings.system_namespace,
            &settings.approval_accounts,
        ),
        client,
        cache,
        presence,
        identity,
        clock,
        metrics,
        board: Board::default(),
        bulletin: Bulletin::default(),
        office: office.clone(),
        term: 0,
        holder,
    };
    serve_terms(desk, office, health, progress, &settings, &stop).await;
    let _ = tokio::time::timeout(STOP_LIMIT, election).await;
    clock_task.abort();
    drop(watches);
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Waits for terms in office and serves them, one after the other.
async fn serve_terms(
    desk: Desk,
    mut office: Office,
    health: Health,
    progress: Progress,
    settings: &Settings,
    stop: &CancellationToken,
) {
    loop {
        if desk.cache.is_synced() {
            health.set_synced(true);
        }
        let term = *office.borrow_and_update();
        if let Some(term) = term.filter(Term::is_current)
            && desk.cache.is_synced()
        {
            let desk = Desk { term: term.number, ..desk.clone() };
            desk.metrics.leader.set(1);
            desk.presence.set_leading(true);
            let mut side = side_tasks(&desk, settings);
            lead(desk.clone(), progress.clone(), usize::from(settings.concurrency), stop.clone())
                .await;
            side.abort_all();
            desk.gates.stop();
            desk.presence.set_leading(false);
            desk.metrics.leader.set(0);
            desk.metrics.activities.forget();
            desk.bulletin.forget();
            tracing::info!(term = term.number, "no longer leading");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = office.changed() => if changed.is_err() { return },
            // The first lists take a moment; nobody signals their end.
            () = tokio::time::sleep(Duration::from_millis(50)), if !desk.cache.is_synced() => {}
        }
    }
}

/// What else a leader does: answers enrolments and keeps the published certificates in order.
fn side_tasks(desk: &Desk, settings: &Settings) -> JoinSet<()> {
    let mut side = JoinSet::new();
    side.spawn(identity::answer_requests(
        desk.client.clone(),
        desk.identity.clone(),
        SignerSettings {
            certificate_life: settings.certificate_life.duration(),
            clock: desk.clock.clone(),
            metrics: desk.metrics.clone(),
            events: desk.events.clone(),
        },
    ));
    side.spawn(gates::keep(
        desk.client.clone(),
        settings.system_namespace.clone(),
        desk.gates.registry(),
    ));
    side.spawn(notify::keep(notify::Office {
        client: desk.client.clone(),
        cache: desk.cache.clone(),
        presence: desk.presence.clone(),
        allowed: Allowed::networks(settings.notify_networks.clone()),
        bulletin: desk.bulletin.clone(),
        in_office: {
            let desk = desk.clone();
            Arc::new(move || desk.in_office())
        },
    }));
    side.spawn(stops::publish(desk.client.clone(), desk.cache.clone(), desk.board.clone()));
    side.spawn(identity::announce_quarantines(
        desk.client.clone(),
        desk.cache.clone(),
        desk.events.clone(),
    ));
    side.spawn(identity::keep_published(
        desk.client.clone(),
        settings.system_namespace.clone(),
        desk.identity.clone(),
        settings.gateway_hosts.clone(),
        desk.metrics.clone(),
        || {},
    ));
    side
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: choose a free address with {flag}"))
}

async fn connect() -> anyhow::Result<Client> {
    let mut config = Config::infer().await.context(
        "no cluster is configured: set KUBECONFIG to a readable file, or run inside a cluster",
    )?;
    config.connect_timeout = Some(Duration::from_secs(10));
    config.write_timeout = Some(REQUEST_LIMIT);
    Client::try_from(config).context("the cluster's configuration cannot be used")
}

/// The first contact tells whether cluster and clock are right.
async fn reach(client: &Client, clock: &ClockWatch) -> anyhow::Result<()> {
    let skew = match clock.measure(client).await {
        Ok(skew) => skew,
        Err(error) => {
            return Err(anyhow!(error).context(
                "the API server cannot be reached: check the kubeconfig's address and that it runs",
            ));
        }
    };
    if skew.abs() > MAX_SKEW {
        bail!(
            "this machine's clock is {} {} the API server's: set it right, then start again",
            roughly(skew.abs()),
            if skew.is_positive() { "behind" } else { "ahead of" }
        );
    }
    Ok(())
}

/// A span as people say it: hours matter more than their seconds.
fn roughly(span: SignedDuration) -> String {
    match span.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7_200 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{} h", (seconds + 1_800) / 3_600),
    }
}

/// The certificate authority of the namespace that is said to be the installation's.
async fn open_identity(client: &Client, system: &str) -> anyhow::Result<Identity> {
    // Asked for first: without its namespace, a missing Secret is no loss of the certificate authority.
    // Not being allowed to look says nothing; what comes next says what is not allowed.
    if let Ok(None) = Api::<Namespace>::all(client.clone()).get_opt(system).await {
        bail!(
            "namespace {system} does not exist: create it with `kubectl create namespace {system}`, or give --system-namespace the namespace into which the chart is installed"
        );
    }
    match identity::open(client, system, Timestamp::now()).await {
        Err(CaError::Api { action, source: kube::Error::Api(status) }) if status.is_forbidden() => {
            bail!(
                "not allowed to {action} in namespace {system}: install the chart's roles for this service account, or give --system-namespace the namespace into which the chart is installed ({})",
                status.message
            )
        }
        opened => opened.with_context(|| {
            format!("failed to open the certificate authority in namespace {system}")
        }),
    }
}

#[expect(clippy::too_many_arguments, reason = "wiring, called once")]
fn spawn_presence(
    tasks: &mut JoinSet<()>,
    presence: &Presence,
    listener: TcpListener,
    identity: &Identity,
    client: &Client,
    hosts: &[String],
    settings: &Settings,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let certificate = identity
        .serving_certificate(hosts, Timestamp::now())
        .context("failed to issue the presence endpoint's certificate")?;
    let tls = wardring_seal::tls::server_config(
        wardring_seal::tls::Clients::Anonymous,
        &certificate.chain_pem,
        &certificate.key_pem,
    )
    .context("failed to set up the presence endpoint's TLS")?;
    let (presence, client, stop) = (presence.clone(), client.clone(), stop.clone());
    let system = settings.system_namespace.clone();
    tasks.spawn(async move {
        let tls = Arc::new(tls);
        let served = presence::serve(presence, listener, tls, client, &system, stop.clone()).await;
        if let Err(error) = served {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the presence endpoint ended"
            );
            stop.cancel();
        }
    });
    Ok(())
}

fn host_in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
