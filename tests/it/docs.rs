//! The README and the chapters: every command in them is run as a reader would run it, beside the quickstart, and their tables
//! are those of the code.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use regex::Regex;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;

use crate::quickstart::Quickstart;
use crate::support::{Client, Kinto, Sidecar, eventually, skip};

/// Commands that are not run here, by how they begin, each with the reason.
const ELSEWHERE: &[(&str, &str)] = &[
    ("cargo ", "builds and runs this test, or needs a tool of its own"),
    ("./examples/quickstart", "is what all others are run beside"),
    ("tests/bench/run", "takes minutes, on a machine of its own"),
    ("tests/bench/count", "takes minutes, and builds of its own"),
    ("apt-get install ./", "installs on this machine; deploy::package looks into the package"),
    ("(umask 077; echo 'sidecar:s3cr3t' > /etc/", "writes to this machine"),
    ("systemctl ", "there is no init; deploy::unit has the unit verified"),
    ("promtool ", "deploy::prometheus runs it, where there is one"),
    ("prometheus ", "deploy::prometheus runs it, where there is one"),
    ("kinto-sidecar history import --from", "needs a Kinto with the history plugin; history::plugin has one"),
    ("SEEDS=", "is a longer form of a test"),
    ("SEED=", "is a longer form of a test"),
    ("KILLS=", "is a longer form of a test"),
    ("RESTARTS=", "is a longer form of a test"),
    ("MINUTES=", "is a longer form of a test"),
    ("COLLECTIONS=", "is a longer form of a test"),
    ("RECORDS=", "is a longer form of a test"),
    ("CLIENTS=", "is a longer form of a test"),
    ("ENTRIES=", "is a longer form of a test"),
    ("OPERATIONS=", "is a longer form of a test"),
    ("READS=", "is a longer form of a test"),
    ("WRITES=", "is a longer form of a test"),
    ("git clone ", "fetches what others wrote"),
    ("REMOTE_SETTINGS=", "takes minutes, and needs a checkout of remote-settings"),
];

/// Commands that go on until they are stopped.
const ENDLESS: &[&str] = &["curl -N", "target/release/kinto-sidecar --upstream"];

/// The files that have commands, the README first: what it makes the others may use.
fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chapters = fs::read_dir(root.join("src/chapters")).unwrap().map(|entry| entry.unwrap().path());
    let mut chapters: Vec<_> = chapters.collect();
    chapters.sort();
    [vec![root.join("README.md")], chapters].concat()
}

/// The blocks in this language in a file, each with the number of its first line.
fn blocks(path: &Path, language: &str) -> Vec<(usize, String)> {
    let fence = format!("```{language}");
    let text = fs::read_to_string(path).unwrap();
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut block: Option<(usize, String)> = None;
    let mut is_other = false;
    let mut last = "";
    for (number, line) in text.lines().enumerate() {
        match (&mut block, line) {
            (Some(_), "```") => blocks.extend(block.take()),
            (Some((_, text)), line) => *text += &format!("{line}\n"),
            (None, line) if line == fence && !is_other => block = Some((number + 2, String::new())),
            (None, line) if line.starts_with("```") => is_other = !is_other,
            (None, line) => assert!(
                is_other || !(line.starts_with("    ") && last.is_empty()),
                "{}:{}: code without a fence",
                path.display(),
                number + 1
            ),
        }
        last = line;
    }
    blocks
}

/// The commands of a block that can be run here: continued lines belong together.
fn here(block: &str) -> String {
    let commands = block.replace("\\\n", "\\\u{0}");
    let is_elsewhere =
        |command: &&str| !ELSEWHERE.iter().any(|(beginning, _)| command.starts_with(beginning));
    let kept: Vec<&str> = commands.lines().filter(is_elsewhere).collect();
    kept.join("\n").replace('\u{0}', "\n")
}

/// A command that goes on while those after it run, where it stands, and what it says.
struct Going {
    place: String,
    child: Child,
    said: PathBuf,
}

