//! What a topology and its shadow hold, compared entry by entry while both stand still.
//!
//! A difference is named for people, by `PState`, partition, key and both values: it is all that whoever asked for
//! the recompute learns. Nothing is compared across shards, since a partition's shadow lies beside it.

use std::fmt::Write;
use std::ops::{Bound, ControlFlow};

use super::super::Shard;
use super::super::partition::{Partition, SYSTEM, dead_letters_of};
use crate::codec::value;
use crate::error::Result;
use crate::module::PStateIndex;
use crate::node::Installed;
use crate::pstate::{self, Direction, KeyRange, View};
use crate::schema::Rows;
use crate::types::PStateId;

/// So many rows are compared at once.
const ROWS_AT_ONCE: usize = 256;

impl Shard {
    /// The first entry in which a topology and its shadow differ here, for people.
    pub(super) async fn compare(
        &self,
        module: &Installed,
        shadow: &Installed,
    ) -> Result<Option<String>> {
        let place = shadow.shadow.expect("it is one");
        let (old, new) = (module.numbers(), shadow.numbers());
        for partition in self.partitions.values() {
            for (nth, pstate) in module.definition.pstates.iter().enumerate() {
                if pstate.owner != place {
                    continue;
                }
                let all = KeyRange::ALL;
                let sides = [(old.pstates[nth], all), (new.pstates[nth], all)];
                let differs = self.first_difference(partition, sides, 0).await?;
                if let Some(Differs { key, values: [is, came_out] }) = differs {
                    let index = PStateIndex(u32::try_from(nth).expect("declarations are few"));
                    let show = |value| shown(module, index, &key, value);
                    return Ok(Some(format!(
                        "PState `{}` differs in partition {}, first {}: it is {}, and came out as {}",
                        pstate.name,
                        partition.id,
                        shown_key(module, index, &key),
                        show(is),
                        show(came_out)
                    )));
                }
            }
        }
        Ok(None)
    }

    /// The first record that a shadow has given up and its topology has not, or the other way round if the outcome
    /// must be the same.
    pub(super) async fn compare_rejected(
        &self,
        module: &Installed,
        shadow: &Installed,
    ) -> Result<Option<String>> {
        let place = shadow.shadow.expect("it is one");
        let definition = &module.definition.topologies[place];
        let bounds = [module, shadow].map(|it| dead_letters_of(it.topologies[place]));
        for partition in self.partitions.values() {
            let sides = [0, 1].map(|side: usize| {
                let (from, to) = &bounds[side];
                let keys = KeyRange { from: Bound::Included(from), to: Bound::Excluded(to) };
                (SYSTEM, keys)
            });
            // What comes before the record in the key names the topology.
            let differs = if definition.order_free && module.starts[place] == shadow.starts[place] {
                self.first_difference(partition, sides, DEAD_LETTER_HEAD).await?
            } else {
                self.rejected_anew(partition, sides).await?
            };
            let Some(Differs { key, values: [is, _] }) = differs else { continue };
            let (verb, other) =
                if is.is_some() { ("took", "rejected") } else { ("rejected", "taken") };
            let record = shown_record(module, &key);
            return Ok(Some(format!(
                "the recompute {verb} {record} of partition {}, which topology `{}` has {other}",
                partition.id, definition.name
            )));
        }
        Ok(None)
    }

