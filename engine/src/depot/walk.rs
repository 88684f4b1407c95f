//! Looks through a segment file without a log: for `verify` and `inspect`, over mapped memory.

use super::batch;
use super::format::{Head, Identity, Kind, Wrong, decode_entries, decode_header, decode_parts};
use super::records::{Records, Run};
use super::segment::Walk;
use super::state::SegmentState;
use crate::env::BLOCK_BYTES;
use crate::types::{Offset, PartitionId, WallTime};

/// What [`inspect`] meets, in order of the file.
#[derive(Debug)]
pub enum Found {
    /// A whole block whose bytes match its checksum and that follows the one before.
    Block {
        /// Its byte in the file.
        at: u64,
        /// How long it is, padding included.
        bytes: u64,
        /// Its first and last append times.
        times: (WallTime, WallTime),
        /// What is in it.
        records: Records,
    },
    /// The footer of a sealed segment, with an index that fits the blocks.
    Footer {
        /// Its byte in the file.
        at: u64,
        /// How long it is, padding included.
        bytes: u64,
        /// How many blocks its index names.
        entries: usize,
    },
}

/// What a segment file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whose file it is, if its header can be read.
    pub identity: Option<Identity>,
    /// Blocks that are in order.
    pub blocks: u64,
    /// Records in them.
    pub records: u64,
    /// The offset after the last of them.
    pub end: Offset,
    /// Whether it ends in a footer.
    pub sealed: bool,
    /// The first damage to bytes that must be there: below what the fold recorded, or, if nobody
    /// said how far that is, anything that is not a clean end.
    pub damage: Option<Damage>,
    /// Where blocks begin that the fold did not record: valid or torn, the journal has their
    /// records and recovery writes over them.
    pub unproved_from: Option<u64>,
    /// Where the first torn or stale block among those starts.
    pub torn_at: Option<u64>,
    /// Bytes from here to the file's end were not looked at: nothing refers to them.
    pub unused_from: u64,
}

/// One damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the damaged structure starts.
    pub byte: u64,
    /// What is wrong.
    pub what: &'static str,
}

/// Walks through the bytes of a whole segment file. `proved` is what the last fold recorded of it;
/// without it, the walk trusts what it finds. Never panics, whatever the bytes are.
pub fn inspect(file: &[u8], proved: Option<&SegmentState>, visit: &mut dyn FnMut(Found)) -> Report {
    let mut report = Report::default();
    if let Err((byte, what)) = walk(file, proved, visit, &mut report) {
        report.damage = Some(Damage { byte, what });
    }
    report
}

fn walk(
    file: &[u8],
    proved: Option<&SegmentState>,
    visit: &mut dyn FnMut(Found),
    report: &mut Report,
) -> Result<(), (u64, Wrong)> {
    let (identity, chain) = decode_header(file).map_err(|what| (0, what))?;
    report.identity = Some(identity);
    if proved.is_some_and(|p| (p.base, p.file_id) != (identity.base, identity.file_id)) {
        return Err((0, "the header is that of another segment"));
    }
    let mut walk = Walk::start(&identity);
    if walk.chain != chain {
        return Err((0, "the header has bytes that no version writes"));
    }
    let mut index = Vec::new();
    loop {
        report.end = walk.end;
        report.unused_from = walk.at;
        if proved.is_some_and(|proved| proved.bytes == walk.at) {
            let expected = proved.map(|proved| (proved.end, proved.chain));
            if expected != Some((walk.end, walk.chain)) {
                return Err((walk.at, "the blocks are not those the fold recorded"));
            }
            break;
        }
        if proved.is_none() && blank(file, walk.at) {
            return Ok(());
        }
        let at = walk.at;
        let head = next(file, &identity, at).map_err(|what| (at, what))?;
        if head.kind == Kind::Footer {
            let entries = footer(file, &head, &walk, &index).map_err(|what| (at, what))?;
            let bytes = head.bytes() as u64;
            let expected = proved.is_none_or(|p| {
                p.sealed && (p.last_at, p.bytes, p.chain) == (at, at + bytes, head.crc)
            });
            if !expected {
                return Err((at, "the footer is not the one the fold recorded"));
            }
            report.sealed = true;
            report.unused_from = at + bytes;
            visit(Found::Footer { at, bytes, entries });
            return Ok(());
        }
        index.push((head.first, head.time_first, at));
        let before = walk.end;
        walk.step(&head).map_err(|what| (at, what))?;
        let records = records(file, &head).map_err(|what| (at, what))?;
        report.blocks += 1;
        report.records += walk.end.0 - before.0;
        let times = (head.time_first, head.time_last);
        visit(Found::Block { at, bytes: head.bytes() as u64, times, records });
    }
    if proved.is_some_and(|proved| !proved.sealed) {
        look_behind(file, &identity, walk, report);
    }
    Ok(())
}

