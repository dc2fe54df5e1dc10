//! What the program is built of: licences, bans and sources as `deny.toml` has them, and nothing that nobody uses.
//!
//! `cargo deny check` knows more (advisories, texts of licences) and is heavy to build. This needs nothing but Cargo.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// A list of texts in `deny.toml`.
fn list(name: &str) -> Vec<String> {
    let rules = include_str!("../../deny.toml");
    let (_, after) = rules.split_once(&format!("\n{name} = [")).expect(name);
    let (inside, _) = after.split_once(']').unwrap();
    inside.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What Cargo knows of the crate and of all that it is built of.
fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version=1", "--locked"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    for target in list("targets") {
        command.arg(format!("--filter-platform={target}"));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The packages that are built for one of the targets.
fn built(metadata: &Value) -> Vec<&Value> {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let ids: BTreeSet<&str> = nodes.iter().map(|node| node["id"].as_str().unwrap()).collect();
    let packages = metadata["packages"].as_array().unwrap();
    packages.iter().filter(|package| ids.contains(package["id"].as_str().unwrap())).collect()
}

/// Whether somebody who accepts these licences may use what is under this expression of SPDX's.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    // Older packages have a slash between licences of which one may be chosen.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let is_allowed = any(&mut words, allowed);
    assert_eq!(words.next(), None, "{expression}");
    is_allowed
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

fn any(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut is_allowed = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        is_allowed |= all(words, allowed);
    }
    is_allowed
}

fn all(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut is_allowed = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        is_allowed &= one(words, allowed);
    }
    is_allowed
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let licence = words.next().expect("a licence");
    if licence == "(" {
        let is_allowed = any(words, allowed);
        assert_eq!(words.next(), Some(")"));
        return is_allowed;
    }
    let licence = match words.next_if_eq(&"WITH") {
        Some(_) => format!("{licence} WITH {}", words.next().expect("an exception")),
        None => licence.to_owned(),
    };
    allowed.contains(&licence)
}

#[test]
fn licences_are_read_as_spdx_means_them() {
    let allowed = ["MIT", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
    for (expression, is) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 OR MIT AND Zlib", false),
        ("(GPL-3.0 OR MIT) AND MIT", true),
        ("MIT AND (Zlib OR ISC)", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), is, "{expression}");
    }
}

#[test]
fn what_it_is_built_of_may_be_used_and_comes_from_one_place() {
    let metadata = metadata();
    let (allowed, banned) = (list("allow"), list("deny"));
    let mut sources = BTreeSet::new();
    let mut troubles = Vec::new();
    for package in built(&metadata) {
        let name = package["name"].as_str().unwrap();
        if !package["license"].as_str().is_some_and(|expression| is_allowed(expression, &allowed)) {
            troubles.push(format!("{name} is under {}", package["license"]));
        }
        if banned.iter().any(|banned| banned == name) {
            troubles.push(format!("{name} is banned"));
        }
        match package["source"].as_str() {
            Some(source) => drop(sources.insert(source)),
            None if name == env!("CARGO_PKG_NAME") => {}
            None => troubles.push(format!("{name} is of nobody knows where")),
        }
        if package["source"].is_null() {
            let wild = package["dependencies"].as_array().unwrap().iter().filter(|one| one["req"] == "*");
            troubles.extend(wild.map(|one| format!("{} may be of any version", one["name"])));
        }
    }
    if sources.len() != 1 || !sources.iter().all(|source| source.starts_with("registry+")) {
        troubles.push(format!("there are several sources: {sources:?}"));
    }
    assert!(troubles.is_empty(), "{}", troubles.join("\n"));
}

#[test]
fn nothing_is_built_in_that_nobody_names() {
    let metadata = metadata();
    let resolved = &metadata["resolve"];
    let is_own = |node: &&Value| node["id"] == resolved["root"];
    let own = resolved["nodes"].as_array().unwrap().iter().find(is_own).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut program, mut tests) = (String::new(), String::new());
    read(&root.join("src"), &mut program);
    for folder in ["tests/it", "tests/loom"] {
        read(&root.join(folder), &mut tests);
    }
    // The tests have some files in common with the fuzz targets.
    read(&root.join("tests/fuzz/src"), &mut tests);
    for dependency in own["deps"].as_array().unwrap() {
        let name = dependency["name"].as_str().unwrap();
        let is_named = |text: &str| text.contains(&format!("{name}::"));
        let is_for_tests =
            dependency["dep_kinds"].as_array().unwrap().iter().all(|kind| kind["kind"] == "dev");
        assert!(is_named(&program) || is_for_tests && is_named(&tests), "nobody uses {name}");
    }
}

/// All sources below a folder.
fn read(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
