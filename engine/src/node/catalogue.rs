//! The catalogue: which modules were launched here, and the numbers of everything they declare.
//!
//! Numbers are assigned once and never reused, since they stand in journals, segments and pages. The
//! catalogue is one file, `catalogue-<n>`, written whole; `MANIFEST` names it with its checksum, so a
//! new one counts from the instant the manifest is durable. It is JSON, for people and tools.
//!
//! It remembers the layout of every `PState`. A launch that declares another one is refused before anything
//! is written, unless every row that may be stored can be read as what is declared; then the layout is
//! widened to hold both.
//!
//! A `PState` whose [migration](crate::migrate) is under way has two numbers: its own, under which the new form
//! lies, and the one it had before. The launch that begins a migration gives the new number; when nothing is
//! left under the old one, that is dropped, and the migration's id stays, so that it never begins again.
//!
//! Format 2 added the layouts. A file of format 1 is read, and its `PState`s take the layouts that the next
//! launch declares. Format 3 added the sizes of collections: what was launched before keeps none. Format 4
//! added migrations, recomputes, where rows live (before, that was by the hash of the first key for all) and where
//! topologies began in their sources (before, with the first record). The file that a launch writes has the newest
//! format.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::numbers::{Current, Numbers, Stops};
use crate::codec::FieldTable;
use crate::codec::table::Misfit;
use crate::error::{Error, Result};
use crate::migrate::Move;
use crate::module::{Definition, PStateIndex, StartAt, Traced};
use crate::schema::{Described, Layout, ReadPlan, Reads};
use crate::topology;
use crate::types::{DepotId, MicrobatchId, Offset, PStateId, PartitionId, ShardId, TopologyId};
use tidemill_replication::two_phase::Source;

pub(crate) mod owners;
mod placed;
pub(crate) mod recomputes;

pub use placed::Placed;
pub use recomputes::{Leftovers, Recomputing};

/// Everything that has a number.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Catalogue {
    /// Format of this file.
    pub format: u32,
    /// Launched modules, in order of their first launch.
    pub modules: Vec<ModuleEntry>,
    /// The number the next depot gets.
    pub next_depot: u32,
    /// The number the next `PState` gets; 0 is the engine's own.
    pub next_pstate: u32,
    /// The number the next topology gets; 0 is the engine's own.
    pub next_topology: u32,
    /// The numbers of record fields, as [`FieldTable::encode`] writes them.
    pub fields: Vec<u8>,
    /// What recomputes have left to be dropped.
    #[serde(default, skip_serializing_if = "Leftovers::is_empty")]
    pub leftovers: Leftovers,
}

/// A launched module.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ModuleEntry {
    /// Its name, unique.
    pub name: String,
    /// The version launched last.
    pub version: u32,
    /// Its depots, dead-letter depots included.
    pub depots: Vec<Numbered>,
    /// Its `PState`s.
    pub pstates: Vec<Numbered>,
    /// Its topologies.
    pub topologies: Vec<Numbered>,
    /// Those of them that are being recomputed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recomputes: Vec<Recomputing>,
}

/// A name and its number.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Numbered {
    /// Unique in its module and kind.
    pub name: String,
    /// Unique in the directory and kind, for ever.
    pub number: u32,
    /// Of a `PState`: what its rows may be. None of a `PState` that was last launched before catalogues
    /// remembered this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// Of a `PState`: where its rows live.
    #[serde(default, skip_serializing_if = "Placed::is_hash")]
    pub placed: Placed,
    /// Of a `PState`: the migration that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrating: Option<Migrating>,
    /// Of a `PState`: the ids of migrations that are done, or that began before anything was stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub migrated: Vec<String>,
    /// Of a `PState`: the topology that writes it. None of a `PState` that was last launched before catalogues
    /// remembered this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Of a `PState`: the id of its topology from which on it lies under this number, if it lay elsewhere before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: u64,
    /// Of a topology: where it began in the depots that it reads, or read once. None of a topology that was last
    /// launched before catalogues remembered this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Begun>,
}

