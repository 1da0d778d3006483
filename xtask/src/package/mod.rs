//! `cargo xtask package`: the Windows agent as it goes to devices, with the sums of its files.
//!
//! Everything is made in a folder of its own and moved to its place at the end, so that a failure
//! leaves nothing that looks like a package.

mod archive;
mod msi;
mod sign;
mod sums;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    shell::{cargo, part, root, step, target_dir},
    tools,
};

/// The program's name on devices.
const PROGRAM: &str = "wardring-agent.exe";
/// The licence's name on devices.
const LICENSE: &str = "LICENSE.txt";
/// The packages, by what their names end with.
const PACKAGES: [&str; 2] = ["msi", "zip"];
/// The cargo profile of what goes to devices.
const PROFILE: &str = "agent";

/// Options of `cargo xtask package`.
#[derive(clap::Args)]
pub struct Args {
    /// Package this program instead of building one
    #[arg(long, value_name = "EXE")]
    program: Option<PathBuf>,
    /// Version of the package; it is the program's own
    #[arg(long, value_name = "X.Y.Z", default_value = env!("CARGO_PKG_VERSION"), requires = "program")]
    package_version: Version,
    /// Default of a property in the MSI: GATEWAY, TOKENFILE or PROXY (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<msi::Default>,
    /// Folder that gets the packages [default: target/package]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    #[command(flatten)]
    sign: sign::Signing,
}

/// Builds the agent and packs it.
pub fn run(args: &Args) -> Result<()> {
    let signer = args.sign.signer()?;
    tools::prepare_packaging()?;
    if signer.is_some() {
        tools::prepare_signing()?;
    }
    let program = match &args.program {
        Some(program) => program.clone(),
        None => build()?,
    };
    let out = args.out.clone().unwrap_or_else(|| target_dir().join("package"));
    fs::create_dir_all(&out).with_context(|| format!("failed to make {}", out.display()))?;
    let unfinished = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(&out)?;
    let package = Package {
        version: args.package_version.clone(),
        defaults: args.set.clone(),
        signer,
        folder: unfinished.path().to_owned(),
        program: unfinished.path().join(PROGRAM),
    };
    for (from, to) in [(&program, PROGRAM), (&root().join("LICENSE"), LICENSE)] {
        fs::copy(from, package.folder.join(to))
            .with_context(|| format!("failed to copy {}", from.display()))?;
    }
    let made = package.make()?;
    for other in package.version.names() {
        remove(&out.join(other))?;
    }
    for name in &made {
        let place = out.join(name);
        fs::rename(package.folder.join(name), &place)
            .with_context(|| format!("failed to put {} in its place", place.display()))?;
        println!("{}", place.display());
    }
    if package.signer.is_none() {
        println!(
            "NOT SIGNED: anybody could have made these files. Sign what goes to devices, with \
             --sign-cert and --sign-key."
        );
    }
    Ok(())
}

/// Builds the agent for devices.
fn build() -> Result<PathBuf> {
    let target = tools::WINDOWS;
    tools::prepare_windows()?;
    let mut build = cargo(&["build", "--quiet", "--package", "wardring-agent"]);
    build.args(["--bin", "wardring-agent", "--profile", PROFILE, "--target", target]);
    step("agent for Windows", &mut build)?;
    Ok(target_dir().join(target).join(PROFILE).join(PROGRAM))
}

/// What is being made.
struct Package {
    version: Version,
    defaults: Vec<msi::Default>,
    signer: Option<sign::Signer>,
    /// Where it is made.
    folder: PathBuf,
    /// The program in there.
    program: PathBuf,
}

impl Package {
    /// Makes everything and returns the names of the files.
    fn make(&self) -> Result<Vec<String>> {
        self.sign(&self.program)?;
        let [installer, archive] =
            PACKAGES.map(|extension| self.version.name(self.signer.is_some(), extension));
        self.installer(&self.folder.join(&installer))?;
        part("zip", || self.archive(&self.folder.join(&archive)))?;
        let mut made = vec![installer, archive];
        part("sums", || sums::write(&self.folder, &made))?;
        made.push(sums::FILE.to_owned());
        Ok(made)
    }

