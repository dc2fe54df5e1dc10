//! Imports point down: no file imports from a floor above its own, and no two files import each other, directly or by
//! way of others.
//!
//! The floors are the list in `src/lib.rs`, which is also the map for people. Each path of `src/` that begins with
//! `crate::` or `super::` is followed, through re-exports, to the file that defines what it names. A module's own children
//! are parts of it, and no imports.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// Where a module's names lead to.
#[derive(Default)]
struct Module {
    file: String,
    children: BTreeSet<String>,
    /// What the file defines itself.
    items: BTreeSet<String>,
    /// Names of others that it uses, with the path of each.
    uses: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    /// Every path that is named, with its line.
    paths: Vec<(Vec<String>, usize)>,
}

/// The crate's modules by their paths: `["feeds", "filter"]`.
type Modules = BTreeMap<Vec<String>, Module>;

/// An import: from which file, at what line, to which file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: String,
    line: usize,
    to: String,
}

#[test]
fn imports_point_down_and_nowhere_in_a_circle() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let floors = floors(&sources["lib.rs"]);
    assert!(floors.len() >= 12, "only {} floors", floors.len());
    let troubles = troubles(&sources, &floors);
    assert!(troubles.is_empty(), "{troubles}");
}

#[test]
fn an_import_that_runs_up_is_found_with_its_line() {
    let sources = planted("pub mod high;\npub mod low;\n", "pub fn up() {}\n", "\nuse crate::high::up;\n");
    let found = troubles(&sources, &[vec!["high".to_owned()], vec!["low".to_owned()]]);
    assert_eq!(found, "low.rs:2 imports high.rs, which is on a floor above\n");
}

#[test]
fn a_circle_within_a_floor_is_found_through_a_re_export() {
    let (high, low) =
        ("pub use crate::low::up;\n", "pub fn up() {}\npub fn down() { crate::high::side::f() }\n");
    let mut sources = planted("pub mod high;\npub mod low;\n", high, low);
    sources.insert("high.rs".to_owned(), "pub mod side;\n".to_owned());
    sources.insert("high/side.rs".to_owned(), "pub use crate::low::up;\npub fn f() {}\n".to_owned());
    let found = troubles(&sources, &[vec!["high".to_owned(), "low".to_owned()]]);
    assert_eq!(found, "a circle: high/side.rs -> low.rs (line 1), low.rs -> high/side.rs (line 2)\n");
}

#[test]
fn a_room_that_is_on_no_floor_is_found() {
    let sources = planted("pub mod high;\npub mod low;\n", "", "");
    let found = troubles(&sources, &[vec!["high".to_owned()]]);
    assert_eq!(found, "low.rs is on no floor\n");
}

fn planted(lib: &str, high: &str, low: &str) -> BTreeMap<String, String> {
    let files = [("lib.rs", lib), ("high.rs", high), ("low.rs", low)];
    files.map(|(name, text)| (name.to_owned(), text.to_owned())).into()
}

