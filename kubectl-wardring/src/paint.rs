//! Colour, only where a person looks at a terminal.

use std::io::IsTerminal;

/// What a colour says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing in particular.
    #[default]
    Plain,
    /// Well and done.
    Good,
    /// Under way.
    Busy,
    /// Worth a look.
    Warn,
    /// A person is needed.
    Bad,
    /// Less important.
    Dim,
}

/// Whether to write colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Palette {
    /// ANSI colours.
    Colour,
    /// None.
    Plain,
}

impl Palette {
    /// Colour if standard output is a terminal that takes it and nobody objects (<https://no-color.org>).
    pub fn of_stdout() -> Palette {
        let objects = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if std::io::stdout().is_terminal() && !objects { Palette::Colour } else { Palette::Plain }
    }

    /// `text` in the colour of `tone`.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Busy => "36",
            Tone::Warn => "33",
            Tone::Bad => "31;1",
            Tone::Dim => "2",
        };
        match self {
            Palette::Colour if !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}
