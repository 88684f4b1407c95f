//! One `PState` without a module.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;

use super::counted::{Counted, Io};
use super::store::{PARTITION, StoreLocal, TOPOLOGY};
use crate::codec::table::Trace;
use crate::codec::{self, FieldTable};
use crate::env::memory::{Machine, MemoryDisk};
use crate::module::DepotIndex;
use crate::page::Cache;
use crate::pstate::Store;
use crate::schema::{
    Described, Direct, Layout, Owned, OwnedBy, Owning, Path, Placing, Position, Schema, Select,
    Stored,
};
use crate::topology::{
    At, Changes, Context, Done, Event, Failure, Local, NodeIndex, Origin, Result,
};
use crate::types::{Index, MicrobatchId, Offset, PStateId};

/// The topology that owns the `PState` of a [`TestPState`].
#[derive(Debug)]
pub enum Test {}

impl Owning for Test {
    type Writer = Self;
}

/// One `PState` of type `S` without a module or an engine: for unit tests of paths, and of functions that
/// read and write.
///
/// It is a partition's real store, with its layers, trees and pages, on a disk in memory. It is the only
/// partition, so every key lives here. Each call is a microbatch: what it wrote is there if it ended well,
/// all at once, and nothing of it otherwise. Not `Send`, and not for use inside a runtime: calls block
/// until they are done, which on this disk takes no waiting.
///
/// ```
/// use tidemill::schema::aggregate::{Count, SetOf};
/// use tidemill::schema::{Map, Set, Sub, Uncounted};
/// use tidemill::testing::{Test, TestPState};
/// use tidemill::topology::{At, Result};
///
/// type Fans = Map<String, Sub<Set<String>, Uncounted>>;
///
/// /// What is to be tested: lets one user follow those whom another one follows.
/// async fn copy<O>(
///     at: At<'_, O>,
///     fans: tidemill::schema::Owned<Fans, O>,
///     from: &str,
///     to: &str,
/// ) -> Result<usize> {
///     let followed = at.get(fans.key(from).all()).await?;
///     for name in &followed {
///         at.put(fans.key(to).has(name), true)?;
///     }
///     Ok(followed.len())
/// }
///
/// let mut state = TestPState::<Fans>::new()?;
/// let fans = state.token();
/// state.aggregate(vec![
///     fans.key("ann").add(SetOf("bob".to_owned())),
///     fans.key("ann").add(SetOf("cleo".to_owned())),
/// ]).unwrap();
/// state.reopen(); // everything is in the tree, nothing in memory
/// state.take_io();
/// assert_eq!(state.run(async |at| copy(at, fans, "ann", "dan").await).unwrap(), 2);
///
/// let io = state.take_io();
/// assert_eq!((io.seeks(), io.rows_scanned, io.writes()), (1, 2, 2));
/// assert_eq!(state.select(fans.key("dan").all()).unwrap(), ["bob", "cleo"]);
/// # Ok::<(), tidemill::codec::Error>(())
/// ```
pub struct TestPState<S> {
    machine: Machine,
    store: Store,
    layout: Layout,
    placing: Placing,
    /// What a single value is where nothing is stored.
    initial: Option<Vec<u8>>,
    fields: FieldTable,
    /// Microbatches that were begun.
    begun: Cell<u64>,
    /// Those of them that wrote something: the entries of a journal that is not there.
    written: Cell<u64>,
    io: Cell<Io>,
    schema: PhantomData<fn() -> S>,
}

impl<S> fmt::Debug for TestPState<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestPState")
            .field("schema", &std::any::type_name::<S>())
            .field("written", &self.written.get())
            .finish_non_exhaustive()
    }
}

impl<S: Schema> TestPState<S> {
    /// An empty one.
    ///
    /// # Errors
    /// [`codec::Error::NotStorable`] if a value in `S` is not.
    pub fn new() -> codec::Result<Self> {
        let mut trace = Trace::default();
        let layout = Layout::of::<S>(&mut trace)?;
        let fields = trace.finish();
        let mut initial = None;
        if let Some(encode) = S::INITIAL {
            encode(&fields, initial.insert(Vec::new()))?;
        }
        let machine = Machine::new(&MemoryDisk::new());
        let store = open(&machine, Index(1));
        Ok(Self {
            machine,
            store,
            layout,
            placing: S::PLACING,
            initial,
            fields,
            begun: Cell::new(0),
            written: Cell::new(0),
            io: Cell::default(),
            schema: PhantomData,
        })
    }
}

