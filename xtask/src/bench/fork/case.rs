//! The small case that machines are forked for.

use kiln::guest_test;

/// Its first word on standard output comes where its first assertion holds.
pub(super) const WORD: &str = "holds";
/// Its name, as whoever runs it in a guest says it.
pub(super) const NAME: &str = "bench::fork::case::assertion_holds";

#[guest_test]
fn assertion_holds() {
    assert!(std::process::id() > 1, "the agent is the first process, and no case");
    println!("{WORD}");
}
