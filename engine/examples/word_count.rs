//! Counts words, the smallest topology that does something: `cargo run --example word_count`.
//!
//! Lines go into a depot. A topology splits each into words and counts them into a `PState`, from which
//! anybody reads. Nothing in it mentions partitions, cores, batches or transactions; all of them are there.

use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::Count;
use tidemill::schema::{Map, PState};
use tidemill::{Engine, Options, block_on};

/// What the service holds on to: tokens, small numbers with types, that say where to append and what to read.
pub(crate) struct WordCount {
    pub(crate) lines: Depot<String>,
    pub(crate) counts: PState<Map<String, u64>>,
}

/// The module: a function that declares. It runs once, when the module is launched.
pub(crate) fn word_count(m: &Module) -> WordCount {
    // Which partition a line goes to does not matter, so any will do, and all cores share the work.
    let lines = m.depot::<String>("lines").random();
    let counting = m.microbatch(|| "counting");
    let counts = counting.pstate::<Map<String, u64>>("counts");
    counting
        .source(lines)
        .flat_map(|line| words(&line))
        // Each partition adds up its words by itself. Then one message for each different word goes to the
        // partition where that word's count lives, which reads the count once and writes it once.
        .aggregate(counts, |counts, word| counts.key(word).add(Count));
    // Readers get a token that cannot write.
    WordCount { lines, counts: counts.reader() }
}

/// A word is letters and digits, in any case.
fn words(line: &str) -> Vec<String> {
    let words = line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A directory on a real file system: it is written past the kernel's cache, which tmpfs cannot do.
    let dir = tempfile::tempdir_in(".")?;
    block_on(async {
        let engine = Engine::open(dir.path(), Options::default()).await?;
        let count = engine.launch("word-count", word_count).await?;

        let lines = [
            "The time has come, the Walrus said,",
            "To talk of many things:",
            "Of shoes - and ships - and sealing-wax -",
            "Of cabbages - and kings -",
        ]
        .map(str::to_owned);
        // All lines in one call. When it returns, they are on the disk.
        let appended = count.append_many(count.lines, &lines).await?;
        // Being counted takes a moment longer. (Only who wants to read his own writes waits for it.)
        count.wait_all("counting", &appended).await?;

        // One word: one row, wherever that lives.
        let and = count.select(count.counts.key("and")).await?;
        println!("\"and\" was counted {} times", and.unwrap_or(0));

        // All words from "s" up to "t": the partitions are asked together, and the answer is of one moment.
        println!("words that begin with an s:");
        for (word, times) in count.select(count.counts.range("s".."t")).await? {
            println!("{times:>4} {word}");
        }
        engine.close().await
    })?;
    Ok(())
}