impl Going {
    /// Waits until it has said something, while there is something to be told of.
    async fn says(&mut self, notes: &Client) {
        eventually(&format!("words of {}", self.place), async || {
            let record = notes.post("/buckets/demo/collections/notes/records");
            record.data(json!({"text": "News"})).await.expect(201);
            (fs::metadata(&self.said).unwrap().len() > 0).then_some(())
        })
        .await;
        let said = fs::read_to_string(&self.said).unwrap();
        assert!(self.child.try_wait().unwrap().is_none(), "{} ended: {said}", self.place);
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn every_command_in_the_docs_does_what_it_says() {
    if Command::new("curl").arg("--version").output().is_err() {
        skip("curl is not installed, so the commands in the docs were not run");
        return;
    }
    let quickstart = Quickstart::start();
    let folder = tempfile::tempdir().unwrap();
    // A checkout with a release build, as far as commands can see.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["deploy", "examples", "tests"] {
        symlink(root.join(name), folder.path().join(name)).unwrap();
    }
    let release = folder.path().join("target/release");
    fs::create_dir_all(&release).unwrap();
    symlink(env!("CARGO_BIN_EXE_kinto-sidecar"), release.join("kinto-sidecar")).unwrap();
    let path = format!("{}:{}", release.display(), std::env::var("PATH").unwrap_or_default());
    // The journal is the quickstart's.
    let journal = format!("sqlite:{}", quickstart.folder.join("journal.db").display());
    let copied = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"))
        .args(["history", "backup", "--journal", &journal, "kinto-sidecar.db"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let is_endless = |commands: &str| {
        ENDLESS.iter().any(|beginning| commands.lines().any(|line| line.starts_with(beginning)))
    };
    let run = |commands: &str, stdout: Stdio, stderr: Stdio| {
        let here = commands
            .replace("0.0.0.0:8889", "127.0.0.1:0")
            .replace("127.0.0.1:8890", "127.0.0.1:0")
            .replace("127.0.0.1:8895", "127.0.0.1:0")
            .replace("localhost:8888", &quickstart.kinto)
            .replace("localhost:8889", &quickstart.sidecar)
            .replace("localhost:8890", &quickstart.admin)
            .replace("postgres://…", "sqlite:other.db")
            .replace("/backups/", "backup-of-")
            // What is served meanwhile has a journal of its own, each time.
            .replace("kinto-sidecar --upstream", "kinto-sidecar --journal sqlite:served-$$.db --upstream")
            .replace("/buckets/blog", "/buckets/demo")
            .replace("collections/articles", "collections/notes");
        let here = format!("curl() {{ command curl -sS --fail-with-body \"$@\"; }}\n{here}");
        Command::new("timeout")
            .args([if is_endless(commands) { "900" } else { "60" }, "bash", "-euo", "pipefail", "-c", &here])
            .current_dir(folder.path())
            .env("PATH", &path)
            .env("no_proxy", "localhost,127.0.0.1")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .unwrap()
    };
    let mut going = Vec::new();
    for file in files() {
        for (line, block) in blocks(&file, "sh") {
            let commands = here(&block);
            if commands.trim().is_empty() {
                continue;
            }
            let place = format!("{}:{line}:\n{commands}", file.display());
            if is_endless(&commands) {
                let said = folder.path().join(format!("said-{}", going.len()));
                let words = File::create(&said).unwrap();
                let child = run(&commands, words.try_clone().unwrap().into(), words.into());
                going.push(Going { place, child, said });
            } else {
                let child = run(&commands, Stdio::piped(), Stdio::piped());
                let output = child.wait_with_output().unwrap();
                let (said, complained) =
                    (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                assert!(output.status.success(), "{place}\n{said}{complained}");
            }
        }
    }
    // The account that the README names.
    let notes = Client::new(&quickstart.sidecar).with("authorization", "Basic ZGVtbzpkZW1v");
    for going in &mut going {
        going.says(&notes).await;
    }
}

#[test]
fn settings_in_the_docs_are_as_the_binary_wants_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kinto.ini");
    for file in files() {
        for (line, block) in blocks(&file, "ini") {
            fs::write(&path, format!("[app:main]\n{block}")).unwrap();
            // It reads its settings before it finds that nobody is there to be asked.
            let mut command = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
            let output =
                command.arg("--settings").arg(&path).args(["health", "unix:/nowhere"]).output().unwrap();
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{}:{line}: {complaint}", file.display());
        }
    }
}

#[test]
fn every_exception_is_still_needed() {
    let text: String = files().iter().flat_map(|file| blocks(file, "sh")).map(|(_, block)| block).collect();
    for (beginning, reason) in ELSEWHERE {
        assert!(
            text.lines().any(|line| line.starts_with(beginning)),
            "nothing begins with {beginning:?} ({reason})"
        );
    }
}

#[test]
fn what_the_docs_point_at_is_there() {
    for file in files() {
        let text = fs::read_to_string(&file).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.starts_with("http") && !link.starts_with('#')) {
            assert!(file.with_file_name("").join(link).exists(), "{}: {link}", file.display());
        }
    }
}

/// The names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let name = Regex::new("kinto_sidecar_[a-z_]*[a-z]").unwrap();
    name.find_iter(text).map(|found| found.as_str().to_owned()).collect()
}

/// The metrics that the chapter on operating explains.
pub fn explained_metrics() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/chapters/operating.md");
    let chapter = fs::read_to_string(path).unwrap();
    let (_, rest) = chapter.split_once("<!-- metrics -->").unwrap();
    metrics_in(rest.split_once("<!-- /metrics -->").unwrap().0)
}

