//! `history verify`: whether the journal is whole.

use std::fmt::Write as _;

use super::{Failure, view};
use crate::commands::report;
use crate::settings::Settings;

/// Reads all of it, and writes what there is to the standard output; gives what is said in the end.
pub(super) async fn run(settings: &Settings) -> Result<String, Failure> {
    let journal = view(settings).await?;
    let found = journal.verify().await?;
    let mut text = String::new();
    // Writing into a string cannot fail.
    let mut line = |word: &str, fact: &str| _ = writeln!(text, "{word:<14}{fact}");
    line("journal", &format!("{:?}", settings.journal));
    for (word, fact) in &found.facts {
        line(word, fact);
    }
    for problem in &found.problems {
        line("problem", problem);
    }
    report(&text).map_err(|_| Failure::Closed)?;
    if found.problems.is_empty() {
        return Ok("the journal is whole".to_owned());
    }
    Err(Failure::Problem(format!(
        "the journal {:?} is damaged ({} problems): put a backup in its place, or export what can be read of it and import \
         that into a new one",
        settings.journal,
        found.problems.len()
    )))
}
