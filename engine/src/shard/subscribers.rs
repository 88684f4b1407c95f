//! Subscribers of this shard: who they are, and what they are told when a microbatch becomes visible.
//!
//! [`Shard::make_visible`](super::Shard) hands over the runs that it shows, which are told a little later if
//! they are large, in their order. By then they may be merged: the runs are shared, not read back. Nothing is
//! told before it is visible, and a subscriber is told nothing that the value at its pin contains.
//!
//! *Memory.* A shard takes `Options::subscriptions_max` subscribers. What waits for all of them together is bounded;
//! beyond that, whoever has most waiting gets a gap, so that one that sleeps costs the others nothing. The page
//! cache gives up what they take.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Shard;
use super::message::{Page, PageRequest, SubscribeRequest, Subscribed, When, answer};
use super::seen::Seen;
use crate::codec::KeyBuf;
use crate::env::Class;
use crate::error::{Error, Result};
use crate::module::PStateIndex;
use crate::node::numbers::Numbers;
use crate::node::pins::Pin;
use crate::probe::{Plant, planted};
use crate::pstate::Run;
use crate::schema::Rows;
use crate::subscribe::index::{Index, SubscriberId, Watch};
use crate::subscribe::queue::{RawDiff, RawWrite, Sender, Sent, queue};
use crate::topology::Scan;
use crate::types::{MicrobatchId, PartitionId, TopologyId};

/// A page of a value ends when it has so many bytes.
pub(super) const PAGE_BYTES: usize = 256 << 10;

/// Runs are told at once up to so many bytes, and the rest by a task: filtering takes less than merging them.
const BYTES_AT_ONCE: usize = 64 << 10;

/// All of them.
#[derive(Default)]
pub(super) struct Subscribers {
    next: Cell<u64>,
    all: RefCell<BTreeMap<SubscriberId, Subscriber>>,
    /// Of the partitions in which something is subscribed.
    indexes: RefCell<BTreeMap<PartitionId, Index>>,
    /// Visible, and not told yet; in the order in which they became visible.
    due: RefCell<VecDeque<Due>>,
    /// A task tells.
    telling: Cell<bool>,
    /// Bytes that wait for all of them.
    waiting: Arc<AtomicU64>,
    /// What they take beside that.
    own_bytes: Cell<u64>,
    /// What nobody will take.
    gone: RefCell<VecDeque<RawDiff>>,
}

/// About what a subscriber takes beside its keys: its entries here and in the index, and both ends of its queue.
const SUBSCRIBER_BYTES: u64 = 512;

/// What waits for the subscribers of a shard may always take so much.
const WAITING_BYTES_MIN: u64 = 64 << 10;

struct Subscriber {
    queue: Sender,
    topology: TopologyId,
    partition: PartitionId,
    watch: Watch,
    /// The subscriber has, or gets from its queue, what all microbatches up to here did.
    told: MicrobatchId,
    /// Runs up to here are not told: `told` at first, and above it only where a bug is planted.
    skip: MicrobatchId,
}

/// What a microbatch wrote in one partition.
struct Due {
    topology: TopologyId,
    id: MicrobatchId,
    partition: PartitionId,
    run: Rc<Run>,
}

impl Shard {
    /// Registers a subscriber; nothing happens between the pin, the id in it and the entry in the index.
    pub(super) fn subscribe(&self, request: SubscribeRequest) {
        let SubscribeRequest { module, owner, partition, pstate, watch, again, reply } = request;
        let registered = self.register(&module, owner, partition, (pstate, watch), again);
        answer(reply, registered);
    }

    fn register(
        &self,
        module: &crate::node::Installed,
        owner: usize,
        partition: PartitionId,
        (pstate, mut watch): (PStateIndex, Watch),
        again: bool,
    ) -> Result<Subscribed> {
        self.partition(partition)?;
        let topology = module.topologies[owner];
        // Without it nobody here would learn what becomes visible.
        self.topology(topology)?;
        let subscribers_max = self.setup.options.subscriptions_max;
        if self.subscribers_count() >= subscribers_max {
            self.subscribers.forget_the_abandoned();
            if self.subscribers_count() >= subscribers_max {
                let shard = self.env.shard();
                return Err(Error::TooManySubscriptions { shard, limit: subscribers_max });
            }
        }
        let pin = Arc::new(Pin::visible(&self.setup, module));
        let (_, id) = pin.ids()[owner];
        watch.pstate = pin.numbers().pstates[pstate.0 as usize];
        let bytes_max = self.setup.options.subscription_bytes_max;
        let (sender, receiver) = queue(bytes_max, &self.subscribers.waiting);
        let lost = again && planted(Plant::DiffLostAtResync);
        let skip = if lost { id.next() } else { id };
        let subscribers = &self.subscribers;
        let number = SubscriberId(subscribers.next.get());
        subscribers.next.set(number.0 + 1);
        subscribers.indexes.borrow_mut().entry(partition).or_default().add(number, &watch);
        let subscriber = Subscriber { queue: sender, topology, partition, watch, told: id, skip };
        subscribers.own_bytes.set(subscribers.own_bytes.get() + subscriber.bytes());
        subscribers.all.borrow_mut().insert(number, subscriber);
        self.lend_to_subscribers();
        Ok(Subscribed { pin, id, queue: receiver })
    }

