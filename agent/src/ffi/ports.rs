//! TCP ports that are listened on.

use std::collections::BTreeSet;

use windows::Win32::Foundation::{ERROR_INSUFFICIENT_BUFFER, NO_ERROR, WIN32_ERROR};
use windows::Win32::NetworkManagement::IpHelper::{
    GetExtendedTcpTable, MIB_TCP6ROW_OWNER_PID, MIB_TCPROW_OWNER_PID, TCP_TABLE_OWNER_PID_LISTENER,
};
use windows::Win32::Networking::WinSock::{AF_INET, AF_INET6};
use windows::core::Result;

/// Ports of both kinds of IP; what Windows does not tell is left out.
pub fn listening_ports() -> BTreeSet<u16> {
    collected(four().unwrap_or_default(), six().unwrap_or_default())
}

/// The same.
///
/// # Errors
/// Windows does not tell those of one kind.
pub fn find_listening_ports() -> Result<BTreeSet<u16>> {
    Ok(collected(four()?, six()?))
}

fn four() -> Result<Vec<MIB_TCPROW_OWNER_PID>> {
    rows(u32::from(AF_INET.0))
}

fn six() -> Result<Vec<MIB_TCP6ROW_OWNER_PID>> {
    rows(u32::from(AF_INET6.0))
}

fn collected(four: Vec<MIB_TCPROW_OWNER_PID>, six: Vec<MIB_TCP6ROW_OWNER_PID>) -> BTreeSet<u16> {
    let four = four.iter().map(|row| row.dwLocalPort);
    let six = six.iter().map(|row| row.dwLocalPort);
    // The lower half of the number, in the order of the network.
    four.chain(six).map(|port| u16::from_be(port as u16)).collect()
}

/// The rows of a table whose first four bytes say how many there are.
fn rows<R: Copy>(family: u32) -> Result<Vec<R>> {
    // u64 keeps the rows that Windows writes into it aligned.
    let mut buffer: Vec<u64> = Vec::new();
    // The table may grow between the call that tells its size and the next one.
    for _ in 0..5 {
        let mut bytes = u32::try_from(buffer.len() * 8).unwrap_or(u32::MAX);
        // SAFETY: the buffer is as long as `bytes` says, and both live through the call.
        let answer = unsafe {
            GetExtendedTcpTable(
                Some(buffer.as_mut_ptr().cast()),
                &mut bytes,
                false,
                family,
                TCP_TABLE_OWNER_PID_LISTENER,
                0,
            )
        };
        if answer == NO_ERROR.0 {
            return Ok(read(&buffer));
        }
        if answer != ERROR_INSUFFICIENT_BUFFER.0 {
            return Err(WIN32_ERROR(answer).into());
        }
        buffer = vec![0; bytes as usize / 8 + 64];
    }
    Err(ERROR_INSUFFICIENT_BUFFER.into())
}

fn read<R: Copy>(buffer: &[u64]) -> Vec<R> {
    let Some(first) = buffer.first() else { return Vec::new() };
    let count = u32::from_le_bytes([
        first.to_le_bytes()[0],
        first.to_le_bytes()[1],
        first.to_le_bytes()[2],
        first.to_le_bytes()[3],
    ]) as usize;
    let room = (buffer.len() * 8 - 4) / size_of::<R>();
    // SAFETY: the rows are plain numbers, begin four bytes into the buffer, which is aligned for
    // them, and no more of them are read than fit.
    let rows = unsafe {
        std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>().add(4).cast::<R>(), count.min(room))
    };
    rows.to_vec()
}
