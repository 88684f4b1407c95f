//! The bank with tiny parameters: loads, crashes, and files of transactions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tidemill::env::production::{Needs, self_test};

/// A directory of its own on the disk that holds the build.
struct Dir(PathBuf);

impl Dir {
    /// None, with a message, where this machine cannot run an engine.
    fn new(name: &str) -> Option<Self> {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let dir = root.join(format!("bank-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("the build directory can be written");
        let report = self_test(&dir, Needs { shards: 2, free_bytes_min: 1 << 30 });
        if let Some(refusal) = report.refusal() {
            eprintln!("skipped: {refusal}");
            return None;
        }
        Some(Self(dir))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Runs the bank as users do, in `dir`, with few shards and partitions.
fn bank(dir: &Dir, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidemill-bench"))
        .args(["bank", "--shards", "2", "--partitions", "8"])
        .args(more)
        .current_dir(&dir.0)
        .output()
        .expect("the program runs")
}

/// Runs it and returns what `--json` writes, having seen that it succeeded.
fn document(dir: &Dir, more: &[&str]) -> serde_json::Value {
    let output = bank(dir, &[more, &["--json", "-"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    serde_json::from_slice(&output.stdout).expect("standard output is the document alone")
}

fn phase<'d>(document: &'d serde_json::Value, name: &str) -> &'d serde_json::Value {
    let results = document["results"].as_array().expect("results");
    let found = results.iter().find(|it| it["phase"] == name && it["system"] == "tidemill");
    found.unwrap_or_else(|| panic!("no phase {name} in {document:#}"))
}

fn number(value: &serde_json::Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

fn holding(document: &serde_json::Value) -> Vec<&str> {
    let all = document["invariants"].as_array().expect("invariants");
    all.iter().filter(|it| it["holds"] == true).filter_map(|it| it["name"].as_str()).collect()
}

fn balances(path: &Path) -> Vec<(u64, i64)> {
    let text = fs::read_to_string(path).expect("the dump was written");
    let line = |line: &str| {
        let (account, balance) = line.split_once(',').expect("two columns");
        (account.parse().expect("an account"), balance.parse().expect("a balance"))
    };
    text.lines().map(line).collect()
}

const TINY: [&str; 6] = ["--seconds", "0.4", "--accounts", "300", "--in-flight", "32"];

#[test]
fn a_closed_loop_is_measured_and_reconciled() {
    let Some(dir) = Dir::new("closed") else { return };
    let flags = ["--dump", "out.csv", "--seed", "3", "--memory", "16"];
    let document = document(&dir, &[&TINY[..], &flags].concat());
    assert_eq!(document["verified"], true);
    assert_eq!(
        (&document["workload"], &document["variant"]),
        (&"bank".into(), &"cross-shard 50%".into())
    );
    let holding = holding(&document);
    for name in ["money is conserved", "every transfer exactly once", "memory keeps to the budget"]
    {
        assert!(holding.contains(&name), "{document:#}");
    }
    let [transfers, append, effects] =
        ["transfers", "append", "wait-for-effects"].map(|name| phase(&document, name));
    assert!(number(&transfers["operations"]) > 0.0, "{document:#}");
    let p50 = |phase: &serde_json::Value| number(&phase["latency_us"]["p50"]);
    assert!(p50(append) <= p50(transfers) && p50(effects) <= p50(transfers), "{document:#}");
    let journal = number(&document["figures"]["journal_bytes_per_transfer"]);
    assert!((50.0..100_000.0).contains(&journal), "{journal}");
    let ratios = document["ratios"].as_array().expect("ratios");
    assert!(ratios.iter().all(|it| it["against"] == "raw" && number(&it["ratio"]) > 0.0));
    assert_eq!(ratios.len(), 2);

    let balances = balances(&dir.file("out.csv"));
    assert!(balances.iter().map(|(account, _)| *account).eq(0..300));
    assert_eq!(balances.iter().map(|(_, balance)| balance).sum::<i64>(), 300_000);
    assert!(balances.iter().any(|(_, balance)| *balance != 1_000), "money was moved");
    let left: Vec<_> = fs::read_dir(&dir.0).expect("readable").collect();
    assert_eq!(left.len(), 1, "only the dump is left: {left:?}");
}

#[test]
fn an_open_loop_starts_as_many_as_asked() {
    let Some(dir) = Dir::new("open") else { return };
    let flags = ["--seconds", "1", "--accounts", "300", "--rate", "400", "--cross", "100"];
    let document = document(&dir, &flags);
    assert_eq!(document["verified"], true);
    let rate = number(&phase(&document, "transfers")["per_second"]);
    assert!((200.0..600.0).contains(&rate), "{rate} a second instead of 400");
    assert!((number(&document["parameters"]["rate"]) - 400.0).abs() < 1e-9);
}

#[test]
fn an_audit_beside_the_load_finds_every_sum_exact() {
    let Some(dir) = Dir::new("audit") else { return };
    let document = document(&dir, &[&TINY[..], &["--audit"]].concat());
    assert_eq!(document["verified"], true, "{document:#}");
    let exact = "money is exact as of every id, while transfers run";
    assert!(holding(&document).contains(&exact), "{document:#}");
    assert!(number(&document["figures"]["audit_reads_older"]) > 0.0, "{document:#}");
}

#[test]
fn one_shard_and_single_appends_work_too() {
    let Some(dir) = Dir::new("single") else { return };
    let output = Command::new(env!("CARGO_BIN_EXE_tidemill-bench"))
        .args(["bank", "--shards", "1", "--partitions", "1", "--batch", "1"])
        .args(TINY)
        .current_dir(&dir.0)
        .output()
        .expect("the program runs");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["wait-for-effects", "money is conserved: holds", "one shard", "write-4k-1"] {
        assert!(table.contains(part), "{part} is missing in {table}");
    }
    assert!(table.contains("transfers per append: 1.00"), "{table}");
}

#[test]
fn killed_children_lose_nothing() {
    let Some(dir) = Dir::new("crash") else { return };
    let flags = ["--crash", "3", "--accounts", "200", "--in-flight", "64"];
    let document = document(&dir, &flags);
    assert_eq!(document["verified"], true, "{document:#}");
    let figures = &document["figures"];
    assert!((number(&figures["kills_under_load"]) - 3.0).abs() < 1e-9, "{figures}");
    assert!((number(&figures["kills_while_opening"]) - 1.0).abs() < 1e-9, "{figures}");
    assert!(number(&phase(&document, "transfers")["operations"]) > 0.0, "{document:#}");
    assert!((number(&phase(&document, "recover")["operations"]) - 3.0).abs() < 1e-9);
}

const HEADER: &str = "\"trans_id\";\"account_id\";\"date\";\"type\";\"operation\";\"amount\";\
                      \"balance\";\"k_symbol\";\"bank\";\"account\"\r\n";

#[test]
fn transactions_of_a_file_are_booked_even_where_they_overdraw() {
    let Some(dir) = Dir::new("file") else { return };
    let rows = "1;20;930101;\"PRIJEM\";\"VKLAD\";700.05;700.00;\"\";;\r\n\
                2;3;930228;\"VYDAJ\";\"PREVOD NA UCET\";14.6;0.0;\"SIPO\";\"YZ\";87144583\r\n\
                3;20;930301;\"PRIJEM\";\"PREVOD Z UCTU\";0.1;0.0;\"\";\"AB\";1\r\n\
                4;20;930301;\"VYBER\";\"VYBER\";200;0.0;\"\";;\r\n\
                5;3;930301;\"PRIJEM\";\"\";0.01;0.0;\"UROK\";;\r\n";
    fs::write(dir.file("in.csv"), format!("{HEADER}{rows}")).expect("written");
    let document = document(&dir, &["--input", "in.csv", "--dump", "out.csv", "--in-flight", "2"]);
    assert_eq!(document["verified"], true, "{document:#}");
    assert_eq!(document["variant"], "real transactions");
    assert!((number(&phase(&document, "transfers")["operations"]) - 5.0).abs() < 1e-9);
    let dump = fs::read_to_string(dir.file("out.csv")).expect("written");
    assert_eq!(dump, "3,-1459\n20,50015\n");
}

#[test]
fn hostile_files_are_refused_with_line_and_column() {
    let Some(dir) = Dir::new("hostile") else { return };
    let good = "1;20;930101;\"PRIJEM\";\"VKLAD\";700.05;700.00;\"\";;\r\n";
    for (text, expected) in [
        (format!("{HEADER}{good}2;20;930101;\"PRIJEM\"\r\n"), "line 3, column 5"),
        (format!("{HEADER}{}", good.replace("700.05", "7x")), "line 2, column 6 (`amount`): `7x`"),
        (
            format!("{}{good}", HEADER.replace("date", "day")),
            "line 1: the column `date` is missing",
        ),
        (String::new(), "line 1: the file is empty"),
    ] {
        fs::write(dir.file("in.csv"), &text).expect("written");
        let output = bank(&dir, &["--input", "in.csv", "--dump", "out.csv"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text:?}: {error}");
        let last = error.lines().last().expect("it says why");
        assert!(last.contains(expected) && last.contains("in.csv"), "{text:?}: {error}");
        assert!(!dir.file("out.csv").exists());
    }
    let output = bank(&dir, &["--input", "no-such-file"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let Some(dir) = Dir::new("flags") else { return };
    for wrong in [
        &["--cross", "101"][..],
        &["--batch", "0"],
        &["--accounts", "1"],
        &["--crash", "0"],
        &["--crash", "2", "--rate", "5"],
        &["--crash", "2", "--input", "in.csv"],
        &["--input", "in.csv", "--accounts", "5"],
    ] {
        let output = bank(&dir, wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

/// The published data, where it lies beside the repository.
#[test]
fn real_transactions_add_up() {
    let input =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/bank-1993/transactions.csv");
    let Ok(text) = fs::read_to_string(&input) else {
        eprintln!("skipped: {} is not there", input.display());
        return;
    };
    let Some(dir) = Dir::new("real") else { return };
    let input = input.to_str().expect("a plain path");
    let document = document(&dir, &["--input", input, "--dump", "out.csv"]);
    assert_eq!(document["verified"], true, "{document:#}");
    let rows = text.lines().count() - 1;
    assert_eq!(document["parameters"]["rows"], rows);

    // Arithmetic of its own, from the text alone.
    let mut expected: BTreeMap<u64, i64> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(';').collect();
        let (whole, fraction) = fields[5].split_once('.').unwrap_or((fields[5], ""));
        let amount: i64 = format!("{whole}{fraction:0<2}").parse().expect("an amount");
        let sign = if fields[3] == "\"PRIJEM\"" { 1 } else { -1 };
        *expected.entry(fields[1].parse().expect("an account")).or_default() += sign * amount;
    }
    assert_eq!(balances(&dir.file("out.csv")), expected.into_iter().collect::<Vec<_>>());
}
