//! The registry's file of a Windows that is switched off, as Wine keeps it.

use std::fmt::Write as _;

/// Changes to `HKEY_LOCAL_MACHINE`.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    values: Vec<(String, String, Value)>,
    gone: Vec<String>,
}

#[derive(Clone, Debug)]
enum Value {
    Number(u32),
    Text(String),
}

impl Changes {
    /// None so far.
    pub fn new() -> Changes {
        Changes::default()
    }

    /// Sets a number; the key is made where it is missing.
    #[must_use]
    pub fn number(mut self, key: &str, name: &str, number: u32) -> Changes {
        self.values.push((key.to_owned(), name.to_owned(), Value::Number(number)));
        self
    }

    /// Sets a text; the key is made where it is missing.
    #[must_use]
    pub fn text(mut self, key: &str, name: &str, text: &str) -> Changes {
        self.values.push((key.to_owned(), name.to_owned(), Value::Text(text.to_owned())));
        self
    }

    /// Removes a key with everything in it.
    #[must_use]
    pub fn gone(mut self, key: &str) -> Changes {
        self.gone.push(key.to_owned());
        self
    }

    /// The file with the changes. Of a value that stands in it twice, Wine takes the last.
    pub(crate) fn applied(&self, file: &str) -> String {
        let mut text = String::with_capacity(file.len() + 1024);
        let mut is_gone = false;
        for line in file.lines() {
            if let Some(key) = line.strip_prefix('[') {
                is_gone = self.gone.iter().any(|gone| is_within(key, &escaped(gone)));
            }
            if !is_gone {
                text.push_str(line);
                text.push('\n');
            }
        }
        for (key, name, value) in &self.values {
            let key = escaped(key);
            let value = match value {
                Value::Number(number) => format!("dword:{number:08x}"),
                Value::Text(text) => format!("\"{}\"", escaped(text)),
            };
            writeln!(text, "\n[{key}]\n\"{name}\"={value}").expect("a string takes everything");
        }
        text
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\")
}

/// Whether a line of the file that begins with a key's name (`Software\\Some] 123`) is this key or one
/// below it. Names of keys have no case.
fn is_within(line: &str, key: &str) -> bool {
    let begins = line.get(..key.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(key));
    begins && line[key.len()..].starts_with([']', '\\'])
}

#[cfg(test)]
mod tests {
    use super::Changes;

    const FILE: &str = "WINE REGISTRY Version 2\n\n[Software\\\\A] 12\n\"x\"=dword:00000001\n\n\
                        [Software\\\\A\\\\B] 12\n@=\"y\"\n\n[Software\\\\AB] 12\n\"z\"=\"1\"\n";

    #[test]
    fn a_key_goes_with_all_below_it_and_its_namesakes_stay() {
        let file = Changes::new().gone(r"SOFTWARE\A").applied(FILE);
        assert_eq!(file, "WINE REGISTRY Version 2\n\n[Software\\\\AB] 12\n\"z\"=\"1\"\n");
    }

    #[test]
    fn values_are_added_at_the_end() {
        let file =
            Changes::new().number(r"Software\A", "x", 10).text("C", "y", r"C:\a").applied("");
        assert_eq!(file, "\n[Software\\\\A]\n\"x\"=dword:0000000a\n\n[C]\n\"y\"=\"C:\\\\a\"\n");
    }
}
