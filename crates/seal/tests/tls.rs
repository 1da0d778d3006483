//! Handshakes in memory: who may connect to whom.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use std::sync::Arc;

use common::*;
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use wardring_seal::tls::{Clients, client_config, first_contact_config, server_config};
use wardring_seal::*;

const HOST: &str = "gateway.example";
/// rustls reads the real clock, so certificates of these tests are made around it.
fn real_now() -> Timestamp {
    Timestamp::now()
}

fn root() -> Authority {
    Authority::create(real_now()).unwrap()
}

fn gateway(authority: &Authority) -> ServerConfig {
    let serving = authority.issue_serving(&[HOST.into()], real_now(), LIFE).unwrap();
    let clients = Clients::Devices(authority.roots());
    server_config(clients, &serving.chain_pem, &serving.key_pem).unwrap()
}

fn device(authority: &Authority, issued: Timestamp) -> Enrolled {
    let key = DeviceKey::generate().unwrap();
    let certificate = authority
        .issue_device(&request(&key), NAMESPACE, ENROLMENT, "ws-17", issued, LIFE)
        .unwrap();
    Enrolled { key, certificate }
}

/// Shakes hands; gives what the server knows of the client: its certificate, if it presented one.
fn connect(
    client: ClientConfig,
    server: ServerConfig,
    host: &str,
) -> Result<Option<Vec<u8>>, rustls::Error> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(server.peer_certificates().map(|chain| chain[0].to_vec()))
}

#[test]
fn a_device_connects_with_its_certificate() {
    let authority = root();
    let device = device(&authority, real_now());
    let client =
        client_config(authority.roots(), Some((&device.certificate, &device.key))).unwrap();

    let seen = connect(client, gateway(&authority), HOST).unwrap();

    assert_eq!(seen, Some(device.certificate));
}

#[test]
fn an_agent_without_a_certificate_connects_anonymously() {
    let authority = root();
    let client = client_config(authority.roots(), None).unwrap();

    assert_eq!(connect(client, gateway(&authority), HOST), Ok(None));
}

#[test]
fn first_contact_trusts_the_pinned_root_alone() {
    let authority = root();
    let pinned = first_contact_config(authority.roots().fingerprint()).unwrap();
    let other = first_contact_config(root().roots().fingerprint()).unwrap();

    assert_eq!(connect(pinned, gateway(&authority), HOST), Ok(None));
    assert!(connect(other, gateway(&authority), HOST).is_err());
}

#[test]
fn showing_the_pinned_root_is_not_enough_when_it_did_not_issue_the_certificate() {
    let authority = root();
    let evil = root();
    let serving = evil.issue_serving(&[HOST.into()], real_now(), LIFE).unwrap();
    let chain = serving.chain_pem + &authority.certificate_pem();
    let server = server_config(Clients::Anonymous, &chain, &serving.key_pem).unwrap();
    let client = first_contact_config(authority.roots().fingerprint()).unwrap();

    assert!(connect(client, server, HOST).is_err());
}

#[test]
fn a_gateway_of_another_name_or_root_is_refused() {
    let authority = root();
    let client = || client_config(authority.roots(), None).unwrap();

    assert!(connect(client(), gateway(&authority), "other.example").is_err());
    assert!(connect(client(), gateway(&root()), HOST).is_err());
}

#[test]
fn a_device_cannot_pass_for_a_gateway() {
    let authority = root();
    let device = device(&authority, real_now());
    let chain = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        base64(&device.certificate)
    );
    let server = server_config(Clients::Anonymous, &chain, &device.key.to_pem()).unwrap();
    let client = client_config(authority.roots(), None).unwrap();

    assert!(connect(client, server, "ws-17").is_err());
}

#[test]
fn expired_and_foreign_certificates_do_not_connect() {
    let authority = root();
    let expired = device(&authority, real_now() - LIFE - SignedDuration::from_secs(5));
    let foreign = device(&root(), real_now());

    for device in [expired, foreign] {
        let identity = Some((device.certificate.as_slice(), &device.key));
        let client = client_config(authority.roots(), identity).unwrap();
        assert!(connect(client, gateway(&authority), HOST).is_err());
    }
}

#[test]
fn a_stolen_certificate_does_not_connect_without_its_key() {
    let authority = root();
    let stolen = device(&authority, real_now());
    let thief = DeviceKey::generate().unwrap();

    // rustls itself refuses to pair a key with somebody else's certificate.
    let refused = client_config(authority.roots(), Some((&stolen.certificate, &thief)));

    assert!(refused.is_err());
}

#[test]
fn neither_the_job_signer_nor_a_gateway_connects_as_a_device() {
    let authority = root();
    let signer = authority.issue_job_signer(real_now()).unwrap();
    let signer_key = DeviceKey::from_pem(&signer.key_pem()).unwrap();
    let identity = Some((signer.certificate(), &signer_key));
    let client = client_config(authority.roots(), identity).unwrap();

    assert!(connect(client, gateway(&authority), HOST).is_err());
}
