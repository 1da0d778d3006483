//! A server on the web that has one package, and the trust of Windows in it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use wardring_seal::Authority;
use wardring_seal::tls::{Clients, server_config};

use crate::prefix::Prefix;

/// Serves one file over TLS, and counts who asked.
pub struct Files {
    /// Where the file is.
    pub url: String,
    asked: Arc<AtomicUsize>,
}

impl Files {
    /// Begins to serve; it ends with the runtime.
    ///
    /// # Errors
    /// No port is free.
    pub async fn serve(authority: &Authority, content: Vec<u8>) -> anyhow::Result<Files> {
        let hosts = ["localhost".to_owned()];
        let life = SignedDuration::from_hours(24);
        let serving = authority.issue_serving(&hosts, Timestamp::now(), life)?;
        let tls = server_config(Clients::Anonymous, &serving.chain_pem, &serving.key_pem)?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let asked = Arc::new(AtomicUsize::new(0));
        let files =
            Files { url: format!("https://localhost:{port}/p.msu"), asked: Arc::clone(&asked) };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            content.len()
        );
        let answer = [head.as_bytes(), &content].concat();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                asked.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            }
        });
        Ok(files)
    }

    /// How often somebody asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Puts a root among those that Windows trusts: a list of properties, the hash (3) and the
/// certificate (32) among them, as the registry's stores of certificates keep it.
///
/// # Errors
/// The registry refuses, or openssl is missing.
pub fn trust(prefix: &Prefix, folder: &Path, authority: &Authority) -> anyhow::Result<()> {
    let roots = authority.roots();
    let der = roots.certificates().first().context("an authority has a root")?.as_ref();
    let hash = openssl("-sha1", der, folder)?;
    let mut blob = Vec::new();
    for (property, bytes) in [(3_u32, hash.as_slice()), (32, der)] {
        blob.extend(property.to_le_bytes());
        blob.extend(1_u32.to_le_bytes());
        blob.extend(u32::try_from(bytes.len())?.to_le_bytes());
        blob.extend(bytes);
    }
    let key = format!(r"SOFTWARE\Microsoft\SystemCertificates\Root\Certificates\{}", hex(&hash));
    prefix.set(&key, "Blob", "REG_BINARY", &hex(&blob))
}

/// The SHA-256 of a package, as a rollout names it.
///
/// # Errors
/// openssl is missing.
pub fn sha256(content: &[u8], folder: &Path) -> anyhow::Result<String> {
    Ok(hex(&openssl("-sha256", content, folder)?).to_ascii_lowercase())
}

fn openssl(digest: &str, content: &[u8], folder: &Path) -> anyhow::Result<Vec<u8>> {
    let file = folder.join("content");
    fs::write(&file, content)?;
    let output = Command::new("openssl").args(["dgst", digest, "-binary"]).arg(&file).output();
    Ok(output.context("failed to start openssl; install it with apt-get")?.stdout)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}
