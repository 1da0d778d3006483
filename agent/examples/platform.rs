//! Carries out one act of the Windows platform and prints `begun`, and then what came of it as JSON: for
//! the tests under Wine, and for trying an act on a Windows that may be thrown away. Not part of any
//! release.

#[cfg(windows)]
fn main() -> std::process::ExitCode {
    act::main()
}

#[cfg(not(windows))]
fn main() -> std::process::ExitCode {
    eprintln!("the Windows platform is there on Windows alone");
    std::process::ExitCode::FAILURE
}

#[cfg(windows)]
mod act {
    use std::process::ExitCode;
    use std::time::{Duration, Instant};

    use anyhow::{Context, bail};
    use serde_json::{Value, json};
    use wardring_agent::platform::windows::Windows;
    use wardring_agent::platform::{
        Checks, Machine, Network, Performed, Permit, Services, Terms, Updates,
    };
    use wardring_agent::state::{Question, Witness};
    use wardring_seal::{
        Action, ActiveHours, Hook, JobKey, Package, Probe, UpdateKind, UpdateSource, UpdateTarget,
    };

    const TERMS: Terms = Terms {
        source: UpdateSource::Default,
        accept_eula: false,
        is_local: false,
        looks_at_store: true,
    };

    pub fn main() -> ExitCode {
        // Whoever reads this knows from here on that the act may have been carried out.
        println!("begun");
        tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let acted = runtime
            .context("failed to start the runtime")
            .and_then(|runtime| runtime.block_on(act(&arguments)));
        match acted {
            Ok(value) => {
                println!("{value}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        }
    }

    async fn act(arguments: &[String]) -> anyhow::Result<Value> {
        let device = Windows::open(std::path::Path::new(r"C:\wardring\data"), None)?;
        let (verb, rest) = arguments.split_first().context("no act was named")?;
        Ok(match verb.as_str() {
            "boot" => {
                let boot = device.boot();
                json!({ "id": boot.id, "kind": boot.kind.as_str() })
            }
            "witnesses" => {
                let port = |text: &String| {
                    let (host, port) = text.rsplit_once(':').context("HOST:PORT")?;
                    Ok(Witness::Port { host: host.to_owned(), port: port.parse()? })
                };
                let named = rest.iter().map(port).collect::<anyhow::Result<_>>()?;
                serde_json::to_value(device.answering(&named).await)?
            }
            "facts" => serde_json::to_value(device.facts())?,
            "sample" => serde_json::to_value(device.sample(rest).map_err(anyhow::Error::msg)?)?,
            "inspect" => {
                let seen = device.inspect(&[update_of(rest)?], &[], TERMS).await;
                let seen = seen.map_err(anyhow::Error::msg)?;
                json!({
                    "updates": format!("{:?}", seen.updates),
                    "pending": seen.hard_pending,
                    "busy": seen.busy,
                    "build": seen.build,
                    "freeDiskGb": seen.free_disk_gb,
                    "componentStore": format!("{:?}", seen.component_store),
                    "otherPatchSources": seen.other_patch_sources,
                })
            }
            "probe" => {
                let probes: Vec<Probe> = serde_json::from_str(rest.first().context("no probes")?)?;
                serde_json::to_value(device.probe(&probes).await)?
            }
            "ports" => serde_json::to_value(device.ports())?,
            "hook" => {
                let hook: Hook = serde_json::from_str(rest.first().context("no hook")?)?;
                json!({ "failed": device.run_hook(&hook).await.err() })
            }
            "restart" => match device.restart(rest.first().context("no service")?).await {
                Ok(()) => json!({ "restarted": true }),
                Err(error) => json!({ "restarted": false, "error": error }),
            },
            "around" => {
                let hours = match rest {
                    [] => None,
                    [start, end, ..] => {
                        Some(ActiveHours::Fixed { start: start.parse()?, end: end.parse()? })
                    }
                    [_] => Some(ActiveHours::Device {}),
                };
                let seen = device.surroundings(hours).await;
                json!({
                    "people": format!("{:?}", seen.people),
                    "activeUntil": seen.active_until,
                    "power": format!("{:?}", seen.power),
                    "startup": format!("{:?}", seen.startup),
                })
            }
            "ask-to-leave" => {
                device.ask_to_leave(rest.first().map(String::as_str), 3_600_000);
                json!({ "asked": true })
            }
            "ask-people" => {
                let question = Question {
                    message: rest.first().cloned(),
                    countdown_ms: 60_000,
                    open_ms: 2_000,
                    again_ms: None,
                    within_ms: 3_600_000,
                };
                json!({ "reply": format!("{:?}", device.ask_people(question).await) })
            }
            "reboot" => match device.reboot(&key(), &device.boot().id, false) {
                Ok(()) => json!({ "ordered": true }),
                Err(error) => json!({ "ordered": false, "error": error }),
            },
            "announce" => {
                device.announce(rest.first().map(String::as_str), 60_000);
                json!({ "announced": true })
            }
            "uninstall" | "uninstall-late" => {
                let life = if verb == "uninstall" { 60 } else { 0 };
                let permit = Permit { until: Instant::now() + Duration::from_secs(life) };
                let update = update_of(rest)?;
                performed(device.uninstall(&key(), &update, &rest[3..], 0, permit).await)
            }
            "bring" => {
                let [attempt, url, sha256] = rest else { bail!("bring ATTEMPT URL SHA256") };
                let package = Package { url: url.clone(), sha256: sha256.clone() };
                let update = ["KB5044281", "Quality", "20348.2762"].map(str::to_owned);
                let update = UpdateTarget { package: Some(package), ..update_of(&update)? };
                let key = JobKey { attempt: attempt.parse()?, action: Action::Install, ..key() };
                let targets = std::slice::from_ref(&update);
                if let Err(failure) = device.download(&key, targets, TERMS).await {
                    return Ok(json!({ "failed": failure.sentence }));
                }
                let permit = Permit { until: Instant::now() + Duration::from_secs(60) };
                performed(device.install(&key, &update, 0, TERMS, permit).await)
            }
            other => bail!("no act is called {other:?}"),
        })
    }

    fn performed(performed: Performed) -> Value {
        match performed {
            Performed::PermitExpired => json!({ "begun": false }),
            Performed::Ended(result) => json!({
                "begun": true,
                "code": result.code,
                "hresult": format!("0x{:08X}", result.hresult),
                "rebootRequired": result.reboot_required,
                "packages": result.packages,
            }),
        }
    }

    /// `KB kind build`, with `-` for no build.
    fn update_of(rest: &[String]) -> anyhow::Result<UpdateTarget> {
        let [kb, kind, build, ..] = rest else { bail!("an update is: KB, kind, build") };
        let kind: UpdateKind = serde_json::from_value(json!(kind))?;
        Ok(UpdateTarget {
            kb: kb.clone(),
            product: String::new(),
            kind,
            target_build: Some(build.clone()).filter(|build| build != "-"),
            identities: Vec::new(),
            package: None,
        })
    }

    fn key() -> JobKey {
        JobKey {
            rollout_uid: "by-hand".to_owned(),
            device_id: "this".to_owned(),
            attempt: 1,
            action: Action::Rollback,
        }
    }
}
