//! The shelf: packages that jobs bring themselves, fetched by address and kept until they are installed.
//!
//! What is fetched is believed for two reasons only: its SHA-256 is the one in the sealed job, and
//! Microsoft signed it. Both are looked at after the download and again right before the installation.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::{Client, Proxy, Response, Url, redirect};
use ring::digest::{Context, SHA256};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use wardring_seal::Package;

use super::standalone::{NO_SIGNATURE, OTHER_SIGNER, Standalone, is_microsoft};
use crate::files::replace;
use crate::hresult::Hresult;
use crate::state::DownloadFailure;

/// Largest package: cumulative updates have a few gigabytes.
const MAX_PACKAGE: u64 = 6 << 30;
/// What a download leaves free on the disk.
const LEFT_FREE: u64 = 2 << 30;
/// What is written before the disk is waited for: the last wait is short then.
const BETWEEN_SYNCS: u64 = 64 << 20;
/// What nobody came back for.
const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 3600);
const CONNECT: Duration = Duration::from_secs(30);
/// Longest pause within an answer.
const SILENCE: Duration = Duration::from_secs(60);
/// WU_E_DM_INCORRECTFILEHASH.
const OTHER_CONTENT: u32 = 0x8024_6002;
/// WU_E_DM_NOTDOWNLOADED.
const NOT_DOWNLOADED: u32 = 0x8024_6007;
/// ERROR_DISK_FULL.
const DISK_FULL: u32 = 0x8007_0070;
/// E_INVALIDARG.
const NO_ADDRESS: u32 = 0x8007_0057;

/// Why a package is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Fault {
    /// A sentence.
    pub sentence: String,
    /// The code of Windows that says the same.
    pub hresult: u32,
}

fn fault(hresult: u32, sentence: impl Into<String>) -> Fault {
    Fault { hresult, sentence: sentence.into() }
}

/// Packages in a folder.
pub struct Shelf {
    folder: PathBuf,
    proxy: Option<String>,
    windows: Arc<dyn Standalone>,
}

impl Shelf {
    /// Packages in `packages` below the data folder, which nobody but SYSTEM and the administrators may
    /// write to; fetched by the agent's own proxy.
    pub fn new(data: &Path, proxy: Option<&str>, windows: Arc<dyn Standalone>) -> Shelf {
        let proxy = proxy.map(str::to_owned);
        Shelf { folder: data.join("packages"), proxy, windows }
    }

    /// What packages need of Windows.
    pub(super) fn windows(&self) -> &dyn Standalone {
        self.windows.as_ref()
    }

    fn path(&self, package: &Package) -> Result<PathBuf, Fault> {
        let is_digest = package.sha256.len() == 64
            && package.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_digest {
            // It becomes a file name.
            return Err(fault(NO_ADDRESS, "the job names no SHA-256 of its package"));
        }
        Ok(self.folder.join(format!("{}.msu", package.sha256.to_ascii_lowercase())))
    }

    /// Fetches a package, unless it is there.
    ///
    /// # Errors
    /// Why it was not fetched, or must not be installed; nothing of it is left then.
    pub async fn fetch(&self, package: &Package) -> Result<(), DownloadFailure> {
        let path = self.path(package).map_err(failure)?;
        if path.exists() {
            match self.judged(&path, package).await {
                Ok(()) => return Ok(()),
                Err(fault) => tracing::warn!(%fault, "a package is fetched anew"),
            }
        }
        let part = Part(path.with_extension("part"));
        self.receive(package, &part.0).await?;
        replace(&part.0, &path).map_err(|error| io_failure(&error))?;
        let judged = self.judged(&path, package).await;
        if judged.is_err() {
            discard(&path);
        }
        judged.map_err(failure)
    }

