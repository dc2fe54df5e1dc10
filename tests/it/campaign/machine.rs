//! A machine whose disk fails now and then and whose clock is wrong, as a process sees it: what it calls is made by the test, with
//! the real machine's compiler.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Bytes of the file of numbers, and where each of them is.
const LENGTH: usize = 16;
const ONE_OF: u64 = 0;
const FAILURES: u64 = 4;
const AHEAD: u64 = 8;

/// See the module. How wrong it is stands in a file that both know.
pub struct Machine {
    library: String,
    control: File,
    path: String,
}

impl Machine {
    /// All is well at first; `None` where there is no compiler. Files of the journal are below `folder`.
    pub fn named(name: &str, folder: &Path) -> Option<Self> {
        let library = folder.join(format!("{name}.so"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/campaign/machine.c");
        let made =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
        if !made.is_ok_and(|made| made.status.success()) {
            crate::support::skip("there is no C compiler, so no disk failed and no clock was wrong");
            return None;
        }
        let path = folder.join(name);
        fs::write(&path, [0; LENGTH]).unwrap();
        let control = File::options().read(true).write(true).open(&path).unwrap();
        Some(Self { library: library.display().to_string(), control, path: path.display().to_string() })
    }

    /// What tells a program of it.
    pub fn variables(&self) -> [(&'static str, &str); 2] {
        [("LD_PRELOAD", &self.library), ("MACHINE", &self.path)]
    }

    /// What starts a program that is on it.
    pub fn beside(&self) -> Vec<String> {
        let variables = self.variables().map(|(name, value)| format!("{name}={value}"));
        ["env".to_owned()].into_iter().chain(variables).collect()
    }

    /// One of so many calls that write fails from now on; none where it is 0.
    pub fn fail_one_of(&self, number: u64) {
        let number = u32::try_from(number).unwrap();
        self.control.write_all_at(&number.to_ne_bytes(), ONE_OF).unwrap();
    }

    /// How many calls failed.
    pub fn failures(&self) -> u32 {
        let mut failures = [0; 4];
        self.control.read_exact_at(&mut failures, FAILURES).unwrap();
        u32::from_ne_bytes(failures)
    }

    /// By how many seconds the clock is ahead from now on.
    pub fn set_ahead(&self, seconds: i64) {
        self.control.write_all_at(&(seconds * 1_000_000_000).to_ne_bytes(), AHEAD).unwrap();
    }
}
