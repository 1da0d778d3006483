//! Windows Update against an update agent made of values: what is asked, what is begun, and what is
//! never begun twice.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wardring_protocol::Facts;
use wardring_seal::{Action, JobKey, UpdateKind, UpdateSource, UpdateTarget};

use super::agent::{Device, Limits, WindowsUpdate};
use super::package_tests::FakeWindows;
use super::policy::Policy;
use super::record::{Record, act, client_id};
use super::shelf::Shelf;
use super::standalone::Standalone;
use super::wua::{
    ALREADY_INSTALLED, CALL_CANCELLED, EULAS_DECLINED, Ended, Entry, Failure, Found,
    INSTALL_NOT_ALLOWED, Identity, NO_UPDATE, Query, TIME_OUT, UNKNOWN_SERVICE, Update, Wua,
};
use crate::platform::{Performed, Permit, Terms, wall_clock};
use crate::state::{InstallFound, Reversible, ServicingResult, UpdateStatus};

/// The world behind every session.
#[derive(Default)]
pub(super) struct World {
    pub updates: Vec<Update>,
    pub history: Vec<Entry>,
    /// Busy for so many more questions.
    busy: u32,
    pub reboot_required: bool,
    pub source_fails: Option<u32>,
    /// What registering Microsoft Update fails with.
    registers: Option<u32>,
    install: Option<Result<Ended, Failure>>,
    hangs: bool,
    search_hangs: bool,
    calls: Vec<String>,
}

#[derive(Clone, Default)]
pub(super) struct Session(Arc<Mutex<World>>);

impl Session {
    pub fn with<T>(&self, use_it: impl FnOnce(&mut World) -> T) -> T {
        use_it(&mut self.0.lock().unwrap())
    }

    pub fn calls(&self, name: &str) -> usize {
        self.with(|world| world.calls.iter().filter(|call| call.starts_with(name)).count())
    }
}

impl Wua for Session {
    fn search(&self, query: Query) -> Result<Found, Failure> {
        if self.with(|world| world.search_hangs) {
            hang();
        }
        self.with(|world| {
            world.calls.push(if query.is_online { "online" } else { "offline" }.to_owned());
            match world.source_fails {
                Some(hresult) if query.is_online => Err(Failure(hresult)),
                _ => Ok(Found { code: 2, updates: world.updates.clone(), warnings: Vec::new() }),
            }
        })
    }

    fn history(&self, _most: i32) -> Result<Vec<Entry>, Failure> {
        Ok(self.with(|world| world.history.clone()))
    }

    fn is_busy(&self) -> Result<bool, Failure> {
        self.with(|world| {
            let is_busy = world.busy > 0;
            world.busy = world.busy.saturating_sub(1);
            Ok(is_busy)
        })
    }

    fn reboot_required(&self) -> Result<bool, Failure> {
        Ok(self.with(|world| world.reboot_required))
    }

    fn accept_eula(&self, update: &Identity) -> Result<(), Failure> {
        self.with(|world| world.calls.push(format!("eula {update}")));
        Ok(())
    }

    fn download(&self, update: &Identity) -> Result<Ended, Failure> {
        self.with(|world| world.calls.push(format!("download {update}")));
        Ok(Ended { code: 2, hresult: 0, reboot_required: false })
    }

