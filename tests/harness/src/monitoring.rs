//! The real Prometheus and Alertmanager on loopback ports of their own, and a page for Prometheus to
//! scrape. Each ends with the value that stands for it.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::process::Process;
use crate::tools::{SystemTool, ensure_apt};

/// Prometheus, with promtool.
pub const PROMETHEUS: SystemTool = SystemTool { program: "prometheus", package: "prometheus" };
/// Alertmanager, with amtool.
pub const ALERTMANAGER: SystemTool =
    SystemTool { program: "prometheus-alertmanager", package: "prometheus-alertmanager" };

/// Both start within a second; a machine that builds at the same time is given more.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How a server is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup<'a> {
    /// The configuration file, in the server's own words. Paths in it are relative to its folder.
    pub config: &'a str,
    /// Files beside it, by name: rules, credentials.
    pub files: &'a [(&'a str, &'a str)],
    /// Certificate chain and key in PEM, if it is to speak HTTPS.
    pub tls: Option<(&'a str, &'a str)>,
}

/// A running Prometheus or Alertmanager.
#[derive(Debug)]
pub struct Monitor {
    /// The process, to be frozen or killed.
    pub process: Process,
    address: SocketAddr,
    scheme: &'static str,
    /// Its configuration and data, removed after it has ended.
    _folder: TempDir,
}

impl Monitor {
    /// Starts Prometheus and waits until it answers queries.
    pub async fn prometheus(setup: Setup<'_>) -> Result<Monitor> {
        let mut monitor = Monitor::start(PROMETHEUS, "--storage.tsdb.path", &[], setup).await?;
        monitor.process.wait_for_line(START_LIMIT, "Server is ready to receive").await?;
        Ok(monitor)
    }

    /// Starts Alertmanager, alone in its cluster, and waits until it takes alerts.
    pub async fn alertmanager(setup: Setup<'_>) -> Result<Monitor> {
        Monitor::start(ALERTMANAGER, "--storage.path", &["--cluster.listen-address="], setup).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    async fn start(
        tool: SystemTool<'_>,
        storage: &str,
        options: &[&str],
        setup: Setup<'_>,
    ) -> Result<Monitor> {
        ensure_apt(&[tool])?;
        let folder = TempDir::with_prefix(format!("{}-", tool.program))?;
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            fs::write(&file, text).with_context(|| format!("failed to write {}", file.display()))
        };
        write("config.yml", setup.config)?;
        setup.files.iter().try_for_each(|(name, text)| write(name, text))?;
        let mut command = Command::new(tool.program);
        command.current_dir(folder.path()).args(["--config.file=config.yml", storage, "data"]);
        // The port is whichever is free; the log tells it.
        command.arg("--web.listen-address=127.0.0.1:0").args(options);
        let scheme = if let Some((certificate, key)) = setup.tls {
            write("tls.crt", certificate)?;
            write("tls.key", key)?;
            write("web.yml", "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n")?;
            command.arg("--web.config.file=web.yml");
            "https"
        } else {
            "http"
        };
        let log = folder.path().join("log");
        let mut process = Process::spawn(tool.program, command, &log)?;
        let line = process.wait_for_line(START_LIMIT, "Listening on").await?;
        let address = address_in(&line).with_context(|| format!("no address in {line:?}"))?;
        Ok(Monitor { process, address, scheme, _folder: folder })
    }
}

/// The value of `address=` in a line of a log.
fn address_in(line: &str) -> Option<SocketAddr> {
    line.split_whitespace().find_map(|word| word.strip_prefix("address="))?.parse().ok()
}

/// A page of metrics that a test can change at any time, for Prometheus to scrape.
pub struct MetricsPage {
    address: SocketAddr,
    text: Arc<Mutex<String>>,
    server: JoinHandle<()>,
}

impl fmt::Debug for MetricsPage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("MetricsPage").field("address", &self.address).finish_non_exhaustive()
    }
}

impl MetricsPage {
    /// Serves an empty page at every path of a loopback port.
    pub async fn start() -> Result<MetricsPage> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let text = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&text);
        let server = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let page = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
                tokio::spawn(async move {
                    // Whoever asked and left is nobody's problem here.
                    let _ = answer(connection, &page).await;
                });
            }
        });
        Ok(MetricsPage { address, text, server })
    }

    /// Where it listens, as a scrape target names it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows another text, in Prometheus' text format, from the next scrape on.
    pub fn show(&self, text: &str) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text.to_owned();
    }
}

impl Drop for MetricsPage {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(mut connection: TcpStream, page: &str) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(connection.read_u8().await?);
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        page.len()
    );
    connection.write_all(head.as_bytes()).await?;
    connection.write_all(page.as_bytes()).await?;
    connection.shutdown().await
}
