//! The device of a bench: what acts do to it, what it looks like, and what must hold meanwhile.

use super::*;

impl Bench {
    /// A rollback that nobody permitted begins once per job, on what that job installed, where the job
    /// asks for it, for crashes, and never on a device with a delicate role.
    pub(super) fn watch_own_rollback(&mut self, next: &State) {
        let began =
            |state: &State| state.job.as_ref().is_some_and(|job| job.own_rollback.is_some());
        if let (Some(was), Some(job), true, false) =
            (&self.state.job, &next.job, began(&self.state), began(next))
            && was.payload.key == job.payload.key
        {
            assert!(was.may_be_called_off(), "called off in its middle");
            *self.own_rollbacks.get_mut(&key_id(&job.payload.key)).unwrap() -= 1;
        }
        let (false, true, Some(job)) = (began(&self.state), began(next), &next.job) else { return };
        let key = key_id(&job.payload.key);
        let asked = job.payload.autonomous_rollback.as_ref().unwrap();
        if job.own_rollback.as_ref().unwrap().reason == "BootLoop" {
            assert!(asked.boot_loop);
            assert!(self.crashes_since_install >= 2, "{} crashes", self.crashes_since_install);
        } else {
            let after_ms = asked.network_lost.as_ref().unwrap().after_ms;
            let silent_ms = self.mono_ms - self.heard_mono_ms.max(self.booted_mono_ms);
            assert!(silent_ms >= after_ms, "silent for {silent_ms} ms");
            let before = &job.baseline.as_ref().unwrap().witnesses;
            let needs_dns = |witness: &Witness| match witness {
                Witness::Gateway | Witness::Dns { .. } => true,
                Witness::Port { host, .. } => host.parse::<std::net::IpAddr>().is_err(),
                Witness::Router { .. } => false,
            };
            assert!(!before.iter().all(needs_dns), "{before:?}");
        }
        let delicate = ["DomainController", "ClusterNode", "Unknown"];
        assert!(!self.roles.iter().any(|role| delicate.contains(&role.as_str())));
        assert!(self.installs.keys().any(|(begun, _)| *begun == key), "nothing was installed");
        let times = self.own_rollbacks.entry(key).or_default();
        *times += 1;
        assert_eq!(*times, 1, "it rolled back by itself twice");
    }

    /// A good end is one of a boot that held, seen good often enough in one run of the agent.
    pub(super) fn ended(&mut self, outcome: &OutcomePayload) {
        use OutcomeResult::{RolledBack, Succeeded};
        let is_new = self.outcomes.iter().all(|known| known.key != outcome.key);
        if is_new && outcome.started && matches!(outcome.result, Succeeded | RolledBack) {
            let is_hard = |kind: &&BootKind| matches!(kind, BootKind::Crash | BootKind::Dirty);
            let crashes = self.boots_since_act.iter().filter(is_hard).count();
            let held = self.mono_ms - self.booted_mono_ms;
            let wanted = if crashes == 0 { SETTLE_MS } else { 600_000 };
            assert!(crashes < 2, "a device that crashed {crashes} times is called good");
            let is_long = held >= wanted || self.boots_since_act.is_empty();
            assert!(is_long, "called good {held} ms after its boot, {crashes} crashes");
            assert!(self.looks >= 4, "called good after {} looks", self.looks);
        }
        if is_new && outcome.result == OutcomeResult::PoweredOff {
            // What has begun is proven, or has failed.
            let key = key_id(&outcome.key);
            let is_begun = self.installs.keys().any(|(name, _)| *name == key);
            assert!(!is_begun && !outcome.started, "{outcome:?}");
        }
        self.outcomes.push(outcome.clone());
    }

