//! Packages that jobs bring themselves: what is fetched, what is refused, and that nothing of it is
//! installed twice.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wardring_seal::{Package, UpdateKind, UpdateTarget};

use super::policy::Policy;
use super::shelf::Shelf;
use super::standalone::Standalone;
use super::tests::{Rig, TERMS, begun, ended, entry, key, permit, target};
use crate::platform::{Performed, Permit};
use crate::state::{InstallFound, UpdateStatus};

const CONTENT: &[u8] = b"a package";
const ROLLUP: &str = "Package_for_RollupFix~31bf3856ad364e35~amd64~~20348.2762.1.12";
const MICROSOFT: &str = "C=US, O=Microsoft Corporation, CN=Microsoft Windows";

/// A Windows around packages.
pub(super) struct FakeWindows {
    pub publisher: Mutex<Result<Option<String>, &'static str>>,
    pub free: Mutex<u64>,
    pub exit_code: Mutex<u32>,
    /// Contents that the standalone installer was run with.
    pub ran: Mutex<Vec<Vec<u8>>>,
}

impl Default for FakeWindows {
    fn default() -> FakeWindows {
        FakeWindows {
            publisher: Mutex::new(Ok(Some(MICROSOFT.to_owned()))),
            free: Mutex::new(u64::MAX),
            exit_code: Mutex::new(3010),
            ran: Mutex::default(),
        }
    }
}

impl Standalone for FakeWindows {
    fn publisher(&self, _file: &Path) -> io::Result<Option<String>> {
        self.publisher.lock().unwrap().clone().map_err(io::Error::other)
    }

    fn install(&self, file: &Path) -> io::Result<u32> {
        self.ran.lock().unwrap().push(std::fs::read(file)?);
        Ok(*self.exit_code.lock().unwrap())
    }

    fn is_running(&self) -> bool {
        false
    }

