//! A zip archive without compression, which every system opens (PKWARE's APPNOTE, 4.3). Own, because
//! the crates that write one bring more code than the rest of the agent's files.

use std::io::{self, Write};

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
/// Version 2.0, the first with folders in names.
const VERSION: u16 = 20;
/// Names are UTF-8.
const FLAGS: u16 = 1 << 11;
/// Not compressed.
const STORED: u16 = 0;
/// The first day that the format knows. When the files changed stands in the list of files.
const DATE: u16 = (1 << 5) | 1;

/// An archive that is being written.
pub(super) struct Archive<W> {
    to: W,
    offset: u32,
    /// The list of files, which comes at the end.
    central: Vec<u8>,
    count: u16,
}

impl<W: Write> Archive<W> {
    /// Begins one.
    pub fn new(to: W) -> Archive<W> {
        Archive { to, offset: 0, central: Vec::new(), count: 0 }
    }

    /// Adds a file.
    pub fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let too_much = || io::Error::from(io::ErrorKind::FileTooLarge);
        let length = u32::try_from(content.len()).map_err(|_| too_much())?;
        let name_length = u16::try_from(name.len()).map_err(|_| too_much())?;
        let mut common = Vec::new();
        for field in [VERSION, FLAGS, STORED, 0, DATE] {
            common.extend(field.to_le_bytes());
        }
        for field in [crc32fast::hash(content), length, length] {
            common.extend(field.to_le_bytes());
        }
        common.extend(name_length.to_le_bytes());
        // No extra field.
        common.extend(0_u16.to_le_bytes());

        self.central.extend(CENTRAL.to_le_bytes());
        self.central.extend(VERSION.to_le_bytes());
        self.central.extend(&common);
        // No comment, the first disk, no attributes.
        self.central.extend([0; 10]);
        self.central.extend(self.offset.to_le_bytes());
        self.central.extend(name.as_bytes());
        self.count = self.count.checked_add(1).ok_or_else(too_much)?;

        let header = [&LOCAL.to_le_bytes(), common.as_slice(), name.as_bytes()].concat();
        let written = header.len() + content.len();
        let end = u32::try_from(written).ok().and_then(|written| self.offset.checked_add(written));
        self.offset = end.ok_or_else(too_much)?;
        self.to.write_all(&header)?;
        self.to.write_all(content)
    }

    /// Writes the list of files, and ends.
    pub fn finish(mut self) -> io::Result<W> {
        let too_much = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let length = u32::try_from(self.central.len()).map_err(too_much)?;
        self.to.write_all(&self.central)?;
        self.to.write_all(&END.to_le_bytes())?;
        // This disk, and the one where the list begins.
        self.to.write_all(&[0; 4])?;
        for field in [self.count, self.count] {
            self.to.write_all(&field.to_le_bytes())?;
        }
        for field in [length, self.offset] {
            self.to.write_all(&field.to_le_bytes())?;
        }
        // No comment.
        self.to.write_all(&[0; 2])?;
        Ok(self.to)
    }
}