    /// The first record that the second side has and the first one lacks.
    async fn rejected_anew(
        &self,
        partition: &Partition,
        [old, new]: [(PStateId, KeyRange<'_>); 2],
    ) -> Result<Option<Differs>> {
        let view = View::visible();
        let (mut after, mut left) = (None, true);
        while left {
            let rows = self.some_rows(partition, new, after.as_deref()).await?;
            left = rows.len() == ROWS_AT_ONCE;
            for (key, value) in rows.iter() {
                let (Bound::Included(head) | Bound::Excluded(head)) = old.1.from else { continue };
                let known = [&head[..DEAD_LETTER_HEAD], &key[DEAD_LETTER_HEAD..]].concat();
                let found = partition.store.read(&view, old.0, &known, |it| it.is_some()).await;
                if !found.map_err(|error| self.read_failed(&error))? {
                    let values = [None, Some(value.to_vec())];
                    return Ok(Some(Differs { key: key.to_vec(), values }));
                }
                after = Some(key.to_vec());
            }
        }
        Ok(None)
    }

    /// The first row in which two ranges differ, keys without their first `head` bytes.
    async fn first_difference(
        &self,
        partition: &Partition,
        sides: [(PStateId, KeyRange<'_>); 2],
        head: usize,
    ) -> Result<Option<Differs>> {
        let mut after: [Option<Vec<u8>>; 2] = [None, None];
        loop {
            let old = self.some_rows(partition, sides[0], after[0].as_deref()).await?;
            let new = self.some_rows(partition, sides[1], after[1].as_deref()).await?;
            for nth in 0..old.len().max(new.len()) {
                let (is, came_out) = (old.get(nth), new.get(nth));
                let row = |row: Option<(&[u8], &[u8])>| {
                    row.map(|(key, value)| (key[head..].to_vec(), value.to_vec()))
                };
                if row(is) == row(came_out) {
                    continue;
                }
                let key = [is, came_out].into_iter().flatten().map(|(key, _)| key);
                let key = key.min_by_key(|key| &key[head..]).expect("one of them is there");
                let of = |row: Option<(&[u8], &[u8])>| {
                    row.filter(|(own, _)| own[head..] == key[head..])
                        .map(|(_, value)| value.to_vec())
                };
                let values = [of(is), of(came_out)];
                return Ok(Some(Differs { key: key.to_vec(), values }));
            }
            if old.len() < ROWS_AT_ONCE {
                return Ok(None);
            }
            let last = |rows: &Rows| rows.iter().last().map(|(key, _)| key.to_vec());
            after = [last(&old), last(&new)];
            if self.env.should_yield() {
                self.env.yield_now().await;
            }
        }
    }

    /// Rows of a range behind a key, so many that more may follow, or all the rest.
    async fn some_rows(
        &self,
        partition: &Partition,
        (pstate, range): (PStateId, KeyRange<'_>),
        after: Option<&[u8]>,
    ) -> Result<Rows> {
        let range = KeyRange { from: after.map_or(range.from, Bound::Excluded), ..range };
        let mut rows = Rows::new();
        let visit = |key: &[u8], value: &[u8]| {
            rows.push(key, value);
            ControlFlow::Continue(())
        };
        let view = View::visible();
        let (store, forward) = (&partition.store, Direction::Forward);
        let scanned = store.scan(&view, pstate, range, forward, ROWS_AT_ONCE, visit).await;
        scanned.map_err(|error: pstate::Error| self.read_failed(&error))?;
        Ok(rows)
    }
}

/// A row that is not the same: what it is, and what it came out as.
struct Differs {
    key: Vec<u8>,
    values: [Option<Vec<u8>>; 2],
}

/// Bytes of a dead letter's key that come before the depot.
const DEAD_LETTER_HEAD: usize = 5;

/// The parts of a row's key.
fn shown_key(module: &Installed, pstate: PStateIndex, key: &[u8]) -> String {
    match module.described(pstate).layout.row(key) {
        Ok((parts, _)) => {
            let parts: Vec<_> = parts.iter().map(ToString::to_string).collect();
            format!("at key {}", parts.join(" > "))
        }
        Err(_) => format!("at the row {}", hex(key)),
    }
}

fn shown(module: &Installed, pstate: PStateIndex, key: &[u8], value: Option<Vec<u8>>) -> String {
    let Some(value) = value else { return "absent".to_owned() };
    let text = match module.described(pstate).layout.row(key) {
        Ok((_, Some(kind))) => value::to_json_of(&module.fields, kind, &value).ok(),
        Ok((_, None)) | Err(_) => None,
    };
    let mut text = text.unwrap_or_else(|| hex(&value));
    if let Some((at, _)) = text.char_indices().nth(SHOWN_MAX) {
        text.truncate(at);
        text.push_str("...");
    }
    text
}

/// Longer values are cut in errors.
const SHOWN_MAX: usize = 200;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(SHOWN_MAX / 2).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

/// The record that a dead letter's key names.
fn shown_record(module: &Installed, key: &[u8]) -> String {
    let (depot, offset) = (key.get(5..9), key.get(9..17));
    let (Some(Ok(depot)), Some(Ok(offset))) =
        (depot.map(<[u8; 4]>::try_from), offset.map(<[u8; 8]>::try_from))
    else {
        return hex(key);
    };
    let (depot, offset) = (u32::from_be_bytes(depot), u64::from_be_bytes(offset));
    let place = module.depots.iter().position(|it| it.0 == depot);
    let name = place.map_or("?", |place| &module.definition.depots[place].name);
    format!("record {offset} of depot `{name}`")
}
