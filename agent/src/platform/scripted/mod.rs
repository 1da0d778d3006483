//! A Windows made of a file, for the demo, benches and tests: products, services and updates with
//! scripted trouble. Its life goes on in `world.json`, so it survives its own restarts and the
//! death of the agent, and `world-journal.jsonl` records every act with the permit it had.

mod checks;
mod life;
mod network;
mod world;

pub use network::ScriptedNetwork;
pub use world::{
    Availability, Effects, ScriptedHook, ScriptedUpdate, StoppedService, SwitchedOff, Work, World,
    WorldError,
};

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::sync::watch;
use wardring_protocol::{Facts, Scan, ServiceFact, key_id};
use wardring_seal::{ActiveHours, JobKey, UpdateTarget};

use self::life::{Life, Order, act, later};
use self::world::Answers;
use super::{
    Machine, Performed, Permit, RunningBoot, Services, Terms, Updates, startup_fact, told_free_gb,
    wall_clock,
};
use crate::chance;
use crate::state::{
    BootKind, DownloadFailure, Inspection, InstallFound, Question, Reply, ServiceSample,
    ServiceState, Surroundings,
};

/// A crash comes so soon after a boot: late enough for the agent to see the boot.
const CRASH_AFTER: Duration = Duration::from_millis(300);
/// Windows needs a moment to go down, in which the agent tells that it does.
const SHUTDOWN: Duration = Duration::from_millis(150);
/// Age at which the source is asked again.
const SCAN_EVERY: SignedDuration = SignedDuration::from_hours(6);

/// A scripted Windows.
pub struct Scripted {
    name: String,
    world: Arc<World>,
    folder: PathBuf,
    life: Mutex<Life>,
    /// Counts the times the operating system ended.
    downs: watch::Sender<u64>,
}

impl Scripted {
    /// Takes up the life in `folder`, or begins one.
    ///
    /// # Errors
    /// The folder cannot be written, or its `world.json` cannot be read.
    pub fn open(name: &str, world: Arc<World>, folder: &Path) -> io::Result<Scripted> {
        fs::create_dir_all(folder)?;
        let life = match fs::read(folder.join("world.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Life::begin(&world, chance::id(), wall_clock())
            }
            Err(error) => return Err(error),
        };
        let scripted = Scripted {
            name: name.to_owned(),
            world,
            folder: folder.to_owned(),
            life: Mutex::new(life),
            downs: watch::Sender::new(0),
        };
        scripted.keep(&scripted.lock());
        Ok(scripted)
    }

    /// Waits until the device is up: returns at once when it is, after its restart when it is down,
    /// and never when it never comes back.
    pub async fn up(&self) {
        let (is_dead, down_until) = {
            let life = self.lock();
            (life.is_dead, life.down_until)
        };
        if is_dead {
            std::future::pending::<()>().await;
        }
        let Some(down_until) = down_until else { return };
        let wait = down_until.duration_since(wall_clock());
        tokio::time::sleep(wait.try_into().unwrap_or(Duration::ZERO)).await;
        let is_dead = {
            let mut life = self.lock();
            life.boot(&self.world, chance::id(), wall_clock());
            self.keep(&life);
            self.record("boot", &life, json!({ "kind": life.boot_kind.as_str() }));
            life.is_dead
        };
        if is_dead {
            std::future::pending::<()>().await;
        }
    }

    /// Whether gateways can be reached.
    pub fn has_network(&self) -> bool {
        self.lock().has_network(&self.world)
    }

    fn lock(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life, with everything that is over by now ended.
    fn advanced(&self) -> MutexGuard<'_, Life> {
        let mut life = self.lock();
        let before = life.results.len();
        life.advance(&self.world, wall_clock());
        if life.results.len() != before {
            self.keep(&life);
        }
        life
    }

    /// Writes `world.json`. A simulated disk that is full ends the simulation.
    fn keep(&self, life: &Life) {
        let (path, new) = (self.folder.join("world.json"), self.folder.join("world.json.new"));
        let text = serde_json::to_vec(life).expect("a life has only string keys");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        if let Err(error) = written {
            tracing::error!(device = self.name, %error, "failed to keep the scripted world");
        }
    }