    async fn receive(&self, package: &Package, part: &Path) -> Result<(), DownloadFailure> {
        let url = address(&package.url).map_err(failure)?;
        fs::create_dir_all(&self.folder).map_err(|error| io_failure(&error))?;
        let client = self.client().map_err(DownloadFailure::from)?;
        let sent = client.get(url).send().await;
        let mut response = sent.map_err(|error| unreachable(&error))?;
        let room = self.room(&response)?;
        let mut file = File::create(part).map_err(|error| io_failure(&error))?;
        let (mut size, mut unsynced) = (0_u64, 0_u64);
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
            size += chunk.len() as u64;
            unsynced += chunk.len() as u64;
            if size > room {
                let fault = if size > MAX_PACKAGE { too_large() } else { disk_full(size) };
                return Err(failure(fault));
            }
            file.write_all(&chunk).map_err(|error| io_failure(&error))?;
            if unsynced >= BETWEEN_SYNCS {
                file = synced(file).await?;
                unsynced = 0;
            }
        }
        synced(file).await.map(drop)
    }

    /// Refuses an answer that is none, or that does not fit. Bytes that may come: not every answer tells
    /// its length before.
    fn room(&self, response: &Response) -> Result<u64, DownloadFailure> {
        let status = response.status();
        if status.is_redirection() {
            let sentence = "the address of the package redirects elsewhere, which is not followed";
            return Err(failure(fault(NO_ADDRESS, sentence)));
        }
        if status.as_u16() != 200 {
            let sentence = format!("the address of the package answers with status {status}");
            // What nobody mends by waiting (WU_E_PT_HTTP_STATUS_…); anything else may pass.
            let hresult = match status.as_u16() {
                401 => Some(0x8024_4017),
                403 => Some(0x8024_4018),
                404 | 410 => Some(0x8024_4019),
                407 => Some(0x8024_401B),
                _ => None,
            };
            return Err(DownloadFailure { sentence, hresult: hresult.map(Hresult) });
        }
        let size = response.content_length().unwrap_or(0);
        if size > MAX_PACKAGE {
            return Err(failure(too_large()));
        }
        let free = self.windows.free_bytes(&self.folder).map_err(|error| io_failure(&error))?;
        match free.checked_sub(LEFT_FREE) {
            Some(room) if room >= size => Ok(room.min(MAX_PACKAGE)),
            _ => Err(failure(disk_full(size))),
        }
    }

    fn client(&self) -> Result<Client, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.windows.roots().into_iter().map(CertificateDer::from));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("wardring-agent/", env!("CARGO_PKG_VERSION")));
        let builder = match &self.proxy {
            Some(proxy) => {
                // Its text may hold a password, so no error repeats it.
                let proxy =
                    Proxy::all(proxy).map_err(|_| "the proxy of the agent is no address")?;
                builder.proxy(proxy)
            }
            None => builder.no_proxy(),
        };
        builder.build().map_err(|error| error.to_string())
    }

    async fn judged(&self, path: &Path, package: &Package) -> Result<(), Fault> {
        let (path, digest) = (path.to_owned(), package.sha256.clone());
        let windows = Arc::clone(&self.windows);
        let looked =
            tokio::task::spawn_blocking(move || judge(&path, &digest, windows.as_ref()).map(drop));
        looked.await.expect("looking at a file does not panic, and nothing cancels it")
    }

    /// The file of a package that may be installed, and what keeps everybody from changing it.
    pub(super) fn take(&self, package: &Package) -> Result<(PathBuf, File), Fault> {
        let path = self.path(package)?;
        let held = judge(&path, &package.sha256, self.windows.as_ref());
        if held.as_ref().is_err_and(|fault| fault.hresult != NOT_DOWNLOADED) {
            discard(&path);
        }
        Ok((path, held?))
    }

    /// Removes a package that is not needed any more.
    pub(super) fn remove(&self, package: &Package) {
        if let Ok(path) = self.path(package) {
            discard(&path);
        }
    }

    /// Removes everything but the packages of a job: there is one job at a time.
    pub(super) fn keep_only(&self, packages: &[&Package]) {
        let kept: Vec<PathBuf> =
            packages.iter().filter_map(|package| self.path(package).ok()).collect();
        self.clear(|path, _| !kept.iter().any(|kept| kept == path));
    }

    /// Removes what nobody came back for.
    pub(super) fn forget(&self, now: SystemTime) {
        self.clear(|_, changed| {
            changed.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age > FORGOTTEN))
        });
    }

    fn clear(&self, is_over: impl Fn(&Path, Option<SystemTime>) -> bool) {
        // No folder means no packages.
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.filter_map(Result::ok) {
            let changed = entry.metadata().and_then(|about| about.modified()).ok();
            if is_over(&entry.path(), changed) {
                discard(&entry.path());
            }
        }
    }
}

