//! The task that writes frames: group commit without timers.
//!
//! A frame that is full is written as soon as fewer than `in_flight_max` writes are under way, one
//! that is partly full as soon as fewer than [`PARTIAL_IN_FLIGHT_MAX`] are. Writes end in any order and
//! are acknowledged in order.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::frame::{Header, VERSION};
use super::queue::Building;
use super::shared::{Flight, Shared, State};
use super::{Error, FileNumber, JournalFile};
use crate::env::{Buf, LocalFuture, Sync, write_full};
use crate::probe::{Plant, planted};

/// More small writes at a time would make frames smaller, not answers faster.
const PARTIAL_IN_FLIGHT_MAX: usize = 2;

/// A write that ended.
struct Done {
    sequence: u64,
    path: String,
    byte: u64,
    result: io::Result<()>,
    buf: Buf,
}

/// Runs until the journal is closed, abandoned or failed.
pub(super) async fn run(shared: Rc<Shared>) {
    let mut writes = FuturesUnordered::new();
    let mut timer: Option<LocalFuture<'static, ()>> = None;
    poll_fn(|context| {
        loop {
            shared.writer.listen(context);
            while let Some(write) = shared.submit() {
                writes.push(write);
            }
            if let Poll::Ready(Some(done)) = writes.poll_next_unpin(context) {
                shared.complete(done);
                continue;
            }
            if shared.state.borrow().writer_should_end() {
                // Never before the last write has ended: whoever recovers the journal in place must
                // not be overtaken by it.
                return if writes.is_empty() { Poll::Ready(()) } else { Poll::Pending };
            }
            let unproved = {
                let state = shared.state.borrow();
                state.idle() && state.unproved()
            };
            if !unproved {
                timer = None;
                return Poll::Pending;
            }
            let sleep =
                timer.get_or_insert_with(|| shared.env.sleep(shared.options.seal_idle_after));
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            timer = None;
            shared.state.borrow_mut().seal_now = true;
        }
    })
    .await;
    shared.state.borrow_mut().writer_ended = true;
    shared.wake_everyone();
}

impl State {
    fn writer_should_end(&self) -> bool {
        self.abandoned || self.failed.is_some() || self.closing && self.idle()
    }

    /// Chooses the file after `file`, if `file` can be written by now.
    fn open_file(&mut self, file: FileNumber) -> Option<(JournalFile, u32)> {
        if !self.files.contains_key(&file) {
            let slot = self.take_spare()?;
            self.files.insert(file, slot);
        }
        let next = FileNumber(file.0 + 1);
        if !self.files.contains_key(&next) {
            let slot = self.take_spare()?;
            self.files.insert(next, slot);
        }
        let slot = self.files.get(&file).filter(|slot| slot.prepared)?;
        let next_slot = self.files.get(&next)?.number;
        Some((JournalFile { number: file, slot: slot.number }, next_slot))
    }

    fn take_spare(&mut self) -> Option<super::slots::Slot> {
        let prepared = self.spares.iter().position(|slot| slot.prepared).unwrap_or(0);
        self.spares.remove(prepared)
    }
}

impl Shared {
    /// Starts the next write, if there is something to write, and a place for it.
    fn submit(&self) -> Option<LocalFuture<'static, Done>> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.failed.is_some() || state.abandoned {
            return None;
        }
        if std::mem::take(&mut state.seal_now) && state.idle() && state.unproved() {
            state.queue.put_empty();
        }
        let at = state.queue.front()?;
        let flights = state.flights.len();
        let enough = if state.queue.has_full() {
            self.options.in_flight_max
        } else {
            PARTIAL_IN_FLIGHT_MAX.min(self.options.in_flight_max)
        };
        if flights >= enough {
            return None;
        }
        let known = state.files.len();
        let place = state.open_file(at.file);
        let Some((file, next_slot)) = place else {
            // The keeper has to allocate or prepare.
            self.keeper.ring();
            return None;
        };
        if known != state.files.len() || state.wants_file(&self.options) {
            self.keeper.ring();
        }
        let building = state.queue.take(true)?;
        let slot = Rc::clone(&state.files.get(&at.file)?.file);
        let header = self.header(state, &building, file, next_slot);
        let Building { mut buf, ticket, .. } = building;
        let crc = header.seal(&mut buf);
        let sequence = header.sequence;
        state.sequence += 1;
        state.previous_crc = crc;
        if header.payload_bytes > 0 {
            state.content = sequence;
        }
        let durable_below = header.durable_below;
        if let Some(ticket) = ticket {
            for (_, frame) in state.held.range_mut(..=ticket) {
                frame.get_or_insert(sequence);
            }
        }
        let flight = Flight {
            sequence,
            file: at.file,
            ticket,
            durable_below,
            frame_bytes: header.frame_bytes,
            done: false,
        };
        state.flights.push_back(flight);
        if planted(Plant::AckBeforeSync)
            && let Some(ticket) = ticket
        {
            state.durable = ticket;
            self.durable.wake(ticket);
        }
        let byte = u64::from(at.byte);
        Some(Box::pin(async move {
            let (result, buf) = write_full(&*slot, byte, buf, Sync::Data).await;
            Done { sequence, path: slot.path().to_owned(), byte, result, buf }
        }))
    }

    fn header(
        &self,
        state: &State,
        building: &Building,
        file: JournalFile,
        next_slot: u32,
    ) -> Header {
        let small = |bytes: usize| u32::try_from(bytes).expect("a frame is at most 1 MiB");
        Header {
            version: VERSION,
            crc: 0,
            previous_crc: state.previous_crc,
            journal: self.options.id,
            file,
            next_slot,
            file_bytes: self.options.file_bytes,
            run: self.options.run,
            sequence: state.sequence,
            durable_below: state.provable(),
            byte: building.at.byte,
            frame_bytes: small(building.buf.len()),
            payload_bytes: small(building.payload_bytes),
            continued_bytes: small(building.continued_bytes),
        }
    }

    /// Takes note of a write that ended; acknowledges it if all before it have ended.
    fn complete(&self, done: Done) {
        let Done { sequence, path, byte, result, buf } = done;
        if let Err(error) = result {
            return self.fail(Error::io("write", &path, byte, error));
        }
        let mut state = self.state.borrow_mut();
        if state.failed.is_some() {
            return;
        }
        state.queue.recycle(buf);
        if let Some(flight) = state.flights.iter_mut().find(|flight| flight.sequence == sequence) {
            flight.done = true;
        }
        let file_before = state.durable_file;
        let mut durable = None;
        while let Some(flight) = state.flights.pop_front_if(|flight| flight.done) {
            assert_eq!(flight.sequence, state.durable_below, "frames are acknowledged in order");
            state.durable_below = flight.sequence + 1;
            state.durable_file = flight.file;
            state.proof = state.proof.max(flight.durable_below);
            state.counts.writes += 1;
            state.counts.bytes_written += u64::from(flight.frame_bytes);
            durable = flight.ticket.or(durable);
        }
        if let Some(durable) = durable {
            state.durable = state.durable.max(durable);
        }
        if state.durable_file != file_before {
            self.keeper.ring();
        }
        let idle = state.idle();
        drop(state);
        if let Some(durable) = durable {
            self.durable.wake(durable);
        }
        self.room.wake_all();
        if idle {
            self.ended.ring();
        }
    }
}