/// Where a topology began in a depot.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Begun {
    /// The depot's number.
    pub depot: u32,
    /// By partition; at 0 in all others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub starts: BTreeMap<u32, u64>,
}

impl Begun {
    /// Where it began, if not at 0.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = (Source, Offset)> {
        let depot = DepotId(self.depot);
        self.starts.iter().map(move |(&partition, &offset)| {
            (Source { depot, partition: PartitionId(partition) }, Offset(offset))
        })
    }
}

/// Where topologies of a module are to begin in depots that are new to them, by the names of both and partition.
pub(crate) type Starts = BTreeMap<(String, String), BTreeMap<u32, u64>>;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for that")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a `PState` was before a migration that is under way.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Migrating {
    /// The migration's id.
    pub id: String,
    /// The number under which what was not moved yet is stored.
    pub number: u32,
    /// What its rows may be.
    pub layout: Layout,
}

impl Numbered {
    /// A name with its number.
    #[must_use]
    pub fn new(name: &str, number: u32) -> Self {
        Self {
            name: name.to_owned(),
            number,
            layout: None,
            migrating: None,
            migrated: Vec::new(),
            placed: Placed::Hash,
            owner: None,
            since: 0,
            sources: Vec::new(),
        }
    }

    /// Of a `PState` that is being migrated: what lies under its old number, as `name@old`, which no
    /// declaration can be called.
    #[must_use]
    pub fn old(&self) -> Option<Self> {
        let from = self.migrating.as_ref()?;
        let layout = Some(from.layout.clone());
        Some(Self { layout, ..Self::new(&format!("{}@old", self.name), from.number) })
    }
}

/// A module as the shards run it: its definition with the numbers of everything in it.
#[derive(Debug)]
pub(crate) struct Installed {
    pub(crate) definition: Arc<Definition>,
    /// By place in the definition.
    pub(crate) depots: Vec<DepotId>,
    numbers: Current,
    /// By the same places, the layouts of those in which sizes of collections are kept.
    pub(crate) sizes: Vec<Option<Layout>>,
    /// The migrations under way.
    pub(crate) moves: Vec<Arc<Move>>,
    pub(crate) topologies: Vec<TopologyId>,
    /// Where each topology began in what it reads, if not at 0; by place.
    pub(crate) starts: Vec<BTreeMap<Source, Offset>>,
    /// Where each topology's rejected records go.
    pub(crate) dead_letters: Vec<DepotId>,
    pub(crate) fields: Arc<FieldTable>,
    /// Of its `PState`s as it declares them, by place.
    pub(crate) layouts: Vec<Layout>,
    /// What its single values are where nothing is stored, by place.
    pub(crate) initials: Vec<Option<Vec<u8>>>,
    /// How far each topology is visible: the highest id that some shard of this process has shown. All
    /// participants have applied it durably.
    visible: Vec<Arc<AtomicU64>>,
    /// The same for each topology and shard, which follow each other within moments.
    shown: RwLock<BTreeMap<(usize, ShardId), MicrobatchId>>,
    /// Every shard that runs has the module, so its topologies may start.
    is_everywhere: AtomicBool,
    /// A launch has succeeded, or is about to.
    has_readers: AtomicBool,
    /// Topologies that stand still for a recompute.
    pub(crate) stops: Stops,
    /// This is the second instance of one topology, the one at this place: nothing else of it runs.
    pub(crate) shadow: Option<usize>,
    /// The shards on which nothing is left of a migration.
    moved: RwLock<BTreeSet<(usize, ShardId)>>,
}

impl Installed {
    /// The migration of a `PState` that was under way when this process launched it, be it done by now or not.
    pub(crate) fn moving(&self, pstate: PStateIndex) -> Option<&Move> {
        self.moves.iter().map(|it| &**it).find(|it| it.pstate == pstate)
    }