/// The Rust files below a folder, by their paths from there.
fn sources(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

/// The floors that `lib.rs` names, from the top: each line of its list names the rooms of one.
fn floors(lib: &str) -> Vec<Vec<String>> {
    let lines = lib.lines().skip_while(|line| *line != "//! # Floors").skip(1);
    let rows =
        lines.take_while(|line| !line.starts_with("//! # ")).filter_map(|line| line.strip_prefix("//! | `"));
    let names = rows.map(|row| row.split_once(" |").unwrap_or((row, "")).0);
    names.map(|names| names.split(", ").map(|name| name.trim_matches('`').to_owned()).collect()).collect()
}

/// All that is wrong, a line each.
fn troubles(sources: &BTreeMap<String, String>, floors: &[Vec<String>]) -> String {
    let imports = imports(sources);
    let mut troubles = String::new();
    let floor_of = |file: &str| {
        let room = file.trim_end_matches(".rs");
        // The longest name counts: a file of a room may have a floor of its own.
        let places =
            floors.iter().enumerate().flat_map(|(floor, rooms)| rooms.iter().map(move |room| (floor, room)));
        let own = places.filter(|(_, name)| room == *name || room.starts_with(&format!("{name}/")));
        own.max_by_key(|(_, name)| name.len()).map(|(floor, _)| floor)
    };
    for file in sources.keys().filter(|file| *file != "lib.rs" && *file != "main.rs") {
        if floor_of(file).is_none() {
            writeln!(troubles, "{file} is on no floor").unwrap();
        }
    }
    for Import { from, line, to } in &imports {
        if let (Some(own), Some(other)) = (floor_of(from), floor_of(to))
            && other < own
        {
            writeln!(troubles, "{from}:{line} imports {to}, which is on a floor above").unwrap();
        }
    }
    for circle in circles(&imports) {
        writeln!(troubles, "a circle: {circle}").unwrap();
    }
    troubles
}

/// Groups of files each of which leads to all others of its group, with the imports among them.
fn circles(imports: &[Import]) -> Vec<String> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in imports {
        next.entry(&import.from).or_default().insert(&import.to);
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        next.keys().map(|file| (*file, reached(&next, file))).collect();
    let mut done = BTreeSet::new();
    let mut found = Vec::new();
    for file in next.keys().filter(|file| reach[*file].contains(**file)) {
        let group: BTreeSet<&str> = reach[file]
            .iter()
            .copied()
            .filter(|other| reach.get(other).is_some_and(|back| back.contains(file)))
            .collect();
        if done.insert(group.clone()) {
            let inside =
                imports.iter().filter(|import| group.contains(&*import.from) && group.contains(&*import.to));
            let mut arrows: BTreeMap<(&str, &str), usize> = BTreeMap::new();
            for import in inside {
                arrows.entry((&import.from, &import.to)).or_insert(import.line);
            }
            let arrows = arrows.into_iter().map(|((from, to), line)| format!("{from} -> {to} (line {line})"));
            found.push(arrows.collect::<Vec<_>>().join(", "));
        }
    }
    found
}

/// The files that an import of an import of a file leads to.
fn reached<'a>(next: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut todo: Vec<&str> = next.get(from).into_iter().flatten().copied().collect();
    while let Some(file) = todo.pop() {
        if seen.insert(file) {
            todo.extend(next.get(file).into_iter().flatten());
        }
    }
    seen
}

/// Every import from one file of another.
fn imports(sources: &BTreeMap<String, String>) -> Vec<Import> {
    let mut modules = Modules::new();
    read(sources, "lib.rs", Vec::new(), &mut modules);
    let mut found = BTreeSet::new();
    for (at, module) in &modules {
        let is_import = |path: &[String]| matches!(path.first().map(String::as_str), Some("crate" | "super"));
        for (path, line) in module.paths.iter().filter(|(path, _)| is_import(path)) {
            let Some(absolute) = absolute(at, module, path) else { continue };
            for to in defining(&modules, &absolute, 0) {
                if to != module.file && to != "lib.rs" {
                    found.insert(Import { from: module.file.clone(), line: *line, to });
                }
            }
        }
    }
    found.into_iter().collect()
}

/// Reads a file, and those of the modules below it.
fn read(sources: &BTreeMap<String, String>, file: &str, at: Vec<String>, modules: &mut Modules) {
    let parsed = syn::parse_file(&sources[file]).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut reader = Reader { module: Module { file: file.to_owned(), ..Module::default() } };
    reader.visit_file(&parsed);
    let children = reader.module.children.clone();
    modules.insert(at.clone(), reader.module);
    for child in children {
        let below: Vec<String> = at.iter().cloned().chain([child]).collect();
        let file = format!("{}.rs", below.join("/"));
        read(sources, &file, below, modules);
    }
}

/// The path from the crate's root, where it is one of this crate's.
fn absolute(at: &[String], module: &Module, path: &[String]) -> Option<Vec<String>> {
    let mut rest = path;
    let mut base = match rest.first()?.as_str() {
        "crate" => {
            rest = &rest[1..];
            Vec::new()
        }
        "self" => {
            rest = &rest[1..];
            at.to_vec()
        }
        "super" => at.to_vec(),
        name if module.children.contains(name) => at.to_vec(),
        _ => return None,
    };
    while rest.first().is_some_and(|name| name == "super") {
        base.pop();
        rest = &rest[1..];
    }
    base.extend_from_slice(rest);
    Some(base)
}