#[tokio::test]
async fn the_table_of_metrics_is_that_of_the_code() {
    let explained = explained_metrics();
    let sidecar = Sidecar::start(Kinto::shared().url(), &[("sidecar.admin_listen", "127.0.0.1:0")]);
    let admin = Client::new(&sidecar.admin().unwrap());
    let given = admin.request_target(http::Method::GET, "/metrics").await.expect(200);
    let given = String::from_utf8(given.body.to_vec()).unwrap();
    let types: String = given.lines().filter(|line| line.starts_with("# TYPE")).collect();
    for metric in metrics_in(&types) {
        assert!(explained.contains(&metric), "{metric} is not explained");
    }
    // Some are there once something was counted, and some names are put together.
    let mut grep = Command::new("grep");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let code = grep.args(["-rh", "--include=*.rs", "kinto_sidecar_"]).arg(source).output().unwrap();
    let written = metrics_in(&String::from_utf8(code.stdout).unwrap());
    for metric in &written {
        let is_known =
            explained.iter().any(|known| known == metric || known.starts_with(&format!("{metric}_")));
        assert!(is_known, "{metric} is not explained");
    }
    let known: BTreeSet<String> = metrics_in(&types).union(&written).cloned().collect();
    for metric in &explained {
        assert!(known.contains(metric), "{metric} is nowhere in the code");
    }
}

#[test]
fn each_threat_has_a_test_that_holds_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chapter = fs::read_to_string(root.join("src/chapters/security.md")).unwrap();
    let (_, rest) = chapter.split_once("<!-- threats -->").unwrap();
    let rows = rest.split_once("<!-- /threats -->").unwrap().0.lines().filter(|line| line.starts_with("| "));
    let name = Regex::new("`([a-z0-9_]+(?:::[a-z0-9_]+)+)`").unwrap();
    for row in rows.skip(1) {
        let tests: Vec<_> = name.captures_iter(row).map(|found| found[1].to_owned()).collect();
        assert!(!tests.is_empty() || row.starts_with("| ---"), "no test: {row}");
        for test in tests {
            let (module, function) = test.rsplit_once("::").unwrap();
            let file = root.join("tests/it").join(module.replace("::", "/")).with_extension("rs");
            let text = fs::read_to_string(&file).unwrap_or_default();
            let is_test = Regex::new(&format!(r"#\[(tokio::)?test[^\n]*\n(async )?fn {function}\(")).unwrap();
            assert!(is_test.is_match(&text), "{test} is no test");
        }
    }
}
