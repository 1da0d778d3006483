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
    receive(&mut stream, MAX_ANSWER, |bytes| match bytes {
        // A tabular result, the only packet.
        [0x04, 0x01, high, low, ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            Ok((bytes.len() >= length.max(8)).then_some(()))
        }
        [0x04] | [] => Ok(None),
        [0x04, _, ..] if bytes.len() < 4 => Ok(None),
        _ => Err("it does not speak the protocol of SQL Server".to_owned()),
    })
    .await
}