    /// The migrations of one of its topologies that are not done, with their places.
    pub(crate) fn moves_of(&self, place: usize) -> impl Iterator<Item = (usize, &Move)> {
        let pstates = &self.definition.pstates;
        let moves = self.moves.iter().map(|it| &**it).enumerate();
        moves.filter(move |(_, it)| !it.is_done() && pstates[it.pstate.0 as usize].owner == place)
    }

    /// Notes that nothing is left of a migration on a shard.
    pub(crate) fn note_moved(&self, nth: usize, shard: ShardId) {
        self.moved.write().unwrap_or_else(PoisonError::into_inner).insert((nth, shard));
    }

    /// Whether nothing is left of a migration on any shard.
    pub(crate) fn is_moved(&self, nth: usize, shards: u16) -> bool {
        let moved = self.moved.read().unwrap_or_else(PoisonError::into_inner);
        (0..shards).all(|shard| moved.contains(&(nth, ShardId(shard))))
    }

    /// Notes that readers may see an id, before any of them does.
    pub(crate) fn note_visible(&self, place: usize, id: MicrobatchId) {
        self.visible[place].fetch_max(id.0, Ordering::SeqCst);
    }

    /// The numbers of its `PState`s, to be held as long as they are used.
    pub(crate) fn numbers(&self) -> Arc<Numbers> {
        self.numbers.get()
    }

    /// Stores its `PState`s under other numbers from now on; answers with those before.
    pub(crate) fn renumber(&self, numbers: Numbers) -> Arc<Numbers> {
        self.numbers.replace(numbers)
    }