    /// A page of the value at the pin of a registration.
    pub(super) fn page(self: &Rc<Self>, request: PageRequest) {
        let shard = Rc::clone(self);
        self.env.spawn(Class::Client, "page of a subscription", async move {
            let read = shard.read_page(&request).await;
            answer(request.reply, read);
        });
    }

    async fn read_page(&self, request: &PageRequest) -> Result<Page> {
        let PageRequest { module, pin, partition, pstate, watch, after, .. } = request;
        let partition = Rc::clone(self.partition(*partition)?);
        let (from, to) = watch.bounds();
        let from = match after {
            None => from,
            Some(after) => {
                // No key lies between a key and the same with a zero behind it.
                let mut behind = after.clone();
                behind.push(0);
                behind
            }
        };
        let to = to.as_ref().map(KeyBuf::as_slice);
        let range = Scan {
            from: from.as_slice(),
            to,
            reverse: false,
            limit: usize::MAX,
            keys_only: watch.keys_only,
        };
        let mut page = Page { rows: Rows::new(), is_last: true };
        let mut visit = |key: &[u8], value: &[u8]| {
            if page.rows.bytes_len() >= PAGE_BYTES {
                page.is_last = false;
                return ControlFlow::Break(());
            }
            page.rows.push(key, if watch.keys_only { &[] } else { value });
            ControlFlow::Continue(())
        };
        let when = When::Pinned(Arc::clone(pin));
        let seen = Seen::new(&self.env, &partition, module, (pin.numbers(), *pstate), &when);
        let scanned = seen.scan(range, &mut visit).await;
        scanned.map_err(|failed| self.select_failed(&failed))?;
        Ok(page)
    }

    /// Tells subscribers of a topology that what they watch has other numbers now, and forgets them.
    pub(super) fn cut_moved(&self, topology: TopologyId, numbers: &Numbers) {
        let all = self.subscribers.all.borrow();
        let is_moved = |it: &Subscriber| {
            it.topology == topology && !numbers.pstates.contains(&it.watch.pstate)
        };
        let moved: Vec<_> =
            all.iter().filter(|(_, it)| is_moved(it)).map(|(&number, _)| number).collect();
        for number in &moved {
            self.subscribers.gone.borrow_mut().extend(all[number].queue.cut());
        }
        drop(all);
        for number in moved {
            self.subscribers.forget(number);
        }
    }

    /// Takes note of what becomes visible of a topology: the ids above the one up to which it was.
    pub(super) fn note_news(&self, topology: TopologyId, above: MicrobatchId, id: MicrobatchId) {
        let subscribers = &self.subscribers;
        let indexes = subscribers.indexes.borrow();
        let mut due = subscribers.due.borrow_mut();
        let mut bytes = 0;
        for (&partition, index) in indexes.iter() {
            self.partitions[&partition].store.each_stacked(topology, above, id, |id, run| {
                // Whoever subscribes before it is told reads a value that has it. Of small runs, most concern
                // nobody, which costs less to see than to queue.
                bytes += run.encoded_bytes();
                let concerns =
                    if bytes < BYTES_AT_ONCE { index.may_touch(run) } else { index.concerns(run) };
                if concerns {
                    due.push_back(Due { topology, id, partition, run: Rc::clone(run) });
                }
            });
        }
    }

    /// Tells subscribers what became visible.
    pub(super) fn tell_news(self: &Rc<Self>) {
        if self.subscribers.due.borrow().is_empty() || self.subscribers.telling.get() {
            return;
        }
        self.tell_some();
        if self.subscribers.due.borrow().is_empty() {
            return;
        }
        self.subscribers.telling.set(true);
        let shard = Rc::clone(self);
        self.env.spawn(Class::Topology, "tell subscribers", async move {
            while !shard.subscribers.due.borrow().is_empty() {
                shard.env.yield_now().await;
                shard.tell_some();
            }
            shard.subscribers.telling.set(false);
        });
    }

    fn tell_some(&self) {
        self.subscribers.tell_some();
        self.subscribers.bound(self.waiting_bytes_max());
        self.lend_to_subscribers();
        let mut gone = self.subscribers.gone.take();
        if gone.is_empty() {
            return;
        }
        let env = self.env.clone();
        self.env.spawn(Class::Background, "drop changes", async move {
            while gone.pop_front().is_some() {
                if env.should_yield() {
                    env.yield_now().await;
                }
            }
        });
    }

    /// What waits for all subscribers may take so much of the budget.
    fn waiting_bytes_max(&self) -> u64 {
        let share = self.setup.options.memory_bytes / 16 / u64::from(self.setup.shards);
        share.max(WAITING_BYTES_MIN)
    }

    fn lend_to_subscribers(&self) {
        self.cache.lend(self.subscriber_bytes());
    }

