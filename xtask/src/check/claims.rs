//! Every test that `docs/security.md` names exists: a claim whose test was renamed or deleted is a
//! claim that nothing shows.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::shell::root;

const PAGE: &str = "docs/security.md";

/// A page that names fewer has lost its proofs, or is written in a way that this does not read.
const AT_LEAST: usize = 40;

/// A test as the page names it: `` `folder: name` ``.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    folder: &'a str,
    test: &'a str,
}

/// Fails with every named test that is not there.
pub fn check() -> Result<()> {
    let root = root();
    let page =
        fs::read_to_string(root.join(PAGE)).with_context(|| format!("failed to read {PAGE}"))?;
    let named = named(&page);
    if named.len() < AT_LEAST {
        bail!("{PAGE} names only {} tests in the form `folder: test`", named.len());
    }
    let mut missing = Vec::new();
    for Named { folder, test } in named {
        if !has_test(&root.join(folder), test)? {
            missing.push(format!("{folder}: {test}"));
        }
    }
    if !missing.is_empty() {
        bail!(
            "{PAGE} names tests that do not exist: {}; name the test that shows the claim, or say that \
             none does",
            missing.join(", ")
        );
    }
    Ok(())
}

/// Code spans of the form `folder: name`, where the name is one of a function.
fn named(page: &str) -> Vec<Named<'_>> {
    let is_name = |text: &str| {
        let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        text.contains('_') && text.chars().all(is_inner)
    };
    // Every second piece is inside of backticks.
    let spans = page.split('`').skip(1).step_by(2);
    spans
        .filter_map(|span| span.split_once(": "))
        .filter(|(_, test)| is_name(test))
        .map(|(folder, test)| Named { folder, test })
        .collect()
}

fn has_test(folder: &Path, test: &str) -> Result<bool> {
    let wanted = format!("fn {test}(");
    for file in sources(folder)? {
        let text = fs::read_to_string(&file)
            .with_context(|| format!("failed to read {}", file.display()))?;
        if text
            .split(&wanted)
            .next()
            .is_some_and(|before| before.len() < text.len() && is_test(before))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether what stands before a function makes it a test.
fn is_test(before: &str) -> bool {
    let attributes = before.lines().rev().take(3);
    let mut attributes = attributes.map(str::trim_start);
    attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder)
        .with_context(|| format!("{PAGE} names the folder {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_read_from_code_spans_and_other_code_is_left_alone() {
        let page = "Altered jobs (`crates/seal: an_altered_job_is_refused`), and `kubectl get: x`; \
                    `permitted` and `tests/e2e: another_one`.";
        let expected = [
            Named { folder: "crates/seal", test: "an_altered_job_is_refused" },
            Named { folder: "tests/e2e", test: "another_one" },
        ];
        assert_eq!(named(page), expected);
    }

    #[test]
    fn a_function_is_a_test_only_by_its_attribute() {
        assert!(is_test("}\n\n#[tokio::test]\nasync "));
        assert!(is_test("    #[test]\n    "));
        assert!(!is_test("#[test]\nfn other() {\n}\n\n/// Helps.\n"));
        assert!(
            has_test(&root().join("xtask"), "a_function_is_a_test_only_by_its_attribute").unwrap()
        );
        assert!(!has_test(&root().join("xtask"), "has_test").unwrap());
    }
}
