//! First certificate and next one. The signer is played by the test, with the controller's own key.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use reqwest::StatusCode;
use serde_json::json;
use wardring_api::{EnrollmentKind, EnrollmentRequest};
use wardring_protocol::{EnrolAnswer, EnrolRequest};
use wardring_seal::{CertificateRequest, DeviceKey, EnrolmentClaim, SignedClaim, Token};

use crate::support::*;

fn requests(site: &Site) -> Api<EnrollmentRequest> {
    Api::namespaced(site.client.clone(), &site.tenant)
}

fn claim(site: &Site, device: &str, key: &DeviceKey, token: Option<&str>) -> EnrolmentClaim {
    EnrolmentClaim {
        version: 1,
        namespace: site.tenant.clone(),
        device: device.to_owned(),
        token: token.map(str::to_owned),
        csr: key.csr(device).unwrap(),
        at: Timestamp::now(),
    }
}

fn body(signed: SignedClaim) -> EnrolRequest {
    EnrolRequest { claim: signed.claim, proof: signed.proof, certificate: signed.certificate }
}

/// Answers every open request as the signer would.
async fn sign(site: &Site, name: &str, enrolment_id: &str) -> Vec<u8> {
    let api = requests(site);
    let request = api.get(name).await.unwrap();
    let claim: EnrolmentClaim = serde_json::from_str(&request.spec.claim).unwrap();
    let csr = CertificateRequest::parse(&claim.csr).unwrap();
    let (now, life) = (Timestamp::now(), SignedDuration::from_hours(24));
    let certificate = site
        .authority
        .issue_device(&csr, &site.tenant, enrolment_id, &claim.device, now, life)
        .unwrap();
    let status = Patch::Merge(json!({ "status": {
        "certificate": base64(&certificate), "roots": site.authority.roots().to_base64(),
    } }));
    api.patch_status(name, &PatchParams::default(), &status).await.unwrap();
    certificate
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}

async fn enrol(gateway: &Gateway, path: &str, request: &EnrolRequest) -> EnrolAnswer {
    let sent = gateway.anonymous().post(gateway.url(path)).json(request).send().await.unwrap();
    read(sent).await
}

