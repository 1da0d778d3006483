//! Carrying out what the state machine asks for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wardring_protocol::{PermitRequest, Step};
use wardring_seal::{JobKey, UpdateSource};

use super::{Msg, Run};
use crate::gateway::Gateway;
use crate::platform::{Performed, Permit, Platform, Terms, wall_clock};
use crate::state::{Answer, Ask, Event, InstallFound, JobRun, Witness};

impl<P: Platform, G: Gateway> Run<'_, P, G> {
    /// Begins one act; its answer comes back as an event of the same turn.
    pub(super) fn carry_out(&mut self, turn: u64, ask: Ask) {
        let platform = Arc::clone(&self.agent.platform);
        let terms = self.terms();
        match ask {
            Ask::Wake { after_ms } => {
                let at = Instant::now() + Duration::from_millis(after_ms);
                self.timer = Some((at, turn));
            }
            Ask::Permit { key, step, accepted_in } => self.ask_permit(turn, key, step, accepted_in),
            Ask::Inspect { updates, services, probes, witnesses } => {
                let gateway = Arc::clone(&self.agent.gateway);
                self.answer_with(turn, async move {
                    let inspected = platform.inspect(&updates, &services, terms).await;
                    match inspected {
                        Ok(mut seen) => {
                            // A search may take long, and what is asked last is what holds.
                            seen.probes = platform.probe(&probes).await;
                            seen.ports = platform.ports();
                            seen.surroundings = platform.surroundings(None).await;
                            if let Some(named) = witnesses {
                                seen.witnesses = answering(&*platform, &*gateway, &named).await;
                            }
                            Answer::Inspected(Box::new(seen))
                        }
                        Err(why) => Answer::Blind(why),
                    }
                })
            }
            Ask::SeekContact { witnesses } => {
                let gateway = Arc::clone(&self.agent.gateway);
                self.answer_with(turn, async move {
                    Answer::Contact(answering(&*platform, &*gateway, &witnesses).await)
                });
            }
            Ask::LookAround { hours } => self.answer_with(turn, async move {
                Answer::LookedAround(platform.surroundings(hours).await)
            }),
            Ask::AskPeople { question } => self.answer_with(turn, async move {
                Answer::PeopleSaid(platform.ask_people(question).await)
            }),
            Ask::Download { key, updates } => self.answer_with(turn, async move {
                Answer::Downloaded(platform.download(&key, &updates, terms).await)
            }),
            Ask::Install { key, update, tries, not_after_mono_ms } => {
                let permit = self.permit(not_after_mono_ms);
                self.answer_with(turn, async move {
                    let performed = platform.install(&key, &update, tries, terms, permit).await;
                    performed_as(performed, Answer::Installed)
                });
            }
            Ask::FindInstall { key, update, tries } => self.answer_with(turn, async move {
                Answer::Installed(platform.find_install(&key, &update, tries, terms).await)
            }),
            Ask::Uninstall { key, update, packages, tries, not_after_mono_ms } => {
                let permit = self.permit(not_after_mono_ms);
                self.answer_with(turn, async move {
                    let performed =
                        platform.uninstall(&key, &update, &packages, tries, permit).await;
                    performed_as(performed, Answer::Uninstalled)
                });
            }
            Ask::RestartService { service } => self.answer_with(turn, async move {
                Answer::Restarted(platform.restart(&service).await)
            }),
            Ask::RunHook { hook, not_after_mono_ms } => {
                let permit = not_after_mono_ms.map(|not_after| self.permit(not_after));
                self.answer_with(turn, async move {
                    if permit.is_some_and(|permit| !permit.is_alive()) {
                        return Answer::PermitExpired;
                    }
                    tracing::info!(
                        hook = hook.program,
                        moment = hook.moment.as_str(),
                        "hook begins"
                    );
                    Answer::HookEnded(platform.run_hook(&hook).await)
                });
            }
            Ask::Reboot { key, boot_before, force, not_after_mono_ms } => {
                let permit = self.permit(not_after_mono_ms);
                let order = Order { key: &key, boot_before: &boot_before, force };
                let is_stopping = || *self.stop.borrow();
                if let Some(answer) = restart(&*platform, order, permit, is_stopping) {
                    self.answer_with(turn, async { answer });
                }
            }
        }
    }

    /// What the job under way allows; without one, nothing.
    fn terms(&self) -> Terms {
        let job = self.saved.state.job.as_ref().map(|job| &job.payload);
        Terms {
            source: job.map_or(UpdateSource::Default, |job| job.source),
            accept_eula: job.is_some_and(|job| job.accept_eula),
            looks_at_store: self.saved.state.job.as_ref().is_some_and(JobRun::looks_at_store),
            is_local: self.saved.state.job.as_ref().is_some_and(|job| job.own_rollback.is_some()),
        }
    }

    fn permit(&self, not_after_mono_ms: u64) -> Permit {
        Permit { until: self.begun + Duration::from_millis(not_after_mono_ms) }
    }

    fn ask_permit(&mut self, turn: u64, key: JobKey, step: Step, accepted_in: String) {
        let request = PermitRequest {
            key,
            step,
            boot_id: self.saved.state.boot.clone(),
            agent_run: self.id.clone(),
            accepted_in,
            highest_sequence: self.saved.state.highest_sequence,
            now: wall_clock(),
        };
        let asked_mono_ms = self.now().mono_ms;
        let gateway = Arc::clone(&self.agent.gateway);
        self.answer_with(turn, async move {
            let answer = match gateway.permit(&request).await {
                Ok(answer) => Some(answer),
                Err(error) => {
                    tracing::warn!(%error, "no answer to the request for a permit");
                    None
                }
            };
            Answer::Permit { asked_mono_ms, answer }
        });
    }

    fn answer_with(&mut self, turn: u64, act: impl Future<Output = Answer> + Send + 'static) {
        let tx = self.tx.clone();
        self.tasks.spawn(async move {
            let answer = act.await;
            // Nobody reads it when the run is over.
            let _ = tx.send(Msg::Event(Event::Answered { turn, answer }));
        });
    }
}

