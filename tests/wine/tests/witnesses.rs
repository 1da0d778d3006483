//! Who on the network answers, by Wine's real adapters and sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::net::{Ipv4Addr, TcpListener};

use serde_json::Value;
use wardring_wine_tests::programs::{act, prefix};

/// Default gateways of this computer, as the kernel lists them.
fn routers() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap();
    let routes = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let default = routes.filter(|fields| fields[1] == "00000000" && fields[2] != "00000000");
    let address = |fields: Vec<&str>| {
        Ipv4Addr::from(u32::from_str_radix(fields[2], 16).unwrap().to_ne_bytes()).to_string()
    };
    default.map(address).collect()
}

#[test]
fn addresses_of_the_device_itself_are_nobody_and_the_lists_of_adapters_are_read() {
    let prefix = prefix().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let seen = act(&prefix, ["witnesses", &own, "nobody.invalid:443"]).unwrap();
    let seen: Vec<Value> = seen.as_array().unwrap().clone();
    assert!(!seen.iter().any(|witness| witness["type"] == "Port"), "{seen:?}");
    // Whether a router answers an echo depends on where this runs; one that does is ours.
    for router in seen.iter().filter(|witness| witness["type"] == "Router") {
        let address = router["address"].as_str().unwrap().to_owned();
        assert!(routers().contains(&address), "{address} in {:?}", routers());
    }
    assert!(seen.iter().all(|witness| witness["type"] != "Gateway"), "{seen:?}");
}
