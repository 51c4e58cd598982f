//! kiln's own suites: each is a test target in `tests/`, run by plain `cargo test`. Here is what several of them use.

pub mod rsp;
