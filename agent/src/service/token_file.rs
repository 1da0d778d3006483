//! The enrolment token in a file: on a command line it would stand in the records that Windows keeps
//! of started programs, where those records are switched on.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest file that is read; a token is shorter than a tenth of this.
const MOST_BYTES: u64 = 8 * 1024;

/// Why a file gives no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error(
        "failed to read the token file {path}; who installs must be able to read it: on a share that is \
         the computer's own account, where SYSTEM installs"
    )]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("the token file {path} is not a text with one token and nothing else")]
    NoToken {
        /// Which.
        path: PathBuf,
    },
}

/// Reads the token in a file.
///
/// # Errors
/// The file cannot be read, or is no text with one word.
pub fn read(path: &Path) -> Result<String, TokenFileError> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes));
    file.map_err(|source| TokenFileError::Read { path: path.to_owned(), source })?;
    let text = if bytes.len() as u64 > MOST_BYTES { None } else { text(&bytes) };
    let text = text.unwrap_or_default();
    let mut words = text.split_whitespace();
    match (words.next(), words.next()) {
        (Some(token), None) => Ok(token.to_owned()),
        _ => Err(TokenFileError::NoToken { path: path.to_owned() }),
    }
}

/// Text as Windows' programs write it: PowerShell's `>` makes UTF-16, its editors put a mark in front.
fn text(bytes: &[u8]) -> Option<String> {
    if let Some(rest) = bytes.strip_prefix(&[0xff, 0xfe]) {
        let (units, left) = rest.as_chunks::<2>();
        let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
        return left.is_empty().then(|| String::from_utf16(&units).ok()).flatten();
    }
    let bytes = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_bytes(bytes: &[u8]) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, bytes).unwrap();
        read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_is_read_as_windows_programs_write_it() {
        let wide: Vec<u8> = [0xff, 0xfe]
            .into_iter()
            .chain("a/b.c.d\r\n".encode_utf16().flat_map(u16::to_le_bytes))
            .collect();
        for bytes in [&b"a/b.c.d"[..], b"  a/b.c.d\r\n", b"\xef\xbb\xbfa/b.c.d\n", &wide] {
            assert_eq!(read_bytes(bytes).unwrap(), "a/b.c.d");
        }
    }

    #[test]
    fn a_file_with_anything_else_is_refused_and_none_of_it_is_shown() {
        let long = vec![b'x'; 9000];
        for bytes in [&b""[..], b"\r\n", b"secret one", b"secret\xff", b"\xff\xfes", &long] {
            let refused = read_bytes(bytes).unwrap_err();
            assert!(refused.contains("one token and nothing else"), "{refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
        let missing = read(Path::new("/no/token")).unwrap_err().to_string();
        assert!(missing.contains("/no/token") && missing.contains("computer's own"), "{missing}");
    }
}
