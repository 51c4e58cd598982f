//! kiln's own suites: each is a test target in `tests/`, run by plain `cargo test`.