    /// The places and numbers of those of its topologies that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, TopologyId)> + '_ {
        let all = self.topologies.iter().copied().enumerate();
        all.filter(|(place, _)| self.shadow.is_none_or(|shadow| shadow == *place))
    }

    /// A second instance of the topology at `place`, which goes by another number and writes to other
    /// `PState`s; `pstates` as in [`Numbers`]. It reads what other topologies write where this one does.
    pub(crate) fn shadow(
        &self,
        place: usize,
        id: TopologyId,
        pstates: Vec<PStateId>,
        sources: &[Begun],
    ) -> Self {
        let mut starts = self.starts.clone();
        for begun in sources {
            let depot = DepotId(begun.depot);
            starts[place].retain(|source, _| source.depot != depot);
            starts[place].extend(begun.offsets());
        }
        let mut topologies = self.topologies.clone();
        topologies[place] = id;
        let mut visible = self.visible.clone();
        visible[place] = Arc::default();
        let mut since = self.numbers().since.clone();
        since[place] = MicrobatchId(0);
        // What it writes itself never had another form. What it reads of others may still have.
        let owner = |it: &Move| self.definition.pstates[it.pstate.0 as usize].owner;
        let moves = self.moves.iter().filter(|it| owner(it) != place).cloned().collect();
        Self {
            definition: Arc::clone(&self.definition),
            depots: self.depots.clone(),
            numbers: Current::new(Numbers { pstates, since }),
            sizes: self.sizes.clone(),
            moves,
            topologies,
            starts,
            dead_letters: self.dead_letters.clone(),
            fields: Arc::clone(&self.fields),
            layouts: self.layouts.clone(),
            initials: self.initials.clone(),
            visible,
            shown: RwLock::default(),
            is_everywhere: AtomicBool::new(false),
            has_readers: AtomicBool::new(false),
            moved: RwLock::default(),
            stops: Stops::default(),
            shadow: Some(place),
        }
    }

    /// How far each topology is visible.
    pub(crate) fn visible(&self) -> Vec<(TopologyId, MicrobatchId)> {
        let visible = self.visible.iter().map(|id| MicrobatchId(id.load(Ordering::SeqCst)));
        self.topologies.iter().copied().zip(visible).collect()
    }

    /// The same, and what is stored where at those ids: a topology stands still while its numbers change, so they
    /// belong together if they are the same before and after.
    pub(crate) fn visible_with_numbers(&self) -> (Vec<(TopologyId, MicrobatchId)>, Arc<Numbers>) {
        loop {
            let numbers = self.numbers();
            let visible = self.visible();
            if Arc::ptr_eq(&numbers, &self.numbers()) {
                return (visible, numbers);
            }
        }
    }

    pub(crate) fn described(&self, pstate: PStateIndex) -> Described<'_> {
        let place = pstate.0 as usize;
        let initial = self.initials[place].as_deref();
        self.definition.pstates[place].described(&self.layouts[place], initial)
    }

    /// What some reads are of, for people.
    pub(crate) fn names(&self, reads: &Reads) -> String {
        let name = |plan: &ReadPlan| self.described(PStateIndex(plan.pstate.0)).name;
        let mut names: Vec<_> = reads.as_slice().iter().map(name).collect();
        names.dedup();
        format!("a read of `{}`", names.join("`, `"))
    }

    /// How far one of its topologies is visible.
    pub(crate) fn visible_at(&self, place: usize) -> MicrobatchId {
        MicrobatchId(self.visible[place].load(Ordering::SeqCst))
    }

    /// Notes that readers of a shard see an id.
    pub(crate) fn note_shown(&self, place: usize, shard: ShardId, id: MicrobatchId) {
        let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
        shown.insert((place, shard), id);
    }

    /// The shards whose readers may not see what readers of some other shard see of a topology, and how
    /// far that is.
    pub(crate) fn lagging(&self, place: usize, shards: u16) -> (MicrobatchId, Vec<ShardId>) {
        let id = MicrobatchId(self.visible[place].load(Ordering::SeqCst));
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        let lags = |&shard: &ShardId| shown.get(&(place, shard)).is_none_or(|&it| it < id);
        (id, (0..shards).map(ShardId).filter(lags).collect())
    }

    pub(crate) fn note_everywhere(&self) {
        self.is_everywhere.store(true, Ordering::SeqCst);
    }

    /// Whether its topologies may start on a shard that has it.
    pub(crate) fn is_everywhere(&self) -> bool {
        self.is_everywhere.load(Ordering::SeqCst)
    }

    pub(crate) fn note_readers(&self) {
        self.has_readers.store(true, Ordering::SeqCst);
    }

    /// Whether somebody may have read what it shows.
    pub(crate) fn has_readers(&self) -> bool {
        self.has_readers.load(Ordering::SeqCst)
    }
}

/// The format of files that are written.
pub(crate) const FORMAT: u32 = 4;

/// The oldest format that is read.
const FORMAT_MIN: u32 = 1;

impl Default for Catalogue {
    fn default() -> Self {
        Self {
            format: FORMAT,
            modules: Vec::new(),
            next_depot: 1,
            next_pstate: 1,
            next_topology: 1,
            fields: Vec::new(),
            leftovers: Leftovers::default(),
        }
    }
}

