//! A disk that fails now and then: what the sidecar's process calls is made by the test, with the machine's compiler.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// See the module. How often it fails is in a file that both know.
pub struct Disk {
    library: String,
    control: File,
    path: String,
}

impl Disk {
    /// Files of the journal below `folder`; `None` where there is no compiler.
    pub fn that_fails(folder: &Path) -> Option<Self> {
        let library = folder.join("failing.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/campaign/failing.c");
        let made =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
        if !made.is_ok_and(|made| made.status.success()) {
            crate::support::skip("there is no C compiler, so no disk failed");
            return None;
        }
        let path = folder.join("failing");
        fs::write(&path, [0; 8]).unwrap();
        let control = File::options().read(true).write(true).open(&path).unwrap();
        Some(Self { library: library.display().to_string(), control, path: path.display().to_string() })
    }

    /// What starts a program that has it.
    pub fn beside(&self) -> Vec<String> {
        let (preload, control) = (format!("LD_PRELOAD={}", self.library), format!("FAILING={}", self.path));
        ["env".to_owned(), preload, control].into()
    }

    /// One of so many calls that write fails from now on; none where it is 0.
    pub fn fail_one_of(&self, number: u64) {
        let number = u32::try_from(number).unwrap();
        self.control.write_all_at(&number.to_ne_bytes(), 0).unwrap();
    }

    /// How many calls failed.
    pub fn failures(&self) -> u32 {
        let mut failures = [0; 4];
        self.control.read_exact_at(&mut failures, 4).unwrap();
        u32::from_ne_bytes(failures)
    }
}
