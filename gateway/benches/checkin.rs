//! Check-ins without news per second of server CPU, against a bare axum + rustls server that sends
//! the same bytes, in the same run over the same kind of connections.
//!
//! Each server runs on a thread of its own whose CPU time is measured, so what the clients cost does
//! not enter. Rounds alternate, so that a noisy neighbour hits both. Prints one JSON object;
//! `cargo xtask bench checkin` compares it with its limit.

#![allow(clippy::unwrap_used, reason = "a measurement may panic")]

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, http::header::CONTENT_TYPE, routing::get};
use clap::Parser;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use kube::{Client, Config};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Builder,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use tower::Service;
use wardring_gateway::{Gateway, config::Settings, server, tls::Asks};
use wardring_seal::{Authority, CertificateRequest, DeviceKey, tls::client_config};

#[derive(Parser)]
struct Arguments {
    /// Devices, each with a connection of its own.
    #[arg(long, default_value_t = 64)]
    devices: usize,
    /// Length of a round, milliseconds.
    #[arg(long, default_value_t = 1500)]
    round_ms: u64,
    /// Rounds of each server.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

struct Device {
    name: String,
    key: DeviceKey,
    certificate: Vec<u8>,
}

struct World {
    authority: Authority,
    chain: String,
    key: String,
    devices: Vec<Device>,
}

impl World {
    fn new(devices: usize) -> World {
        let (now, life) = (Timestamp::now(), SignedDuration::from_hours(24));
        let authority = Authority::create(now).unwrap();
        let hosts = ["localhost".to_owned()];
        let serving = authority.issue_serving(&hosts, now, life).unwrap();
        let device = |number| {
            let (name, id) = (format!("ws-{number}"), format!("e{number}"));
            let key = DeviceKey::generate().unwrap();
            let request = CertificateRequest::parse(&key.csr(&name).unwrap()).unwrap();
            let issued = authority.issue_device(&request, "acme", &id, &name, now, life);
            Device { certificate: issued.unwrap(), name, key }
        };
        let devices = (0..devices).map(device).collect();
        World { chain: serving.chain_pem, key: serving.key_pem, devices, authority }
    }

    /// A gateway that knows the devices and has no API server: a check-in needs none.
    fn gateway(&self) -> Arc<Gateway> {
        let config = Config::new("http://127.0.0.1:1".parse().unwrap());
        let settings = Settings::parse_from(["gateway", "--device-rate", "1000000000"]);
        let gateway = Arc::new(Gateway::new(settings, Client::try_from(config).unwrap()));
        gateway.roots.replace(self.authority.roots().clone());
        gateway.serving.replace(self.chain.as_bytes(), self.key.as_bytes()).unwrap();
        for (number, device) in self.devices.iter().enumerate() {
            let object = json!({
                "apiVersion": "wardring.dev/v1alpha1", "kind": "Device",
                "metadata": {
                    "name": device.name, "namespace": "acme", "resourceVersion": "1",
                },
                "spec": { "mode": "Manage", "enrolmentId": format!("e{number}") },
            });
            gateway.cache.put_device(&serde_json::from_value(object).unwrap());
        }
        gateway
    }
}

/// A server on its own thread.
struct Server {
    port: u16,
    thread: String,
}

impl Server {
    /// Starts a server whose future is made on the thread that runs it.
    fn start<F: Future<Output = ()>>(
        name: &str,
        serve: impl FnOnce(TcpListener) -> F + Send + 'static,
    ) -> Server {
        let (tell, told) = mpsc::channel();
        // The name is what a profiler shows.
        let builder = thread::Builder::new().name(name.to_owned());
        let run = move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let thread = std::fs::read_link("/proc/thread-self").unwrap();
                let thread = format!("/proc/{}/schedstat", thread.display());
                let port = listener.local_addr().unwrap().port();
                tell.send(Server { port, thread }).unwrap();
                serve(listener).await;
            });
        };
        builder.spawn(run).unwrap();
        told.recv().unwrap()
    }

    /// CPU time of its thread so far.
    fn cpu(&self) -> Duration {
        let text = std::fs::read_to_string(&self.thread).unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    }
}