impl Catalogue {
    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("names and numbers are always valid JSON")
    }

    /// Reads a file.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !(FORMAT_MIN..=FORMAT).contains(&head.format) {
            return Err(format!(
                "its format is {}, and {FORMAT_MIN} to {FORMAT} are read here",
                head.format
            ));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// Gives numbers to what `definition` declares: what the same module declared before keeps its
    /// number. `traced` is what its types come to, with the merged field table.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a `PState` is declared as something that what is stored cannot be read as; this
    /// is then to be dropped.
    pub(crate) fn install(
        &mut self,
        definition: Arc<Definition>,
        traced: Traced,
        starts: &Starts,
    ) -> Result<Installed> {
        let mut sizes = traced.sizes();
        let Traced { fields, layouts, old_layouts, initials } = traced;
        self.format = FORMAT;
        self.fields.clear();
        fields.encode(&mut self.fields).map_err(Error::invalid)?;
        let fields = Arc::new(fields);
        let known = self.modules.iter().position(|entry| entry.name == definition.name);
        let place = if let Some(place) = known {
            place
        } else {
            self.modules.push(ModuleEntry {
                name: definition.name.clone(),
                version: definition.version,
                depots: Vec::new(),
                pstates: Vec::new(),
                topologies: Vec::new(),
                recomputes: Vec::new(),
            });
            self.modules.len() - 1
        };
        let entry = &mut self.modules[place];
        entry.version = definition.version;
        let left = entry.outdated(definition.version, |name| definition.owned_by(name));
        self.leftovers.pstates.extend(left.pstates);
        self.leftovers.topologies.extend(left.topologies);
        let dead_letter_names =
            definition.topologies.iter().map(|topology| dead_letters_of(&topology.name));
        let dead_letters: Vec<_> = dead_letter_names
            .map(|name| DepotId(number(&mut entry.depots, &name, &mut self.next_depot)))
            .collect();
        let depots: Vec<_> = definition
            .depots
            .iter()
            .map(|depot| DepotId(number(&mut entry.depots, &depot.name, &mut self.next_depot)))
            .collect();
        let is_known: Vec<_> = definition
            .topologies
            .iter()
            .map(|topology| entry.topologies.iter().any(|it| it.name == topology.name))
            .collect();
        let topologies: Vec<_> = definition
            .topologies
            .iter()
            .map(|it| TopologyId(number(&mut entry.topologies, &it.name, &mut self.next_topology)))
            .collect();
        let began = definition.topologies.iter().zip(is_known);
        let starts = began.map(|(it, is_known)| entry.begin(it, is_known, &definition, starts));
        let starts = starts.collect();
        let (mut pstates, mut old, mut moves) = (Vec::new(), Vec::new(), Vec::new());
        for ((decl, layout), old_layout) in definition.pstates.iter().zip(&layouts).zip(old_layouts)
        {
            let migration = decl.migration.as_ref().zip(old_layout);
            let id = migration.as_ref().map(|(migration, old)| (&*migration.id, old));
            let declared = Declaration { name: &decl.name, layout, migration: id };
            let placed = Placed::from(decl.placing);
            entry.check_place(&decl.name, layout, &placed)?;
            let moving = entry.declare(&declared, &mut self.next_pstate)?;
            if moving.from.is_some() {
                entry.check_not_recomputed(&decl.name)?;
            }
            entry.remember(&decl.name, placed, &definition.topologies[decl.owner].name);
            if let (Some(from), Some((migration, _))) = (moving.from, &migration) {
                let place = PStateIndex(count(pstates.len()));
                let behind = PStateIndex(count(definition.pstates.len() + old.len()));
                old.push(PStateId(from));
                moves.push(Arc::new(migration.begin(layout, place, behind)));
            }
            pstates.push(PStateId(moving.number));
        }
        sizes.extend(old.iter().map(|_| None));
        pstates.extend(old);
        let mut since = vec![MicrobatchId(0); topologies.len()];
        for pstate in &definition.pstates {
            let known = entry.pstates.iter().find(|it| it.name == pstate.name);
            let of_it = MicrobatchId(known.map_or(0, |it| it.since));
            since[pstate.owner] = since[pstate.owner].max(of_it);
        }
        self.check_readable(&definition.name)?;
        Ok(Installed {
            visible: topologies.iter().map(|_| Arc::default()).collect(),
            shown: RwLock::default(),
            is_everywhere: AtomicBool::new(false),
            has_readers: AtomicBool::new(false),
            moved: RwLock::default(),
            stops: Stops::default(),
            shadow: None,
            definition,
            depots,
            numbers: Current::new(Numbers { pstates, since }),
            sizes,
            moves,
            topologies,
            starts,
            dead_letters,
            fields,
            layouts,
            initials,
        })
    }

    /// Nothing is stored any more under the old number of a `PState` whose migration this is. No change if that
    /// is known.
    pub(crate) fn migrated(&mut self, module: &str, pstate: &str, id: &str) {
        let module = self.modules.iter_mut().find(|it| it.name == module);
        let pstate = module.and_then(|it| it.pstates.iter_mut().find(|it| it.name == pstate));
        if let Some(pstate) = pstate
            && let Some(done) = pstate.migrating.take_if(|it| it.id == id)
        {
            self.format = FORMAT;
            pstate.migrated.push(done.id);
        }
    }

    /// What would be written must be read again: the reader bounds how deeply JSON may nest.
    fn check_readable(&self, module: &str) -> Result<()> {
        match Self::decode(&self.encode()) {
            Ok(read) => {
                assert!(read == *self, "a catalogue is read as it was written");
                Ok(())
            }
            Err(problem) => {
                let what = format!(
                    "the types of module `{module}` cannot be recorded in the catalogue ({problem}): let \
                     them nest less deeply, or give parts of them names as structs"
                );
                Err(Error::Invalid { what })
            }
        }
    }
}

