//! The Windows build of the agent under Wine: real registry, real service control manager, real TLS.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use jiff::SignedDuration;
use wardring_seal::{Action, OutcomeResult};
use wardring_wine_tests::gateway::{Seen, TestGateway};
use wardring_wine_tests::jobs::job;
use wardring_wine_tests::prefix::{Agent, Prefix, build_agent};

const CURRENT_VERSION: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion";
const CBS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing";
const SESSION_MANAGER: &str = r"SYSTEM\CurrentControlSet\Control\Session Manager";

fn start(prefix: &Prefix, gateway: &TestGateway) -> Agent {
    let (url, token) = (gateway.url(), gateway.token.reveal());
    prefix
        .start_agent(
            ["run", "--gateway", &url, "--token", &token, "--name", "srv-1"].into_iter().chain([
                "--data-dir",
                r"C:\wardring\data",
                "--poll-wait",
                "5",
            ]),
        )
        .unwrap()
}

fn service(seen: &Seen, name: &str) -> Option<String> {
    let facts = seen.facts.as_ref()?;
    facts.services.iter().find(|service| service.name == name).map(|service| service.state.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_windows_agent_enrols_reports_what_is_there_and_begins_nothing_that_it_cannot_see() {
    let gateway = TestGateway::start(SignedDuration::from_hours(24)).await.unwrap();
    let prefix = tokio::task::spawn_blocking(|| {
        let prefix = Prefix::create(&build_agent()?)?;
        prefix.set(CURRENT_VERSION, "ProductName", "REG_SZ", "Windows Server 2022 Datacenter")?;
        prefix.set(CURRENT_VERSION, "InstallationType", "REG_SZ", "Server")?;
        prefix.set(CURRENT_VERSION, "CurrentBuild", "REG_SZ", "20348")?;
        prefix.set(CURRENT_VERSION, "UBR", "REG_DWORD", "2700")?;
        prefix.make_key(&format!(r"{CBS}\RebootPending"))?;
        let rename = r"\??\C:\old.tmp";
        prefix.set(SESSION_MANAGER, "PendingFileRenameOperations", "REG_MULTI_SZ", rename)?;
        let program = r"C:\windows\system32\spoolsv.exe";
        prefix.create_service(&["MSSQLSERVER", "binPath=", program, "start=", "demand"])?;
        anyhow::Ok(prefix)
    });
    let prefix = prefix.await.unwrap().unwrap();

    let agent = start(&prefix, &gateway);
    let seen = gateway.wait_for("srv-1", "facts", |seen| seen.facts.is_some()).await;
    let facts = seen.facts.clone().unwrap();
    assert_eq!(
        (facts.product.as_str(), facts.build.as_str()),
        ("Windows Server 2022", "20348.2700")
    );
    assert!(!facts.hostname.is_empty());
    let pending: Vec<(&str, bool)> =
        facts.pending_reboot.iter().map(|source| (source.source.as_str(), source.hard)).collect();
    assert_eq!(pending, [("ComponentBasedServicing", true), ("PendingFileRename", false)]);
    assert_eq!(service(&seen, "Eventlog").as_deref(), Some("Running"));
    assert_eq!(service(&seen, "MSSQLSERVER").as_deref(), Some("Stopped"), "{facts:#?}");
    assert_eq!(service(&seen, "DHCPServer"), None, "a service that does not exist is not reported");

    gateway.give("srv-1", job(1, Action::Install));
    let seen = gateway.wait_for("srv-1", "an outcome", |seen| !seen.outcomes.is_empty()).await;
    let outcome = &seen.outcomes[0];
    assert_eq!(outcome.result, OutcomeResult::NotStarted);
    // Wine's own Windows Update is older than what the agent asks for.
    assert!(outcome.message.contains("cannot inspect the device"), "{}", outcome.message);
    assert!(seen.granted.is_empty());
    let first_boot = outcome.boot_id.clone();
    drop(agent);

    // The same boot for a new run of the agent; another one after Windows was restarted.
    let agent = start(&prefix, &gateway);
    gateway.wait_for("srv-1", "a second run", |seen| seen.runs.len() == 2).await;
    gateway.give("srv-1", job(2, Action::Install));
    let seen = gateway.wait_for("srv-1", "a second outcome", |seen| seen.outcomes.len() == 2).await;
    assert_eq!(seen.outcomes[1].boot_id, first_boot);
    assert_eq!(seen.certificates, 1, "the identity is kept");
    drop(agent);
    let prefix = tokio::task::spawn_blocking(move || {
        prefix.restart()?;
        anyhow::Ok(prefix)
    });
    let prefix = prefix.await.unwrap().unwrap();
    let agent = start(&prefix, &gateway);
    gateway.wait_for("srv-1", "a third run", |seen| seen.runs.len() == 3).await;
    gateway.give("srv-1", job(3, Action::Install));
    let seen = gateway.wait_for("srv-1", "a third outcome", |seen| seen.outcomes.len() == 3).await;
    assert_ne!(seen.outcomes[2].boot_id, first_boot);
    let names = |seen: &Seen| {
        let pending = &seen.facts.as_ref().unwrap().pending_reboot;
        pending.iter().map(|source| source.source.clone()).collect::<Vec<_>>()
    };
    // The restart carried the renames out.
    let carried = |seen: &Seen| names(seen) == ["ComponentBasedServicing"];
    gateway.wait_for("srv-1", "facts of this boot", carried).await;
    drop(agent);
    drop(prefix);
}
