//! Probes: questions to the device, each answered within its own time or not at all.
//!
//! What goes over the network is asked here, the same on every platform; what only the operating
//! system knows is asked of [`Local`]. A probe sends nothing but its question: no credentials, no
//! proxy, no redirect is followed. The fields of a job come from a manifest that a person wrote, and
//! answers come from anybody, so both are taken with limits.

mod dns;
mod http;
mod ldap;
mod sql;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use wardring_seal::{Check, Probe};

use crate::questions::Questions;
use crate::state::ProbeSample;

/// Longest that any probe may take, whatever the job says.
const LIMIT: Duration = Duration::from_secs(60);
/// What Windows is asked. Answers that come after the time of a probe do not keep back the next samples.
static LOCAL: Questions = Questions::new("probe", 4);

/// What only the operating system can answer. May block; it is given a thread of its own.
pub trait Local: Send + Sync + 'static {
    /// Answers a probe of a process, a drive, an event log or a share.
    ///
    /// # Errors
    /// A sentence that says what is not as it should be.
    fn answer(&self, check: &Check) -> Result<(), String>;
}

/// Asks all probes at the same time; the result has one entry for each.
pub async fn ask(probes: &[Probe], local: &Arc<impl Local>) -> BTreeMap<String, ProbeSample> {
    ask_as(probes, local, &LOCAL).await
}

async fn ask_as(
    probes: &[Probe],
    local: &Arc<impl Local>,
    questions: &'static Questions,
) -> BTreeMap<String, ProbeSample> {
    let mut tasks = tokio::task::JoinSet::new();
    for probe in probes.iter().cloned() {
        let local = Arc::clone(local);
        tasks.spawn(async move {
            let limit = Duration::from_millis(probe.timeout_ms).min(LIMIT);
            let answer = tokio::time::timeout(limit, answer(probe.check, local, questions)).await;
            let late = || Err(format!("no answer within {} ms", limit.as_millis()));
            (probe.name, answer.unwrap_or_else(|_| late()).into())
        });
    }
    let mut samples = BTreeMap::new();
    while let Some(asked) = tasks.join_next().await {
        if let Ok((name, sample)) = asked {
            samples.insert(name, sample);
        }
    }
    for probe in probes {
        // Nothing that went wrong with the asking itself may look like a good answer.
        let lost = || ProbeSample::Failed("the question was lost".to_owned());
        samples.entry(probe.name.clone()).or_insert_with(lost);
    }
    samples
}

async fn answer(
    check: Check,
    local: Arc<impl Local>,
    questions: &'static Questions,
) -> Result<(), String> {
    match &check {
        Check::Tcp { host, port } => connect(host.as_deref(), *port).await.map(drop),
        Check::Http { url, statuses, contains } => {
            http::ask(url, statuses, contains.as_deref()).await
        }
        Check::Dns { name, server } => dns::ask(name, server.as_deref()).await,
        Check::Ldap { host, port } => ldap::ask(connect(host.as_deref(), *port).await?).await,
        Check::Sql { host, port } => sql::ask(connect(host.as_deref(), *port).await?).await,
        Check::Process { .. } | Check::Disk { .. } | Check::EventLog { .. } | Check::Smb { .. } => {
            let (tx, rx) = oneshot::channel();
            // A thread of its own and not the runtime's: one that Windows never answers must not
            // keep the agent from ending.
            let what = format!("{check:?}");
            // Nobody listens any more when the time is over.
            let then = |answer| drop(tx.send(answer));
            questions.ask(&what, move || local.answer(&check), then)?;
            rx.await.unwrap_or_else(|_| Err("the question was lost".to_owned()))
        }
    }
}

/// Connects to a port, without a host to one of the device itself.
async fn connect(host: Option<&str>, port: u16) -> Result<TcpStream, String> {
    let connected = match host {
        Some(host) => TcpStream::connect((host, port)).await,
        None => {
            let own: [SocketAddr; 2] =
                [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()];
            TcpStream::connect(&own[..]).await
        }
    };
    let place = host.unwrap_or("this device");
    connected.map_err(|error| format!("port {port} of {place} takes no connection: {error}"))
}

/// Reads until `read` finds what it looks for, at most `limit` bytes. `read` gives nothing as long as
/// it needs more.
async fn receive<T>(
    stream: &mut TcpStream,
    limit: usize,
    read: impl Fn(&[u8]) -> Result<Option<T>, String>,
) -> Result<T, String> {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count =
            stream.read(&mut buffer).await.map_err(|error| format!("cannot read: {error}"))?;
        received.extend_from_slice(&buffer[..count]);
        if let Some(found) = read(&received)? {
            return Ok(found);
        }
        if count == 0 {
            return Err("it closed the connection without an answer".to_owned());
        }
        if received.len() > limit {
            return Err(format!("its answer is longer than {limit} bytes"));
        }
    }
}

/// Whatever a server answers, as a whole or in parts.
#[cfg(fuzzing)]
pub(crate) fn judge_anything(bytes: &[u8]) {
    ldap::judge_anything(bytes);
    sql::judge_anything(bytes);
    dns::judge_anything(bytes);
}

#[cfg(test)]
mod tests;