/// What a launch says of a `PState`.
struct Declaration<'d> {
    name: &'d str,
    layout: &'d Layout,
    /// The id of its migration, and what it was before.
    migration: Option<(&'d str, &'d Layout)>,
}

/// The numbers of a `PState`: its own, and the one under which the old form lies while it is migrated.
struct Assigned {
    number: u32,
    from: Option<u32>,
}

impl ModuleEntry {
    /// Notes where a topology begins in what it reads and did not read before; answers where it began in all of it.
    fn begin(
        &mut self,
        topology: &topology::Definition,
        is_known: bool,
        definition: &Definition,
        starts: &Starts,
    ) -> BTreeMap<Source, Offset> {
        let entry = self.topologies.iter_mut().find(|it| it.name == topology.name);
        let entry = entry.expect("it was given a number");
        // Launched before this was remembered: then it began at 0.
        let is_old = is_known && entry.sources.is_empty();
        let mut all = BTreeMap::new();
        for source in &topology.sources {
            let name = &definition.depots[source.depot.0 as usize].name;
            let known = self.depots.iter().find(|it| it.name == *name);
            let depot = known.expect("it was given a number").number;
            if !entry.sources.iter().any(|it| it.depot == depot) {
                let found = starts.get(&(topology.name.clone(), name.clone()));
                let starts = found.filter(|_| !is_old).cloned().unwrap_or_default();
                entry.sources.push(Begun { depot, starts });
            }
            let begun = entry.sources.iter().find(|it| it.depot == depot);
            all.extend(begun.expect("it was noted").offsets());
        }
        all
    }

    /// Asserts that it is known what a topology read before, if it is to begin anywhere but at the first record.
    pub(crate) fn check_starts(&self, topology: &topology::Definition) -> Result<()> {
        let known = self.topologies.iter().find(|it| it.name == topology.name);
        let begins = topology.sources.iter().any(|it| it.start != StartAt::Beginning);
        if !begins || known.is_none_or(|it| !it.sources.is_empty()) {
            return Ok(());
        }
        let what = format!(
            "topology `{}` of module `{}` was launched by a build that did not remember what it reads, so it is not known \
             what is new to it. Nothing was changed. Launch it once with sources that begin at the beginning",
            topology.name, self.name
        );
        Err(Error::Invalid { what })
    }

