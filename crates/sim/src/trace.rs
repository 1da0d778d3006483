//! What happened, line by line: hashed always, printed on demand. Equal seeds have equal hashes.

use crate::clock::{Ms, wall};

/// The story of one simulation.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: u64,
    prints: bool,
}

impl Trace {
    /// A story nobody has told yet.
    pub fn new(prints: bool) -> Trace {
        Trace { hash: 0xCBF2_9CE4_8422_2325, lines: 0, prints }
    }

    /// Adds a line.
    pub fn tell(&mut self, now: Ms, line: &str) {
        // FNV-1a: not for enemies, only to compare two runs.
        for byte in now.to_le_bytes().iter().chain(line.as_bytes()) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
        self.lines += 1;
        if self.prints {
            println!("{} {line}", wall(now));
        }
    }

    /// Hash over everything told.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Lines told.
    pub fn lines(&self) -> u64 {
        self.lines
    }
}