    /// Appends a line to `world-journal.jsonl`.
    fn record(&self, event: &str, life: &Life, details: serde_json::Value) {
        let mut line = json!({ "at": wall_clock(), "event": event, "boot": life.boot_id });
        if let (Some(line), serde_json::Value::Object(details)) = (line.as_object_mut(), details) {
            line.extend(details);
        }
        let path = self.folder.join("world-journal.jsonl");
        let appended = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = appended {
            tracing::error!(device = self.name, %error, "failed to record in the world journal");
        }
    }

    /// Orders an installation or removal and waits for its end.
    async fn perform(
        &self,
        key: &JobKey,
        kb: &str,
        removes: bool,
        tries: u32,
        permit: Permit,
    ) -> Performed {
        let name = act(key, kb, removes, tries);
        {
            let mut life = self.advanced();
            if matches!(life.order(&name, kb), Order::New) {
                let verb = if removes { "uninstall" } else { "install" };
                let left = permit.until.checked_duration_since(std::time::Instant::now());
                let Some(left) = left else { return Performed::PermitExpired };
                let details = json!({
                    "key": key_id(key), "kb": kb, "permitLeftMs": left.as_millis() as u64,
                });
                self.record(verb, &life, details);
                life.work(&self.world, name.clone(), kb, removes, wall_clock());
                self.keep(&life);
            }
        }
        match self.find(&name, kb).await {
            InstallFound::Ended(result) => {
                if !removes {
                    self.switch_off_after(Work::Install).await;
                }
                Performed::Ended(result)
            }
            InstallFound::NotBegun => Performed::PermitExpired,
        }
    }

    /// Waits for the end of an act that is at work.
    async fn find(&self, name: &str, kb: &str) -> InstallFound {
        loop {
            let wait = {
                let life = self.advanced();
                match life.order(name, kb) {
                    Order::Done(result) => return InstallFound::Ended(result),
                    Order::New => return InstallFound::NotBegun,
                    Order::Working => match life.stand(kb) {
                        life::Stand::Working { ends: Some(ends), .. } => {
                            Some(ends.duration_since(wall_clock()))
                        }
                        _ => None,
                    },
                }
            };
            match wait {
                Some(wait) => {
                    let wait = Duration::try_from(wait).unwrap_or(Duration::ZERO);
                    tokio::time::sleep(wait + Duration::from_millis(5)).await;
                }
                // It hangs.
                None => std::future::pending().await,
            }
        }
    }

    fn go_down(&self, life: &mut Life, kind: BootKind) {
        self.go_down_until(life, kind, later(wall_clock(), self.world.reboot_ms));
    }

    /// Somebody switches it off if the script says so; then nothing of this boot is answered any more.
    async fn switch_off_after(&self, work: Work) {
        {
            let mut life = self.advanced();
            let Some(until) = life.switch_off(&self.world, work, wall_clock()) else { return };
            self.record("switchOff", &life, json!({}));
            self.go_down_until(&mut life, BootKind::Foreign, until);
        }
        std::future::pending().await
    }

    fn go_down_until(&self, life: &mut Life, kind: BootKind, until: Timestamp) {
        life.down_until = Some(until);
        life.next_boot = kind;
        self.keep(life);
        self.downs.send_modify(|count| *count += 1);
    }
}