    /// The depots that a topology of this version reads and did not read before, of those that there are.
    pub(crate) fn new_sources<'d>(
        &self,
        topology: &'d topology::Definition,
        definition: &'d Definition,
    ) -> Vec<(&'d str, DepotId, StartAt)> {
        let known = self.topologies.iter().find(|it| it.name == topology.name);
        if known.is_some_and(|it| it.sources.is_empty()) {
            return Vec::new();
        }
        let is_read =
            |number| known.is_some_and(|it| it.sources.iter().any(|it| it.depot == number));
        let mut sources: Vec<(&str, DepotId, StartAt)> = Vec::new();
        for source in &topology.sources {
            let name = &*definition.depots[source.depot.0 as usize].name;
            let depot = self.depots.iter().find(|it| it.name == name).map(|it| it.number);
            let Some(depot) = depot.filter(|&it| !is_read(it)) else { continue };
            if sources.iter().all(|it| it.1 != DepotId(depot)) {
                sources.push((name, DepotId(depot), source.start));
            }
        }
        sources
    }

    /// Asserts that the rows of a `PState`, if there are any, live where they will be looked for.
    fn check_place(&self, name: &str, layout: &Layout, placed: &Placed) -> Result<()> {
        let Some(pstate) = self.pstates.iter().find(|it| it.name == name) else { return Ok(()) };
        if pstate.placed == *placed {
            return Ok(());
        }
        let stored = pstate.placed.written(pstate.layout.as_ref().unwrap_or(layout));
        let what = format!(
            "PState `{name}` of module `{}` is declared as `{}`, and its rows were stored as those of `{stored}`, \
             which live in other partitions: they would not be found. Nothing was changed. Declare what was \
             stored, or a PState of another name",
            self.name,
            placed.written(layout)
        );
        Err(Error::Invalid { what })
    }

    /// Asserts that a `PState` that is migrated from here on is not being recomputed: what comes out would lie
    /// in the new form beside what is still in the old one.
    fn check_not_recomputed(&self, name: &str) -> Result<()> {
        let is_it = |it: &&Recomputing| it.pstates.iter().any(|it| it.name == name);
        let Some(recompute) = self.recomputes.iter().find(is_it) else { return Ok(()) };
        let what = format!(
            "PState `{name}` of module `{}` is declared with a migration, and its topology `{}` is being \
             recomputed. Nothing was changed. Launch what was launched before and see the recompute through, or end \
             it (`Launched::end_recompute`); or declare another version of the module, which ends it",
            self.name, recompute.topology
        );
        Err(Error::Invalid { what })
    }

    /// Remembers where the rows of a `PState` live, and who writes them.
    fn remember(&mut self, name: &str, placed: Placed, owner: &str) {
        let pstate = self.pstates.iter_mut().find(|it| it.name == name);
        let pstate = pstate.expect("it was given a number");
        pstate.placed = placed;
        pstate.owner = Some(owner.to_owned());
    }

    /// Everything that rows may be stored under: its `PState`s, and after each the old form that it is
    /// migrated from.
    pub fn stored(&self) -> impl Iterator<Item = Numbered> {
        self.pstates.iter().flat_map(|it| [Some(it.clone()), it.old()]).flatten()
    }

    /// Remembers what is declared of a `PState`, so that its layout holds what is stored and what is declared;
    /// begins or resumes its migration.
    fn declare(&mut self, declared: &Declaration<'_>, next: &mut u32) -> Result<Assigned> {
        let name = declared.name;
        let known = self.pstates.iter().any(|it| it.name == name);
        number(&mut self.pstates, name, next);
        let Some(pstate) = self.pstates.iter_mut().find(|it| it.name == name) else {
            unreachable!("it was given a number");
        };
        let refused = |problem: &str, remedy: &str| {
            let module = &self.name;
            let what = format!(
                "PState `{name}` of module `{module}` {problem}. Nothing was changed. {remedy}"
            );
            Error::Invalid { what }
        };
        // What was launched before layouts were remembered kept no sizes.
        let mut stored = known.then(|| pstate.layout.take());
        match (declared.migration, &mut pstate.migrating) {
            (None, None) => {}
            // Nothing was stored before, so nothing is migrated.
            (Some((id, _)), None) if !known => pstate.migrated.push(id.to_owned()),
            (Some((id, _)), None) if pstate.migrated.iter().any(|done| done == id) => {}
            (Some((id, old)), None) => {
                let stored = stored.take().flatten().unwrap_or_else(|| old.without_sizes());
                let fits = stored.widen(old).map_err(|misfit| {
                    let told = told((&stored, old), &misfit);
                    refused(
                        &format!("is to be migrated from `{old}`, and what is stored does not fit that{told}"),
                        &format!("Let `{id}` migrate what was stored (`{stored}`)"),
                    )
                });
                let (layout, number) = (fits?, *next);
                *next = next.checked_add(1).expect("2^32 declarations are out of reach");
                let number = std::mem::replace(&mut pstate.number, number);
                pstate.migrating = Some(Migrating { id: id.to_owned(), number, layout });
            }
            (Some((id, old)), Some(running)) if running.id == id => {
                let fits = running.layout.widen(old).map_err(|misfit| {
                    let stored = &running.layout;
                    let told = told((stored, old), &misfit);
                    refused(
                        &format!("is being migrated, now from `{old}`, and what is stored does not fit that{told}"),
                        &format!("Let `{id}` migrate what was stored (`{stored}`)"),
                    )
                });
                running.layout = fits?;
            }
            (declared, Some(running)) => {
                let declared = declared.map_or_else(
                    || "is declared without a migration".to_owned(),
                    |(id, _)| format!("is declared with the migration `{id}`"),
                );
                let running = &running.id;
                return Err(refused(
                    &format!("{declared}, and its migration `{running}` is under way"),
                    "Declare that one until it is done (`Launched::migrations`); another can begin after it",
                ));
            }
        }
        let is = declared.layout;
        let stored = stored.map(|stored| stored.unwrap_or_else(|| is.without_sizes()));
        let layout = match &stored {
            None => is.clone(),
            Some(stored) => stored.widen(is).map_err(|misfit| {
                let migrate =
                    if is_migratable(stored, is) { ", migrate it (`pstate_migrated`)" } else { "" };
                refused(
                    &format!(
                        "is declared as `{is}`, and what is stored does not fit that{}",
                        told((stored, is), &misfit)
                    ),
                    &format!(
                        "Declare what was stored (`{stored}`){migrate}, or a PState of another name"
                    ),
                )
            })?,
        };
        pstate.layout = Some(layout);
        let from = pstate.migrating.as_ref().map(|it| it.number);
        Ok(Assigned { number: pstate.number, from })
    }
}