    pub(super) fn carry_out(&mut self, effect: Effect) {
        self.announced += u32::from(matches!(effect, Effect::Announce { .. }));
        self.asked_to_leave += u32::from(matches!(effect, Effect::AskToLeave { .. }));
        self.permits_asked +=
            u32::from(matches!(effect, Effect::Ask { ask: Ask::Permit { .. }, .. }));
        let Effect::Ask { turn, ask } = effect else { return };
        if matches!(ask, Ask::Install { .. } | Ask::Uninstall { .. }) {
            assert!(!self.is_acting(), "two acts at once: {ask:?}");
            self.boots_since_act.clear();
        }
        if let Ask::Install { key, .. } = &ask
            && !self.installs.keys().any(|(begun, _)| *begun == key_id(key))
        {
            self.crashes_since_install = 0;
        }
        if matches!(ask, Ask::LookAround { .. }) {
            self.due_since.get_or_insert(self.mono_ms);
        }
        if matches!(ask, Ask::Wake { .. }) {
            // The driver has one timer.
            self.asked.retain(|(_, _, open)| !matches!(open, Ask::Wake { .. }));
        }
        let due = match &ask {
            Ask::Wake { after_ms } => self.mono_ms + after_ms,
            Ask::AskPeople { question } => self.mono_ms + self.ask(question),
            _ => self.mono_ms,
        };
        match &ask {
            // Whoever carries an act out looks at the clock once more, at the last moment.
            Ask::Install { not_after_mono_ms, .. }
            | Ask::Uninstall { not_after_mono_ms, .. }
            | Ask::Reboot { not_after_mono_ms, .. }
                if *not_after_mono_ms <= self.mono_ms => {}
            Ask::RunHook { not_after_mono_ms: Some(not_after), .. }
                if *not_after <= self.mono_ms => {}
            Ask::RunHook { hook, .. } => {
                match hook.moment {
                    HookMoment::BeforeInstall
                        if self.state.job.as_ref().is_some_and(JobRun::is_rollback) =>
                    {
                        self.may_begin(Step::Uninstall)
                    }
                    HookMoment::BeforeInstall => self.may_begin(Step::Install),
                    HookMoment::BeforeReboot => self.may_begin(Step::Reboot),
                    HookMoment::AfterHealthy => {}
                }
                self.hooks_run.push(hook.program.clone());
            }
            // Acts begin when they are ordered; only their answers may be late.
            Ask::Install { key, update, tries, .. } => {
                self.may_begin(Step::Install);
                self.is_prepared(HookMoment::BeforeInstall);
                for earlier in 0..*tries {
                    let before = self.results.get(&act(key, &update.kb, earlier));
                    let is_failed = before.is_none_or(|result| result.code == 4);
                    assert!(is_failed, "tried again after {before:?}");
                }
                let name = act(key, &update.kb, *tries);
                *self.installs.entry(name.clone()).or_default() += 1;
                let script = self.updates.get_mut(&update.kb).unwrap();
                let result = if !script.failures.is_empty() {
                    result(4, script.failures.remove(0), false)
                } else if script.fails {
                    result(4, 0x8007_0643, false)
                } else {
                    script.stand =
                        if script.reboot_required { Stand::Pending } else { Stand::InForce };
                    let hresult = if script.is_taken { 0x0024_0006 } else { 0 };
                    result(2, hresult, script.reboot_required)
                };
                self.results.insert(name, result);
            }
            Ask::Uninstall { key, update, tries, .. } => {
                self.may_begin(Step::Uninstall);
                self.is_prepared(HookMoment::BeforeInstall);
                self.is_still_alone(key);
                self.removals += 1;
                self.removed_for.push(key_id(key));
                let script = self.updates.get_mut(&update.kb).unwrap();
                if !script.removal_failures.is_empty() {
                    let failed = result(4, script.removal_failures.remove(0), false);
                    self.results.insert(removal(key, &update.kb, *tries), failed);
                    self.asked.push_back((due, turn, ask));
                    return;
                }
                script.stand =
                    if script.reboot_required { Stand::Removing } else { Stand::Offered };
            }
            Ask::Reboot { key, boot_before, force, .. } => {
                self.may_begin(Step::Reboot);
                self.is_no_loop();
                self.is_prepared(HookMoment::BeforeReboot);
                let is_ordered = matches!(
                    &self.state.job.as_ref().unwrap().phase,
                    Phase::Rebooting { boot_before: journalled, .. } if journalled == boot_before
                );
                assert!(is_ordered, "the intent stands in the journal before the order");
                self.is_considerate();
                if *boot_before == format!("boot-{}", self.boot) && !self.ignores_reboots {
                    self.forced.push(*force);
                    if self.grace_ms == 0 {
                        *self.reboots.entry(key_id(key)).or_default() += 1;
                        self.boot_now(BootKind::Expected);
                    } else {
                        self.is_ending = true;
                        self.asked.push_back((self.mono_ms + self.grace_ms, turn, ask));
                    }
                }
                return;
            }
            Ask::RestartService { service } if self.others.contains_key(service) => {
                self.restarts_of_service += 1;
                if self.restart_helps {
                    self.others.insert(service.clone(), unlisted::ran());
                }
            }
            Ask::RestartService { .. } => {
                self.restarts_of_service += 1;
                if self.restart_helps {
                    self.service = ServiceState::Running;
                    self.pid += 1;
                }
            }
            _ => {}
        }
        self.asked.push_back((due, turn, ask));
    }

