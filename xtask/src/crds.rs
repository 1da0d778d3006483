//! Files that are generated, and the chart's copies of the CRDs among them.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::shell::root;

/// Helm packages only what lies inside the chart, so the chart holds a copy.
const CHART_COPY: &str = "charts/wardring/files/crds";

/// Writes the generated files, or (with `check`) only says which of them are out of date.
pub fn generate(check: bool) -> Result<()> {
    crate::r#gen::generate(check)?;
    copy_into_chart(&root(), check)
}

fn copy_into_chart(root: &Path, check: bool) -> Result<()> {
    let wanted = read(&root.join("crds"))?;
    let target = root.join(CHART_COPY);
    if read(&target)? == wanted {
        return Ok(());
    }
    if check {
        bail!("{CHART_COPY} differs from crds/; run `cargo xtask gen` and commit the result");
    }
    if target.exists() {
        fs::remove_dir_all(&target).with_context(|| format!("failed to clear {CHART_COPY}"))?;
    }
    fs::create_dir_all(&target).with_context(|| format!("failed to create {CHART_COPY}"))?;
    for (name, content) in wanted {
        fs::write(target.join(&name), content)
            .with_context(|| format!("failed to write {CHART_COPY}/{name}"))?;
    }
    Ok(())
}

/// The YAML files of a folder by name; a missing folder has none.
fn read(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    if !folder.exists() {
        return Ok(files);
    }
    let entries =
        fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("failed to list {}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".yaml") {
            let content =
                fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
            files.insert(name, content);
        }
    }
    Ok(files)
}