impl Machine for Scripted {
    fn refuses(&self) -> Option<&'static str> {
        None
    }

    fn boot(&self) -> RunningBoot {
        let life = self.lock();
        let up = wall_clock().duration_since(life.booted_at).as_millis();
        RunningBoot {
            id: life.boot_id.clone(),
            kind: life.boot_kind,
            off: life.off,
            uptime_ms: u64::try_from(up).unwrap_or(0),
        }
    }

    fn build(&self) -> String {
        self.advanced().build(&self.world)
    }

    fn roles(&self) -> Vec<String> {
        self.world.roles.clone()
    }

    fn facts(&self) -> Facts {
        let mut life = self.advanced();
        if wall_clock().duration_since(life.scanned_at) > SCAN_EVERY {
            life.scanned_at = wall_clock();
            self.keep(&life);
        }
        let offered =
            |stand: &life::Stand| matches!(stand, life::Stand::Available(Availability::Offered));
        let installed = life.kbs(|stand| *stand == life::Stand::Installed);
        let missing = life.kbs(offered);
        let has_failed = |kb: &&String| {
            let ending = format!(" install {kb}");
            life.results.iter().any(|(act, result)| act.ends_with(&ending) && !result.is_success())
        };
        Facts {
            hostname: self.name.clone(),
            fqdn: None,
            addresses: self.world.addresses.clone(),
            serial: None,
            model: self.world.model.clone(),
            roles: self.roles(),
            product: self.world.product.clone(),
            build: life.build(&self.world),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_update_failed: None,
            last_scan: Some(Scan {
                time: life.scanned_at,
                source: "Scripted".to_owned(),
                result: "0x00000000".to_owned(),
            }),
            installed_count: u32::try_from(installed.len()).unwrap_or(u32::MAX),
            installed,
            failed: missing.iter().filter(has_failed).cloned().collect(),
            missing,
            pending_reboot: life.pending(),
            services: life
                .services
                .iter()
                .map(|(name, service)| ServiceFact {
                    name: name.clone(),
                    state: service.state.as_str().to_owned(),
                })
                .collect(),
            startup: Some(startup_fact(&self.world.startup())),
            free_disk_gb: Some(told_free_gb(None, self.world.free_disk_gb)),
            component_store: Some(self.world.component_store().as_str().to_owned()),
            other_patch_sources: self.world.other_patch_sources.clone(),
            offered: Vec::new(),
            pause: None,
            health: Vec::new(),
        }
    }

    fn announce(&self, message: Option<&str>, countdown_ms: u64) {
        tracing::debug!(device = self.name, message, countdown_ms, "restart announced");
    }

    fn ask_to_leave(&self, message: Option<&str>, within_ms: u64) {
        let life = self.lock();
        self.record("askToLeave", &life, json!({ "message": message, "withinMs": within_ms }));
    }

    async fn ask_people(&self, question: Question) -> Reply {
        let answer = {
            let mut life = self.lock();
            let answer = self.world.people.answers.get(life.questions).copied();
            life.questions += 1;
            self.keep(&life);
            let details = json!({
                "message": question.message, "openMs": question.open_ms, "againMs": question.again_ms,
                "withinMs": question.within_ms, "answer": format!("{answer:?}"),
            });
            self.record("askPeople", &life, details);
            answer
        };
        let open = Duration::from_millis(question.open_ms);
        let pause = Duration::from_millis(self.world.people.answer_after_ms);
        tokio::time::sleep(if answer.is_some() { pause.min(open) } else { open }).await;
        match answer {
            Some(Answers::Now) => Reply::Now((1..=self.world.people.active).collect()),
            Some(Answers::Later) => Reply::Later,
            Some(Answers::Nothing) | None => Reply::Nothing,
        }
    }

    async fn surroundings(&self, hours: Option<ActiveHours>) -> Surroundings {
        let now = wall_clock().to_zoned(jiff::tz::TimeZone::UTC);
        let hour = u8::try_from(now.hour()).unwrap_or_default();
        self.world.surroundings(self.boot().uptime_ms, hours, hour)
    }

    fn before_restart(&self, _boot_before: &str, force: bool) -> bool {
        force
    }

    fn reboot(&self, key: &JobKey, boot_before: &str, force: bool) -> Result<(), String> {
        let mut life = self.advanced();
        if life.boot_id != boot_before || life.down_until.is_some() {
            return Ok(());
        }
        self.record("reboot", &life, json!({ "key": key_id(key), "force": force }));
        self.go_down(&mut life, BootKind::Expected);
        Ok(())
    }

    fn take_back_restart(&self) {
        // A restart here is under way as soon as it is ordered.
    }

    async fn changed(&self) {
        // What changes here by itself waits for the next look.
        std::future::pending().await
    }

    async fn ended(&self) {
        let mut downs = self.downs.subscribe();
        let (is_down, crashes) = {
            let life = self.lock();
            (life.down_until.is_some(), life.crashes_left > 0)
        };
        if is_down {
            return;
        }
        tokio::select! {
            // The sender lives as long as this device.
            _ = downs.changed() => tokio::time::sleep(SHUTDOWN).await,
            () = tokio::time::sleep(CRASH_AFTER), if crashes => {
                let mut life = self.lock();
                life.crashes_left = life.crashes_left.saturating_sub(1);
                self.go_down(&mut life, BootKind::Crash);
            }
        }
    }
}

