//! The line that starts the service, as the service control manager keeps it.

use std::path::PathBuf;

use super::ARGUMENT;

/// A line taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program.
    pub program: PathBuf,
    /// The data folder, where it is named.
    pub folder: Option<PathBuf>,
}

impl Command {
    /// Takes a line apart.
    pub fn parse(line: &str) -> Command {
        let mut words = split(line).into_iter();
        let program = PathBuf::from(words.next().unwrap_or_default());
        let folder = words.skip_while(|word| word != "--data-dir").nth(1).map(PathBuf::from);
        Command { program, folder }
    }

    /// The arguments behind the program.
    pub fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments = vec![ARGUMENT.into()];
        if let Some(folder) = &self.folder {
            arguments.extend(["--data-dir".into(), folder.clone().into()]);
        }
        arguments
    }

    /// Whether the other line starts the same program. Windows does not tell upper from lower case.
    pub fn starts(&self, program: &std::path::Path) -> bool {
        let lower = |path: &std::path::Path| path.to_string_lossy().to_lowercase();
        lower(&self.program) == lower(program)
    }
}

/// Splits a line as Windows does (Microsoft Learn, "CommandLineToArgvW"): backslashes mean something
/// only before a quote.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let (mut backslashes, mut is_quoted) = (0, false);
    let take = |word: &mut Option<String>, count: usize| {
        if count > 0 {
            word.get_or_insert_default().extend(std::iter::repeat_n('\\', count));
        }
    };
    for char in line.chars() {
        match char {
            '\\' => backslashes += 1,
            '"' => {
                take(&mut word, backslashes / 2);
                if backslashes % 2 == 1 {
                    word.get_or_insert_default().push('"');
                } else {
                    is_quoted = !is_quoted;
                    word.get_or_insert_default();
                }
                backslashes = 0;
            }
            _ => {
                take(&mut word, std::mem::take(&mut backslashes));
                if matches!(char, ' ' | '\t') && !is_quoted {
                    words.extend(word.take());
                } else {
                    word.get_or_insert_default().push(char);
                }
            }
        }
    }
    take(&mut word, backslashes);
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_line_says_which_program_it_starts_and_with_which_folder() {
        let line =
            r#""C:\Program Files\Wardring\wardring-agent.exe" service --data-dir "D:\my data""#;
        let command = Command::parse(line);
        assert!(command.starts(Path::new(r"c:\program files\wardring\WARDRING-AGENT.EXE")));
        assert_eq!(command.folder.as_deref(), Some(Path::new(r"D:\my data")));
        assert_eq!(command.arguments(), ["service", "--data-dir", r"D:\my data"]);

        let other = Command::parse(r"C:\windows\system32\svchost.exe -k netsvcs");
        assert!(!other.starts(&command.program));
        assert_eq!((other.folder.as_ref(), other.arguments().len()), (None, 1));
        assert_eq!(Command::parse("").program, PathBuf::new());
    }

    #[test]
    fn backslashes_mean_something_only_before_a_quote() {
        assert_eq!(split(r#"a\\b "c d\\" e\"f "" g\"#), [r"a\\b", r"c d\", "e\"f", "", r"g\"]);
        assert_eq!(split("  \t "), [""; 0]);
    }
}
