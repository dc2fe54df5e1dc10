//! `history import`: adds lines to the journal, from a file or a pipe.
//!
//! An import can be repeated and takes up where it was broken off: an entry is never there twice. Lines are read and
//! parsed on a thread of their own while those before them are written, a few thousand in one transaction. One that cannot
//! be read is left out, and named in the end: those behind it are of use.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::left_out::LeftOut;
use super::progress::Progress;
use super::{Failure, failed};
use crate::journal::{Imported, Journal, JournalError, Line, LinePart};

/// Lines of the first transaction.
const LINES: usize = 200;
/// After so many times as many entries an engine goes another way about them.
const GROWTH: usize = 4;
/// Fewer would not be quicker for anybody.
const FEWEST_LINES: usize = 50;
/// The most lines of a transaction.
const MOST_LINES: usize = 20_000;
/// Bytes of lines that are added at once; one line may be longer.
const BYTES: usize = 32 << 20;
/// The longest line: a body as large as anybody takes, and what is said about it.
const LONGEST: u64 = 128 << 20;
/// How long a transaction may take before the next one has fewer lines.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same where others wait for its end.
const PATIENCE_OF_OTHERS: Duration = Duration::from_millis(300);

/// Reads and adds all; gives what is said in the end.
pub(super) async fn run(journal: &Journal, file: Option<&Path>) -> Result<String, Failure> {
    let input: Box<dyn Read + Send> = match file {
        Some(name) => Box::new(File::open(name).map_err(|error| failed(file, &error))?),
        None => Box::new(io::stdin()),
    };
    journal.leave_indexes_out().await?;
    let mut parsed = parse(input, file);
    let mut progress = Progress::new("imported");
    let mut adding = Adding::new(journal);
    let (mut whole, mut left_out) = (Whole::default(), LeftOut::default());
    let done = async {
        while let Some(lines) = parsed.recv().await {
            let lines = lines?;
            let count = lines.len();
            let mut good = Vec::with_capacity(count);
            for line in lines {
                match line {
                    Ok(line) => {
                        whole.see(line.part).map_err(Failure::Problem)?;
                        good.push(line);
                    }
                    Err(reason) => {
                        whole.miss();
                        left_out.add(reason);
                    }
                }
            }
            adding.add(good).await?;
            progress.add(count);
        }
        left_out.end()?;
        whole.end().map_err(Failure::Problem)
    };
    let done: Result<(), Failure> = done.await;
    let made = async {
        journal.make_indexes().await?;
        journal.fill_chains().await?;
        journal.look_closely().await
    };
    let done = match done {
        Ok(()) => made.await.map_err(Failure::from),
        // What is there is to be of use all the same.
        Err(failure) => {
            journal.make_indexes().await.map_or_else(|error| Err(error.into()), |()| Err(failure))
        }
    };
    progress.end();
    match done {
        Ok(()) => Ok(told(adding.imported)),
        Err(failure) => Err(Failure::Problem(format!("{failure}; up to there {}", told(adding.imported)))),
    }
}

/// What was done.
pub(super) fn told(Imported { added, known }: Imported) -> String {
    format!("{added} entries were imported, {known} were there already")
}

/// Lines, and what is wrong with those that cannot be read.
type Parsed = Vec<Result<Line, String>>;

/// Reads lines on a thread of their own, which ends with the input or with whoever takes them.
fn parse(input: Box<dyn Read + Send>, file: Option<&Path>) -> mpsc::Receiver<Result<Parsed, Failure>> {
    let (sender, parsed) = mpsc::channel(1);
    let file = file.map(Path::to_owned);
    std::thread::spawn(move || {
        let mut input = BufReader::with_capacity(1 << 20, input);
        let mut number = 0;
        loop {
            let mut lines = Vec::new();
            let failure = read(&mut input, &mut number, &mut lines, file.as_deref()).err();
            let is_end = failure.is_some() || lines.is_empty();
            if !lines.is_empty() && sender.blocking_send(Ok(lines)).is_err() {
                return;
            }
            if let Some(failure) = failure {
                // Whoever took them may be gone.
                let _ = sender.blocking_send(Err(failure));
            }
            if is_end {
                return;
            }
        }
    });
    parsed
}

/// Reads some lines; none at the end.
fn read(
    input: &mut impl BufRead,
    number: &mut u64,
    lines: &mut Parsed,
    file: Option<&Path>,
) -> Result<(), Failure> {
    let mut bytes = 0;
    let mut text = Vec::new();
    while lines.len() < MOST_LINES && bytes < BYTES {
        text.clear();
        // Only what is longer than the longest line is cut.
        let length = input.by_ref().take(LONGEST).read_until(b'\n', &mut text);
        if length.map_err(|error| failed(file, &error))? == 0 {
            return Ok(());
        }
        *number += 1;
        bytes += text.len();
        let line = if text.len() as u64 == LONGEST && text.last() != Some(&b'\n') {
            input.skip_until(b'\n').map_err(|error| failed(file, &error))?;
            Err("it is longer than any entry".to_owned())
        } else {
            match std::str::from_utf8(&text) {
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => Line::parse(text),
                Err(_) => Err("it is not UTF-8".to_owned()),
            }
        };
        lines.push(line.map_err(|reason| format!("line {number} cannot be imported: {reason}")));
    }
    Ok(())
}

/// Adds lines, so many in one transaction that it takes as long as it may.
pub(super) struct Adding<'j> {
    journal: &'j Journal,
    pace: Pace,
    /// How many entries there may be until the engine looks again how much there is.
    looked: usize,
    /// What came of all lines so far.
    pub(super) imported: Imported,
}

