//! Folders: lists of names, none of which crosses a block's end (directory.rst, linear directories).

use super::spec::{BLOCK, file_type, put};

/// Inode, record's length, name's length, type.
const HEADER: usize = 8;

/// A folder that is being filled.
#[derive(Debug)]
pub(super) struct Directory {
    bytes: Vec<u8>,
    /// Where the last entry is, whose record takes the rest of its block.
    last: usize,
}

impl Directory {
    /// A folder with nothing in it but itself and its parent.
    pub(super) fn new(own: u32, parent: u32) -> Self {
        let mut directory = Self { bytes: Vec::new(), last: 0 };
        directory.add(".", own, file_type::DIRECTORY);
        directory.add("..", parent, file_type::DIRECTORY);
        directory
    }

    /// Adds an entry; its name has at most 255 bytes.
    pub(super) fn add(&mut self, name: &str, inode: u32, kind: u8) {
        // Records are multiples of 4.
        let length = (HEADER + name.len()).next_multiple_of(4);
        let mut at = self.bytes.len();
        if at > 0 {
            let used = (HEADER + usize::from(self.bytes[self.last + 6])).next_multiple_of(4);
            let block_end = at;
            if self.last + used + length <= block_end {
                self.set_length(self.last, used);
                at = self.last + used;
            }
        }
        if at == self.bytes.len() {
            self.bytes.resize(at + BLOCK, 0);
        }
        put(&mut self.bytes, at, inode.to_le_bytes());
        self.bytes[at + 6] = u8::try_from(name.len()).unwrap_or(u8::MAX);
        self.bytes[at + 7] = kind;
        self.bytes[at + HEADER..][..name.len()].copy_from_slice(name.as_bytes());
        self.set_length(at, self.bytes.len() - at);
        self.last = at;
    }

    fn set_length(&mut self, at: usize, length: usize) {
        put(&mut self.bytes, at + 4, u16::try_from(length).unwrap_or(0).to_le_bytes());
    }

    /// Its blocks.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_fills_its_blocks_and_no_entry_crosses_one() {
        let mut directory = Directory::new(5, 2);
        let name = "n".repeat(255);
        for inode in 100..140 {
            directory.add(&name, inode, file_type::REGULAR);
        }
        let bytes = directory.into_bytes();
        assert_eq!(bytes.len(), 3 * BLOCK);
        let (mut at, mut inodes) = (0, Vec::new());
        while at < bytes.len() {
            let length = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
            assert_eq!(at / BLOCK, (at + length - 1) / BLOCK);
            inodes.push(bytes[at]);
            at += length;
        }
        assert_eq!(inodes, [5, 2].into_iter().chain(100..140).collect::<Vec<u8>>());
    }
}
