//! Tools that are built from source once and then found in a cache: the dev cluster's binary, which
//! is kubectl too, and Helm. Tools that the system's packages bring are installed where possible.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::command::display;

/// The Helm that charts are tested with.
const HELM_VERSION: &str = "v4.3.1";

/// Helm itself and the dev cluster's module need at least this Go.
const GO_VERSION: &str = "1.26";

/// Bytes of a failed build's output that are shown: the errors come last.
const SHOWN_OUTPUT: usize = 4000;

/// A program in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Where it is.
    pub path: PathBuf,
    /// How it came to be there.
    pub origin: Origin,
}

/// Whether a tool had to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was there.
    Cached,
    /// It was built by this call.
    Built,
}

/// A program from the system's packages.
#[derive(Clone, Copy, Debug)]
pub struct SystemTool<'a> {
    /// The program to look for in PATH.
    pub program: &'a str,
    /// The Debian package that has it.
    pub package: &'a str,
}

/// The binary of `tests/devcluster`. Building it for the first time takes some minutes.
pub fn devcluster() -> Result<Tool> {
    let module = workspace().join("tests/devcluster");
    let version = kubernetes_version(&module)?;
    // The version cannot be known from within the module, and clients refuse one that is missing.
    let flags = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={version} \
         -X k8s.io/client-go/pkg/version.gitVersion={version}"
    );
    let key = format!("devcluster-{}", digest_of_module(&module, &flags)?);
    cached(&key, "devcluster", |into| {
        let mut build = go();
        build.current_dir(&module).args(["build", "-trimpath", "-ldflags", &flags, "-o"]);
        build.arg(into.join("devcluster")).arg(".");
        run_build("the dev cluster", build)?;
        // The binary looks at the name it is called by.
        std::os::unix::fs::symlink("devcluster", into.join("kubectl"))?;
        Ok(())
    })
}

/// kubectl, of the dev cluster's version.
pub fn kubectl() -> Result<Tool> {
    let devcluster = devcluster()?;
    Ok(Tool { path: devcluster.path.with_file_name("kubectl"), ..devcluster })
}

/// Helm.
pub fn helm() -> Result<Tool> {
    cached(&format!("helm-{HELM_VERSION}"), "helm", |into| {
        let mut build = go();
        // In a folder without a module, so that no module's requirements get mixed in.
        build.current_dir(into).env("GOBIN", into);
        build.args(["install", "-trimpath", "-ldflags", "-s -w"]);
        build.arg(format!("helm.sh/helm/v4/cmd/helm@{HELM_VERSION}"));
        run_build("Helm", build)
    })
}