    fn free_bytes(&self, _folder: &Path) -> io::Result<u64> {
        Ok(*self.free.lock().unwrap())
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

/// A server that answers every request with the same bytes, and the requests it got.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answer: Vec<u8>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let line = String::from_utf8_lossy(&request[..length]);
                heard.lock().unwrap().push(line.lines().next().unwrap_or_default().to_owned());
                let _ = stream.write_all(&answer).await;
            }
        });
        Server { address, asked }
    }

    async fn with(content: &[u8]) -> Server {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            content.len()
        );
        Server::start([head.as_bytes(), content].concat()).await
    }

    fn package(&self) -> Package {
        Package { url: format!("http://{}/p.msu", self.address), sha256: digest(CONTENT) }
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn digest(content: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, content);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Place {
    folder: tempfile::TempDir,
    windows: Arc<FakeWindows>,
    shelf: Shelf,
}

impl Place {
    fn new() -> Place {
        Place::behind(None)
    }

    fn behind(proxy: Option<&str>) -> Place {
        let (folder, windows) = (tempfile::tempdir().unwrap(), Arc::<FakeWindows>::default());
        let shelf = Shelf::new(folder.path(), proxy, Arc::clone(&windows) as Arc<dyn Standalone>);
        Place { folder, windows, shelf }
    }

    fn files(&self) -> Vec<PathBuf> {
        files(self.folder.path())
    }
}

fn files(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("packages")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_package_is_fetched_once_and_kept() {
    let (place, server) = (Place::new(), Server::with(CONTENT).await);
    place.shelf.fetch(&server.package()).await.unwrap();
    place.shelf.fetch(&server.package()).await.unwrap();
    assert_eq!((server.asked(), place.files().len()), (1, 1));
    // What changed on the disk meanwhile is fetched anew.
    std::fs::write(&place.files()[0], "something else").unwrap();
    place.shelf.fetch(&server.package()).await.unwrap();
    assert_eq!(server.asked(), 2);
    assert_eq!(std::fs::read(&place.files()[0]).unwrap(), CONTENT);
}

#[tokio::test]
async fn another_content_is_refused_and_not_fetched_again() {
    let (place, server) = (Place::new(), Server::with(b"another package").await);
    let failure = place.shelf.fetch(&server.package()).await.unwrap_err();
    assert!(failure.sentence.contains("is not the one that the job names"), "{failure:?}");
    assert!(!failure.may_pass());
    assert_eq!(place.files(), [""; 0].map(PathBuf::from));
}

#[tokio::test]
async fn what_microsoft_did_not_sign_is_refused() {
    for (publisher, said) in [
        (Ok(Some("O=Contoso, CN=Microsoft Corporation".to_owned())), "not signed by Microsoft but"),
        (Ok(None), "carries no signature"),
        (Err("the digest differs"), "does not hold: the digest differs"),
    ] {
        let (place, server) = (Place::new(), Server::with(CONTENT).await);
        *place.windows.publisher.lock().unwrap() = publisher;
        let failure = place.shelf.fetch(&server.package()).await.unwrap_err();
        assert!(failure.sentence.contains(said) && !failure.may_pass(), "{failure:?}");
        assert_eq!(place.files().len(), 0, "{said}");
    }
}

#[tokio::test]
async fn no_redirection_is_followed_and_an_answer_that_breaks_off_is_fetched_again() {
    let (place, elsewhere) = (Place::new(), Server::with(CONTENT).await);
    let location = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{}/p.msu\r\ncontent-length: 0\r\n\r\n",
        elsewhere.address
    );
    let server = Server::start(location.into_bytes()).await;
    let failure = place.shelf.fetch(&server.package()).await.unwrap_err();
    assert!(failure.sentence.contains("redirects elsewhere"), "{failure:?}");
    assert_eq!((elsewhere.asked(), failure.may_pass()), (0, false));

    let broken = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\na pack".to_vec();
    let failure = place.shelf.fetch(&Server::start(broken).await.package()).await.unwrap_err();
    assert!(failure.may_pass(), "{failure:?}");
    for (status, may_pass) in [("404 Not Found", false), ("503 Busy", true)] {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes();
        let failure = place.shelf.fetch(&Server::start(answer).await.package()).await.unwrap_err();
        assert_eq!(failure.may_pass(), may_pass, "{failure:?}");
    }
    assert_eq!(place.files().len(), 0);
}

#[tokio::test]
async fn what_does_not_fit_is_not_begun() {
    let (place, server) = (Place::new(), Server::with(CONTENT).await);
    *place.windows.free.lock().unwrap() = 1 << 30;
    let failure = place.shelf.fetch(&server.package()).await.unwrap_err();
    assert!(failure.sentence.contains("no 3 GB free"), "{failure:?}");
    let huge = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 7_u64 << 30).into_bytes();
    let failure = place.shelf.fetch(&Server::start(huge).await.package()).await.unwrap_err();
    assert!(failure.sentence.contains("larger than 6 GB"), "{failure:?}");
    assert_eq!(place.files().len(), 0);
}

#[tokio::test]
async fn an_answer_that_does_not_tell_its_length_stops_where_the_room_ends() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let body = format!("{:x}\r\na package\r\n0\r\n\r\n", CONTENT.len());
    let (place, server) =
        (Place::new(), Server::start([&head[..], body.as_bytes()].concat()).await);
    *place.windows.free.lock().unwrap() = (2 << 30) + CONTENT.len() as u64 - 1;
    let failure = place.shelf.fetch(&server.package()).await.unwrap_err();
    assert!(failure.sentence.contains("no 3 GB free") && !failure.may_pass(), "{failure:?}");
    assert_eq!(place.files().len(), 0);
    *place.windows.free.lock().unwrap() = (2 << 30) + CONTENT.len() as u64;
    place.shelf.fetch(&server.package()).await.unwrap();
    assert_eq!(place.files().len(), 1);
}