impl<S: 'static> TestPState<S> {
    /// The start of all paths.
    #[must_use]
    pub fn token(&self) -> Owned<S, Test> {
        Owned::from_id(PStateId(0))
    }

    /// Reads what a path, or a tuple of paths, leads to.
    ///
    /// # Errors
    /// As [`At::get`].
    pub fn select<P: Select>(&self, path: P) -> Result<P::Out>
    where
        P::Out: 'static,
    {
        self.run(async |at| Ok(at.get(path).await?))
    }

    /// Writes one value.
    ///
    /// # Errors
    /// As [`At::put`].
    pub fn put<V: Stored, M: Direct, O: OwnedBy<Test>>(
        &self,
        path: Path<V, M, O>,
        value: V::Value,
    ) -> Result<()> {
        self.run(async |at| Ok(at.put(path, value)?))
    }

    /// Deletes what a path leads to; of a `Sub` collection, all that is in it.
    ///
    /// # Errors
    /// As [`At::delete`].
    pub fn delete<V: Position, M: Direct, O: OwnedBy<Test>>(
        &self,
        path: Path<V, M, O>,
    ) -> Result<()> {
        self.run(async |at| Ok(at.delete(path)?))
    }

    /// Runs code that reads and writes, as one row of a topology. What it wrote stays if it returns `Ok`.
    ///
    /// # Errors
    /// What `code` returns; and the first failure of the store, if `code` kept it for itself.
    pub fn run<X>(&self, code: impl AsyncFnOnce(At<'_, Test>) -> Result<X>) -> Result<X> {
        self.microbatch(true, async |context| code(At::new(context)).await)
    }

    /// [`TestPState::run`], over the store itself, as an engine without an event hook does; [`TestPState::take_io`]
    /// learns nothing of it. For measurements.
    ///
    /// # Errors
    /// As [`TestPState::run`].
    pub fn run_uncounted<X>(&self, code: impl AsyncFnOnce(At<'_, Test>) -> Result<X>) -> Result<X> {
        self.microbatch(false, async |context| code(At::new(context)).await)
    }

    /// Adds to what is stored: what a flow's `aggregate` does with the changes of one row.
    ///
    /// # Errors
    /// As [`At::put`], and if what is stored does not decode.
    pub fn aggregate<U: Changes<Owner = Test>>(&self, changes: U) -> Result<()> {
        let mut events: Vec<Box<dyn Event>> = Vec::new();
        let mut nodes = Vec::new();
        U::events(&mut |new| {
            let node = NodeIndex(u32::try_from(nodes.len()).expect("a tuple is short"));
            nodes.push(node);
            events.push(new(node, "aggregate".to_owned()));
        });
        self.microbatch(true, async |context| {
            let (mut buffers, mut done) = (U::Buffers::default(), Done::default());
            changes.collect(&mut buffers, context)?;
            U::leave(buffers, &nodes, &mut done);
            let mut outgoing = Vec::new();
            for changes in done.changes {
                changes.send(1, usize::MAX, &mut outgoing);
            }
            for batch in outgoing {
                let event = &events[batch.node.0 as usize];
                let ran = event.run(context.local(), batch.rows).await;
                ran.map_err(|failure| failure.failure)?;
            }
            Ok(())
        })
    }

    /// Folds everything that was written into the tree, as an engine does from time to time.
    pub fn fold(&self) {
        let folded = self.store.fold(Index(self.written.get()), &[]);
        self.machine.block_on(folded).expect("a disk in memory does not fail");
    }

    /// Folds, and opens the store again with an empty cache: what is read next has to be fetched.
    pub fn reopen(&mut self) {
        self.fold();
        self.store = open(&self.machine, Index(self.written.get()).next());
    }

    /// What was asked of the store since this was called before.
    pub fn take_io(&self) -> Io {
        self.io.take()
    }

    fn described(&self) -> Described<'_> {
        let name = "the PState of a test";
        let (layout, placing, initial) = (&self.layout, self.placing, self.initial.as_deref());
        Described { name, layout, placing, initial }
    }

    fn microbatch<X>(
        &self,
        counts: bool,
        code: impl AsyncFnOnce(&Context<'_>) -> Result<X>,
    ) -> Result<X> {
        let id = MicrobatchId(self.begun.get() + 1);
        self.begun.set(id.0);
        let writes = RefCell::default();
        let pstate = self.described();
        let local = StoreLocal::new(&self.store, (pstate, &self.fields), id, &writes);
        let counted = counts.then(|| Counted::new(&local));
        let seen: &dyn Local = counted.as_ref().map_or(&local, |counted| counted);
        let context = Context::new(seen, NodeIndex(0));
        context.begin(Origin::record(DepotIndex(0), PARTITION, Offset(id.0)));
        let result: Result<X> = self.machine.block_on(async {
            let result = code(&context).await?;
            context.settle().await?;
            Ok(result)
        });
        let has_failed = context.has_failed();
        let mut io = self.io.get();
        io += counted.as_ref().map_or_else(Io::default, Counted::io);
        self.io.set(io);
        let result = result?;
        if has_failed {
            return Err(Failure::retry("the store failed, and the code went on without it"));
        }
        let run = writes.into_inner().seal();
        if !run.is_empty() {
            self.written.set(self.written.get() + 1);
            self.store.stack(TOPOLOGY, id, Rc::new(run));
            self.store.show(TOPOLOGY, id);
            self.store.merge(TOPOLOGY, id);
        }
        Ok(result)
    }
}

/// Opens the store on the machine's disk with a cache of its own.
fn open(machine: &Machine, journal_from: Index) -> Store {
    let env = machine.env();
    let cache = Cache::new(CACHE_BYTES);
    let opened = machine.block_on(Store::open(env, &cache, DIR, PARTITION, journal_from));
    opened.expect("a disk in memory does not fail").0
}

/// Where the pages lie on the disk in memory.
const DIR: &str = "p/0";

/// More than unit tests write.
const CACHE_BYTES: u64 = 64 << 20;
