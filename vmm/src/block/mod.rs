//! Disks: where a block device's bytes live.

mod over;
mod raw;

pub use raw::{DiskError, RawDisk, SECTOR};