/// A restart that is asked for.
#[derive(Clone, Copy)]
pub(super) struct Order<'a> {
    pub key: &'a JobKey,
    pub boot_before: &'a str,
    pub force: bool,
}

/// Orders a restart as long as its permit lives and nobody stops the agent; there is no answer where it
/// comes.
pub(super) fn restart(
    platform: &impl Platform,
    Order { key, boot_before, force }: Order<'_>,
    permit: Permit,
    is_stopping: impl Fn() -> bool,
) -> Option<Answer> {
    // The journal write may have taken long.
    if !permit.is_alive() {
        return Some(Answer::PermitExpired);
    }
    let is_forced = platform.before_restart(boot_before, force);
    // And so may what Windows had to do and to tell. Whoever is stopped could not take it back any more.
    if !permit.is_alive() || is_stopping() {
        return Some(Answer::PermitExpired);
    }
    platform.reboot(key, boot_before, is_forced).err().map(Answer::RebootRefused)
}

/// Who on the network answers.
async fn answering(
    platform: &impl Platform,
    gateway: &impl Gateway,
    named: &BTreeSet<Witness>,
) -> BTreeSet<Witness> {
    let (mut answering, is_gateway_there) =
        tokio::join!(platform.answering(named), gateway.is_there());
    answering.extend(is_gateway_there.then_some(Witness::Gateway));
    answering
}

fn performed_as(performed: Performed, answer: fn(InstallFound) -> Answer) -> Answer {
    match performed {
        Performed::Ended(result) => answer(InstallFound::Ended(result)),
        Performed::PermitExpired => Answer::PermitExpired,
    }
}