    fn sign(&self, file: &Path) -> Result<()> {
        self.signer.as_ref().map_or(Ok(()), |signer| signer.sign(file))
    }

    fn installer(&self, path: &Path) -> Result<()> {
        let parts = msi::Parts {
            version: &self.version,
            program: &self.program,
            is_signed: self.signer.is_some(),
            defaults: &self.defaults,
        };
        msi::write(path, &parts)?;
        self.sign(path)
    }

    fn archive(&self, path: &Path) -> Result<()> {
        let read = |path: &Path| {
            fs::read(path).with_context(|| format!("failed to read {}", path.display()))
        };
        archive::write(
            path,
            &[
                (PROGRAM, read(&self.program)?),
                (LICENSE, read(&self.folder.join(LICENSE))?),
                ("README.txt", self.readme().into_bytes()),
            ],
        )
    }

    /// What somebody reads who has nothing but the archive.
    fn readme(&self) -> String {
        let signed = match self.signer {
            Some(_) => "It is signed: see the properties of the file.",
            None => "IT IS NOT SIGNED: anybody could have made this file.",
        };
        let text = format!(
            "Wardring agent {} for Windows, x64\n\n{signed}\n\nOn the device, as an administrator:\n\n  {PROGRAM} \
             install --gateway https://HOST:PORT --token-file FILE\n\n`kubectl wardring enroll` makes the \
             token. `{PROGRAM} help` says what else there is.\n",
            self.version.0
        );
        // Windows' own editor on older servers shows nothing else as lines.
        text.replace('\n', "\r\n")
    }
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// A version that Windows Installer can compare: three numbers (Microsoft Learn, "ProductVersion").
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version(String);

impl Version {
    /// Name of a package.
    fn name(&self, is_signed: bool, extension: &str) -> String {
        let remark = if is_signed { "" } else { "-unsigned" };
        format!("wardring-agent-{}-x64{remark}.{extension}", self.0)
    }

    /// Names of all packages of this version.
    fn names(&self) -> Vec<String> {
        let both = |extension| [true, false].map(|is_signed| self.name(is_signed, extension));
        PACKAGES.into_iter().flat_map(both).collect()
    }

    /// The lowest version that is newer.
    fn next(&self) -> String {
        let (before, patch) = self.0.rsplit_once('.').expect("a version has three numbers");
        let patch: u32 = patch.parse().expect("they were read as numbers");
        format!("{before}.{}", patch + 1)
    }
}

impl std::str::FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Version> {
        let numbers: Vec<u32> = text
            .split('.')
            .map(|number| match number.parse() {
                Ok(value) if number.bytes().all(|byte| byte.is_ascii_digit()) => Ok(value),
                _ => bail!("{text} is not of the form X.Y.Z with three numbers"),
            })
            .collect::<Result<_>>()?;
        let [major, minor, patch] = numbers[..] else {
            bail!("{text} is not of the form X.Y.Z with three numbers")
        };
        ensure!(
            major < 256 && minor < 256 && patch < 65_535,
            "Windows Installer compares versions up to 255.255.65535, and {text} has no next one"
        );
        Ok(Version(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_one_that_windows_installer_compares() {
        let refused = |text: &str| text.parse::<Version>().unwrap_err().to_string();
        for text in ["0.1", "0.1.0.1", "0.1.0-rc1", "1..2", "", "+1.0.0"] {
            assert!(refused(text).contains("three numbers"), "{text}");
        }
        assert!(refused("0.256.1").contains("255.255.65535"));
        assert_eq!("255.255.65534".parse::<Version>().unwrap().next(), "255.255.65535");
    }

    #[test]
    fn a_name_says_version_processor_and_that_nobody_signed() {
        let version: Version = "1.2.3".parse().unwrap();
        assert_eq!(version.name(true, "msi"), "wardring-agent-1.2.3-x64.msi");
        assert_eq!(version.name(false, "zip"), "wardring-agent-1.2.3-x64-unsigned.zip");
    }
}