/// Where and why stored rows do not fit.
fn told((stored, declared): (&Layout, &Layout), misfit: &Misfit) -> String {
    let Misfit { at, stored: was, declared: is, why } = misfit;
    let (at, was, is) = match at.join(" > ") {
        at if at.is_empty() => (at, stored.to_string(), declared.to_string()),
        at => (format!(", at {at}"), was.clone(), is.clone()),
    };
    format!("{at}: it was stored as `{was}` and is declared as `{is}`, but {why}")
}

/// Whether a migration could make of values that are stored what is declared in their stead.
fn is_migratable(stored: &Layout, declared: &Layout) -> bool {
    match (stored, declared) {
        (Layout::Map { key, value, .. }, Layout::Map { key: as_key, value: as_value, .. }) => {
            let is_value = matches!(**value, Layout::Value(_));
            key.is_stored_as(as_key) && (is_value || is_migratable(value, as_value))
        }
        _ => false,
    }
}

/// The name of the depot that takes a topology's rejected records.
#[must_use]
pub fn dead_letters_of(topology: &str) -> String {
    format!("{topology}.dead-letters")
}

fn count(items: usize) -> u32 {
    u32::try_from(items).expect("a module has fewer than 2^32 parts")
}

fn number(known: &mut Vec<Numbered>, name: &str, next: &mut u32) -> u32 {
    if let Some(found) = known.iter().find(|it| it.name == name) {
        return found.number;
    }
    let number = *next;
    *next = next.checked_add(1).expect("2^32 declarations are out of reach");
    known.push(Numbered::new(name, number));
    number
}

#[cfg(test)]
mod tests;
