//! A proxy between devices and gateways: it takes `CONNECT` and nothing else, as `docs/guide/agents.md`
//! asks of one. It may be told to read what it passes on, as companies have theirs do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use wardring_seal::Authority;
use wardring_seal::tls::{Clients, server_config};

/// Longest head of a request.
const HEAD: usize = 8 * 1024;
/// First byte of every TLS connection: a record of the handshake.
const HANDSHAKE: u8 = 22;

/// A proxy. It ends with the value; connections that are open go on.
pub struct Proxy {
    /// What an agent is told.
    pub url: String,
    tunnels: Arc<Mutex<Vec<Tunnel>>>,
    serving: JoinHandle<()>,
}

/// A way that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The target as the agent named it.
    pub target: String,
    /// Whether what came through first was TLS.
    pub is_tls: bool,
}

impl Proxy {
    /// One that leads to `gateway`, whatever is asked for, and passes everything on as it is.
    ///
    /// # Errors
    /// No port is free.
    pub async fn to(gateway: SocketAddr) -> anyhow::Result<Proxy> {
        Proxy::begin(gateway, None).await
    }

    /// One that opens TLS with a certificate of its own for every host, and reads along.
    ///
    /// # Errors
    /// No port is free, or there is no certificate.
    pub async fn that_reads(gateway: SocketAddr, host: &str) -> anyhow::Result<Proxy> {
        let now = Timestamp::now();
        let authority = Authority::create(now)?;
        let life = SignedDuration::from_hours(24);
        let serving = authority.issue_serving(&[host.to_owned()], now, life)?;
        let tls = server_config(Clients::Anonymous, &serving.chain_pem, &serving.key_pem)?;
        Proxy::begin(gateway, Some(TlsAcceptor::from(Arc::new(tls)))).await
    }

    async fn begin(gateway: SocketAddr, reads: Option<TlsAcceptor>) -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let tunnels = Arc::new(Mutex::default());
        let seen = Arc::clone(&tunnels);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, reads) = (Arc::clone(&seen), reads.clone());
                // One that fails is the agent's to tell of.
                tokio::spawn(async move { tunnel(stream, gateway, reads, &seen).await.ok() });
            }
        });
        Ok(Proxy { url, tunnels, serving })
    }

    /// The ways that were opened so far.
    pub fn tunnels(&self) -> Vec<Tunnel> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn tunnel(
    mut stream: TcpStream,
    gateway: SocketAddr,
    reads: Option<TlsAcceptor>,
    seen: &Mutex<Vec<Tunnel>>,
) -> anyhow::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < HEAD, "the head does not end");
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let mut words = head.split(' ');
    if words.next() != Some("CONNECT") {
        stream.write_all(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n").await?;
        return Ok(());
    }
    let target = words.next().context("no target")?.to_owned();
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    let mut first = [0];
    stream.peek(&mut first).await?;
    let opened = Tunnel { target, is_tls: first == [HANDSHAKE] };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(opened);
    if let Some(acceptor) = reads {
        // The other half of the way is not needed: no agent gets so far.
        let mut opened = acceptor.accept(stream).await?;
        opened.read_u8().await?;
        return Ok(());
    }
    let mut onward = TcpStream::connect(gateway).await?;
    copy_bidirectional(&mut stream, &mut onward).await?;
    Ok(())
}