impl<'j> Adding<'j> {
    pub(super) fn new(journal: &'j Journal) -> Self {
        let patience = if journal.is_shared() { PATIENCE_OF_OTHERS } else { PATIENCE };
        Self { journal, pace: Pace { at_once: LINES, patience }, looked: 0, imported: Imported::default() }
    }

    /// Adds lines; what is before an error is there.
    pub(super) async fn add(&mut self, mut lines: Vec<Line>) -> Result<(), JournalError> {
        while !lines.is_empty() {
            let rest = lines.split_off(lines.len().min(self.pace.at_once));
            let begun = Instant::now();
            let together = Arc::new(lines);
            match self.journal.import(Arc::clone(&together)).await {
                Ok(part) => {
                    self.imported.added += part.added;
                    self.imported.known += part.known;
                    self.pace.took(begun.elapsed());
                    if self.imported.added > self.looked {
                        self.journal.look_at_entries().await?;
                        self.looked = self.imported.added.saturating_mul(GROWTH);
                    }
                    lines = rest;
                }
                Err(error) => {
                    let is_late = matches!(error, JournalError::Unavailable(_));
                    // Where they still wait for the journal, they would be added twice at once.
                    let again =
                        Arc::into_inner(together).filter(|lines| is_late && self.pace.failed(lines.len()));
                    lines = again.ok_or(error)?;
                    lines.extend(rest);
                }
            }
        }
        Ok(())
    }
}

/// How many lines are added in one transaction.
#[derive(Debug)]
struct Pace {
    at_once: usize,
    patience: Duration,
}

impl Pace {
    /// A transaction took so long.
    fn took(&mut self, time: Duration) {
        if time > self.patience {
            self.at_once = (self.at_once / 2).max(FEWEST_LINES);
        } else if time < self.patience / 2 {
            self.at_once = (self.at_once * 2).min(MOST_LINES);
        }
    }

    /// A transaction of so many lines did not come to its end in time, as it may be where a machine has much else to do.
    /// Whether it is worth another try with fewer; what was added all the same is known then.
    fn failed(&mut self, lines: usize) -> bool {
        self.at_once = (lines / 4).max(FEWEST_LINES);
        lines > FEWEST_LINES
    }
}

/// Whether exports arrived from their first line to their last.
#[derive(Debug, Default)]
struct Whole {
    is_any: bool,
    /// Lines of an export whose end was not seen yet.
    lines: u64,
}

impl Whole {
    fn see(&mut self, part: LinePart) -> Result<(), String> {
        self.is_any = true;
        match part {
            LinePart::Served => {}
            LinePart::Exported => self.lines += 1,
            LinePart::End(expected) => {
                let lines = std::mem::take(&mut self.lines);
                if lines != expected {
                    return Err(format!(
                        "the export is not whole: it says that it has {expected} lines before the last, and {lines} arrived"
                    ));
                }
            }
        }
        Ok(())
    }

    /// A line was left out.
    fn miss(&mut self) {
        self.lines += u64::from(self.lines > 0);
    }

    fn end(&self) -> Result<(), String> {
        if !self.is_any {
            return Err("nothing arrived: an export has one line at least".to_owned());
        }
        if self.lines > 0 {
            return Err("the export is not whole: its last line, which says so, did not arrive".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_whole_where_its_end_fits() {
        use LinePart::{End, Exported, Served};
        let is_whole = |parts: &[LinePart]| {
            let mut whole = Whole::default();
            parts.iter().try_for_each(|part| whole.see(*part)).and_then(|()| whole.end()).is_ok()
        };
        for parts in [
            &[End(0)][..],
            &[Exported, End(1)],
            &[Exported, End(1), End(0)],
            &[Served, Exported, End(1)],
            &[Served],
        ] {
            assert!(is_whole(parts), "{parts:?}");
        }
        let mut missing_one = Whole::default();
        missing_one.see(Exported).unwrap();
        missing_one.miss();
        assert!(missing_one.see(End(2)).is_ok() && missing_one.end().is_ok());
        for parts in [
            &[][..],
            &[Exported],
            &[End(1)],
            &[Exported, End(2)],
            &[Exported, End(0)],
            &[Exported, End(1), Exported],
        ] {
            assert!(!is_whole(parts), "{parts:?}");
        }
    }

    #[test]
    fn fewer_lines_are_tried_after_a_transaction_that_did_not_end_in_time() {
        let mut pace = Pace { at_once: LINES, patience: PATIENCE };
        for _ in 0..10 {
            pace.took(Duration::ZERO);
        }
        let mut tried = Vec::new();
        loop {
            tried.push(pace.at_once);
            if !pace.failed(pace.at_once) {
                break;
            }
        }
        assert_eq!(tried, [20_000, 5_000, 1_250, 312, 78, 50]);
    }

    #[test]
    fn a_line_that_is_no_text_or_has_no_end_is_named() {
        let read = |text: &[u8]| {
            let (mut number, mut lines) = (0, Vec::new());
            read(&mut &*text, &mut number, &mut lines, None).unwrap();
            lines.into_iter().map(|line| line.map(|line| line.part)).collect::<Vec<_>>()
        };
        let end = |lines| Ok(LinePart::End(lines));
        assert_eq!(read(b"\n{\"end\":1}\n  \n{\"end\":2}"), [end(1), end(2)]);
        let no_text = Err("line 2 cannot be imported: it is not UTF-8".to_owned());
        assert_eq!(read(b"{\"end\":1}\n\xff\n{\"end\":2}"), [end(1), no_text, end(2)]);
    }
}
