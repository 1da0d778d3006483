//! What a device weighs in the controller's cache, against its JSON.
//!
//! An API server of canned answers serves Devices as agents and gateways make them; the controller's
//! own watches read them page by page into its own cache, and an allocator that counts says what
//! stays, the allocator's own overhead included. Prints one JSON object; `cargo xtask bench cache`
//! compares it with its limit.

#![allow(clippy::unwrap_used, reason = "a measurement may panic")]
#![allow(unsafe_code, reason = "an allocator is unsafe by definition; this one only counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{Request, Response},
};
use futures::stream;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Client, api::ObjectMeta};
use serde_json::{Value, json};
use tokio::time;
use wardring_api::{
    Device, DeviceMode, DeviceSpec,
    conditions::{self, Truth},
    names,
    reasons::Reason,
};
use wardring_controller::cache::{Cache, watch_all};
use wardring_gateway::merge::{FactsReport, apply_facts};
use wardring_protocol::{Facts, RebootSource, Scan, ServiceFact};

const DEVICES: usize = 20_000;
const ROUNDS: usize = 3;
const NAMESPACE: &str = "clinic";

#[global_allocator]
static HEAP: Counting = Counting;

/// Bytes in use now, and the most so far.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

/// What a block costs: glibc's malloc adds a word, rounds up to 16 bytes and gives no less than 32.
fn cost(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

fn count(added: usize, removed: usize) {
    let live = LIVE.fetch_add(added, Relaxed) + added;
    LIVE.fetch_sub(removed, Relaxed);
    PEAK.fetch_max(live - removed, Relaxed);
}

// SAFETY: every call is passed on unchanged to the system's allocator, whose promises are thus kept;
// counting touches atomics only and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(cost(layout.size()), 0);
        // SAFETY: the caller's promises about `layout` are ours.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(0, cost(layout.size()));
        // SAFETY: `block` came from `System` with this layout, because every block did.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(cost(size), cost(layout.size()));
        // SAFETY: as in `dealloc`, and the caller's promises about `size` are ours.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// Which labels people gave.
#[derive(Clone, Copy)]
enum Labels {
    /// Group, site and ring: many devices have the same.
    Shared,
    /// An inventory number too: no two devices have the same.
    Own,
}

/// The figures of one round.
struct Round {
    cached: f64,
    json: f64,
    peak: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (mut cached, mut json_bytes, mut ratio, mut peak) = (vec![], vec![], vec![], vec![]);
    let mut own_ratio = vec![];
    // Made once and kept, so that they do not enter the measurement.
    let [shared, own] = [Labels::Shared, Labels::Own].map(|labels| Arc::new(Server::new(labels)));
    for _ in 0..ROUNDS {
        let round = measure(&shared).await;
        ratio.push(round.cached / round.json);
        cached.push(round.cached);
        json_bytes.push(round.json);
        peak.push(round.peak);
        let round = measure(&own).await;
        own_ratio.push(round.cached / round.json);
    }
    println!(
        "{}",
        json!({
            "bench": "cache", "devices": DEVICES, "cached": cached, "json": json_bytes,
            "ratio": ratio, "ownLabelsRatio": own_ratio, "peakToSteady": peak,
        })
    );
}

async fn measure(server: &Arc<Server>) -> Round {
    let json = server.device_bytes as f64 / DEVICES as f64;
    let client = client(server.clone());
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let cache = Cache::default();
    let mut watches = watch_all(&client, &cache);
    while !cache.is_synced() {
        time::sleep(Duration::from_millis(10)).await;
    }
    let devices = cache.read(NAMESPACE, |space| space.unwrap().devices.rows().len());
    assert_eq!(devices, DEVICES, "every device is in the cache");
    let steady = (LIVE.load(Relaxed) - before) as f64;
    let peak = (PEAK.load(Relaxed) - before) as f64;
    watches.shutdown().await;
    Round { cached: steady / DEVICES as f64, json, peak: peak / steady }
}

/// An API server that knows devices and nothing else.
struct Server {
    devices: Vec<Bytes>,
    device_bytes: usize,
}

impl Server {
    fn new(labels: Labels) -> Server {
        // In the order of names, as an API server lists.
        let devices: Vec<Bytes> = (0..DEVICES)
            .map(|number| serde_json::to_vec(&device(number, labels)).unwrap().into())
            .collect();
        let device_bytes = devices.iter().map(Bytes::len).sum();
        Server { devices, device_bytes }
    }

    fn answer(&self, path: &str, query: Option<&str>) -> Body {
        let parameter = |name: &str| {
            let query = query.unwrap_or_default();
            query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
        };
        if parameter("watch").is_some() {
            // Nothing happens any more, and the watch stays open.
            return Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        }
        let number = |name: &str| parameter(name).and_then(|text| text.parse::<usize>().ok());
        let (from, limit) = (number("continue").unwrap_or(0), number("limit").unwrap_or(DEVICES));
        let is_devices = path.ends_with("/devices");
        let devices = if is_devices { self.devices.as_slice() } else { &[] };
        let to = (from + limit).min(devices.len());
        let next = if to < devices.len() { to.to_string() } else { String::new() };
        let mut page = format!(
            r#"{{"apiVersion":"wardring.dev/v1alpha1","kind":"List","metadata":{{"resourceVersion":"900000","continue":"{next}"}},"items":["#
        )
        .into_bytes();
        page.extend(devices[from..to].join(&b","[..]));
        page.extend(b"]}");
        Body::from(page)
    }
}

fn client(server: Arc<Server>) -> Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let answer = server.answer(request.uri().path(), request.uri().query());
        async move { Ok::<_, Infallible>(Response::new(answer)) }
    });
    Client::new(service, "default")
}