    /// A device in a loop makes no restart of its own: since the job was accepted, or since the device
    /// began to take it back, it came up three times at most, and not twice soon after a crash.
    fn is_no_loop(&self) {
        let job = self.state.job.as_ref().unwrap();
        let boots = job.own_rollback.as_ref().map_or(&job.boots, |own| &own.boots);
        assert!(boots.len() <= 3, "a restart after {} boots", boots.len());
        let is_hard = |boot: &BootRecord| matches!(boot.kind, BootKind::Crash | BootKind::Dirty);
        let is_quick = |pair: &&[BootRecord]| {
            is_hard(&pair[1]) && pair[1].at.duration_since(pair[0].at).as_mins() < 10
        };
        let quick = boots.windows(2).filter(is_quick).count();
        assert!(quick < 2 && job.strikes < 2, "a restart in a loop: {boots:?}");
    }

    /// Who on the network answers now.
    pub(super) fn answering(&self) -> BTreeSet<Witness> {
        let kills = |script: &Script| script.stand == Stand::InForce && script.kills_network;
        if self.is_unplugged || self.updates.values().any(kills) {
            return BTreeSet::new();
        }
        let mut answering = self.witnesses.clone();
        if self.mono_ms < self.cut_off_until_mono_ms {
            answering.remove(&Witness::Gateway);
        }
        answering
    }

    /// Before the first removal for a lost network, somebody looked for it once more.
    pub(super) fn is_still_alone(&self, key: &JobKey) {
        let own = self.state.job.as_ref().and_then(|job| job.own_rollback.as_ref());
        if own.is_some_and(|own| own.reason != "BootLoop")
            && !self.removed_for.contains(&key_id(key))
        {
            let since = self.silence_mono_ms.map(|at| self.mono_ms - at);
            assert!(since.is_some_and(|since| since <= PERMIT_LIFE_MS), "{since:?}");
        }
    }

    /// Whether an installation or removal has not told its end yet.
    pub(super) fn is_acting(&self) -> bool {
        let is_act = |ask: &Ask| matches!(ask, Ask::Install { .. } | Ask::Uninstall { .. });
        self.asked.iter().any(|(_, _, ask)| is_act(ask))
    }

    pub(super) fn may_begin(&mut self, step: Step) {
        let is_own = self.state.job.as_ref().is_some_and(|job| job.own_rollback.is_some());
        if is_own && step != Step::Install {
            return;
        }
        let is_held = self
            .permits_held
            .iter()
            .any(|(held, asked)| *held == step && self.mono_ms < asked + PERMIT_LIFE_MS);
        assert!(is_held, "{step:?} began without a permit of this run");
    }

    /// Asks people, who think about it for so long.
    fn ask(&mut self, question: &Question) -> u64 {
        let job = self.state.job.as_ref().unwrap();
        assert!(job.own_rollback.is_none() && self.state.paused.is_none(), "nobody is to be asked");
        assert!(job.payload.reboot.deferrals > 0, "nobody may put it off");
        let seen = &self.last_look.as_ref().unwrap().1;
        assert!(seen.people.is_some_and(|people| people.active > 0), "nobody is there to be asked");
        assert!(seen.active_until.is_none(), "nobody can let it restart in its active hours");
        assert!(question.within_ms <= job.payload.reboot.wait_ms, "{question:?}");
        self.agreed = None;
        self.questions.push((self.mono_ms, question.clone()));
        let after = self.replies.front().map_or(u64::MAX, |(_, after)| *after);
        after.min(question.open_ms)
    }

    /// What people said is heard by whoever waits for it, and by nobody else.
    pub(super) fn hear(&mut self, event: &Event) {
        let Event::Answered { turn, answer: Answer::PeopleSaid(reply) } = event else { return };
        if *turn != self.state.turn {
            return;
        }
        match reply {
            Reply::Now(sessions) => self.agreed = Some((self.mono_ms, sessions.clone())),
            Reply::Later => {
                self.agreed = None;
                self.put_off += 1;
            }
            Reply::Nothing => {}
        }
    }