    fn install(
        &self,
        update: &Identity,
        _client: &str,
        go: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Ended>, Failure> {
        if !go() {
            return Ok(None);
        }
        let (hangs, answer) = self.with(|world| {
            world.calls.push(format!("install {update}"));
            (world.hangs, world.install)
        });
        if hangs {
            hang();
        }
        answer.unwrap_or(Ok(Ended { code: 2, hresult: 0, reboot_required: true })).map(Some)
    }

    fn register_microsoft_update(&self) -> Result<(), Failure> {
        self.with(|world| {
            world.calls.push("register".to_owned());
            match world.registers {
                Some(hresult) => Err(Failure(hresult)),
                None => {
                    world.source_fails = None;
                    Ok(())
                }
            }
        })
    }

    fn commit(&self) -> Result<(), Failure> {
        self.with(|world| world.calls.push("commit".to_owned()));
        Ok(())
    }

    fn set_hidden(&self, update: &Identity, is_hidden: bool) -> Result<(), Failure> {
        self.with(|world| {
            world.calls.push(format!("hidden {is_hidden} {update}"));
            let it = world.updates.iter_mut().find(|known| known.identity == *update);
            it.expect("what was found is there").is_hidden = is_hidden;
        });
        Ok(())
    }
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

pub(super) struct Rig {
    pub folder: tempfile::TempDir,
    pub session: Session,
    pub windows: Arc<FakeWindows>,
}

pub(super) const TERMS: Terms = Terms {
    source: UpdateSource::Default,
    accept_eula: false,
    is_local: false,
    looks_at_store: false,
};

impl Rig {
    pub fn new() -> Rig {
        let session = Session::default();
        session.with(|world| world.updates.push(offered()));
        Rig { folder: tempfile::tempdir().unwrap(), session, windows: Arc::default() }
    }

    /// A run of the agent. It is impatient only with what hangs: on a busy machine, what does not may
    /// still take its time.
    pub fn agent(&self) -> WindowsUpdate {
        self.agent_on(|| Some(BTreeSet::new()), Policy::default)
    }

    /// The same on a Windows of these packages and policies.
    pub fn agent_on(
        &self,
        packages: fn() -> Option<BTreeSet<String>>,
        policy: fn() -> Policy,
    ) -> WindowsUpdate {
        let session = self.session.clone();
        let connect = move || -> Result<Box<dyn Wua>, Failure> { Ok(Box::new(session.clone())) };
        let device = Device { build: || "20348.2700".to_owned(), packages, policy };
        let limit = |hangs| Duration::from_secs(if hangs { 1 } else { 60 });
        let (hangs, search_hangs) = self.session.with(|world| (world.hangs, world.search_hangs));
        let limits = Limits {
            search: limit(search_hangs),
            download: limit(false),
            install: limit(hangs),
            commit: limit(false),
        };
        let shelf =
            Shelf::new(self.folder.path(), None, Arc::clone(&self.windows) as Arc<dyn Standalone>);
        WindowsUpdate::open(self.folder.path(), "b1", device, limits, Arc::new(connect), shelf)
    }

    fn record(&self) -> Record {
        Record::new(self.folder.path())
    }

    async fn install(&self, attempt: u32) -> Performed {
        self.agent().install(&key(attempt), &target(), 0, TERMS, permit()).await
    }
}

fn offered() -> Update {
    Update {
        identity: Identity { id: "lcu".to_owned(), revision: 200 },
        title: "Cumulative Update (KB5068787) (20348.2762)".to_owned(),
        kbs: vec!["KB5068787".to_owned()],
        is_for_installation: true,
        is_downloaded: true,
        is_eula_accepted: true,
        ..Update::default()
    }
}

pub(super) fn target() -> UpdateTarget {
    UpdateTarget {
        kb: "KB5068787".to_owned(),
        product: "Windows Server 2022".to_owned(),
        kind: UpdateKind::Quality,
        target_build: Some("20348.2762".to_owned()),
        identities: Vec::new(),
        package: None,
    }
}

pub(super) fn key(attempt: u32) -> JobKey {
    JobKey {
        rollout_uid: "rollout".to_owned(),
        device_id: "device".to_owned(),
        attempt,
        action: Action::Install,
    }
}

pub(super) fn permit() -> Permit {
    Permit { until: Instant::now() + Duration::from_secs(60) }
}

pub(super) fn ended(performed: Performed) -> ServicingResult {
    match performed {
        Performed::Ended(result) => result,
        Performed::PermitExpired => panic!("the permit was over"),
    }
}

pub(super) fn begun(rig: &Rig) {
    rig.record()
        .begin(super::record::Installation {
            act: act(&key(1), "KB5068787", 0),
            boot: "b1".to_owned(),
            began: wall_clock(),
            packages_before: Some(BTreeSet::new()),
            result: None,
        })
        .unwrap();
}

pub(super) fn entry(client: &str, code: i32, hresult: u32) -> Entry {
    Entry {
        identity: offered().identity,
        operation: 1,
        code,
        hresult,
        at: Some(wall_clock()),
        title: String::new(),
        client: client.to_owned(),
    }
}

#[tokio::test]
async fn the_same_grant_never_installs_twice_and_another_one_may() {
    let rig = Rig::new();
    let first = ended(rig.install(1).await);
    assert_eq!((first.code, first.reboot_required), (2, true));
    assert_eq!(ended(rig.install(1).await), first);
    assert_eq!(rig.session.calls("install"), 1);
    rig.install(2).await;
    assert_eq!(rig.session.calls("install"), 2);
}

#[tokio::test]
async fn nothing_begins_after_the_permit_and_nothing_is_written_down_then() {
    let rig = Rig::new();
    let over = Permit { until: Instant::now() };
    let performed = rig.agent().install(&key(1), &target(), 0, TERMS, over).await;
    assert_eq!(performed, Performed::PermitExpired);
    assert_eq!(rig.session.calls("install"), 0);
    assert_eq!(rig.record().find(&act(&key(1), "KB5068787", 0)).unwrap(), None);
    ended(rig.install(1).await);
    assert_eq!(rig.session.calls("install"), 1);
}

#[tokio::test]
async fn another_installer_is_waited_for_as_long_as_the_permit_lives() {
    let rig = Rig::new();
    rig.session.with(|world| world.busy = u32::MAX);
    let soon = Permit { until: Instant::now() + Duration::from_millis(50) };
    let performed = rig.agent().install(&key(1), &target(), 0, TERMS, soon).await;
    assert_eq!(performed, Performed::PermitExpired);
    assert_eq!(rig.session.calls("install"), 0);
}

#[tokio::test]
async fn licence_terms_are_accepted_only_where_the_job_says_so() {
    let rig = Rig::new();
    rig.session.with(|world| world.updates[0].is_eula_accepted = false);
    let refused = ended(rig.install(1).await);
    assert_eq!((refused.code, refused.hresult), (4, EULAS_DECLINED));
    let error = rig.agent().download(&[target()], TERMS).await.unwrap_err();
    assert!(error.sentence.contains("KB5068787: 0x80240023 "), "{error:?}");
    assert!(!error.may_pass(), "no other try accepts the terms");
    assert_eq!(rig.session.calls("eula") + rig.session.calls("install"), 0);

    let terms = Terms { accept_eula: true, ..TERMS };
    ended(rig.agent().install(&key(1), &target(), 0, terms, permit()).await);
    assert_eq!(rig.session.calls("eula"), 1);
}

#[tokio::test]
async fn a_failure_keeps_its_hresult_and_is_not_tried_again_by_the_same_grant() {
    let rig = Rig::new();
    let failed = Ok(Ended { code: 4, hresult: 0x800F_0922, reboot_required: false });
    rig.session.with(|world| world.install = Some(failed));
    assert_eq!(ended(rig.install(1).await).hresult, 0x800F_0922);
    rig.session.with(|world| world.install = Some(Err(Failure(0x8024_001E))));
    assert_eq!(ended(rig.install(1).await).hresult, 0x800F_0922);
    assert_eq!(ended(rig.install(2).await).hresult, 0x8024_001E);
    assert_eq!(rig.session.calls("install"), 2);
}

#[tokio::test]
async fn what_is_there_or_is_not_offered_or_must_wait_for_a_restart_is_told_apart() {
    let rig = Rig::new();
    rig.session.with(|world| world.reboot_required = true);
    assert_eq!(ended(rig.install(1).await).hresult, INSTALL_NOT_ALLOWED);
    rig.session.with(|world| world.updates[0].is_installed = true);
    assert_eq!(ended(rig.install(1).await).hresult, ALREADY_INSTALLED);
    rig.session.with(|world| world.updates.clear());
    assert_eq!(ended(rig.install(1).await).hresult, NO_UPDATE);
    assert_eq!(rig.session.calls("install"), 0);
}

#[tokio::test]
async fn an_installation_that_hangs_is_left_alone_and_never_begun_again() {
    let rig = Rig::new();
    rig.session.with(|world| world.hangs = true);
    let agent = rig.agent();
    let hung = ended(agent.install(&key(1), &target(), 0, TERMS, permit()).await);
    // Aborted and not failed: what may still run is no reason for another try.
    assert_eq!((hung.code, hung.hresult), (5, TIME_OUT));
    let seen = agent.look(&[target()], TERMS).await.unwrap();
    assert!(seen.is_busy, "its thread is still inside Windows Update");

    // Nor by the next run of the agent, to which Windows tells nothing of it.
    let again = ended(rig.install(1).await);
    assert_eq!((again.code, again.hresult), (5, CALL_CANCELLED));
    assert_eq!(rig.session.calls("install"), 1);
}

#[tokio::test]
async fn another_try_begins_only_after_all_the_earlier_ones_failed_for_certain() {
    let again = async |rig: &Rig, tries| {
        ended(rig.agent().install(&key(1), &target(), tries, TERMS, permit()).await)
    };
    let failed = Some(Ok(Ended { code: 4, hresult: 0x8007_0020, reboot_required: false }));
    let rig = Rig::new();
    rig.session.with(|world| world.install = failed);
    assert_eq!(ended(rig.install(1).await).hresult, 0x8007_0020);
    rig.session.with(|world| world.install = failed);
    assert_eq!(again(&rig, 1).await.hresult, 0x8007_0020);
    assert_eq!(rig.session.calls("install"), 2);
    rig.session.with(|world| world.install = None);
    assert!(again(&rig, 2).await.is_success());
    assert_eq!(again(&rig, 3).await.code, 2, "one that is done is not done again");
    assert_eq!(rig.session.calls("install"), 3);

    // One without a known end bars all that would come after it.
    let rig = Rig::new();
    rig.session.with(|world| world.hangs = true);
    rig.install(1).await;
    rig.session.with(|world| world.hangs = false);
    assert_eq!((again(&rig, 1).await.code, rig.session.calls("install")), (5, 1));
}

#[tokio::test]
async fn an_installation_without_a_witness_is_found_in_what_windows_tells() {
    let find = async |rig: &Rig| {
        let found = rig.agent().find_install(&key(1), &target(), 0, TERMS).await;
        assert_eq!(rig.session.calls("install"), 0);
        found
    };
    let rig = Rig::new();
    assert_eq!(find(&rig).await, InstallFound::NotBegun);

    begun(&rig);
    rig.session.with(|world| world.updates[0].reboot_required = true);
    let found = find(&rig).await;
    let InstallFound::Ended(result) = &found else { panic!("{found:?}") };
    assert_eq!((result.code, result.reboot_required), (2, true));
    rig.session.with(|world| world.updates[0].reboot_required = false);
    assert_eq!(find(&rig).await, found, "it is written down now");

    let rig = Rig::new();
    begun(&rig);
    let own = client_id(&act(&key(1), "KB5068787", 0));
    rig.session.with(|world| {
        world.history = vec![entry("somebody else", 2, 0), entry(&own, 4, 0x8007_0643)];
    });
    let InstallFound::Ended(result) = find(&rig).await else { panic!("it had begun") };
    assert_eq!((result.code, result.hresult), (4, 0x8007_0643), "its own entry, by name");

    let rig = Rig::new();
    begun(&rig);
    let InstallFound::Ended(result) = find(&rig).await else { panic!("it had begun") };
    assert_eq!((result.code, result.hresult), (5, CALL_CANCELLED));
}

#[tokio::test]
async fn an_installation_whose_record_was_lost_is_known_from_the_history() {
    let rig = Rig::new();
    let own = client_id(&act(&key(1), "KB5068787", 0));
    rig.session.with(|world| world.history = vec![entry(&own, 2, 0)]);
    let found = rig.agent().find_install(&key(1), &target(), 0, TERMS).await;
    let InstallFound::Ended(result) = found else { panic!("the history knows it") };
    assert_eq!(result.code, 2);
}

#[tokio::test]
async fn a_source_is_asked_once_for_many_looks_and_again_for_what_is_not_offered() {
    let rig = Rig::new();
    let agent = rig.agent();
    for _ in 0..3 {
        let seen = agent.look(&[target()], TERMS).await.unwrap();
        let offered = UpdateStatus::Offered(Reversible::Expected);
        assert_eq!(seen.updates["KB5068787"], offered);
    }
    assert_eq!(rig.session.calls("online"), 1);
    agent.look(&[target()], Terms { source: UpdateSource::WindowsUpdate, ..TERMS }).await.unwrap();
    assert_eq!(rig.session.calls("online"), 2, "another source");
}

#[tokio::test]
async fn a_source_that_is_down_hides_no_proof_and_makes_none_up() {
    let rig = Rig::new();
    rig.session.with(|world| world.source_fails = Some(0x8024_402C));
    let agent = rig.agent();
    let updates = rig.session.with(|world| std::mem::take(&mut world.updates));
    let error = agent.look(&[target()], TERMS).await.unwrap_err();
    assert!(error.contains("0x8024402C"), "{error}");
    rig.session.with(|world| world.updates = updates);
    rig.session.with(|world| world.updates[0].is_installed = true);
    let seen = agent.look(&[target()], TERMS).await.unwrap();
    assert!(matches!(seen.updates["KB5068787"], UpdateStatus::Installed(_)));
}

#[tokio::test]
async fn a_look_without_the_network_asks_no_source_and_stands_what_windows_update_does_not_know() {
    let rig = Rig::new();
    rig.session.with(|world| world.source_fails = Some(0x8024_402C));
    let agent = rig.agent();
    let local = Terms { is_local: true, ..TERMS };
    rig.session.with(|world| world.updates[0].is_installed = true);
    let seen = agent.look(&[target()], local).await.unwrap();
    assert!(matches!(seen.updates["KB5068787"], UpdateStatus::Installed(_)));
    // Removed, it is unknown to everybody but the source, and that is no failure here.
    rig.session.with(|world| world.updates.clear());
    let seen = agent.look(&[target()], local).await.unwrap();
    assert_eq!(seen.updates["KB5068787"], UpdateStatus::NotOffered);
    assert_eq!(rig.session.calls("online"), 0);
}

#[tokio::test]
async fn the_facts_come_from_one_scan_that_outlives_the_agent() {
    let rig = Rig::new();
    let agent = rig.agent();
    let mut facts = Facts::default();
    agent.facts(&mut facts);
    agent.changed().await;
    let mut facts = Facts::default();
    agent.facts(&mut facts);
    assert_eq!(facts.missing, ["KB5068787"]);
    assert_eq!(facts.last_scan.as_ref().unwrap().result, "0x00000000");

    let mut again = Facts::default();
    rig.agent().facts(&mut again);
    assert_eq!(again, facts);
    assert_eq!(rig.session.calls("online"), 1);
}

#[tokio::test]
async fn microsoft_update_is_registered_for_a_job_that_names_it_and_for_no_other() {
    let unknown = |world: &mut World| {
        world.source_fails = Some(UNKNOWN_SERVICE);
        world.updates.clear();
    };
    let microsoft = Terms { source: UpdateSource::MicrosoftUpdate, ..TERMS };
    let rig = Rig::new();
    rig.session.with(unknown);
    rig.agent().look(&[target()], TERMS).await.unwrap_err();
    rig.agent().look(&[target()], Terms { is_local: true, ..microsoft }).await.unwrap();
    assert_eq!(rig.session.calls("register"), 0);
    rig.agent().look(&[target()], microsoft).await.unwrap();
    assert_eq!(rig.session.calls("register"), 1);

    let rig = Rig::new();
    rig.session.with(unknown);
    rig.session.with(|world| world.registers = Some(0x8024_002E));
    let error = rig.agent().look(&[target()], microsoft).await.unwrap_err();
    assert!(error.contains("0x8024002E"), "{error}");
}

#[tokio::test]
async fn a_policy_against_microsofts_services_is_named_and_nothing_is_registered() {
    let rig = Rig::new();
    let policy = || Policy { no_internet: Some(1), ..Policy::default() };
    let agent = rig.agent_on(|| Some(BTreeSet::new()), policy);
    let microsoft = Terms { source: UpdateSource::MicrosoftUpdate, ..TERMS };
    let error = agent.look(&[target()], microsoft).await.unwrap_err();
    assert!(error.contains("DoNotConnectToWindowsUpdateInternetLocations"), "{error}");
    agent.look(&[target()], TERMS).await.unwrap();
    assert_eq!((rig.session.calls("register"), rig.session.calls("online")), (0, 1));
}

#[tokio::test]
async fn a_scan_that_fails_is_reported_with_its_code() {
    let rig = Rig::new();
    rig.session.with(|world| world.source_fails = Some(0x8024_402C));
    let agent = rig.agent();
    agent.facts(&mut Facts::default());
    agent.changed().await;
    let mut facts = Facts::default();
    agent.facts(&mut facts);
    assert_eq!(facts.last_scan.unwrap().result, "0x8024402C");
    assert_eq!(rig.session.calls("online"), 1, "it is not asked again at once");
}

#[tokio::test]
async fn a_search_that_hangs_is_reported_and_holds_up_nothing_else() {
    let rig = Rig::new();
    rig.session.with(|world| world.search_hangs = true);
    let agent = rig.agent();
    let given_up = async {
        loop {
            let mut facts = Facts::default();
            agent.facts(&mut facts);
            if let Some(scan) = facts.last_scan {
                break scan;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let scan = tokio::time::timeout(Duration::from_secs(30), given_up).await.unwrap();
    assert_eq!(scan.result, "0x80240021");

    rig.session.with(|world| world.search_hangs = false);
    agent.look(&[target()], TERMS).await.unwrap();
}

#[tokio::test]
async fn calls_that_hang_are_few_and_then_no_more_are_made() {
    let rig = Rig::new();
    rig.session.with(|world| world.search_hangs = true);
    let agent = rig.agent();
    let mut said = Vec::new();
    for _ in 0..7 {
        said.push(agent.look(&[target()], TERMS).await.unwrap_err());
    }
    assert!(said[5].contains("did not answer within"), "{said:?}");
    assert!(said[6].contains("hang; restart the device"), "{said:?}");
}

#[tokio::test]
async fn installations_are_committed_once_before_the_restart() {
    let rig = Rig::new();
    rig.agent().commit().unwrap();
    assert_eq!(rig.session.calls("commit"), 0, "nothing was installed");
    rig.install(1).await;
    rig.agent().commit().unwrap();
    rig.agent().commit().unwrap();
    assert_eq!(rig.session.calls("commit"), 1);
}

#[tokio::test]
async fn what_the_agent_hid_after_a_removal_is_offered_to_a_job_that_names_it_and_shown_again() {
    let rig = Rig::new();
    for _ in 0..2 {
        rig.agent().hide(&target(), UpdateSource::Default).await.unwrap();
    }
    assert_eq!(rig.session.calls("hidden true lcu/200"), 1, "once is enough");

    let agent = rig.agent();
    let seen = agent.look(&[target()], TERMS).await.unwrap();
    assert!(matches!(seen.updates["KB5068787"], UpdateStatus::Offered(_)), "{seen:?}");
    assert_eq!(rig.session.calls("hidden false"), 0, "looking changes nothing");
    let mut facts = Facts::default();
    agent.facts(&mut facts);
    assert!(facts.missing.is_empty(), "nobody else is told to install it: {facts:?}");
    let is_hidden = || rig.session.with(|world| world.updates[0].is_hidden);
    agent.download(&[target()], TERMS).await.unwrap();
    assert!(is_hidden(), "until its permit nobody else is to install it");

    // A permit that is over, and an installation that fails, leave it as it was.
    let over = Permit { until: Instant::now() };
    let expired = rig.agent().install(&key(1), &target(), 0, TERMS, over).await;
    assert!(matches!(expired, Performed::PermitExpired) && is_hidden());
    rig.session.with(|world| world.install = Some(Err(Failure(0x8024_200B))));
    assert_eq!(ended(rig.install(1).await).hresult, 0x8024_200B);
    assert!(is_hidden(), "it failed");
    rig.session.with(|world| world.install = None);
    assert_eq!(ended(rig.install(2).await).code, 2);
    assert!(!is_hidden(), "it is installed");
    assert!(rig.record().hidden().is_empty());
}

#[tokio::test]
async fn an_agent_that_died_while_it_showed_an_update_hides_it_when_it_starts() {
    let rig = Rig::new();
    rig.agent().hide(&target(), UpdateSource::Default).await.unwrap();
    let ids = BTreeSet::from(["lcu".to_owned()]);
    rig.record().note_shown(&ids, true).unwrap();
    rig.session.with(|world| world.updates[0].is_hidden = false);
    let restarted = rig.agent();
    let settled = async {
        while !rig.record().shown().is_empty() {
            restarted.facts(&mut Facts::default());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled).await.unwrap();
    assert!(rig.session.with(|world| world.updates[0].is_hidden));
    assert_eq!(rig.record().hidden(), ids, "and it is still known as ours");

    // What was installed while nobody watched is neither hidden nor ours any more.
    rig.record().note_shown(&ids, true).unwrap();
    rig.session.with(|world| {
        world.updates[0].is_hidden = false;
        world.updates[0].is_installed = true;
    });
    let restarted = rig.agent();
    let settled = async {
        while !rig.record().hidden().is_empty() {
            restarted.facts(&mut Facts::default());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), settled).await.unwrap();
    assert!(rig.session.with(|world| !world.updates[0].is_hidden));
}

#[tokio::test]
async fn what_somebody_else_hid_stays_hidden() {
    let rig = Rig::new();
    rig.session.with(|world| world.updates[0].is_hidden = true);
    // A removal finds it hidden, so that it is nobody's but theirs.
    rig.agent().hide(&target(), UpdateSource::Default).await.unwrap();

    let seen = rig.agent().look(&[target()], TERMS).await.unwrap();
    assert_eq!(seen.updates["KB5068787"], UpdateStatus::NotOffered);
    rig.agent().download(&[target()], TERMS).await.unwrap();
    assert_eq!(rig.session.calls("hidden"), 0);
    assert_eq!(ended(rig.install(1).await).hresult, NO_UPDATE);

    // Installed by us once, and hidden by somebody afterwards: theirs again.
    rig.session.with(|world| world.updates[0].is_hidden = false);
    rig.agent().hide(&target(), UpdateSource::Default).await.unwrap();
    assert_eq!(ended(rig.install(2).await).code, 2);
    rig.session.with(|world| world.updates[0].is_hidden = true);
    let seen = rig.agent().look(&[target()], TERMS).await.unwrap();
    assert_eq!(seen.updates["KB5068787"], UpdateStatus::NotOffered);
}
