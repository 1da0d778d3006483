//! Streams to the leader which devices are in contact: the full set at first, then what changed.
//!
//! The leader is whoever holds the Lease; its URL stands there. What it answers to a batch it cannot
//! place makes us begin a new session, so either side may restart at any time.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::RngExt;
use reqwest::StatusCode;
use tokio::time;
use wardring_api::presence::{
    MAX_PRESENCE_ENTRIES, PRESENCE_HEARTBEAT_MS, PRESENCE_PATH, PresenceBatch,
};
use wardring_seal::tls::client_config;

use crate::{Gateway, cache::Bound};

/// Changes are gathered for this long.
const GATHER: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_millis(PRESENCE_HEARTBEAT_MS);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts when the leader cannot be reached.
const PAUSE: Duration = Duration::from_secs(2);

/// Where a gateway's own service account token comes from.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// A file that is renewed now and then.
    File(std::path::PathBuf),
    /// A fixed text.
    Text(String),
}

impl TokenSource {
    fn read(&self) -> std::io::Result<String> {
        match self {
            TokenSource::File(path) => std::fs::read_to_string(path).map(|t| t.trim().to_owned()),
            TokenSource::Text(text) => Ok(text.clone()),
        }
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("the roots are not known yet")]
    NoRoots,
    #[error("failed to set up TLS towards the leader")]
    Tls(#[from] wardring_seal::tls::TlsError),
    #[error("failed to read the service account's token")]
    Token(#[source] std::io::Error),
    #[error("failed to reach the leader")]
    Unreachable(#[from] reqwest::Error),
    #[error("the leader answered {0}")]
    Answer(StatusCode),
    #[error("another leader took over")]
    OtherLeader,
}

/// A device by namespace and name.
type Place = (String, String);

/// Streams for ever.
pub async fn stream(gateway: Arc<Gateway>, name: String, token: TokenSource) {
    let mut url = gateway.leader.url();
    loop {
        let Some(base) = url.borrow_and_update().clone() else {
            if url.changed().await.is_err() {
                return;
            }
            continue;
        };
        let ended = Session::new(&gateway, &name, &base).run(&token).await;
        if let Err(error) = ended {
            tracing::info!(error = &error as &dyn std::error::Error, "a presence session ended");
            time::sleep(PAUSE).await;
        }
    }
}

struct Session<'a> {
    gateway: &'a Gateway,
    name: &'a str,
    base: &'a str,
    id: String,
    number: u64,
    /// What the leader was told, by enrolment.
    told: HashMap<Box<str>, (Place, i64)>,
}

impl Session<'_> {
    fn new<'a>(gateway: &'a Gateway, name: &'a str, base: &'a str) -> Session<'a> {
        let id = format!("{:016x}", rand::rng().random::<u64>());
        Session { gateway, name, base, id, number: 0, told: HashMap::new() }
    }

    async fn run(mut self, token: &TokenSource) -> Result<(), SessionEnd> {
        let mut roots = self.gateway.roots.follow();
        let mut leader = self.gateway.leader.url();
        leader.borrow_and_update();
        let trusted = roots.borrow_and_update().clone().ok_or(SessionEnd::NoRoots)?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(client_config(&trusted, None)?)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()?;
        let url = format!("{}{PRESENCE_PATH}", self.base.trim_end_matches('/'));
        let mut spoke = Instant::now();
        let mut tick = time::interval(GATHER);
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if leader.has_changed().unwrap_or(true) {
                return Err(SessionEnd::OtherLeader);
            }
            let batches = self.batches(spoke.elapsed() >= HEARTBEAT);
            for batch in batches {
                let token = token.read().map_err(SessionEnd::Token)?;
                let sent = client.post(&url).bearer_auth(token).json(&batch).send().await?;
                match sent.status() {
                    StatusCode::NO_CONTENT => spoke = Instant::now(),
                    status => return Err(SessionEnd::Answer(status)),
                }
            }
            // A client trusts the roots it was made with; new roots need a new one.
            if roots.has_changed().unwrap_or(true) {
                return Ok(());
            }
        }
    }

    /// What has to be said now: everything at first, then changes, or a sign of life.
    fn batches(&mut self, heartbeat: bool) -> Vec<PresenceBatch> {
        let grace = self.gateway.settings.poll_interval * 3;
        let (mut online, mut offline) = (Vec::new(), Vec::new());
        let told = &mut self.told;
        self.gateway.peers.visit(grace, |peer, heard| {
            let bound = match heard.online {
                true => self.gateway.cache.bound(&peer.key),
                false => Bound::Nobody,
            };
            match bound {
                Bound::Device(device) => {
                    let known = told.get(&peer.key);
                    if known.is_none_or(|(_, sequence)| *sequence != heard.sequence) {
                        let place = (device.namespace.to_string(), device.name.to_string());
                        online.push((place.0.clone(), place.1.clone(), heard.sequence));
                        told.insert(peer.key.clone(), (place, heard.sequence));
                    }
                }
                Bound::Nobody | Bound::Several => {
                    offline.extend(told.remove(&peer.key).map(|(place, _)| place));
                }
            }
        });
        let first = self.number == 0;
        let mut batches = Vec::new();
        while first && batches.is_empty()
            || heartbeat && batches.is_empty()
            || !online.is_empty()
            || !offline.is_empty()
        {
            let some = online.len().min(MAX_PRESENCE_ENTRIES);
            let gone = offline.len().min(MAX_PRESENCE_ENTRIES - some);
            batches.push(PresenceBatch {
                gateway: self.name.to_owned(),
                session: self.id.clone(),
                number: self.number,
                complete: false,
                online: online.drain(..some).collect(),
                offline: offline.drain(..gone).collect(),
            });
            self.number += 1;
        }
        if let Some(last) = batches.last_mut() {
            last.complete = true;
        }
        batches
    }
}
