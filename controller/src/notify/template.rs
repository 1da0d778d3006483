//! Bodies of webhooks from templates that tenants write.
//!
//! A template may name what it is given, ask whether it is there, and go through it. It may not make
//! anything: with operators that join and repeat, a few lines fill the controller's memory long before
//! any fuel is spent. So they are refused before the engine sees them.

use std::io;

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value;

/// Steps of the engine for one body.
const FUEL: u64 = 10_000;
/// Longest body.
pub const MAX_BODY: usize = 32 * 1024;

/// Why a template makes no body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// What templates may not do.
    #[error(
        "line {line} uses `{what}`; templates may only name fields, `if` and `for`, without operators that join or compute"
    )]
    Forbidden {
        /// Where.
        line: usize,
        /// What stands there.
        what: String,
    },
    /// It is no template.
    #[error("line {line} cannot be read as a template")]
    Unreadable {
        /// Where.
        line: usize,
    },
    /// It names what is not there.
    #[error("line {line} names a field or filter that does not exist")]
    Unknown {
        /// Where.
        line: usize,
    },
    /// It does too much.
    #[error("it takes more than {FUEL} steps; does it loop over the same list again and again?")]
    Endless,
    /// It writes too much.
    #[error("its result is longer than {MAX_BODY} bytes")]
    TooLong,
    /// No JSON comes out.
    #[error("its result is not JSON: write `{{{{ field }}}}` without quotes, it brings its own")]
    NotJson,
    /// Anything else.
    #[error("line {line} fails")]
    Fails {
        /// Where.
        line: usize,
    },
}

/// The body that `template` makes of `fields`.
pub fn render(template: &str, fields: &Value) -> Result<Vec<u8>, TemplateError> {
    allow(template)?;
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Json);
    environment.set_fuel(Some(FUEL));
    let mut body = Capped(Vec::new());
    let context = minijinja::value::Serde(fields);
    environment
        .template_from_str(template)
        .and_then(|template| template.render_captured_to(context, &mut body).map(drop))
        .map_err(|error| sorted(&error))?;
    match serde_json::from_slice::<serde::de::IgnoredAny>(&body.0) {
        Ok(_) => Ok(body.0),
        Err(_) => Err(TemplateError::NotJson),
    }
}

/// The engine's errors in our words: its own repeat the template, which may hold a secret.
fn sorted(error: &minijinja::Error) -> TemplateError {
    let line = error.line().unwrap_or(1);
    match error.kind() {
        ErrorKind::SyntaxError => TemplateError::Unreadable { line },
        ErrorKind::UndefinedError
        | ErrorKind::UnknownFilter
        | ErrorKind::UnknownTest
        | ErrorKind::UnknownFunction
        | ErrorKind::UnknownMethod => TemplateError::Unknown { line },
        ErrorKind::OutOfFuel => TemplateError::Endless,
        ErrorKind::WriteFailure => TemplateError::TooLong,
        _ => TemplateError::Fails { line },
    }
}

/// Refuses what could make something of nothing. Goes through the tags as the engine does: text in
/// quotes ends no tag.
fn allow(template: &str) -> Result<(), TemplateError> {
    let mut rest = template;
    let line = |rest: &str| template[..template.len() - rest.len()].matches('\n').count() + 1;
    while let Some(start) = ["{{", "{%", "{#"].iter().filter_map(|tag| rest.find(tag)).min() {
        let opening = &rest[start..start + 2];
        let inside = &rest[start + 2..];
        let unreadable = TemplateError::Unreadable { line: line(&rest[start..]) };
        if opening == "{#" {
            let end = inside.find("#}").ok_or(unreadable)?;
            rest = &inside[end + 2..];
            continue;
        }
        let closing = if opening == "{{" { "}}" } else { "%}" };
        let end = tag_end(inside, closing).map_err(|at| match at {
            Some(letter) => TemplateError::Forbidden {
                line: line(&rest[start..]),
                what: letter.escape_default().to_string(),
            },
            None => unreadable,
        })?;
        if opening == "{%" {
            let words = inside[..end].trim_matches(['-', '+', ' ', '\t', '\r', '\n']);
            let word = words.split_whitespace().next().unwrap_or_default();
            if !["if", "elif", "else", "endif", "for", "endfor"].contains(&word) {
                let what: String = word.chars().take(20).collect();
                let what = what.escape_default().to_string();
                return Err(TemplateError::Forbidden { line: line(&rest[start..]), what });
            }
        }
        rest = &inside[end + 2..];
    }
    Ok(())
}

