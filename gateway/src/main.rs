//! `wardring-gateway`: courier and permit desk between Windows devices and the API server.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use wardring_gateway::{
    config::{LogFormat, Settings},
    start,
};

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    log_to_stderr(settings.log_format);
    match run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;

    let running = start::start(settings).await?;
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(stopped);
    tokio::select! {
        ready = running.ready() => {
            ready?;
            say_ready(&running).context("failed to say on standard output that we are ready")?;
            stopped.await;
        }
        () = &mut stopped => {}
    }
    tracing::info!("stopping");
    running.stop().await;
    Ok(())
}

fn say_ready(running: &start::Running) -> std::io::Result<()> {
    let line = serde_json::json!({
        "ready": true,
        "listen": running.listen,
        "renewListen": running.renew_listen,
        "httpListen": running.http_listen,
    });
    writeln!(std::io::stdout(), "{line}")
}

fn log_to_stderr(format: LogFormat) {
    // What fails in the client of the API server comes to us as an error, and is said there.
    let default = "info,kube_client::client=off,kube=warn,hyper=warn";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
