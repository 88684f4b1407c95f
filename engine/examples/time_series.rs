//! How long pages take to load, over any stretch of time: `cargo run --example time_series`.
//!
//! Each measurement is added to four rows: of its minute, its hour, its day, and its thirty days. A stretch of
//! time is then a few ranges of rows: minutes and hours at its ends, days and months between. So weeks are
//! answered from some dozens of rows, and a minute from one, however many measurements there were.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tidemill::client::Launched;
use tidemill::module::{Depot, Module};
use tidemill::schema::aggregate::{Combine, Merge};
use tidemill::schema::{Map, PState, Sub, Uncounted};
use tidemill::{Engine, Options, block_on};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) url: String,
    /// Minutes since some beginning.
    pub(crate) minute: u64,
    pub(crate) millis: u64,
}

/// What is known of all measurements of a page in a span of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stats {
    pub(crate) count: u64,
    pub(crate) total: u64,
    pub(crate) min: u64,
    pub(crate) max: u64,
    /// Of the latest minute; of several in it, the longest.
    pub(crate) last: (u64, u64),
}

impl Stats {
    pub(crate) fn of(measured: &Measurement) -> Self {
        let &Measurement { minute, millis, .. } = measured;
        Self { count: 1, total: millis, min: millis, max: millis, last: (minute, millis) }
    }
}

/// Two such become one, in any order. This is all that `Combine` needs, to add measurements up where they
/// arrive, and then to what is stored.
impl Merge for Stats {
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.total += other.total;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.last = self.last.max(other.last);
    }
}

/// How many minutes the spans have, shorter ones first. Each is a whole number of the one before.
pub(crate) const SPANS: [u64; 4] = [1, 60, 24 * 60, 30 * 24 * 60];

/// Of each page, by span (a place in [`SPANS`]) and the number of that span since the beginning. Rows are in the
/// order of their keys, so those of one span that follow each other in time lie side by side.
pub(crate) type Series = Map<String, Sub<Map<(u8, u64), Stats>, Uncounted>>;

pub(crate) struct TimeSeries {
    pub(crate) measurements: Depot<Measurement>,
    pub(crate) series: PState<Series>,
}

pub(crate) fn time_series(m: &Module) -> TimeSeries {
    let measurements = m.depot::<Measurement>("measurements").hash_by(|it| &it.url);
    let t = m.microbatch(|| "statistics");
    let series = t.pstate::<Series>("series");
    t.source(measurements).aggregate(series, |series, it| {
        let stats = Stats::of(&it);
        let page = series.key(&it.url);
        let spans = (0..).zip(SPANS);
        let add = |(span, minutes)| {
            page.clone().key((span, it.minute / minutes)).add(Combine(stats.clone()))
        };
        spans.map(add).collect::<Vec<_>>()
    });
    TimeSeries { measurements, series: series.reader() }
}

/// The fewest rows that make up a stretch of minutes, as ranges of keys: short spans at both ends, up to where a
/// longer one begins, and so on. At most seven ranges.
pub(crate) fn pieces(mut minutes: Range<u64>) -> Vec<Range<(u8, u64)>> {
    let mut pieces = Vec::new();
    for (span, length) in (0..).zip(SPANS) {
        let piece = |from: u64, to: u64| (span, from / length)..(span, to / length);
        // The whole longer spans within what is left, if there are any.
        let longer =
            SPANS.get(usize::from(span) + 1).map_or(minutes.start..minutes.start, |longer| {
                minutes.start.next_multiple_of(*longer)..minutes.end / longer * longer
            });
        let ends = if longer.is_empty() {
            vec![std::mem::take(&mut minutes)]
        } else {
            let ends = vec![minutes.start..longer.start, longer.end..minutes.end];
            minutes = longer;
            ends
        };
        pieces
            .extend(ends.into_iter().filter(|it| !it.is_empty()).map(|it| piece(it.start, it.end)));
    }
    pieces
}

/// What is known of a page in a stretch of minutes; nothing, if nothing was measured.
async fn stats(
    series: &Launched<TimeSeries>,
    url: &str,
    minutes: Range<u64>,
) -> Result<Option<Stats>, tidemill::Error> {
    let page = series.series.key(url);
    let pieces = pieces(minutes);
    if let [piece] = &pieces[..]
        && piece.end.1 == piece.start.1 + 1
    {
        // A single row is read by its key, which is less work than a range of one.
        return series.select(page.key(piece.start)).await;
    }
    // All ranges in one call: they lie in one partition, and are read at one moment.
    let paths = pieces.into_iter().map(|piece| page.clone().range(piece));
    let rows = series.select_many(paths).await?.into_iter().flatten();
    Ok(rows.map(|(_, stats)| stats).reduce(|mut all, more| {
        all.merge(more);
        all
    }))
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A directory on a real file system: it is written past the kernel's cache, which tmpfs cannot do.
    let dir = tempfile::tempdir_in(".")?;
    block_on(async {
        let engine = Engine::open(dir.path(), Options::default()).await?;
        let series = engine.launch("time-series", time_series).await?;

        let measured = |nth: u64| Measurement {
            url: "/tides".to_owned(),
            minute: nth * 151,
            millis: 20 + nth * 37 % 80,
        };
        let measurements: Vec<_> = (0..400).map(measured).collect();
        let appended = series.append_many(series.measurements, &measurements).await?;
        series.wait_all("statistics", &appended).await?;

        let day = SPANS[2];
        for (name, minutes) in [("a minute", 302..303), ("a week", 5 * day + 77..12 * day + 1_001)]
        {
            let Some(found) = stats(&series, "/tides", minutes).await? else { continue };
            let Stats { count, total, min, max, last } = found;
            println!("in {name}: {count} loads, {min} to {max} ms, on average {}", total / count);
            println!("  the last one took {} ms", last.1);
        }
        engine.close().await
    })?;
    Ok(())
}
