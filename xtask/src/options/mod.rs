//! The options that several commands share, in groups, so that they mean the same everywhere.
//!
//! Responsible for the text of the command line only: what comes out is typed and in range, but whether a
//! file is there and a machine possible is for those who open the one and build the other to say.

mod build;
mod format;
mod image;
mod machine;
mod output;
mod parse;

pub(crate) use build::BuildOptions;
pub(crate) use format::{Compress, Format, FormatOptions};
pub(crate) use image::ImageOptions;
pub(crate) use machine::{Accel, AccelOption, MachineOptions};
pub(crate) use output::JsonOption;
pub(crate) use parse::{Copied, age, module};