/// What has come of a package. It goes with the value, also where its download is given up in the middle.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // What became a package is not there any more.
        discard(&self.0);
    }
}

/// An address that names a file and no secret.
fn address(text: &str) -> Result<Url, Fault> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "https" | "http")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    let sentence = "the job's address of the package is not https://HOST/PATH.msu";
    url.ok_or_else(|| fault(NO_ADDRESS, sentence))
}

/// Looks at a whole file, and holds it.
fn judge(path: &Path, digest: &str, windows: &dyn Standalone) -> Result<File, Fault> {
    let mut file = held(path)
        .map_err(|error| fault(NOT_DOWNLOADED, format!("the package is not there: {error}")))?;
    let found = digest_of(&mut file)
        .map_err(|error| fault(NOT_DOWNLOADED, format!("the package cannot be read: {error}")))?;
    if !found.eq_ignore_ascii_case(digest) {
        let sentence =
            format!("the package is not the one that the job names: its SHA-256 is {found}");
        return Err(fault(OTHER_CONTENT, sentence));
    }
    match windows.publisher(path) {
        Ok(Some(name)) if is_microsoft(&name) => Ok(file),
        Ok(Some(name)) => {
            let sentence = format!("the package is not signed by Microsoft but by {name}");
            Err(fault(OTHER_SIGNER, sentence))
        }
        Ok(None) => Err(fault(NO_SIGNATURE, "the package carries no signature")),
        Err(error) => {
            let sentence = format!("the signature of the package does not hold: {error}");
            Err(fault(OTHER_SIGNER, sentence))
        }
    }
}

/// Opens a file so that nobody else writes to it or removes it meanwhile.
fn held(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.read(true);
    #[cfg(windows)]
    {
        const FILE_SHARE_READ: u32 = 1;
        std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, FILE_SHARE_READ);
    }
    options.open(path)
}

fn digest_of(file: &mut File) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => context.update(&buffer[..read]),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "a package cannot be removed");
    }
}

/// Waits until the disk has it, beside everything else that the agent does.
async fn synced(file: File) -> Result<File, DownloadFailure> {
    let syncing = tokio::task::spawn_blocking(move || file.sync_all().map(|()| file));
    let synced = syncing.await.expect("writing a file out does not panic, and nothing cancels it");
    synced.map_err(|error| io_failure(&error))
}

fn disk_full(size: u64) -> Fault {
    let gigabytes = size.saturating_add(LEFT_FREE).div_ceil(1 << 30);
    fault(DISK_FULL, format!("the disk has no {gigabytes} GB free for the package"))
}

fn too_large() -> Fault {
    fault(NO_ADDRESS, format!("the package is larger than {} GB", MAX_PACKAGE >> 30))
}

fn failure(fault: Fault) -> DownloadFailure {
    DownloadFailure { sentence: fault.sentence, hresult: Some(Hresult(fault.hresult)) }
}

fn io_failure(error: &io::Error) -> DownloadFailure {
    let hresult = (error.kind() == io::ErrorKind::StorageFull).then_some(Hresult(DISK_FULL));
    DownloadFailure { sentence: format!("the package cannot be kept: {error}"), hresult }
}

/// The network's fault, which may pass. The innermost cause says most; it names no address.
fn unreachable(error: &reqwest::Error) -> DownloadFailure {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    DownloadFailure::from(format!("the package cannot be fetched: {cause}"))
}
