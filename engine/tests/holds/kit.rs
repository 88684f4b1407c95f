//! Options, what all look at, and child processes: what is measured or killed runs in a process of its own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tidemill::module::Depot;
use tidemill::topology::Row;
use tidemill::types::{Offset, PartitionId};
use tidemill::{Launched, Options, block_on};

pub(crate) use crate::directory::directory;

/// So many shards over eight partitions.
pub(crate) fn options(shards: u16) -> Options {
    Options { shards, partitions: Some(8), ..Options::default() }
}

/// Waits for a condition, and gives up loudly after far longer than it can take.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_mins(1), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Every record of a depot.
pub(crate) fn records<H, T: Row>(of: &Launched<H>, depot: Depot<T>) -> Vec<T> {
    let mut all = Vec::new();
    for partition in (0..of.engine().partitions()).map(PartitionId) {
        let mut from = Offset(0);
        loop {
            let read = block_on(of.read_depot(depot, partition, from, 1_000)).unwrap();
            let Some(last) = read.last() else { break };
            from = last.offset.advance(1);
            all.extend(read.into_iter().map(|it| it.record));
        }
    }
    all
}

/// Closes the engine of the only module that was launched.
pub(crate) fn close<H>(launched: Launched<H>) {
    let engine = launched.engine().clone();
    drop(launched);
    block_on(engine.close()).unwrap();
}

/// Every file under a directory, by its name below it.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    files
}

/// This test binary again, running one of [`crate::CHILDREN`] in `dir`.
pub(crate) struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

/// Names the child to run, and the directory to run it in.
const CHILD: &str = "TIDEMILL_TEST_CHILD";
const CHILD_DIR: &str = "TIDEMILL_TEST_CHILD_DIR";
const CHILD_ARGUMENT: &str = "TIDEMILL_TEST_CHILD_ARGUMENT";

/// What a child prints in front of what its parent shall read; the test harness prints, too.
const MARK: &str = "child: ";

impl Process {
    /// `argument` is what [`argument`] returns there.
    pub(crate) fn start(name: &str, dir: &Path, argument: u64) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "kit::child", "--nocapture", "--test-threads=1"]);
        command.env(CHILD, name).env(CHILD_DIR, dir);
        command.env(CHILD_ARGUMENT, argument.to_string());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line the child told; `None` when it ended.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The harness may have begun the line.
            if let Some((_, told)) = line.split_once(MARK)
                && let Some(told) = told.strip_suffix('\n')
            {
                return Some(told.to_owned());
            }
        }
    }

    /// What the child told until it ended, which it must have done well.
    pub(crate) fn finish(mut self) -> Vec<String> {
        let lines: Vec<String> = std::iter::from_fn(|| self.line()).collect();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the child failed ({status}); it told {lines:#?}");
        lines
    }

    /// Ends it as SIGKILL does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Everything it told and nobody read yet, after [`Process::kill`] or its own end.
    pub(crate) fn rest(mut self) -> Vec<String> {
        let lines: Vec<String> = std::iter::from_fn(|| self.line()).collect();
        self.child.wait().unwrap();
        lines
    }
}

/// What the parent gave this child to know.
pub(crate) fn argument() -> u64 {
    std::env::var(CHILD_ARGUMENT).unwrap().parse().unwrap()
}

/// Tells the parent.
pub(crate) fn tell(line: impl std::fmt::Display) {
    // One write, so that a kill tears no line in the middle.
    let line = format!("{MARK}{line}\n");
    std::io::Write::write_all(&mut std::io::stdout().lock(), line.as_bytes()).unwrap();
}

/// Runs the child that the environment names; does nothing in an ordinary test run.
#[test]
fn child() {
    let (Ok(name), Some(dir)) = (std::env::var(CHILD), std::env::var_os(CHILD_DIR)) else { return };
    let (_, run) = crate::CHILDREN.iter().find(|(known, _)| *known == name).unwrap();
    run(Path::new(&dir));
}
