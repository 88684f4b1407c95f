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
use super::partition::Partition;
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
use crate::subscribe::index::{Change, Index, SubscriberId, Watch};
use crate::subscribe::queue::{Made, RawDiff, Sender, Sent, queue};
use crate::topology::Scan;
use crate::types::{MicrobatchId, PartitionId, TopologyId};

/// A page of a value ends when it has so many bytes.
pub(super) const PAGE_BYTES: usize = 256 << 10;

/// Runs are told at once up to so many bytes, and the rest by a task: filtering takes less than merging them.
const BYTES_AT_ONCE: usize = 64 << 10;

/// So many subscribers are told how far they are without a pause: some tens of microseconds.
const HEARTBEATS_AT_ONCE: usize = 256;

/// All of them.
#[derive(Default)]
pub(super) struct Subscribers {
    next: Cell<u64>,
    all: RefCell<BTreeMap<SubscriberId, Subscriber>>,
    /// Of the partitions in which something is subscribed, by the topology that writes it: commits of others
    /// are not looked at.
    indexes: RefCell<BTreeMap<TopologyId, Vec<Indexed>>>,
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
    /// How many changes were made of what runs did.
    made_count: Cell<u64>,
    /// What a heartbeat tells.
    nothing: Arc<Made>,
}

/// What may wait.
#[derive(Clone, Copy)]
struct Bounds {
    /// For one subscriber.
    each_bytes: u64,
    /// For all of a shard.
    all_bytes: u64,
}

/// A run that is told.
struct Telling<'a> {
    due: &'a Due,
    bounds: Bounds,
    /// Who is to be forgotten, once nobody looks at the index; some of them twice.
    ended: Vec<SubscriberId>,
    bounded_count: u32,
}

/// So often while a run is told, whoever has most waiting is looked for, which takes a look at everybody.
const BOUNDED_MAX: u32 = 8;

/// About what a subscriber takes beside its keys: its entries here and in the index, and both ends of its queue.
const SUBSCRIBER_BYTES: u64 = 512;

/// What waits for the subscribers of a shard may always take so much.
const WAITING_BYTES_MIN: u64 = 64 << 10;

