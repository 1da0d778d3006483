//! Updates that a rollout brings itself, by the address of their package.
#![allow(clippy::unwrap_used)] // A test that cannot go on should say where.

mod support;

use support::{SERVER, World};
use wardring_api::UpdateKind;
use wardring_planner::{Action, plan_hash, resolve};

const PACKAGES: &str = "
updates:
  packages:
  - {kb: KB5070002, product: Windows Server 2022, url: 'https://f/2.msu', sha256: DIGEST}
  - {kb: KB5070001, product: Windows Server 2022, url: 'https://f/1.msu', sha256: SECOND, targetBuild: '20348.2800'}
  - {kb: KB5070001, product: Windows 11, url: 'http://f/3.msu', sha256: DIGEST, allowHttp: true}
stages: [{name: test, group: test}]";

fn packages() -> String {
    filled(PACKAGES)
}

fn filled(yaml: &str) -> String {
    yaml.replace("DIGEST", &"0a".repeat(32)).replace("SECOND", &"0c".repeat(32))
}

#[test]
fn packages_need_no_catalogue_and_reach_the_job_in_their_order() {
    let resolved = resolve(&serde_yaml::from_str(&packages()).unwrap(), &[]).unwrap();
    let told: Vec<_> =
        resolved.iter().map(|update| (update.product.as_str(), update.kb.as_str())).collect();
    assert_eq!(told, [("Windows 11", "KB5070001"), (SERVER, "KB5070002"), (SERVER, "KB5070001")]);

    let mut world = World::new();
    world.group("test");
    world.device("test-1", "test", SERVER);
    world.rollout("fix", &packages());
    let mut made = Vec::new();
    for _ in 0..8 {
        for action in &world.plan().actions {
            world.apply(action);
            if let Action::CreateJob(job) = action {
                made.push(job.clone());
            }
        }
    }
    let updates = &made[0].updates;
    let sources: Vec<_> =
        updates.iter().map(|update| update.package.as_ref().unwrap().url.as_str()).collect();
    assert_eq!(sources, ["https://f/2.msu", "https://f/1.msu"]);
    assert_eq!(updates[0].kind, UpdateKind::Other, "its package proves it");
    assert_eq!(updates[1].kind, UpdateKind::Quality, "the build proves it");
    assert_eq!(updates[1].target_build.as_deref(), Some("20348.2800"));
    assert_eq!(updates[1].package.as_ref().unwrap().sha256, "0c".repeat(32));
}

#[test]
fn another_package_is_another_plan() {
    let hash = |yaml: &str| {
        let spec = serde_yaml::from_str(yaml).unwrap();
        plan_hash(&spec, &resolve(&spec, &[]).unwrap())
    };
    let other = packages().replacen("0a0a", "0b0b", 1);
    assert_ne!(hash(&packages()), hash(&other));
    assert_ne!(hash(&packages()), hash(&packages().replace("/1.msu", "/4.msu")));
}

#[test]
fn packages_that_an_older_api_server_let_through_stop_the_rollout() {
    for (was, is, complaint) in [
        (
            "http://f/3.msu', sha256: DIGEST, allowHttp: true",
            "http://f/3.msu', sha256: DIGEST",
            "https://",
        ),
        ("https://f/2.msu", "https://u:p@f/2.msu", "without user"),
        ("https://f/2.msu", "https://f/2.msu?sig=1", "without user"),
        ("https://f/2.msu", "file:///2.msu", "https://"),
        ("KB5070002", "KB5070001", "has two for KB5070001"),
        ("DIGEST", "DIGEST0", "is not a SHA-256"),
        ("SECOND", "DIGEST", "The packages of KB5070002 and KB5070001 on Windows Server 2022 are"),
        ("packages:", "kbs: [KB5070001]\n  packages:", "exactly one"),
    ] {
        let yaml = filled(&PACKAGES.replacen(was, is, 1));
        let mut world = World::new();
        world.group("test");
        world.device("test-1", "test", SERVER);
        world.rollout("fix", &yaml);
        world.settle();
        let status = world.status("fix");
        let first = status.waiting_for.first().unwrap();
        assert_eq!(first.reason, "InvalidSpec", "{is}");
        assert!(first.message.contains(complaint), "{is}: {}", first.message);
        assert_eq!(world.line("fix", "test-1"), None, "{is}");
    }
}