    /// The sessions in which somebody works.
    pub(super) fn sessions(&self) -> BTreeSet<u32> {
        let active = self.around.people.map_or(0, |people| people.active);
        let named = || self.around.sessions.clone();
        if self.around.sessions.is_empty() { (1..=active).collect() } else { named() }
    }

    /// Whether all who are there said yes to this restart.
    fn have_agreed(&self, seen: &Surroundings) -> bool {
        // Until the countdown, the countdown, the time in which it is expected, and the life of a permit.
        const EXPECTED_MS: u64 = 120_000 + 60_000 + 600_000 + PERMIT_LIFE_MS;
        self.agreed.as_ref().is_some_and(|(at, sessions)| {
            self.mono_ms - at <= EXPECTED_MS && seen.sessions.is_subset(sessions)
        })
    }

    /// Nobody was there a moment ago, all agreed, or the time that a restart waits for them is over.
    pub(super) fn is_considerate(&self) {
        let waited = self.due_since.map_or(0, |since| self.mono_ms - since);
        let wait_ms = self.state.job.as_ref().unwrap().payload.reboot.wait_ms;
        let fresh = self.last_look.as_ref().filter(|(at, _)| self.mono_ms - at <= PERMIT_LIFE_MS);
        let has_own_rollback =
            self.state.job.as_ref().is_some_and(|job| job.own_rollback.is_some());
        let Some((_, seen)) = fresh else {
            assert!(has_own_rollback && waited >= wait_ms, "nobody looked who is there");
            return;
        };
        let is_nobody = seen.people.is_some_and(|people| people.active == 0);
        let is_known = seen.people.is_some();
        let is_nobody = is_nobody || (is_known && self.have_agreed(seen));
        let is_free = is_nobody && seen.active_until.is_none();
        assert!(is_free || waited >= wait_ms, "{seen:?} after {waited} ms");
        let is_unknown = matches!(seen.startup, Startup::Unknown(_));
        let is_unattended =
            seen.startup == Startup::Unattended || (is_unknown && waited >= 7_200_000);
        let is_safe = seen.power == Power::PluggedIn && is_unattended;
        assert!(is_safe || has_own_rollback || self.is_careless, "a restart with {seen:?}");
    }

    /// Every hook that comes before this has ended well in this boot.
    pub(super) fn is_prepared(&self, moment: HookMoment) {
        let job = self.state.job.as_ref().unwrap();
        if job.own_rollback.is_some() {
            return;
        }
        for hook in job.payload.hooks.iter().filter(|hook| hook.moment == moment) {
            let name = (moment, hook.program.clone(), self.boot);
            assert!(self.hooks_good.contains(&name), "without {name:?}");
        }
    }

    /// Windows goes down and comes up; the agent starts with [`Bench::start`].
    pub fn boot_now(&mut self, kind: BootKind) {
        self.crashes_since_install += u32::from(matches!(kind, BootKind::Crash | BootKind::Dirty));
        self.boot += 1;
        self.boot_kind = kind;
        self.off = None;
        self.silence_mono_ms = None;
        self.due_since = None;
        self.last_look = None;
        self.agreed = None;
        self.is_ending = false;
        self.booted_mono_ms = self.mono_ms;
        let waits = |script: &Script| matches!(script.stand, Stand::Pending | Stand::Removing);
        // The agent cannot know that a removal was done before it has looked: all crashes until then
        // are one.
        let removes = |job: &JobRun| job.is_rollback() && job.is_removing();
        let is_hard = |kind: &BootKind| matches!(kind, BootKind::Crash | BootKind::Dirty);
        let is_counted = self.state.job.as_ref().is_some_and(removes)
            && is_hard(&kind)
            && self.boots_since_act.iter().any(is_hard);
        if !self.updates.values().any(waits) && !is_counted {
            self.boots_since_act.push(kind);
        }
        self.pending_reboot = self.pends_forever;
        self.service = ServiceState::Running;
        self.pid += 1;
        for script in self.updates.values_mut() {
            script.stand = match script.stand {
                Stand::Pending if script.reverts => Stand::Offered,
                Stand::Pending => Stand::InForce,
                Stand::Removing => Stand::Offered,
                other => other,
            };
            if script.stand == Stand::InForce && script.stops_service {
                self.service = ServiceState::Stopped;
            }
        }
        self.is_down = true;
    }