/// Where something is subscribed, and by whom.
struct Indexed {
    id: PartitionId,
    partition: Rc<Partition>,
    index: Index,
}

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
        let rows = Rc::clone(self.partition(partition)?);
        let topology = module.topologies[owner];
        // Without it nobody here would learn what becomes visible.
        self.topology(topology)?;
        let subscribers_max = self.setup.options.subscriptions_max;
        if self.subscribers_count() >= subscribers_max {
            let all: Vec<SubscriberId> = self.subscribers.all.borrow().keys().copied().collect();
            self.subscribers.forget_the_abandoned(&all);
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
        let mut indexes = subscribers.indexes.borrow_mut();
        let of = indexes.entry(topology).or_default();
        let at = of.binary_search_by_key(&partition, |it| it.id).unwrap_or_else(|at| {
            of.insert(at, Indexed { id: partition, partition: rows, index: Index::default() });
            at
        });
        of[at].index.add(number, &watch);
        drop(indexes);
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
        for Indexed { id: partition, partition: rows, index } in
            indexes.get(&topology).into_iter().flatten()
        {
            let partition = *partition;
            rows.store.each_stacked(topology, above, id, |id, run| {
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
        let bounds = Bounds {
            each_bytes: self.setup.options.subscription_bytes_max,
            all_bytes: self.waiting_bytes_max(),
        };
        self.subscribers.tell_some(bounds);
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
            let topologies: Vec<_> = self.topologies.borrow().values().cloned().collect();
            for topology in topologies {
                self.look_at_numbers(&topology);
            }
            let mut from = Some(SubscriberId(0));
            while let Some(some) = from {
                from = self.heartbeat(some);
                self.env.yield_now().await;
            }
            self.lend_to_subscribers();
        }
    }

    /// The same, for some of them from a number on; gives the number to go on with.
    fn heartbeat(&self, from: SubscriberId) -> Option<SubscriberId> {
        let subscribers = &self.subscribers;
        let (some, next) = subscribers.some_from(from);
        subscribers.forget_the_abandoned(&some);
        // What is not told yet comes first.
        if subscribers.due.borrow().is_empty() {
            let topologies = self.topologies.borrow();
            let visible = topologies.iter().map(|(&id, it)| (id, it.visible()));
            subscribers.tell_how_far(&some, &visible.collect());
        }
        next
    }

    /// How many there are.
    pub(super) fn subscribers_count(&self) -> u64 {
        self.subscribers.all.borrow().len() as u64
    }
}

impl Subscribers {
    /// Tells what is due until that were enough bytes.
    fn tell_some(&self, bounds: Bounds) {
        let mut bytes = 0;
        while bytes < BYTES_AT_ONCE {
            let Some(due) = self.due.borrow_mut().pop_front() else { break };
            bytes += due.run.encoded_bytes();
            let indexes = self.indexes.borrow();
            let mut of = indexes.get(&due.topology).into_iter().flatten();
            let indexed = of.find(|it| it.id == due.partition);
            let ended = indexed.map(|it| self.tell_run(&due, &it.index, bounds));
            drop(indexes);
            for number in ended.unwrap_or_default().into_iter().rev() {
                self.forget(number);
            }
        }
    }

    /// Tells of one run; gives those who are to be forgotten.
    fn tell_run(&self, due: &Due, index: &Index, bounds: Bounds) -> Vec<SubscriberId> {
        let mut telling = Telling { due, bounds, ended: Vec::new(), bounded_count: 0 };
        index.each_change(&due.run, |change| self.tell(&mut telling, change));
        telling.ended
    }

    /// Tells all who watch the same of a change. It is made once, and only if somebody has room for it.
    fn tell(&self, telling: &mut Telling<'_>, change: &Change<'_>) {
        let due = telling.due;
        let bytes = change.bytes(telling.bounds.each_bytes);
        let has_room = self.make_room(telling, bytes);
        let mut made = None;
        let mut all = self.all.borrow_mut();
        for &number in change.ids {
            let Some(subscriber) = all.get_mut(&number) else { continue };
            // A `PState` has one writer, so runs that touch it are of this topology.
            assert_eq!(subscriber.topology, due.topology, "a foreign topology wrote");
            if due.id <= subscriber.skip {
                continue;
            }
            let sent = if has_room && subscriber.queue.has_room(bytes) {
                let made = made.get_or_insert_with(|| {
                    self.made_count.set(self.made_count.get() + 1);
                    Arc::new(Made::new(change.make()))
                });
                subscriber.send(due.id, Arc::clone(made))
            } else {
                Sent::Ended(subscriber.queue.give_up())
            };
            if let Sent::Ended(gone) = sent {
                self.gone.borrow_mut().extend(gone);
                telling.ended.push(number);
            }
        }
    }

    /// Whether there is room for so many bytes more among all that waits. Whoever has most waiting gives way; who
    /// that is is not looked for again and again.
    fn make_room(&self, telling: &mut Telling<'_>, bytes: u64) -> bool {
        let room = telling.bounds.all_bytes.saturating_sub(bytes);
        let is_over = || self.waiting.load(Ordering::Relaxed) > room;
        if is_over() && telling.bounded_count < BOUNDED_MAX {
            telling.bounded_count += 1;
            self.bound(room, &mut telling.ended);
        }
        !is_over()
    }

    /// Makes gaps where most waits, as long as too much does; who got one is to be forgotten.
    fn bound(&self, bytes_max: u64, ended: &mut Vec<SubscriberId>) {
        let all = self.all.borrow();
        let sizes = all.iter().map(|(&number, it)| (it.queue.bytes(), number));
        let mut largest: Vec<_> = sizes.filter(|(bytes, _)| *bytes > 0).collect();
        largest.sort_unstable_by(|a, b| b.cmp(a));
        for (_, number) in largest {
            // Subscribers take what waits meanwhile.
            if self.waiting.load(Ordering::Relaxed) <= bytes_max {
                return;
            }
            self.gone.borrow_mut().extend(all[&number].queue.give_up());
            ended.push(number);
        }
    }

    /// Some subscribers from a number on, and the number behind them if there are more.
    fn some_from(&self, from: SubscriberId) -> (Vec<SubscriberId>, Option<SubscriberId>) {
        let all = self.all.borrow();
        let mut numbers = all.range(from..).map(|(&number, _)| number);
        let some = numbers.by_ref().take(HEARTBEATS_AT_ONCE).collect();
        (some, numbers.next())
    }

    fn tell_how_far(&self, some: &[SubscriberId], visible: &BTreeMap<TopologyId, MicrobatchId>) {
        let mut ended = Vec::new();
        let mut all = self.all.borrow_mut();
        for &number in some {
            let Some(subscriber) = all.get_mut(&number) else { continue };
            let visible = visible.get(&subscriber.topology).copied().unwrap_or_default();
            // Who has not taken what waits for it would not take this either.
            if subscriber.told < visible
                && subscriber.queue.bytes() == 0
                && subscriber.send(visible, Arc::clone(&self.nothing)) != Sent::Queued
            {
                ended.push(number);
            }
        }
        drop(all);
        for number in ended {
            self.forget(number);
        }
    }

    fn forget_the_abandoned(&self, among: &[SubscriberId]) {
        let all = self.all.borrow();
        let gone = among.iter().filter(|it| all.get(it).is_some_and(|it| it.queue.is_abandoned()));
        let gone: Vec<SubscriberId> = gone.copied().collect();
        drop(all);
        for number in gone {
            self.forget(number);
        }
    }

    #[cfg(test)]
    fn made_count(&self) -> u64 {
        self.made_count.get()
    }

    fn forget(&self, number: SubscriberId) {
        let Some(subscriber) = self.all.borrow_mut().remove(&number) else { return };
        self.own_bytes.set(self.own_bytes.get() - subscriber.bytes());
        let mut indexes = self.indexes.borrow_mut();
        let Some(of) = indexes.get_mut(&subscriber.topology) else { return };
        let Ok(at) = of.binary_search_by_key(&subscriber.partition, |it| it.id) else { return };
        of[at].index.remove(number, &subscriber.watch);
        if of[at].index.is_empty() {
            of.remove(at);
        }
        if of.is_empty() {
            indexes.remove(&subscriber.topology);
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

    fn send(&mut self, to: MicrobatchId, made: Arc<Made>) -> Sent {
        let from = std::mem::replace(&mut self.told, to);
        self.queue.send(RawDiff { from, to, made })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::pstate::WriteSet;
    use crate::subscribe::index::Watched;
    use crate::subscribe::queue::{Received, Receiver};
    use crate::types::PStateId;

    const P: PStateId = PStateId(1);
    const ROWS: u32 = 1_000;
    const ROW_BYTES: u64 = 200;

    /// So many watch a hot range each of whose rows a run writes.
    struct Hot {
        subscribers: Subscribers,
        index: Index,
        queues: Vec<Receiver>,
        due: Due,
    }

    impl Hot {
        /// Each begins to watch at a key of its own, unless all watch the same.
        fn new(count: u32, is_same: bool, each_bytes: u64) -> Self {
            let subscribers = Subscribers::default();
            let (mut index, mut queues) = (Index::default(), Vec::new());
            for number in 0..count {
                let mut from = KeyBuf::from(b"a".as_slice());
                if !is_same {
                    from.push_array(number.to_be_bytes().map(|byte| byte / 16));
                    from.push_array(number.to_be_bytes());
                }
                let to = KeyBuf::from(b"a".as_slice()).prefix_end();
                let rows = Watched::Range { from, to, prefix_bytes: 1 };
                let watch = Watch { pstate: P, rows, keys_only: false };
                let number = SubscriberId(number.into());
                index.add(number, &watch);
                let (queue, receiver) = queue(each_bytes, &subscribers.waiting);
                queues.push(receiver);
                let (topology, partition) = (TopologyId(1), PartitionId(0));
                let (told, skip) = (MicrobatchId(0), MicrobatchId(0));
                let subscriber = Subscriber { queue, topology, partition, watch, told, skip };
                subscribers.all.borrow_mut().insert(number, subscriber);
            }
            let mut writes = WriteSet::default();
            for row in 0..ROWS {
                writes.put(P, &[b"a\xff", &row.to_be_bytes()[..]].concat(), &[7; 130]);
            }
            let run = Rc::new(writes.seal());
            let (topology, partition) = (TopologyId(1), PartitionId(0));
            let due = Due { topology, id: MicrobatchId(1), partition, run };
            Self { subscribers, index, queues, due }
        }

        /// Tells, and gives how many got the change and how many a gap.
        fn tell(&mut self, bounds: Bounds) -> (usize, usize) {
            let Self { subscribers, index, queues, due } = self;
            let mut ended = subscribers.tell_run(due, index, bounds);
            ended.sort_unstable();
            ended.dedup();
            let received = queues.iter_mut().map(|it| it.next().now_or_never());
            let received: Vec<_> = received.collect();
            let gaps = received.iter().filter(|it| **it == Some(Received::Gap)).count();
            assert_eq!(gaps, ended.len());
            (received.len() - gaps, gaps)
        }

        fn waiting(&self) -> u64 {
            self.subscribers.waiting.load(Ordering::Relaxed)
        }
    }

    const MANY: Bounds = Bounds { each_bytes: 1 << 20, all_bytes: 8 << 20 };

    #[test]
    fn what_ten_thousand_watch_is_made_and_held_once() {
        let mut hot = Hot::new(10_000, true, MANY.each_bytes);
        let Hot { subscribers, index, due, .. } = &hot;
        assert!(subscribers.tell_run(due, index, MANY).is_empty());
        // The change, and an entry in each queue.
        assert!(hot.waiting() <= u64::from(ROWS) * ROW_BYTES + 10_000 * 64, "{}", hot.waiting());
        assert_eq!(hot.tell(MANY), (10_000, 0));
        assert_eq!(hot.subscribers.made_count(), 2);
        drop(hot.queues);
        assert_eq!(hot.subscribers.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_nobody_has_room_for_is_not_made() {
        // No subscriber takes so much.
        let each_bytes = 64 << 10;
        let mut hot = Hot::new(1_000, true, each_bytes);
        assert_eq!(hot.tell(Bounds { each_bytes, ..MANY }), (0, 1_000));
        assert_eq!(hot.subscribers.made_count(), 0);
        // All of them together do not: each change is made only as long as there is room.
        let mut hot = Hot::new(1_000, false, MANY.each_bytes);
        let (told, gaps) = hot.tell(MANY);
        let room = MANY.all_bytes / (u64::from(ROWS) * ROW_BYTES / 2);
        assert!(told > 0 && told as u64 <= room && gaps > 900, "{told} told, {gaps} gaps");
        assert!(hot.subscribers.made_count() <= 10 * room, "{}", hot.subscribers.made_count());
    }
}
