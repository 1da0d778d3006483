//! When certificates of our own are renewed.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod common;

use common::*;
use wardring_seal::*;

fn hosts() -> Vec<String> {
    ["gateway.example", "localhost", "127.0.0.1", "0:0:0:0:0:0:0:1"].map(str::to_owned).to_vec()
}

#[test]
fn a_serving_certificate_stays_until_a_third_of_its_life_is_left() {
    let authority = authority();
    let serving = authority.issue_serving(&hosts(), now(), LIFE).unwrap();

    assert!(authority.keeps_serving(&serving, &hosts(), now() + days(59)));
    assert!(!authority.keeps_serving(&serving, &hosts(), now() + days(61)));
}

#[test]
fn a_serving_certificate_is_replaced_when_its_hosts_change() {
    let authority = authority();
    let serving = authority.issue_serving(&hosts(), now(), LIFE).unwrap();
    let reordered: Vec<_> = hosts().into_iter().rev().collect();

    assert!(authority.keeps_serving(&serving, &reordered, now()));
    assert!(!authority.keeps_serving(&serving, &hosts()[1..], now()));
}

#[test]
fn a_serving_certificate_of_another_root_or_with_another_key_is_replaced() {
    let authority = authority();
    let serving = authority.issue_serving(&hosts(), now(), LIFE).unwrap();
    let other = authority.issue_serving(&hosts(), now(), LIFE).unwrap();
    let mixed = ServingCertificate { key_pem: other.key_pem, ..serving.clone() };
    let damaged = ServingCertificate { chain_pem: "-".into(), ..serving.clone() };

    assert!(!authority.keeps_serving(&mixed, &hosts(), now()));
    assert!(!authority.keeps_serving(&damaged, &hosts(), now()));
    assert!(!common::authority().keeps_serving(&serving, &hosts(), now()));
}

#[test]
fn a_job_signer_stays_until_a_third_of_its_life_is_left_or_the_root_changes() {
    let authority = authority();
    let signer = authority.issue_job_signer(now()).unwrap();

    assert!(authority.keeps_job_signer(&signer, now() + days(240)));
    assert!(!authority.keeps_job_signer(&signer, now() + days(250)));
    assert!(!common::authority().keeps_job_signer(&signer, now()));
}

#[test]
fn a_device_certificate_does_not_stay_as_a_job_signer() {
    let authority = authority();
    let device = enrolled(&authority);
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        base64(&device.certificate)
    );
    let signer = JobSigner::from_pem(&pem, &device.key.to_pem()).unwrap();

    assert!(!authority.keeps_job_signer(&signer, now()));
}
