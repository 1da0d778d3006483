//! The first packet of SQL Server's protocol, which it answers before anybody logs on (Microsoft,
//! MS-TDS, "PRELOGIN").

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::receive;

const MAX_ANSWER: usize = 4096;

/// Type 0x12, the only packet, 26 bytes; version 0, and no encryption, which is never negotiated
/// because the connection ends with the answer.
const PRELOGIN: [u8; 26] = [
    0x12, 0x01, 0, 26, 0, 0, 1, 0, // header
    0, 0, 11, 0, 6, // version: 6 bytes at 11
    1, 0, 17, 0, 1,    // encryption: 1 byte at 17
    0xFF, // end of the options
    0, 0, 0, 0, 0, 0, // version
    2, // encryption is not supported
];

/// Asks.
pub(super) async fn ask(mut stream: TcpStream) -> Result<(), String> {
    stream.write_all(&PRELOGIN).await.map_err(|error| format!("cannot ask: {error}"))?;
    receive(&mut stream, MAX_ANSWER, read).await
}

/// Reads the answer; nothing as long as more of it must come.
fn read(bytes: &[u8]) -> Result<Option<()>, String> {
    match bytes {
        // A tabular result, the only packet.
        [0x04, 0x01, high, low, ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            Ok((bytes.len() >= length.max(8)).then_some(()))
        }
        [0x04] | [] => Ok(None),
        [0x04, _, ..] if bytes.len() < 4 => Ok(None),
        _ => Err("it does not speak the protocol of SQL Server".to_owned()),
    }
}

#[cfg(fuzzing)]
pub(super) fn judge_anything(bytes: &[u8]) {
    let _ = read(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_is_waited_for_until_it_is_whole() {
        let answer = [4, 1, 0, 12, 0, 0, 1, 0, 0xFF, 0, 0, 0];
        for length in 0..answer.len() {
            assert_eq!(read(&answer[..length]), Ok(None), "{length}");
        }
        assert_eq!(read(&answer), Ok(Some(())));
        assert!(read(b"HTTP").is_err());
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_borne(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&bytes);
        }
    }
}