    /// Somebody shuts Windows down cleanly and starts the device again so much later.
    pub fn switch_off(&mut self, hours: i64) {
        self.boot_now(BootKind::Foreign);
        let since = self.wall;
        self.advance(u64::try_from(hours).unwrap() * 3_600_000);
        self.booted_mono_ms = self.mono_ms;
        self.off = Off::between(since, self.wall);
    }

    pub(super) fn build(&self) -> String {
        if self.hides_build > 0 {
            return "0.0".to_owned();
        }
        let is_new = self.updates.get("KB1").is_some_and(|script| script.stand == Stand::InForce);
        if is_new || self.keeps_build { self.new_build } else { OLD }.to_owned()
    }

    pub(super) fn inspection(&self) -> Inspection {
        let status = |script: &Script| {
            let reversible =
                if script.uninstallable { Reversible::Expected } else { Reversible::No };
            match script.stand {
                Stand::Offered => UpdateStatus::Offered(reversible),
                Stand::NotOffered => UpdateStatus::NotOffered,
                Stand::Superseded => UpdateStatus::Superseded,
                Stand::NotApplicable => UpdateStatus::NotApplicable,
                Stand::Pending => UpdateStatus::PendingReboot(reversible),
                Stand::InForce => UpdateStatus::Installed(reversible),
                Stand::Removing => UpdateStatus::Removing,
            }
        };
        let waits = |script: &Script| matches!(script.stand, Stand::Pending | Stand::Removing);
        let update_waits = !self.hides_pending && self.updates.values().any(waits);
        let is_pending = self.pending_reboot || update_waits;
        let sample = ServiceSample {
            state: self.service,
            start: if self.is_triggered { StartType::Demand } else { StartType::Auto },
            pid: (self.service == ServiceState::Running).then_some(self.pid),
            by_trigger: self.is_triggered,
            ..ServiceSample::missing()
        };
        let runs_by_itself = |(_, sample): &(&String, &ServiceSample)| {
            sample.state == ServiceState::Running && sample.start == StartType::Auto
        };
        let automatic = self.others.iter().filter(runs_by_itself).map(|(name, _)| name.clone());
        let mut services = self.others.clone();
        services.insert(SERVICE.to_owned(), sample);
        Inspection {
            product: PRODUCT.to_owned(),
            build: self.build(),
            updates: self.updates.iter().map(|(kb, script)| (kb.clone(), status(script))).collect(),
            upgrades: self.upgrades.clone(),
            services,
            automatic: automatic.collect(),
            pending_upgrade: self.pending_upgrade.map(str::to_owned),
            probes: self.probes.clone(),
            ports: self.ports.clone(),
            witnesses: BTreeSet::new(),
            hard_pending: Vec::from_iter(is_pending.then(|| "ComponentBasedServicing".to_owned())),
            busy: self.is_busy || self.is_acting(),
            free_disk_gb: self.free_disk_gb,
            component_store: self.component_store.clone(),
            other_patch_sources: self.other_patch_sources.clone(),
            surroundings: self.around.clone(),
        }
    }

    /// Looks at the device after the ends of jobs, as the driver does from time to time. Nothing follows
    /// from it but what is told.
    pub fn look(&mut self) {
        let seen = self.inspection();
        let look = |lookout: Lookout| Look {
            services: lookout
                .services
                .into_iter()
                .filter_map(|name| seen.services.get(&name).cloned().map(|sample| (name, sample)))
                .collect(),
            probes: seen.probes.clone(),
            key: lookout.key,
        };
        let looks: Vec<Look> = self.state.lookouts().into_iter().map(look).collect();
        self.take_look(Ok(looks));
    }

    /// Takes such a look into account.
    pub fn take_look(&mut self, looks: Result<Vec<Look>, String>) {
        let (turn, job) = (self.state.turn, self.state.job.clone());
        let effects = self.take_without_effects(Event::Looked(looks));
        assert!(effects.is_empty(), "it only looks: {effects:?}");
        assert!(self.state.turn == turn && self.state.job == job, "a job is none the wiser");
        assert!(self.state.watches.len() <= wardring_protocol::MAX_WATCHES);
    }