/// Sees to it that programs of the system's packages are in PATH. On Debian, as root, missing ones
/// are installed; anywhere else the error says what to install.
pub fn ensure_apt(tools: &[SystemTool]) -> Result<()> {
    let missing: Vec<_> =
        tools.iter().filter(|tool| find_in_path(tool.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    let packages = packages.join(" ");
    if !rustix::process::geteuid().is_root() || find_in_path("apt-get").is_none() {
        bail!("{} needed: `apt-get install {packages}` (as root)", name_all(&missing));
    }
    eprintln!("installing {packages}");
    // A new machine has no package lists yet, or old ones. If this fails, what follows says more.
    let _ = Command::new("apt-get").args(["update", "-q"]).stdout(Stdio::null()).status();
    let mut install = Command::new("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive");
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(packages.split(' '));
    run(Act::Install, &packages, install).with_context(|| {
        format!("install {packages} yourself, or see to the network and the package sources")
    })?;
    match missing.iter().find(|tool| find_in_path(tool.program).is_none()) {
        Some(tool) => bail!("package {} was installed but has no {}", tool.package, tool.program),
        None => Ok(()),
    }
}

/// The program's path, if a folder of PATH has it.
pub fn find_in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn name_all(missing: &[&SystemTool]) -> String {
    let names: Vec<_> = missing.iter().map(|tool| tool.program).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

/// The workspace this crate was compiled in.
fn workspace() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.ancestors().nth(2).unwrap_or(crate_folder).to_owned()
}

/// Where built tools are kept: `target/tools`, or what `WARDRING_TOOLS` says, so that CI can keep
/// them from run to run.
fn cache() -> PathBuf {
    let chosen = std::env::var_os("WARDRING_TOOLS").map(PathBuf::from);
    chosen.unwrap_or_else(|| workspace().join("target/tools"))
}

/// Finds `program` in the cache under `key`, or lets `build` put it into a folder.
///
/// The folder gets its final name only when it is complete, so that an interrupted build leaves
/// nothing that looks like a tool.
fn cached(key: &str, program: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<Tool> {
    let cache = cache();
    let path = cache.join(key).join(program);
    if path.exists() {
        return Ok(Tool { path, origin: Origin::Cached });
    }
    fs::create_dir_all(&cache).with_context(|| {
        format!("failed to make {}; set WARDRING_TOOLS to a folder you may write", cache.display())
    })?;
    // Test binaries run side by side and would all build the same tool.
    let lock = File::create(cache.join(format!("{program}.lock")))?;
    lock.lock().context("failed to wait for another build")?;
    if path.exists() {
        return Ok(Tool { path, origin: Origin::Cached });
    }
    let unfinished = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(&cache)?;
    build(unfinished.path())?;
    fs::rename(unfinished.keep(), cache.join(key))
        .with_context(|| format!("failed to put {key} into the cache"))?;
    Ok(Tool { path, origin: Origin::Built })
}

/// A Go command that answers to nothing but its arguments.
fn go() -> Command {
    let mut go = Command::new("go");
    go.env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false").env("GOWORK", "off");
    go
}

/// What a tool comes by.
#[derive(Clone, Copy, Debug)]
enum Act {
    Build,
    Install,
}

fn run_build(what: &str, build: Command) -> Result<()> {
    check_go(build.get_current_dir())?;
    eprintln!("building {what}; the first time this takes some minutes");
    run(Act::Build, what, build)
}

fn run(act: Act, what: &str, mut command: Command) -> Result<()> {
    let shown = display(&command);
    let output = command.output().with_context(|| format!("failed to start `{shown}`"))?;
    if !output.status.success() {
        let act = match act {
            Act::Build => "build",
            Act::Install => "install",
        };
        let text = String::from_utf8_lossy(&output.stderr);
        let start = text.floor_char_boundary(text.len().saturating_sub(SHOWN_OUTPUT));
        bail!("failed to {act} {what}: `{shown}` ({}) printed:\n{}", output.status, &text[start..]);
    }
    Ok(())
}

/// Fails with what to install if there is no Go that can build in `folder`.
fn check_go(folder: Option<&Path>) -> Result<()> {
    let advice = format!(
        "install Go {GO_VERSION} or newer (https://go.dev/dl), or set KUBECONFIG to use a cluster \
         that exists"
    );
    let mut ask = go();
    ask.args(["env", "GOVERSION"]).current_dir(folder.unwrap_or(Path::new(".")));
    let Ok(answer) = ask.output() else { bail!("Go was not found; {advice}") };
    let version = String::from_utf8_lossy(&answer.stdout);
    let is_new_enough = match (parse_version(version.trim()), parse_version(GO_VERSION)) {
        (Some(found), Some(needed)) => found >= needed,
        _ => false,
    };
    if !answer.status.success() || !is_new_enough {
        let found = String::from_utf8_lossy(&answer.stderr);
        bail!("Go is too old ({} {}); {advice}", version.trim(), found.trim());
    }
    Ok(())
}

/// Major and minor of `go1.26.8` or `1.26`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("go").unwrap_or(text).split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.chars().take_while(char::is_ascii_digit).collect::<String>();
    Some((major, minor.parse().ok()?))
}

/// The version of Kubernetes that the module requires.
fn kubernetes_version(module: &Path) -> Result<String> {
    let file = module.join("go.mod");
    let text =
        fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let version = text.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "));
    Ok(version.context("tests/devcluster/go.mod does not require k8s.io/kubernetes")?.to_owned())
}

/// A name for what the module's sources and `flags` make, so that any change builds anew.
fn digest_of_module(module: &Path, flags: &str) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(module)
        .with_context(|| format!("failed to read {}", module.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|file| {
        let extension = file.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("go" | "mod" | "sum"))
    });
    files.sort();
    let mut digest = Sha256::new();
    digest.update(flags);
    for file in files {
        let content = fs::read(&file)?;
        // With lengths, so that a line moved from one file to the next is a change too.
        digest.update(content.len().to_le_bytes());
        digest.update(content);
    }
    Ok(hex::encode(&digest.finalize()[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_compare_by_number_and_not_by_letter() {
        assert_eq!(parse_version("go1.26.8"), Some((1, 26)));
        assert_eq!(parse_version("go1.27rc1"), Some((1, 27)));
        assert!(parse_version("go1.9") < parse_version(GO_VERSION));
        assert_eq!(parse_version("devel"), None);
    }

    #[test]
    fn a_program_that_is_there_needs_no_package() {
        let shell = SystemTool { program: "sh", package: "no-such-package" };

        ensure_apt(&[shell]).unwrap();
    }
}