fn start_gateway(world: &World) -> Server {
    let gateway = world.gateway();
    Server::start("gateway", move |listener| server::serve(gateway, listener, Asks::Certificate))
}

/// axum + rustls and nothing else; the same TLS settings, the same answer.
fn start_bare(world: &World, answer: Vec<u8>) -> Server {
    let config = world.gateway().serving.config(Asks::Certificate).unwrap();
    let answer = Bytes::from(answer);
    let echo = async move || ([(CONTENT_TYPE, "application/json")], answer.clone());
    let router = Router::new().route("/v1/job", get(echo));
    Server::start("bare", async move |listener| {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            drop(stream.set_nodelay(true));
            let (acceptor, router) = (TlsAcceptor::from(config.clone()), router.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = service_fn(move |request| router.clone().call(request));
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    })
}

/// One device's connection.
struct Connection {
    stream: TlsStream<TcpStream>,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(world: &World, device: &Device, port: u16) -> Connection {
        let identity = Some((device.certificate.as_slice(), &device.key));
        let config = client_config(world.authority.roots(), identity).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = "localhost".to_owned().try_into().unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let request = "GET /v1/job?run=0123456789abcdef&boot=0123456789abcdef&wait=0&seq=41 HTTP/1.1\r\n\
             host: localhost\r\naccept: */*\r\n\r\n";
        Connection { stream, request: request.into(), buffer: vec![0; 4096] }
    }

    /// Asks once; the body of the answer. Headers and body fit one read.
    async fn ask(&mut self) -> &[u8] {
        self.stream.write_all(&self.request).await.unwrap();
        let mut filled = 0;
        loop {
            filled += self.stream.read(&mut self.buffer[filled..]).await.unwrap();
            let text = &self.buffer[..filled];
            let Some(end) = text.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            assert!(text.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(text));
            let head = std::str::from_utf8(&text[..end]).unwrap().to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
            if filled >= end + 4 + length {
                return &self.buffer[end + 4..filled];
            }
        }
    }
}

/// Requests per second of server CPU over one round.
async fn round(server: &Server, connections: &mut [Connection], length: Duration) -> f64 {
    let until = Instant::now() + length;
    let before = server.cpu();
    let asked = connections.iter_mut().map(async |connection| {
        let mut asked = 0_u64;
        while Instant::now() < until {
            connection.ask().await;
            asked += 1;
        }
        asked
    });
    let asked: u64 = futures::future::join_all(asked).await.into_iter().sum();
    asked as f64 / (server.cpu() - before).as_secs_f64()
}

async fn open_all(world: &World, port: u16) -> Vec<Connection> {
    let open = world.devices.iter().map(|device| Connection::open(world, device, port));
    futures::future::join_all(open).await
}

fn main() {
    let arguments = Arguments::parse();
    let world = World::new(arguments.devices);
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let gateway = start_gateway(&world);
        let mut to_gateway = open_all(&world, gateway.port).await;
        let answer = to_gateway[0].ask().await.to_vec();
        let bare = start_bare(&world, answer);
        let mut to_bare = open_all(&world, bare.port).await;
        let length = Duration::from_millis(arguments.round_ms);
        // The first round of each warms up.
        round(&gateway, &mut to_gateway, length / 4).await;
        round(&bare, &mut to_bare, length / 4).await;
        let mut rates = Vec::new();
        for _ in 0..arguments.rounds {
            let ours = round(&gateway, &mut to_gateway, length).await;
            let theirs = round(&bare, &mut to_bare, length).await;
            rates.push((ours, theirs));
        }
        let ratios: Vec<_> = rates.iter().map(|(ours, theirs)| ours / theirs).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = rates.into_iter().unzip();
        let result = json!({ "bench": "checkin", "ours": ours, "bare": theirs, "ratio": ratios });
        println!("{result}");
    });
}