/// The files that define what a path names; more than one where a glob leads on.
fn defining(modules: &Modules, path: &[String], depth: usize) -> Vec<String> {
    let mut length = 0;
    while length < path.len() && modules.contains_key(&path[..=length]) {
        length += 1;
    }
    let module = &modules[&path[..length]];
    let Some(name) = path.get(length).filter(|_| depth < 10) else { return vec![module.file.clone()] };
    if module.items.contains(name) || name == "*" {
        return vec![module.file.clone()];
    }
    let follow = |used: &Vec<String>| {
        let used = absolute(&path[..length], module, used)?;
        Some(defining(modules, &used, depth + 1))
    };
    if let Some(used) = module.uses.get(name) {
        return follow(used).unwrap_or_default();
    }
    let through_globs = module.globs.iter().filter_map(follow).flatten();
    let found: Vec<String> = through_globs.filter(|file| *file != module.file).collect();
    if found.is_empty() { vec![module.file.clone()] } else { found }
}

/// Gathers what a file defines and names, but for its tests.
struct Reader {
    module: Module,
}

impl Reader {
    fn define(&mut self, ident: &syn::Ident) {
        self.module.items.insert(ident.to_string());
    }

    fn used(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |ident: &syn::Ident| before.iter().cloned().chain([ident.to_string()]).collect::<Vec<_>>();
        match tree {
            syn::UseTree::Path(path) => self.used(&path.tree, &with(&path.ident)),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.used(tree, before)),
            syn::UseTree::Glob(glob) => {
                self.module.globs.push(before.to_vec());
                self.name(before.to_vec(), glob.star_token.spans[0].start().line);
            }
            syn::UseTree::Name(name) => self.bind(&name.ident, &name.ident, before),
            syn::UseTree::Rename(rename) => self.bind(&rename.ident, &rename.rename, before),
        }
    }

    fn bind(&mut self, ident: &syn::Ident, bound: &syn::Ident, before: &[String]) {
        let is_self = ident == "self";
        let mut path = before.to_vec();
        if !is_self {
            path.push(ident.to_string());
        }
        let bound = if is_self && bound == "self" {
            before.last().cloned().unwrap_or_default()
        } else {
            bound.to_string()
        };
        self.module.uses.insert(bound, path.clone());
        self.name(path, ident.span().start().line);
    }

    fn name(&mut self, path: Vec<String>, line: usize) {
        self.module.paths.push((path, line));
    }

    /// Paths in a macro's arguments, which are not parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if path.is_empty() || colons == 2 => {
                    if path.is_empty() {
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() && colons < 2 => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.end(&mut path, line);
                    self.tokens(group.stream());
                }
                TokenTree::Ident(ident) => {
                    self.end(&mut path, line);
                    line = ident.span().start().line;
                    path.push(ident.to_string());
                }
                _ => self.end(&mut path, line),
            }
            colons = 0;
        }
        self.end(&mut path, line);
    }

    fn end(&mut self, path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.name(path, line);
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Ident>().is_ok_and(|argument| argument == "test")
    })
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        match item {
            syn::Item::Mod(module) if is_test(&module.attrs) => return,
            syn::Item::Mod(module) if module.content.is_none() => {
                self.module.children.insert(module.ident.to_string());
            }
            syn::Item::Use(used) if is_test(&used.attrs) => return,
            syn::Item::Use(used) => self.used(&used.tree, &[]),
            syn::Item::Const(item) => self.define(&item.ident),
            syn::Item::Enum(item) => self.define(&item.ident),
            syn::Item::Fn(item) if is_test(&item.attrs) => return,
            syn::Item::Fn(item) => self.define(&item.sig.ident),
            syn::Item::Static(item) => self.define(&item.ident),
            syn::Item::Struct(item) => self.define(&item.ident),
            syn::Item::Trait(item) => self.define(&item.ident),
            syn::Item::Type(item) => self.define(&item.ident),
            syn::Item::Macro(item) => {
                if let Some(ident) = &item.ident {
                    self.define(ident);
                }
            }
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 {
            let line = path.segments[0].ident.span().start().line;
            self.name(names, line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        self.tokens(called.tokens.clone());
    }
}
