//! What the program does beside serving.

pub mod check;
pub mod health;
pub mod history;

/// Tells the operator.
#[expect(clippy::print_stderr, reason = "the operator reads it here")]
pub fn complain(error: &dyn std::fmt::Display) {
    eprintln!("kinto-sidecar: {error}");
}