impl Updates for Scripted {
    async fn inspect(
        &self,
        updates: &[UpdateTarget],
        services: &[String],
        _terms: Terms,
    ) -> Result<Inspection, String> {
        let life = self.advanced();
        Ok(Inspection {
            product: self.world.product.clone(),
            build: life.build(&self.world),
            updates: updates
                .iter()
                .map(|update| (update.kb.clone(), life.status(&self.world, &update.kb)))
                .collect(),
            upgrades: self.world.upgrades(updates),
            pending_upgrade: None,
            services: services.iter().map(|name| (name.clone(), life.sample(name))).collect(),
            automatic: life
                .services
                .iter()
                .filter(|(_, service)| service.state == ServiceState::Running)
                .map(|(name, _)| name.clone())
                .collect(),
            probes: BTreeMap::new(),
            ports: BTreeSet::new(),
            witnesses: BTreeSet::new(),
            hard_pending: life
                .pending()
                .into_iter()
                .filter(|source| source.hard)
                .map(|source| source.source)
                .collect(),
            busy: life.is_busy(),
            free_disk_gb: Some(self.world.free_disk_gb),
            component_store: Some(self.world.component_store()),
            other_patch_sources: self.world.other_patch_sources.clone(),
            surroundings: Surroundings::default(),
        })
    }

    async fn download(
        &self,
        key: &JobKey,
        updates: &[UpdateTarget],
        _terms: Terms,
    ) -> Result<(), DownloadFailure> {
        for update in updates.iter().filter_map(|update| self.world.update(&update.kb)) {
            // What is there costs nothing.
            if self.lock().downloaded.contains(&update.kb) {
                continue;
            }
            tokio::time::sleep(Duration::from_millis(update.download_ms)).await;
            if update.effects.fail_download {
                return Err(format!("0x80072EE2 for {}", update.kb).into());
            }
            {
                let mut life = self.advanced();
                life.downloaded.insert(update.kb.clone());
                self.record("download", &life, json!({ "key": key_id(key), "kb": update.kb }));
                self.keep(&life);
            }
            self.switch_off_after(Work::Download).await;
        }
        Ok(())
    }

    async fn install(
        &self,
        key: &JobKey,
        update: &UpdateTarget,
        tries: u32,
        _terms: Terms,
        permit: Permit,
    ) -> Performed {
        self.perform(key, &update.kb, false, tries, permit).await
    }

    async fn find_install(
        &self,
        key: &JobKey,
        update: &UpdateTarget,
        tries: u32,
        _terms: Terms,
    ) -> InstallFound {
        self.find(&act(key, &update.kb, false, tries), &update.kb).await
    }

    async fn uninstall(
        &self,
        key: &JobKey,
        update: &UpdateTarget,
        _packages: &[String],
        tries: u32,
        permit: Permit,
    ) -> Performed {
        self.perform(key, &update.kb, true, tries, permit).await
    }
}

impl Services for Scripted {
    fn sample(&self, names: &[String]) -> Result<BTreeMap<String, ServiceSample>, String> {
        let life = self.lock();
        Ok(names.iter().map(|name| (name.clone(), life.sample(name))).collect())
    }

    async fn restart(&self, name: &str) -> Result<(), String> {
        let mut life = self.lock();
        let result = life.restart_service(name);
        self.keep(&life);
        self.record("restartService", &life, json!({ "service": name, "ok": result.is_ok() }));
        result
    }
}
