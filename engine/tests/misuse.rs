//! What the compiler says to wrong uses: each is refused, where it is written, in words that tell what to do.
//!
//! Only the words that this crate chose are compared, not the compiler's layout of them, so that a new
//! compiler seldom changes anything here. `misuse/cases.rs` holds the uses, each followed by the words.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/misuse/cases.rs");

#[test]
fn wrong_uses_are_refused_in_words_that_help() {
    let source = std::fs::read_to_string(CASES).unwrap();
    let expected = expectations(&source);
    assert!(expected.len() >= 40, "{} cases are not all of them", expected.len());
    let said = compile(&library());

    let mut wrong = String::new();
    for (line, texts) in &expected {
        let code = source.lines().nth(line - 1).unwrap().trim();
        match said.get(line) {
            None => writeln!(wrong, "{line}: compiles: {code}").unwrap(),
            Some(said) => {
                for text in texts.iter().filter(|text| !said.contains(&short(text))) {
                    writeln!(wrong, "{line}: does not say {text:?}: {code}\n{said}").unwrap();
                }
            }
        }
    }
    for (line, said) in said.iter().filter(|(line, _)| !expected.contains_key(line)) {
        writeln!(wrong, "{line}: should compile, or has no `//~` behind it:\n{said}").unwrap();
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// The lines that must not compile, counted from 1, and what must be said to each.
fn expectations(source: &str) -> BTreeMap<usize, Vec<&str>> {
    let mut expected: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    let mut code = 0;
    for (number, line) in (1..).zip(source.lines()) {
        match line.trim().strip_prefix("//~ ") {
            Some(text) => expected.entry(code).or_default().push(text),
            None => code = number,
        }
    }
    expected
}

/// The library, as cargo has built it, or builds it now, for the profile and the features of this test.
fn library() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    // Built for a test its dependencies have the features that they have for this one: so it is there.
    cargo.args(["test", "--no-run", "--package", "tidemill", "--test", "misuse"]);
    cargo.args(["--message-format", "json", "--locked", "--offline", "--quiet"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    if cfg!(feature = "simulation") {
        cargo.args(["--features", "simulation"]);
    }
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = messages(&output.stdout);
    let built = messages.filter(|it| it["target"]["name"] == "tidemill");
    let files = built.flat_map(|it| it["filenames"].as_array().cloned().unwrap_or_default());
    let mut files = files.map(|file| PathBuf::from(file.as_str().unwrap()));
    files.find(|file| file.extension().is_some_and(|it| it == "rlib")).expect("a library was built")
}

/// All that the compiler has to say to each line of the cases that it refuses.
fn compile(library: &Path) -> BTreeMap<usize, String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut rustc = Command::new(rustc);
    rustc.args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata"]);
    rustc.args(["--error-format", "json", "--out-dir", env!("CARGO_TARGET_TMPDIR")]);
    rustc.arg("--extern").arg(format!("tidemill={}", library.display()));
    // The library lies among what it depends on, or beside that folder.
    for dir in [library.with_file_name(""), library.with_file_name("deps")] {
        rustc.arg("-L").arg(format!("dependency={}", dir.display()));
    }
    rustc.arg(CASES);
    let output = rustc.output().unwrap();
    assert!(!output.status.success(), "all of it compiles");

    let mut said: BTreeMap<usize, String> = BTreeMap::new();
    for message in messages(&output.stderr).filter(|it| it["level"] == "error") {
        let spans = message["spans"].as_array().unwrap();
        let Some(place) = spans.iter().find(|span| span["is_primary"] == true) else {
            continue; // "aborting due to 42 errors"
        };
        assert_eq!(place["file_name"], CASES, "points away from the code: {message}");
        let line = usize::try_from(place["line_start"].as_u64().unwrap()).unwrap();
        let said = said.entry(line).or_default();
        let notes = message["children"].as_array().unwrap().iter().map(|note| &note["message"]);
        let labels = spans.iter().map(|span| &span["label"]);
        for text in [&message["message"]].into_iter().chain(labels).chain(notes) {
            if let Some(text) = text.as_str().map(short).filter(|text| !said.contains(text)) {
                writeln!(said, "    {text}").unwrap();
            }
        }
    }
    said
}

/// The compiler leaves out paths of names that no other crate has, `Schema` but not `Sub`.
fn short(text: &str) -> String {
    ["path::", "aggregate::", ""].iter().fold(text.to_owned(), |text, module| {
        text.replace(&format!("tidemill::schema::{module}"), "")
    })
}

/// A message for each line.
fn messages(output: &[u8]) -> impl Iterator<Item = Value> {
    output.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}
