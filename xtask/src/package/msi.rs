//! The MSI, made by `wixl` of a page in WiX' language, and completed by `msibuild`.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use wardring_agent::service::fit::OLDEST_BUILD;

use super::Version;
use crate::shell::{output, step};

const PAGE: &str = include_str!("wardring-agent.wxs");

/// By this, Windows knows another version of the same product: it never changes.
const UPGRADE_CODE: &str = "1C3E9F4A-6B7D-4B0E-9A53-6E0D0B7C2F18";

/// Properties whose default an administrator may put into a package, for a roll-out that cannot
/// name any (Group Policy's software installation). A token is none: everybody may read a package.
const WITH_DEFAULT: [&str; 3] = ["GATEWAY", "TOKENFILE", "PROXY"];

/// A program from the Binary table; in the script; as SYSTEM (Microsoft Learn, "Custom Action Type
/// 2", "Custom Action In-Script Execution Options").
const CALL: u32 = 0x2 | 0x400 | 0x800;
/// Its line is not logged ("Custom Action Hidden Target Option").
const HIDDEN: u32 = 0x2000;

/// What the installer calls. Empty properties count as not given.
const CALLS: [(&str, u32, &str); 2] = [
    (
        "InstallAgent",
        CALL | HIDDEN,
        r#"install "--gateway=[GATEWAY]" "--token=[TOKEN]" "--token-file=[TOKENFILE]" "--name=[DEVICENAME]" "--proxy=[PROXY]""#,
    ),
    ("UninstallAgent", CALL, r#"uninstall "--purge=[PURGE]" "--abandon-job=[ABANDONJOB]""#),
];

/// A property with its default, `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Default {
    name: &'static str,
    value: String,
}

impl std::str::FromStr for Default {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Default> {
        let (name, value) = text.split_once('=').context("write NAME=VALUE")?;
        let known = WITH_DEFAULT.into_iter().find(|known| *known == name);
        let Some(name) = known else {
            bail!("{name} is none of {}", WITH_DEFAULT.join(", "));
        };
        // A quote would end the word in the line that gets the value, brackets name other properties.
        let is_plain = |char: char| !char.is_control() && !"\"[]{}".contains(char);
        ensure!(
            !value.is_empty() && value.chars().all(is_plain),
            "{name} needs a value without quotes, brackets and braces"
        );
        Ok(Default { name, value: value.to_owned() })
    }
}

/// What an installer is made of.
pub struct Parts<'a> {
    pub version: &'a Version,
    /// The program; the licence lies beside it.
    pub program: &'a Path,
    pub is_signed: bool,
    pub defaults: &'a [Default],
}

/// Makes an installer.
pub fn write(path: &Path, parts: &Parts) -> Result<()> {
    let page = path.with_extension("wxs");
    fs::write(&page, parts.page()?).context("failed to write the page for wixl")?;
    let mut wixl = Command::new("wixl");
    // It finds files by their names in its own folder only.
    let folder = parts.program.parent().context("the program is in no folder")?;
    wixl.args(["--arch", "x64", "--output"]).arg(path).arg(&page).current_dir(folder);
    step("wixl", &mut wixl)?;
    for (action, kind, line) in CALLS {
        let mut call = Command::new("msibuild");
        call.arg(path).arg("-q").arg(format!(
            "INSERT INTO `CustomAction` (`Action`, `Type`, `Source`, `Target`) VALUES ('{action}', {kind}, \
             'Agent', '{line}')"
        ));
        output(&mut call)?;
    }
    Ok(())
}

impl Parts<'_> {
    /// The page for wixl, filled in.
    fn page(&self) -> Result<String> {
        let content = fs::read(self.program).context("failed to read the program")?;
        let defaults: String = self.defaults.iter().map(Default::element).collect();
        let calls = format!("{CALLS:?}");
        let version = self.version.0.as_bytes();
        let digest =
            digest(&[&content, PAGE.as_bytes(), calls.as_bytes(), defaults.as_bytes(), version]);
        let mut page = PAGE.to_owned();
        for (name, value) in [
            ("product", guid("product", &digest).as_str()),
            ("package", &guid("package", &digest)),
            ("upgrade", UPGRADE_CODE),
            ("version", &self.version.0),
            ("next", &self.version.next()),
            ("remark", if self.is_signed { "" } else { " (NOT SIGNED)" }),
            ("oldest", &OLDEST_BUILD.to_string()),
            ("defaults", &defaults),
        ] {
            page = page.replace(&format!("{{{{{name}}}}}"), value);
        }
        Ok(page)
    }
}

impl Default {
    fn element(&self) -> String {
        // wixl takes a single `$` for the beginning of something of its own.
        let value = escaped(&self.value).replace('$', "$$");
        format!("    <Property Id=\"{}\" Value=\"{value}\"/>\n", self.name)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        // With lengths, so that what moves from one part to the next is a change too.
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// A GUID that names content: the same content has the same one, other content another one (RFC
/// 9562, version 8). Windows Installer takes two packages with one code for one.
fn guid(purpose: &str, content: &[u8; 32]) -> String {
    let mut bytes = digest(&[purpose.as_bytes(), content]);
    bytes[6] = 0x80 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    let hex = hex::encode_upper(&bytes[..16]);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_has_the_same_code_and_other_content_another_one() {
        let one = guid("product", &[1; 32]);
        assert_eq!(one, guid("product", &[1; 32]));
        assert_ne!(one, guid("product", &[2; 32]));
        assert_ne!(one, guid("package", &[1; 32]));
        let lengths: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_ne!(digest(&[b"a", b"bc"]), digest(&[b"ab", b"c"]));
    }

    #[test]
    fn a_default_is_one_of_three_properties_and_never_a_token() {
        let refused = |text: &str| text.parse::<Default>().unwrap_err().to_string();
        assert!(refused("TOKEN=a/b.c.d").contains("none of GATEWAY, TOKENFILE, PROXY"));
        assert!(refused("GATEWAY").contains("NAME=VALUE"));
        for value in ["", "a\"b", "[TOKEN]", "{x}", "a\nb"] {
            assert!(refused(&format!("GATEWAY={value}")).contains("without quotes"), "{value}");
        }
        let share: Default = r"TOKENFILE=\\files\w$\a&b".parse().unwrap();
        assert_eq!(
            share.element(),
            "    <Property Id=\"TOKENFILE\" Value=\"\\\\files\\w$$\\a&amp;b\"/>\n"
        );
    }
}