/// A device that works, as it is stored. Without managed fields: they would only flatter the ratio.
fn device(number: usize, labels: Labels) -> Value {
    let name = format!("ws-{number:05}");
    let now: Timestamp = "2026-11-21T02:00:00Z".parse().unwrap();
    let ago = |seconds: usize| now - SignedDuration::from_secs(seconds as i64);
    let spec = DeviceSpec {
        mode: DeviceMode::Manage,
        enrolment_id: Some(format!(
            "{:016x}",
            (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        )),
        time_zone: Some("Europe/Berlin".to_owned()),
        ..DeviceSpec::default()
    };
    let mut device = Device::new(&name, spec);
    device.metadata = ObjectMeta {
        namespace: Some(NAMESPACE.to_owned()),
        uid: Some(format!("6d0f1c5e-{:04x}-4b7a-9c55-{number:012x}", number % 0xffff)),
        resource_version: Some((500_000 + number).to_string()),
        generation: Some(2),
        creation_timestamp: Some(Time(ago(8_000_000 - number))),
        labels: Some(label_set(number, labels)),
        ..device.metadata
    };
    let mut conditions = Vec::new();
    let (online, reason) = (Truth::True, Reason::AgentInContact);
    let message = "The agent is in contact.";
    let heard = ago(900 + number * 7 % 86_400);
    conditions::set(&mut conditions, conditions::ONLINE, online, reason, message, None, heard);
    let report = FactsReport {
        seq: 40 + (number % 50) as u64,
        facts: facts(number, &name, ago(3_600)),
        boot_id: format!("{:032x}", (number as u128 + 3).wrapping_mul(0x2545_f491_4f6c_dd1d)),
        enrolment_id: device.spec.enrolment_id.clone().unwrap(),
    };
    device.status = Some(apply_facts(conditions, &report, now));
    serde_json::to_value(device).unwrap()
}

fn label_set(number: usize, labels: Labels) -> std::collections::BTreeMap<String, String> {
    let shared = [
        ("group", format!("group-{}", number % 12)),
        ("site", format!("site-{}", number / 3 % 40)),
        ("ring", ["test", "early", "broad"][number % 3].to_owned()),
        (names::TOKEN_LABEL, "workstations".to_owned()),
    ];
    let own = match labels {
        Labels::Shared => None,
        Labels::Own => Some(("inventory-number", format!("INV-{:08}", number * 37))),
    };
    shared.into_iter().chain(own).map(|(key, value)| (key.to_owned(), value)).collect()
}

fn facts(number: usize, name: &str, scanned: Timestamp) -> Facts {
    const SERVICES: [&str; 12] = [
        "Spooler",
        "MSSQLSERVER",
        "SQLSERVERAGENT",
        "W3SVC",
        "WAS",
        "LanmanServer",
        "LanmanWorkstation",
        "WinDefend",
        "EventLog",
        "Netlogon",
        "W32Time",
        "TermService",
    ];
    let hostname = name.to_uppercase();
    let service =
        |service: &str| ServiceFact { name: service.to_owned(), state: "Running".to_owned() };
    let product = ["Windows 11 24H2", "Windows Server 2022", "Windows Server 2019"][number % 3];
    let build = format!("{}.{}", [26100, 20348, 17763][number % 3], 4000 + number / 7 % 25 * 37);
    let reboot =
        RebootSource { source: "WindowsUpdate".to_owned(), hard: number.is_multiple_of(20) };
    Facts {
        fqdn: Some(format!("{name}.clinic.example.com")),
        addresses: vec![
            format!("10.{}.{}.{}", number % 4, number / 250 % 250, number % 250),
            format!("fd00:12:34::{number:x}"),
        ],
        serial: Some(format!("PF{number:08X}")),
        model: Some("OptiPlex 7020".to_owned()),
        product: product.to_owned(),
        build,
        agent_version: "0.1.0".to_owned(),
        last_scan: Some(Scan {
            time: scanned - SignedDuration::from_secs((number % 3_000) as i64),
            source: "WSUS".to_owned(),
            result: "0x00000000".to_owned(),
        }),
        installed_count: 120 + (number % 60) as u32,
        missing: (0..8).map(|update| format!("KB50{:05}", 60_000 + update * 131)).collect(),
        pending_reboot: if number.is_multiple_of(8) { vec![reboot] } else { Vec::new() },
        services: SERVICES.map(service).into(),
        hostname,
        ..Facts::default()
    }
}
