//! Programs of Debian's that tests run: unpacked beside the other environments, and not installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::environment;

/// The folder into which a package was unpacked, with those that it depends on and that this machine has not.
pub fn unpacked(package: &str) -> Result<PathBuf, String> {
    let root = environment::root();
    let folder = root.join(package);
    if folder.exists() {
        return Ok(folder);
    }
    let trouble = |error: std::io::Error| error.to_string();
    fs::create_dir_all(&root).map_err(trouble)?;
    let lock = File::create(root.join(format!("{package}.lock"))).map_err(trouble)?;
    lock.lock().map_err(trouble)?;
    if folder.exists() {
        return Ok(folder);
    }
    let downloads = tempfile::tempdir().map_err(trouble)?;
    // A machine that was just made has no list of packages yet.
    download(package, downloads.path()).or_else(|_| {
        run(Command::new("apt-get").args(["update", "-qq"])).and_then(|_| download(package, downloads.path()))
    })?;
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    for file in fs::read_dir(&downloads).map_err(trouble)? {
        run(Command::new("dpkg-deb").arg("--extract").arg(file.map_err(trouble)?.path()).arg(&partial))?;
    }
    fs::rename(&partial, &folder).map_err(trouble)?;
    Ok(folder)
}

fn download(package: &str, folder: &Path) -> Result<(), String> {
    let plan =
        run(Command::new("apt-get").args(["install", "--simulate", "--no-install-recommends", package]))?;
    let missing: Vec<&str> =
        plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next()).collect();
    run(Command::new("apt-get").args(["download", "-qq"]).args(missing).current_dir(folder)).map(drop)
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{command:?}: {complaint}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