    /// Answers a question as things are now.
    ///
    /// A gateway answers a question for a permit as things are now, but the permit's life began at
    /// `due`, when it was asked.
    pub fn answer(&mut self, due: u64, ask: &Ask) -> Answer {
        match ask {
            Ask::Install { not_after_mono_ms, .. }
            | Ask::Uninstall { not_after_mono_ms, .. }
            | Ask::Reboot { not_after_mono_ms, .. }
                if *not_after_mono_ms <= due =>
            {
                Answer::PermitExpired
            }
            Ask::RunHook { not_after_mono_ms: Some(not_after), .. } if *not_after <= due => {
                Answer::PermitExpired
            }
            Ask::Wake { .. } => Answer::Woke,
            Ask::Permit { .. } if !self.answering().contains(&Witness::Gateway) => {
                Answer::Permit { asked_mono_ms: due, answer: None }
            }
            Ask::Permit { step, .. } => {
                let answer = self.permits.pop_front().unwrap_or(Some(PermitAnswer::Granted));
                if answer == Some(PermitAnswer::Granted) {
                    self.permits_held.push((*step, due));
                }
                Answer::Permit { asked_mono_ms: due, answer }
            }
            Ask::Inspect { witnesses, services, .. } => {
                self.looks += 1;
                let is_hidden = self.hides_build > 0;
                let phase = self.state.job.as_ref().map(|job| &job.phase);
                if matches!(phase, Some(Phase::Verifying { .. })) && self.deaths_left > 0 {
                    self.deaths_left -= 1;
                    self.pid += 1;
                }
                let mut seen = self.inspection();
                seen.services.retain(|name, _| name == SERVICE || services.contains(name));
                if witnesses.is_some() {
                    seen.witnesses = self.answering();
                }
                self.hides_build -= u32::from(is_hidden);
                Answer::Inspected(Box::new(seen))
            }
            Ask::SeekContact { .. } => {
                let answering = self.answering();
                if answering.is_empty() {
                    self.silence_mono_ms = Some(self.mono_ms);
                } else {
                    self.heard_mono_ms = self.mono_ms;
                    self.silence_mono_ms = None;
                }
                Answer::Contact(answering)
            }
            Ask::LookAround { .. } => {
                let seen = Surroundings { sessions: self.sessions(), ..self.around.clone() };
                self.last_look = Some((self.mono_ms, seen.clone()));
                Answer::LookedAround(seen)
            }
            Ask::AskPeople { .. } => Answer::PeopleSaid(match self.replies.pop_front() {
                Some((Says::Now, _)) => {
                    Reply::Now(self.last_look.as_ref().unwrap().1.sessions.clone())
                }
                Some((Says::Later, _)) => Reply::Later,
                Some((Says::Nothing, _)) | None => Reply::Nothing,
            }),
            Ask::Download { .. } => Answer::Downloaded(Ok(())),
            Ask::Install { key, update, tries, .. } | Ask::FindInstall { key, update, tries } => {
                let found = self.results.get(&act(key, &update.kb, *tries)).cloned();
                Answer::Installed(found.map_or(InstallFound::NotBegun, InstallFound::Ended))
            }
            Ask::RunHook { hook, .. } => {
                let ended = self.hook_ends.pop_front().unwrap_or(Ok(()));
                if ended.is_ok() {
                    self.hooks_good.insert((hook.moment, hook.program.clone(), self.boot));
                }
                Answer::HookEnded(ended)
            }
            Ask::Uninstall { key, update, tries, .. }
                if self.results.contains_key(&removal(key, &update.kb, *tries)) =>
            {
                let failed = self.results[&removal(key, &update.kb, *tries)].clone();
                Answer::Uninstalled(InstallFound::Ended(failed))
            }
            Ask::Uninstall { update, .. } => {
                let required = self.updates[&update.kb].reboot_required;
                Answer::Uninstalled(InstallFound::Ended(result(2, 0, required)))
            }
            Ask::RestartService { .. } if self.restart_helps => Answer::Restarted(Ok(())),
            Ask::RestartService { .. } => Answer::Restarted(Err("error 1053".to_owned())),
            Ask::Reboot { .. } => Answer::RebootRefused("it is never asked".to_owned()),
        }
    }
}

/// Name of one try of an installation.
fn act(key: &JobKey, kb: &str, tries: u32) -> (String, String) {
    let again = if tries == 0 { String::new() } else { format!(" again {tries}") };
    (key_id(key), format!("{kb}{again}"))
}

/// Name of one try of a removal.
fn removal(key: &JobKey, kb: &str, tries: u32) -> (String, String) {
    let (key, kb) = act(key, kb, tries);
    (key, format!("removal of {kb}"))
}

fn result(code: i32, hresult: u32, reboot_required: bool) -> ServicingResult {
    ServicingResult { code, hresult, reboot_required, packages: vec!["Package_for_KB".to_owned()] }
}
