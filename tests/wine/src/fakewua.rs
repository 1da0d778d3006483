//! A Windows Update of the test's own making in a prefix; see `tests/fakewua`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::prefix::{Prefix, TARGET};

/// UpdateSession, UpdateCollection and SystemInformation, as `wuapi.idl` has them.
const CLASSES: [&str; 3] = [
    "{4CB43D7F-7EEE-4906-8698-60DA1C38F2FE}",
    "{13639463-00DB-4646-803D-528026140D88}",
    "{C01B9BA0-BEA7-41BA-B604-D0A36F469133}",
];

/// The Windows Update of a prefix.
#[derive(Clone, Debug)]
pub struct FakeWua {
    folder: PathBuf,
}

impl FakeWua {
    /// Puts it in the place of Wine's own, with this world.
    ///
    /// # Errors
    /// It does not build, or the registry refuses.
    pub fn install(prefix: &Prefix, world: &Value) -> anyhow::Result<FakeWua> {
        let folder = prefix.drive().join("fakewua");
        fs::create_dir(&folder)?;
        fs::copy(build()?, folder.join("fakewua.dll"))?;
        let fake = FakeWua { folder };
        fake.set_world(world)?;
        // One program instead of six: each start of one takes its time under Wine.
        let classes: String = CLASSES.iter().map(|class| registration(class)).collect();
        fs::write(fake.folder.join("classes.reg"), format!("REGEDIT4\r\n{classes}"))?;
        prefix.wine(["reg", "import", r"C:\fakewua\classes.reg"])?;
        Ok(fake)
    }

    /// The world as it is.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn world(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.folder.join("world.json"))?)?)
    }

    /// Makes the world another one, in one step.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set_world(&self, world: &Value) -> anyhow::Result<()> {
        let new = self.folder.join("world.test");
        fs::write(&new, serde_json::to_vec_pretty(world)?)?;
        Ok(fs::rename(new, self.folder.join("world.json"))?)
    }

    /// What a restart does: what waited for it is installed, and nothing goes on.
    ///
    /// # Errors
    /// The world cannot be read or written.
    pub fn finish_at_boot(&self) -> anyhow::Result<()> {
        let mut world = self.world()?;
        for update in world["updates"].as_array_mut().into_iter().flatten() {
            if update["rebootRequired"] == json!(true) {
                update["rebootRequired"] = json!(false);
                update["isInstalled"] = json!(true);
            }
        }
        world["rebootRequired"] = json!(false);
        world["underWay"] = json!([]);
        world["busyUntil"] = json!(0);
        self.set_world(&world)
    }

    /// Ends the installations that hang.
    ///
    /// # Errors
    /// The world cannot be read or written, or is none.
    pub fn end_installations(&self) -> anyhow::Result<()> {
        let mut world = self.world()?;
        let acts = world["underWay"].as_array_mut().context("a world has acts")?;
        acts.iter_mut().for_each(|act| act["ends"] = json!(1));
        self.set_world(&world)
    }

    /// Lines of the log that tell of this call. A line that is not written to its end is none.
    pub fn calls(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("calls.jsonl")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.filter(|line: &Value| line["call"] == name).collect()
    }
}

/// The lines of a registry file that hand a class over to the library.
fn registration(class: &str) -> String {
    format!(
        "\r\n[HKEY_LOCAL_MACHINE\\Software\\Classes\\CLSID\\{class}\\InprocServer32]\r\n\
         @=\"C:\\\\fakewua\\\\fakewua.dll\"\r\n\"ThreadingModel\"=\"Both\"\r\n"
    )
}

/// Milliseconds since 1970, so many from now.
///
/// # Panics
/// The clock stands before 1970.
pub fn in_ms(ms: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(now.as_millis()).expect("a time of this century") + ms
}

fn build() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(&root)
        .args(["build", "--quiet", "--package", "wardring-fakewua"])
        .args(["--target", TARGET, "--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("failed to start cargo")?;
    ensure!(output.status.success(), "the fake Windows Update does not build for {TARGET}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let files = messages.flat_map(|message| {
        let names = message["filenames"].as_array().cloned().unwrap_or_default();
        names.into_iter().filter_map(|name| name.as_str().map(PathBuf::from)).collect::<Vec<_>>()
    });
    let mut dlls = files.filter(|path| path.file_name().is_some_and(|name| name == "fakewua.dll"));
    dlls.next().context("cargo did not say where the library is")
}