    /// Bytes of memory that subscribers take, and what waits for them.
    pub(super) fn subscriber_bytes(&self) -> u64 {
        let subscribers = &self.subscribers;
        subscribers.own_bytes.get() + subscribers.waiting.load(Ordering::Relaxed)
    }

    /// Tells those whom no change reached for a while how far they are, for ever; and forgets those who went
    /// away.
    pub(super) async fn run_heartbeats(self: Rc<Self>) {
        loop {
            self.env.sleep(self.setup.options.subscription_heartbeat).await;
            self.subscribers.forget_the_abandoned();
            let topologies: Vec<_> = self.topologies.borrow().values().cloned().collect();
            for topology in topologies {
                self.look_at_numbers(&topology);
            }
            // What is not told yet comes first.
            if self.subscribers.due.borrow().is_empty() {
                let topologies = self.topologies.borrow();
                let visible = topologies.iter().map(|(&id, it)| (id, it.visible()));
                self.subscribers.tell_how_far(&visible.collect());
            }
            self.lend_to_subscribers();
        }
    }

    /// How many there are.
    pub(super) fn subscribers_count(&self) -> u64 {
        self.subscribers.all.borrow().len() as u64
    }
}

impl Subscribers {
    /// Tells what is due until that were enough bytes.
    fn tell_some(&self) {
        let mut bytes = 0;
        while bytes < BYTES_AT_ONCE {
            let Some(due) = self.due.borrow_mut().pop_front() else { return };
            bytes += due.run.encoded_bytes();
            let matches = match self.indexes.borrow().get(&due.partition) {
                Some(index) => index.matches(&due.run),
                None => continue,
            };
            for (number, writes) in matches {
                self.tell(number, &due, writes);
            }
        }
    }

    fn tell(&self, number: SubscriberId, due: &Due, writes: Vec<RawWrite>) {
        let sent = {
            let mut all = self.all.borrow_mut();
            let Some(subscriber) = all.get_mut(&number) else { return };
            // A `PState` has one writer, so runs that touch it are of this topology.
            assert_eq!(subscriber.topology, due.topology, "a foreign topology wrote");
            if due.id <= subscriber.skip {
                return;
            }
            subscriber.send(due.id, writes)
        };
        if let Sent::Ended(gone) = sent {
            self.gone.borrow_mut().extend(gone);
            self.forget(number);
        }
    }

    /// Makes gaps where most waits, as long as too much does.
    fn bound(&self, bytes_max: u64) {
        if self.waiting.load(Ordering::Relaxed) <= bytes_max {
            return;
        }
        let all = self.all.borrow();
        let sizes = all.iter().map(|(&number, it)| (it.queue.bytes(), number));
        let mut largest: Vec<_> = sizes.filter(|(bytes, _)| *bytes > 0).collect();
        drop(all);
        largest.sort_unstable_by(|a, b| b.cmp(a));
        for (_, number) in largest {
            // Subscribers take what waits meanwhile.
            if self.waiting.load(Ordering::Relaxed) <= bytes_max {
                return;
            }
            if let Some(subscriber) = self.all.borrow().get(&number) {
                self.gone.borrow_mut().extend(subscriber.queue.give_up());
            }
            self.forget(number);
        }
    }

    fn tell_how_far(&self, visible: &BTreeMap<TopologyId, MicrobatchId>) {
        let mut ended = Vec::new();
        for (&number, subscriber) in self.all.borrow_mut().iter_mut() {
            let visible = visible.get(&subscriber.topology).copied().unwrap_or_default();
            // Who has not taken what waits for it would not take this either.
            if subscriber.told < visible
                && subscriber.queue.bytes() == 0
                && subscriber.send(visible, Vec::new()) != Sent::Queued
            {
                ended.push(number);
            }
        }
        for number in ended {
            self.forget(number);
        }
    }

    fn forget_the_abandoned(&self) {
        let all = self.all.borrow();
        let gone = all.iter().filter(|(_, it)| it.queue.is_abandoned()).map(|(&number, _)| number);
        let gone: Vec<SubscriberId> = gone.collect();
        drop(all);
        for number in gone {
            self.forget(number);
        }
    }

    fn forget(&self, number: SubscriberId) {
        let Some(subscriber) = self.all.borrow_mut().remove(&number) else { return };
        self.own_bytes.set(self.own_bytes.get() - subscriber.bytes());
        let mut indexes = self.indexes.borrow_mut();
        let Some(index) = indexes.get_mut(&subscriber.partition) else { return };
        index.remove(number, &subscriber.watch);
        if index.is_empty() {
            indexes.remove(&subscriber.partition);
        }
    }
}

impl Subscriber {
    /// About what it takes beside what waits for it.
    fn bytes(&self) -> u64 {
        // Its keys stand here and in the index.
        let (from, to) = self.watch.bounds();
        SUBSCRIBER_BYTES + 2 * (from.len() + to.map_or(0, |to| to.len())) as u64
    }

    fn send(&mut self, to: MicrobatchId, writes: Vec<RawWrite>) -> Sent {
        let from = std::mem::replace(&mut self.told, to);
        self.queue.send(RawDiff { from, to, writes })
    }
}