/// What lies behind the recorded end of an active segment.
fn look_behind(file: &[u8], identity: &Identity, mut walk: Walk, report: &mut Report) {
    while !blank(file, walk.at) {
        report.unproved_from.get_or_insert(walk.at);
        report.unused_from = walk.at;
        let at = walk.at;
        let fits = next(file, identity, at).and_then(|head| match head.kind {
            Kind::Footer => Ok(true),
            Kind::Block => walk.step(&head).map(|()| false),
        });
        match fits {
            Ok(false) => {}
            Ok(true) => return,
            Err(_) => {
                report.torn_at = Some(at);
                return;
            }
        }
    }
}

/// Checks that every byte of an extent is there, in a segment file of `partition`: whether a bulk append
/// whose entry the journal has was complete.
///
/// # Errors
/// Where it is not what its entry describes.
pub fn check_extent(
    file: &[u8],
    partition: PartitionId,
    head: &batch::Head,
    extent: &batch::Extent,
) -> Result<(), Damage> {
    const WRONG: Wrong = "the extent is not the one its entry describes";
    let identity =
        Identity { partition, depot: head.depot, base: extent.base, file_id: extent.file_id };
    let end = extent.at.saturating_add(extent.bytes);
    let mut body_bytes = 0;
    let mut walk = Walk {
        at: extent.at,
        chain: extent.chain_before,
        end: head.offsets.start,
        time: head.append_time,
    };
    while walk.at < end {
        let at = walk.at;
        let damage = |what| Damage { byte: at, what };
        let block = next(file, &identity, at).map_err(damage)?;
        walk.step(&block).map_err(damage)?;
        let bytes = usize::try_from(at).ok().and_then(|at| file.get(at..)).unwrap_or_default();
        for (_, _, body) in decode_parts(bytes, &block).map_err(damage)? {
            body_bytes += body.len();
        }
    }
    let fits = walk.at == end
        && walk.chain == extent.chain_after
        && walk.end == head.offsets.end
        && walk.time == head.append_time
        && body_bytes == head.body_bytes as usize;
    if fits { Ok(()) } else { Err(Damage { byte: extent.at, what: WRONG }) }
}

/// The block or footer at `at`, whole and bound to its place; not yet to what came before.
pub(super) fn next(file: &[u8], identity: &Identity, at: u64) -> Result<Head, Wrong> {
    let from = usize::try_from(at).map_err(|_| "the file ends too early")?;
    let rest = file.get(from..).ok_or("the file ends too early")?;
    let head = Head::decode(rest, identity.file_id, at)?;
    head.check(rest)?;
    Ok(head)
}

fn records(file: &[u8], head: &Head) -> Result<Records, Wrong> {
    let from = usize::try_from(head.at).map_err(|_| "the file ends too early")?;
    let block = file.get(from..).ok_or("the file ends too early")?;
    let mut records = Records::default();
    let mut first = head.first;
    for (append_time, count, body) in decode_parts(block, head)? {
        let body = block.get(body).ok_or("the file ends too early")?;
        let body = bytes::Bytes::copy_from_slice(body);
        records.push(Run { first, count, append_time, body });
        first = first.advance(u64::from(count));
    }
    Ok(records)
}

/// Checks a footer against the blocks before it; returns how many entries it has.
fn footer(
    file: &[u8],
    head: &Head,
    walk: &Walk,
    blocks: &[(Offset, WallTime, u64)],
) -> Result<usize, Wrong> {
    if head.chain_before != walk.chain || head.first != walk.end {
        return Err("the footer does not follow the last block");
    }
    let from = usize::try_from(head.at).map_err(|_| "the file ends too early")?;
    let entries = decode_entries(file.get(from..).ok_or("the file ends too early")?, head)?;
    let named = |entry: &super::IndexEntry| {
        let known = blocks.binary_search_by_key(&entry.at, |block| block.2);
        known.ok().and_then(|slot| blocks.get(slot)) == Some(&(entry.first, entry.time, entry.at))
    };
    let sorted = entries.windows(2).all(|pair| matches!(pair, [a, b] if a.at < b.at));
    if !sorted || !entries.iter().all(named) {
        return Err("the footer's index names blocks that are not there");
    }
    Ok(entries.len())
}

/// Whether nothing was ever written at `at`, or the file ends there.
fn blank(file: &[u8], at: u64) -> bool {
    let from = usize::try_from(at).unwrap_or(usize::MAX);
    let block = file.get(from..).unwrap_or_default();
    block.iter().take(BLOCK_BYTES).all(|&byte| byte == 0)
}