/// Where the tag ends, or the letter that it must not have.
fn tag_end(inside: &str, closing: &str) -> Result<usize, Option<char>> {
    let mut quote = None;
    for (at, letter) in inside.char_indices() {
        match quote {
            // Escapes would let the engine see another end than we do.
            Some(_) if letter == '\\' => return Err(Some(letter)),
            Some(open) if letter == open => quote = None,
            Some(_) => {}
            None if inside[at..].starts_with(closing) => return Ok(at),
            None => match letter {
                '"' | '\'' => quote = Some(letter),
                letter if letter.is_alphanumeric() || letter.is_whitespace() => {}
                '_' | '.' | '=' | '!' | '<' | '>' | '-' => {}
                letter => return Err(Some(letter)),
            },
        }
    }
    Err(None)
}

/// A body that takes no more than [`MAX_BODY`].
struct Capped(Vec<u8>);

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_BODY {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields() -> Value {
        json!({ "summary": "srv-1 is \"down\"\n", "kbs": ["KB1", "KB2"], "stage": "" })
    }

    fn body(template: &str) -> Result<Value, TemplateError> {
        render(template, &fields()).map(|body| serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn values_are_json_whatever_devices_wrote_into_them() {
        let template = r#"{"text": {{ summary }}, "kbs": {{ kbs }}, "stars": "*bold*"
            {%- if stage %}, "stage": {{ stage }}{% endif %}}"#;
        assert_eq!(
            body(template).unwrap(),
            json!({ "text": "srv-1 is \"down\"\n", "kbs": ["KB1", "KB2"], "stars": "*bold*" })
        );
        let list =
            r#"[{% for kb in kbs %}{% if loop.index > 1 %},{% endif %}{{ kb }}{% endfor %}]"#;
        assert_eq!(body(list).unwrap(), json!(["KB1", "KB2"]));
    }

    #[test]
    fn whatever_could_fill_the_memory_is_refused_before_it_runs() {
        for template in [
            "{{ 'a' * 100000000 }}",
            "{{ [1] * 100000000 }}",
            "{{ '}}' * 100000000 }}",
            "{{ '\\'}}' * 100000000 }}",
            "{% set a = summary ~ summary %}{{ a }}",
            "{% for a in [summary ~ summary] %}{{ a }}{% endfor %}",
            "{% with a = summary %}{{ a }}{% endwith %}",
            "{% raw %}{{ x * 3 }}{% endraw %}",
            "{%- set x = 1 %}1",
            "{{ summary[0] }}",
            "{{ range(100000) }}",
            "{{ summary|indent(100) }}",
        ] {
            let refused = body(template);
            assert!(
                matches!(refused, Err(TemplateError::Forbidden { .. })),
                "{template}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_template_that_loops_errs_or_says_no_json_is_refused_in_a_sentence() {
        let deep = "{% for a in kbs %}".repeat(14) + "1" + &"{% endfor %}".repeat(14);
        assert_eq!(body(&deep), Err(TemplateError::Endless));
        assert_eq!(body("\n{{ colour }}"), Err(TemplateError::Unknown { line: 2 }));
        assert_eq!(body("{{ summary"), Err(TemplateError::Unreadable { line: 1 }));
        assert_eq!(body("{% if %}1{% endif %}"), Err(TemplateError::Unreadable { line: 1 }));
        assert_eq!(body("{\"text\": \"{{ summary }}\"}"), Err(TemplateError::NotJson));
        let long = format!("{{% for a in kbs %}}{}{{% endfor %}}", "1".repeat(20_000));
        assert_eq!(body(&long), Err(TemplateError::TooLong));
        assert_eq!(
            TemplateError::NotJson.to_string(),
            "its result is not JSON: write `{{ field }}` without quotes, it brings its own"
        );
    }
}