#[tokio::test]
async fn a_new_device_enrols_and_checks_in_with_its_certificate() {
    let site = Site::new().await;
    let gateway = site.gateway(&[]).await;
    let token = Token::generate(&site.tenant, "office", site.authority.roots().fingerprint());
    let key = DeviceKey::generate().unwrap();
    let claim = claim(&site, "ws-9", &key, Some("office"));
    let request = body(token.unwrap().sign_claim(&claim));

    // However often it is asked, at whichever gateway, one request is filed.
    let other = site.gateway(&[]).await;
    for gateway in [&gateway, &other, &gateway] {
        let answer = enrol(gateway, "/v1/enroll", &request).await;
        assert!(matches!(answer, EnrolAnswer::Pending { .. }), "{answer:?}");
    }
    let filed = requests(&site).list(&ListParams::default()).await.unwrap().items;
    assert_eq!(filed.len(), 1);
    assert_eq!(filed[0].spec.kind, EnrollmentKind::Enroll);
    assert_eq!(filed[0].spec.claim, request.claim);
    assert_eq!(filed[0].spec.token.as_deref(), Some("office"));

    let issued = sign(&site, &filed[0].name_any(), "e9").await;
    let agent = Agent {
        namespace: site.tenant.clone(),
        name: "ws-9".to_owned(),
        enrolment_id: "e9".to_owned(),
        run: "run-1".to_owned(),
        accepted_in: "run-1".to_owned(),
        boot: "boot-1".to_owned(),
        key,
        certificate: issued.clone(),
    };
    site.bind(&agent).await;
    match enrol(&gateway, "/v1/enroll", &request).await {
        EnrolAnswer::Issued { certificate, roots } => {
            assert_eq!(certificate, base64(&issued));
            assert_eq!(roots, site.authority.roots().to_base64());
        }
        other => panic!("{other:?}"),
    }
    // The gateway that handed it out knows the device at once.
    assert_eq!(gateway.poll(&agent, "wait=0").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_signers_refusal_reaches_the_device_as_it_stands() {
    let site = Site::new().await;
    let gateway = site.gateway(&[]).await;
    let token = Token::generate(&site.tenant, "office", site.authority.roots().fingerprint());
    let key = DeviceKey::generate().unwrap();
    let request = body(token.unwrap().sign_claim(&claim(&site, "ws-9", &key, Some("office"))));
    enrol(&gateway, "/v1/enroll", &request).await;
    let filed = requests(&site).list(&ListParams::default()).await.unwrap().items;
    let status = Patch::Merge(json!({ "status": {
        "refused": { "reason": "TokenRefused", "message": "The token is spent." },
    } }));
    let name = filed[0].name_any();
    requests(&site).patch_status(&name, &PatchParams::default(), &status).await.unwrap();
    let answer = enrol(&gateway, "/v1/enroll", &request).await;
    let refused = EnrolAnswer::Refused {
        reason: "TokenRefused".to_owned(),
        message: "The token is spent.".to_owned(),
    };
    assert_eq!(answer, refused);
}

#[tokio::test]
async fn a_claim_for_a_namespace_that_does_not_exist_is_refused_like_a_wrong_token() {
    let mut site = Site::new().await;
    let gateway = site.gateway(&[]).await;
    let key = DeviceKey::generate().unwrap();
    let root = site.authority.roots().fingerprint();
    let tenant = std::mem::replace(&mut site.tenant, "no-such-tenant".to_owned());
    let token = Token::generate(&site.tenant, "office", root).unwrap();
    let request = body(token.sign_claim(&claim(&site, "ws-9", &key, Some("office"))));
    site.tenant = tenant;
    let answer = enrol(&gateway, "/v1/enroll", &request).await;
    assert!(
        matches!(&answer, EnrolAnswer::Refused { reason, .. } if reason == "TokenRefused"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn malformed_claims_are_refused_before_anything_is_filed() {
    let site = Site::new().await;
    let gateway = site.gateway(&[]).await;
    let key = DeviceKey::generate().unwrap();
    let good = claim(&site, "ws-9", &key, Some("office"));
    let text = |claim: &EnrolmentClaim| serde_json::to_string(claim).unwrap();
    let bad = [
        "not json".to_owned(),
        text(&EnrolmentClaim { namespace: "../kube-system".to_owned(), ..good.clone() }),
        text(&EnrolmentClaim { device: "WS 9\u{1b}".to_owned(), ..good.clone() }),
        text(&EnrolmentClaim { token: None, ..good.clone() }),
        text(&EnrolmentClaim { csr: "x".repeat(9_000), ..good.clone() }),
        format!("{}\n", text(&good)),
    ];
    for claim in bad {
        let request = EnrolRequest { claim, proof: "c2ln".to_owned(), certificate: None };
        let url = gateway.url("/v1/enroll");
        let sent = gateway.anonymous().post(url).json(&request).send().await.unwrap();
        refusal(sent, StatusCode::BAD_REQUEST).await;
    }
    assert!(requests(&site).list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn new_enrolments_have_a_budget_that_strangers_cannot_exceed() {
    let site = Site::new().await;
    let gateway = site.gateway(&["--enrol-rate", "0.02"]).await;
    let key = DeviceKey::generate().unwrap();
    let root = site.authority.roots().fingerprint();
    let token = Token::generate(&site.tenant, "office", root).unwrap();
    let mut answers = Vec::new();
    for number in 0..4 {
        let claim = claim(&site, &format!("ws-{number}"), &key, Some("office"));
        let request = body(token.sign_claim(&claim));
        let url = gateway.url("/v1/enroll");
        answers.push(gateway.anonymous().post(url).json(&request).send().await.unwrap());
    }
    let refused = answers.pop().unwrap();
    assert!(refused.headers().contains_key("retry-after"));
    refusal(refused, StatusCode::TOO_MANY_REQUESTS).await;
    assert_eq!(requests(&site).list(&ListParams::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn an_expired_certificate_renews_for_a_year_and_does_nothing_else() {
    let site = Site::new().await;
    let gateway = site.gateway(&["--renew-listen", "127.0.0.1:0"]).await;
    let days = |days: i64| SignedDuration::from_hours(24 * days);
    let aged = |name: &str, ago: i64| {
        let since = Timestamp::now() - days(ago);
        site.certified(&site.authority, name, &format!("e{name}"), since, days(90))
    };
    let expired = aged("a", 100);
    site.bind(&expired).await;
    let sentence = refusal(gateway.poll(&expired, "wait=0").await, StatusCode::UNAUTHORIZED).await;
    assert!(sentence.contains("/v1/renew"), "{sentence}");

    let renewal = |agent: &Agent| {
        let claim = claim(&site, &agent.name, &agent.key, None);
        body(agent.key.sign_renewal(&claim, &agent.certificate).unwrap())
    };
    let answer = enrol(&gateway, "/v1/renew", &renewal(&expired)).await;
    assert!(matches!(answer, EnrolAnswer::Pending { .. }), "{answer:?}");
    let filed = requests(&site).list(&ListParams::default()).await.unwrap().items;
    assert_eq!(filed.len(), 1);
    assert_eq!(filed[0].spec.kind, EnrollmentKind::Renew);
    assert_eq!(filed[0].spec.token, None);

    // The listener that asks for no certificate serves this too, and nothing that needs one.
    let port = gateway.running.renew_listen.unwrap().port();
    let url = |path: &str| format!("https://localhost:{port}{path}");
    let other = gateway.anonymous();
    let sent = other.post(url("/v1/renew")).json(&renewal(&expired)).send().await.unwrap();
    let answer: EnrolAnswer = read(sent).await;
    assert!(matches!(answer, EnrolAnswer::Pending { .. }), "{answer:?}");
    refusal(other.get(url("/v1/job")).send().await.unwrap(), StatusCode::NOT_FOUND).await;

    // Too old, of an enrolment that no device has any more, or signed by another key.
    let ancient = aged("b", 460);
    site.bind(&ancient).await;
    let replaced = aged("c", 10);
    let thief = Agent { key: DeviceKey::generate().unwrap(), ..aged("d", 10) };
    site.bind(&thief).await;
    for (agent, status) in [
        (&ancient, StatusCode::UNAUTHORIZED),
        (&replaced, StatusCode::FORBIDDEN),
        (&thief, StatusCode::UNAUTHORIZED),
    ] {
        let url = gateway.url("/v1/renew");
        let sent = gateway.anonymous().post(url).json(&renewal(agent)).send().await.unwrap();
        refusal(sent, status).await;
    }
    // The first was asked twice with two claims; nobody else was filed.
    let filed = requests(&site).list(&ListParams::default()).await.unwrap().items;
    assert!(filed.iter().all(|request| request.spec.device == "a"));
    drop(tokio::time::timeout(Duration::from_secs(9), gateway.running.stop()).await);
}
