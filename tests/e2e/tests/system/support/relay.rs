//! The way from one device to a gateway, which a test can cut: its connections end, and new ones are
//! refused, as by a gateway that is gone.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use wardring_harness::wait_until_ok;

/// The way.
pub struct Relay {
    address: SocketAddr,
    to: String,
    carrying: Option<JoinHandle<()>>,
}

impl Relay {
    /// Opens a way to the gateway of this URL.
    pub async fn open(gateway: &str) -> Result<Relay> {
        let to = gateway.strip_prefix("https://").context("gateways speak HTTPS")?.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let carrying = Some(tokio::spawn(carry(listener, to.clone())));
        Ok(Relay { address, to, carrying })
    }

    /// The URL for agents: TLS goes through untouched.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Ends everything on the way.
    pub async fn cut(&mut self) {
        if let Some(carrying) = self.carrying.take() {
            carrying.abort();
            // Only once it has ended, the port is closed.
            let _ = carrying.await;
        }
    }

    /// Opens the way again.
    pub async fn mend(&mut self) -> Result<()> {
        // Somebody's connection may have the number for the moment.
        let bind = async || TcpListener::bind(self.address).await;
        let listener = wait_until_ok(Duration::from_secs(60), "the port to be free", bind).await?;
        self.carrying = Some(tokio::spawn(carry(listener, self.to.clone())));
        Ok(())
    }
}

/// Carries connections until it is aborted, which ends them.
async fn carry(listener: TcpListener, to: String) {
    let mut connections = JoinSet::new();
    while let Ok((mut from, _)) = listener.accept().await {
        let to = to.clone();
        connections.spawn(async move {
            if let Ok(mut gateway) = TcpStream::connect(to).await {
                // Either end may go at any time.
                let _ = copy_bidirectional(&mut from, &mut gateway).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
