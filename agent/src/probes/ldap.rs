//! An anonymous bind and a look at the root of the directory (RFC 4511, RFC 4512 §5.1). A domain
//! controller answers both to everybody, and says in `isSynchronized` whether it has caught up with
//! its partners (Microsoft, MS-ADTS, "rootDSE Attributes").

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::receive;

const MAX_ANSWER: usize = 64 * 1024;

/// Message 1: version 3, no name, no password.
const BIND: &[u8] = b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00";
/// Message 2: the entry without a name, if it has an object class, with the attribute
/// `isSynchronized`; at most one entry, five seconds.
const LOOK: &[u8] = b"\x30\x35\x02\x01\x02\x63\x30\x04\x00\x0a\x01\x00\x0a\x01\x00\x02\x01\x01\
    \x02\x01\x05\x01\x01\x00\x87\x0bobjectClass\x30\x10\x04\x0eisSynchronized";

const MESSAGE: u8 = 0x30;
const BIND_RESPONSE: u8 = 0x61;
const ENTRY: u8 = 0x64;

/// Asks.
pub(super) async fn ask(mut stream: TcpStream) -> Result<(), String> {
    for (request, read) in [(BIND, bound as fn(&[u8]) -> Verdict), (LOOK, shown)] {
        stream.write_all(request).await.map_err(|error| format!("cannot ask: {error}"))?;
        receive(&mut stream, MAX_ANSWER, |bytes| message(bytes).map(read).transpose()).await?;
    }
    Ok(())
}

type Verdict = Result<(), String>;

fn bound(response: &[u8]) -> Verdict {
    let Some((BIND_RESPONSE, fields, _)) = element(response) else {
        return Err("it does not speak LDAP".to_owned());
    };
    match element(fields) {
        Some((0x0A, [0], _)) => Ok(()),
        Some((0x0A, [code], _)) => Err(format!("it refuses an anonymous bind with code {code}")),
        _ => Err("it does not speak LDAP".to_owned()),
    }
}

fn shown(response: &[u8]) -> Verdict {
    let Some((ENTRY, fields, _)) = element(response) else {
        return Err("it does not show the root of its directory".to_owned());
    };
    let attributes = element(fields).and_then(|(_, _name, rest)| element(rest));
    let Some((MESSAGE, mut attributes, _)) = attributes else { return Ok(()) };
    while let Some((_, attribute, rest)) = element(attributes) {
        attributes = rest;
        let Some((_, name, values)) = element(attribute) else { continue };
        let value = element(values).and_then(|(_, set, _)| element(set));
        let is_behind = value.is_some_and(|(_, value, _)| value.eq_ignore_ascii_case(b"FALSE"));
        if name.eq_ignore_ascii_case(b"isSynchronized") && is_behind {
            return Err("the directory is not synchronized with its partners yet".to_owned());
        }
    }
    Ok(())
}

/// The operation of the first message that is there as a whole. What can never become one is
/// received until the limit, and judged then.
fn message(bytes: &[u8]) -> Option<&[u8]> {
    let (tag, fields, _) = element(bytes)?;
    let (_, _id, operation) = element(fields).filter(|_| tag == MESSAGE).unwrap_or((0, &[], &[]));
    Some(operation)
}

/// Tag, value and what follows of the first element; nothing if it is not there as a whole.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
        if digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

#[cfg(fuzzing)]
pub(super) fn judge_anything(bytes: &[u8]) {
    if let Some(operation) = message(bytes) {
        let _ = (bound(operation), shown(operation));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub const BOUND: &[u8] = b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00";

    /// The root of a directory that has caught up, or not.
    pub fn root(is_synchronized: bool) -> Vec<u8> {
        let value: &[u8] = if is_synchronized { b"TRUE" } else { b"FALSE" };
        let wrap = |tag: u8, parts: &[&[u8]]| {
            let value = parts.concat();
            [&[tag, u8::try_from(value.len()).unwrap()], value.as_slice()].concat()
        };
        let values = wrap(0x31, &[&wrap(0x04, &[value])]);
        let attribute = wrap(0x30, &[&wrap(0x04, &[b"isSynchronized"]), &values]);
        let entry = wrap(ENTRY, &[&wrap(0x04, &[]), &wrap(0x30, &[&attribute])]);
        wrap(MESSAGE, &[b"\x02\x01\x02", &entry])
    }

    #[test]
    fn requests_are_whole_messages() {
        assert_eq!(element(BIND).unwrap().2, b"");
        assert_eq!(element(LOOK).unwrap().2, b"");
        let operation = message(LOOK).unwrap();
        assert_eq!(element(operation).unwrap().0, 0x63);
        assert_eq!(element(operation).unwrap().2, b"");
    }

    #[test]
    fn a_directory_that_lags_behind_is_not_good() {
        assert_eq!(bound(message(BOUND).unwrap()), Ok(()));
        assert!(bound(message(&root(true)).unwrap()).is_err());
        assert_eq!(shown(message(&root(true)).unwrap()), Ok(()));
        assert!(shown(message(&root(false)).unwrap()).unwrap_err().contains("synchronized"));
        let refused = b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x31\x04\x00\x04\x00";
        assert!(bound(message(refused).unwrap()).unwrap_err().contains("code 49"));
        assert_eq!(message(&BOUND[..BOUND.len() - 1]), None, "there is more to come");
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_borne(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(operation) = message(&bytes) {
                let _ = (bound(operation), shown(operation));
            }
        }
    }
}
