//! The form of an image.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use kiln::rootfs::image;
use serde::Serialize;

use kiln::rootfs::size;

/// What an image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// An initial RAM disk.
    #[default]
    Initramfs,
    /// A disk.
    Ext4,
}

/// How an initial RAM disk is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compress {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
    /// By Zstandard.
    Zstd,
}

/// The form.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Format options")]
pub(crate) struct FormatOptions {
    /// What the image is: initramfs, or ext4, a disk with no partitions
    #[arg(long, value_name = "FORMAT", default_value = "initramfs", hide_possible_values = true)]
    pub(crate) format: Format,

    /// How an initramfs is compressed: none, gzip or zstd; none if not given
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    compress: Option<Compress>,

    /// Size of an ext4 image: K, M, G are binary, a bare number is MiB; if not given, its content and a quarter
    /// more, at least 32 MiB
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    size: Option<u64>,
}

impl FormatOptions {
    /// The form that was asked for.
    ///
    /// # Errors
    /// An option is for the other format.
    pub(crate) fn image(self) -> Result<image::Format> {
        match (self.format, self.compress, self.size) {
            (Format::Ext4, Some(_), _) => {
                bail!("--compress is for an initramfs, and --format ext4 makes a disk: leave one of them out")
            }
            (Format::Initramfs, _, Some(_)) => {
                bail!("--size is for a disk: add --format ext4, or leave it out")
            }
            (Format::Ext4, None, size) => Ok(image::Format::Ext4 { size }),
            (Format::Initramfs, _, None) => Ok(image::Format::Initramfs(match self.compress {
                None | Some(Compress::None) => image::Compression::None,
                Some(Compress::Gzip) => image::Compression::Gzip,
                Some(Compress::Zstd) => image::Compression::Zstd,
            })),
        }
    }

    /// How it is compressed; nothing if it is a disk.
    pub(crate) fn compress(self) -> Option<Compress> {
        (self.format == Format::Initramfs).then_some(self.compress.unwrap_or(Compress::None))
    }
}