#[tokio::test]
async fn a_download_that_is_given_up_leaves_nothing_on_the_disk() {
    let (place, listener) = (Place::new(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let url = format!("http://{}/p.msu", listener.local_addr().unwrap());
    let package = Package { url, sha256: digest(CONTENT) };
    let half = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\na pa").await.unwrap();
        while place.files().is_empty() {
            tokio::task::yield_now().await;
        }
        stream
    };
    let _held = tokio::select! {
        ended = place.shelf.fetch(&package) => panic!("it ended: {ended:?}"),
        stream = half => stream,
    };
    assert_eq!(place.files().len(), 0);
}

#[tokio::test]
async fn an_address_with_a_secret_or_of_another_kind_is_not_asked() {
    let (place, server) = (Place::new(), Server::with(CONTENT).await);
    let host = &server.address;
    for url in [
        format!("http://user:secret@{host}/p.msu"),
        format!("http://{host}/p.msu?sig=secret"),
        format!("http://{host}/p.msu#a"),
        "file:///etc/passwd".to_owned(),
        format!("ftp://{host}/p.msu"),
        String::new(),
    ] {
        let package = Package { url: url.clone(), ..server.package() };
        let failure = place.shelf.fetch(&package).await.unwrap_err();
        assert!(!failure.may_pass() && !failure.sentence.contains("secret"), "{url}: {failure:?}");
    }
    let package = Package { sha256: "../../evil".to_owned(), ..server.package() };
    assert!(!place.shelf.fetch(&package).await.unwrap_err().may_pass());
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn packages_are_fetched_by_the_proxy_of_the_agent() {
    let proxy = Server::with(CONTENT).await;
    let place = Place::behind(Some(&format!("http://{}", proxy.address)));
    let url = "http://files.invalid/p.msu".to_owned();
    place.shelf.fetch(&Package { url, ..proxy.package() }).await.unwrap();
    assert_eq!(*proxy.asked.lock().unwrap(), ["GET http://files.invalid/p.msu HTTP/1.1"]);
}

#[test]
fn what_nobody_needs_any_more_leaves_the_disk() {
    let place = Place::new();
    let file = |sha256: &str| place.folder.path().join(format!("packages/{sha256}"));
    std::fs::create_dir(place.folder.path().join("packages")).unwrap();
    let package = Package { url: String::new(), sha256: digest(b"kept") };
    let kept = file(&format!("{}.msu", package.sha256));
    for path in [&kept, &file("old.msu"), &file("half.part")] {
        std::fs::write(path, "x").unwrap();
    }
    place.shelf.keep_only(&[&package]);
    assert_eq!(place.files(), std::slice::from_ref(&kept));
    place.shelf.forget(SystemTime::now() + Duration::from_secs(6 * 86_400));
    assert_eq!(place.files(), [kept]);
    place.shelf.forget(SystemTime::now() + Duration::from_secs(8 * 86_400));
    assert_eq!(place.files().len(), 0);
}

fn brought(package: &Package) -> UpdateTarget {
    UpdateTarget { package: Some(package.clone()), ..target() }
}

#[tokio::test]
async fn what_a_job_brings_is_offered_by_nobody_else_and_no_source_is_asked() {
    let (rig, server) = (Rig::new(), Server::with(CONTENT).await);
    rig.session.with(|world| world.updates.clear());
    rig.session.with(|world| world.source_fails = Some(0x8024_402C));
    let stand = async |target: UpdateTarget| {
        let kb = target.kb.clone();
        rig.agent().look(&[target], TERMS).await.unwrap().updates[&kb]
    };
    let fix = brought(&server.package());
    assert!(matches!(stand(fix.clone()).await, UpdateStatus::Offered(_)));
    let older = UpdateTarget { target_build: Some("20348.2699".to_owned()), ..fix.clone() };
    assert_eq!(stand(older).await, UpdateStatus::Superseded, "the build is 20348.2700");
    let other = UpdateTarget { kind: UpdateKind::Other, target_build: None, ..fix };
    assert!(matches!(stand(other).await, UpdateStatus::Offered(_)));
    assert_eq!(rig.session.calls("online"), 0);
}

#[tokio::test]
async fn a_package_is_installed_once_per_grant_and_leaves_the_disk() {
    let (rig, server) = (Rig::new(), Server::with(CONTENT).await);
    let update = brought(&server.package());
    let agent = rig.agent();
    agent.download(std::slice::from_ref(&update), TERMS).await.unwrap();
    assert_eq!(rig.session.calls("download"), 0, "Windows Update has no part in it");

    let over = Permit { until: std::time::Instant::now() };
    let late = agent.install(&key(1), &update, 0, TERMS, over).await;
    assert_eq!(late, Performed::PermitExpired);
    assert_eq!(rig.windows.ran.lock().unwrap().len(), 0);

    let first = ended(agent.install(&key(1), &update, 0, TERMS, permit()).await);
    assert_eq!((first.code, first.hresult, first.reboot_required), (2, 0, true));
    assert_eq!(ended(rig.agent().install(&key(1), &update, 0, TERMS, permit()).await), first);
    assert_eq!(*rig.windows.ran.lock().unwrap(), [CONTENT]);
    assert_eq!((rig.session.calls("install"), files(rig.folder.path()).len()), (0, 0));
}

#[tokio::test]
async fn a_package_that_changed_on_the_disk_is_never_installed() {
    let (rig, server) = (Rig::new(), Server::with(CONTENT).await);
    let update = brought(&server.package());
    let agent = rig.agent();
    agent.download(std::slice::from_ref(&update), TERMS).await.unwrap();
    std::fs::write(&files(rig.folder.path())[0], "something else").unwrap();
    let refused = ended(agent.install(&key(1), &update, 0, TERMS, permit()).await);
    assert_eq!((refused.code, refused.hresult), (4, 0x8024_6002));

    agent.download(std::slice::from_ref(&update), TERMS).await.unwrap();
    *rig.windows.publisher.lock().unwrap() = Ok(None);
    let refused = ended(agent.install(&key(1), &update, 0, TERMS, permit()).await);
    assert_eq!((refused.code, refused.hresult), (4, 0x800B_0100));
    let missing = ended(agent.install(&key(1), &update, 0, TERMS, permit()).await);
    assert_eq!((missing.code, missing.hresult), (4, 0x8024_6007));
    assert_eq!(rig.windows.ran.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn an_installer_whose_end_nobody_saw_is_found_and_not_run_again() {
    let server = Server::with(CONTENT).await;
    let update = brought(&server.package());
    let find = async |rig: &Rig| {
        let found = rig.agent().find_install(&key(1), &update, 0, TERMS).await;
        let again = ended(rig.agent().install(&key(1), &update, 0, TERMS, permit()).await);
        assert_eq!(found, InstallFound::Ended(again.clone()));
        assert_eq!(rig.windows.ran.lock().unwrap().len(), 0);
        (again.code, again.hresult, again.reboot_required)
    };
    // Nothing tells how it ended: it counts as aborted, and only another grant tries again.
    let rig = Rig::new();
    begun(&rig);
    assert_eq!(find(&rig).await, (5, 0x8024_000B, false));
    // The history of Windows has it, under the name of the standalone installer.
    let rig = Rig::new();
    begun(&rig);
    let mut failed = entry("wusa", 4, 0x8007_0643);
    failed.title = "Security Update for Windows (KB5068787)".to_owned();
    rig.session.with(|world| world.history.push(failed));
    assert_eq!(find(&rig).await, (4, 0x8007_0643, false));
    // Windows Update knows it as installed.
    let rig = Rig::new();
    begun(&rig);
    rig.session.with(|world| world.updates[0].is_installed = true);
    rig.session.with(|world| world.reboot_required = true);
    assert_eq!(find(&rig).await, (2, 0, true));
    // Its package is there.
    let rig = Rig::new();
    begun(&rig);
    rig.session.with(|world| world.updates.clear());
    let found = rig.agent_on(|| Some(BTreeSet::from([ROLLUP.to_owned()])), Policy::default);
    match found.find_install(&key(1), &update, 0, TERMS).await {
        InstallFound::Ended(result) => {
            assert_eq!((result.code, result.packages), (2, vec![ROLLUP.to_owned()]));
        }
        InstallFound::NotBegun => panic!("it began"),
    }
    assert_eq!(rig.agent().find_install(&key(2), &update, 0, TERMS).await, InstallFound::NotBegun);
}
