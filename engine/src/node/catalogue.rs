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
//! Format 2 added the layouts. A file of format 1 is read, and its `PState`s take the layouts that the next
//! launch declares; the file that this launch writes has the newest format. Format 3 added the sizes of
//! collections: what was launched before keeps none. Format 4 added where rows live: before, that was by the
//! hash of the first key for all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::codec::FieldTable;
use crate::codec::table::Misfit;
use crate::error::{Error, Result};
use crate::module::{Definition, PStateIndex, Traced};
use crate::schema::{Described, Layout, ReadPlan, Reads};
use crate::types::{DepotId, MicrobatchId, PStateId, ShardId, TopologyId};

mod placed;

pub use placed::Placed;

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
}

impl Numbered {
    /// A name with its number.
    #[must_use]
    pub fn new(name: &str, number: u32) -> Self {
        Self { name: name.to_owned(), number, layout: None, placed: Placed::Hash }
    }
}

/// A module as the shards run it: its definition with the numbers of everything in it.
#[derive(Debug)]
pub(crate) struct Installed {
    pub(crate) definition: Arc<Definition>,
    /// By place in the definition.
    pub(crate) depots: Vec<DepotId>,
    pub(crate) pstates: Vec<PStateId>,
    /// The layouts of those in which sizes of collections are kept.
    pub(crate) sizes: Vec<Option<Layout>>,
    pub(crate) topologies: Vec<TopologyId>,
    /// Where each topology's rejected records go.
    pub(crate) dead_letters: Vec<DepotId>,
    pub(crate) fields: Arc<FieldTable>,
    /// Of its `PState`s as it declares them, by place.
    pub(crate) layouts: Vec<Layout>,
    /// What its single values are where nothing is stored, by place.
    pub(crate) initials: Vec<Option<Vec<u8>>>,
    /// How far each topology is visible: the highest id that some shard of this process has shown. All
    /// participants have applied it durably.
    visible: Vec<AtomicU64>,
    /// The same for each topology and shard, which follow each other within moments.
    shown: RwLock<BTreeMap<(usize, ShardId), MicrobatchId>>,
    /// Every shard that runs has the module, so its topologies may start.
    is_everywhere: AtomicBool,
    /// A launch has succeeded, or is about to.
    has_readers: AtomicBool,
}

impl Installed {
    /// Notes that readers may see an id, before any of them does.
    pub(crate) fn note_visible(&self, place: usize, id: MicrobatchId) {
        self.visible[place].fetch_max(id.0, Ordering::SeqCst);
    }

    /// How far each topology is visible.
    pub(crate) fn visible(&self) -> Vec<(TopologyId, MicrobatchId)> {
        let visible = self.visible.iter().map(|id| MicrobatchId(id.load(Ordering::SeqCst)));
        self.topologies.iter().copied().zip(visible).collect()
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
    ) -> Result<Installed> {
        let sizes = traced.sizes();
        let Traced { fields, layouts, initials } = traced;
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
            });
            self.modules.len() - 1
        };
        let entry = &mut self.modules[place];
        entry.version = definition.version;
        let dead_letter_names =
            definition.topologies.iter().map(|topology| dead_letters_of(&topology.name));
        let dead_letters: Vec<_> = dead_letter_names
            .map(|name| DepotId(number(&mut entry.depots, &name, &mut self.next_depot)))
            .collect();
        let depots = definition
            .depots
            .iter()
            .map(|depot| DepotId(number(&mut entry.depots, &depot.name, &mut self.next_depot)))
            .collect();
        let pstates_before = self.next_pstate;
        let pstates: Vec<_> = definition
            .pstates
            .iter()
            .map(|it| PStateId(number(&mut entry.pstates, &it.name, &mut self.next_pstate)))
            .collect();
        let topologies: Vec<_> = definition
            .topologies
            .iter()
            .map(|it| TopologyId(number(&mut entry.topologies, &it.name, &mut self.next_topology)))
            .collect();
        for ((pstate, id), layout) in definition.pstates.iter().zip(&pstates).zip(&layouts) {
            let (is_new, placed) = (id.0 >= pstates_before, Placed::from(pstate.placing));
            entry.remember_place(&pstate.name, layout, placed, is_new)?;
            entry.remember(&pstate.name, layout.clone(), is_new)?;
        }
        self.check_readable(&definition.name)?;
        Ok(Installed {
            visible: topologies.iter().map(|_| AtomicU64::new(0)).collect(),
            shown: RwLock::default(),
            is_everywhere: AtomicBool::new(false),
            has_readers: AtomicBool::new(false),
            definition,
            depots,
            pstates,
            sizes,
            topologies,
            dead_letters,
            fields,
            layouts,
            initials,
        })
    }
}

impl Catalogue {
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

impl ModuleEntry {
    /// Remembers where the rows of a `PState` live.
    fn remember_place(
        &mut self,
        name: &str,
        layout: &Layout,
        placed: Placed,
        is_new: bool,
    ) -> Result<()> {
        let Some(pstate) = self.pstates.iter_mut().find(|it| it.name == name) else {
            unreachable!("every declared PState was given a number");
        };
        if is_new {
            pstate.placed = placed;
            return Ok(());
        }
        if pstate.placed == placed {
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

    /// Remembers the layout of a `PState`, so that it holds what is stored and what is declared.
    fn remember(&mut self, name: &str, declared: Layout, is_new: bool) -> Result<()> {
        let Some(pstate) = self.pstates.iter_mut().find(|it| it.name == name) else {
            unreachable!("every declared PState was given a number");
        };
        if is_new {
            pstate.layout = Some(declared);
            return Ok(());
        }
        // What was launched before layouts were remembered kept no sizes.
        let stored = pstate.layout.take().unwrap_or_else(|| declared.without_sizes());
        let wider = stored.widen(&declared).map_err(|misfit| {
            let Misfit { at, stored: was, declared: is, why } = misfit;
            let (at, was, is) = match at.join(" > ") {
                at if at.is_empty() => (at, stored.to_string(), declared.to_string()),
                at => (format!(", at {at}"), was, is),
            };
            let what = format!(
                "PState `{name}` of module `{}` is declared as `{declared}`, and what is stored does not fit \
                 that{at}: it was stored as `{was}` and is declared as `{is}`, but {why}. Nothing was changed. \
                 Declare what was stored (`{stored}`), or a PState of another name",
                self.name
            );
            Error::Invalid { what }
        })?;
        pstate.layout = Some(wider);
        Ok(())
    }
}

/// The name of the depot that takes a topology's rejected records.
#[must_use]
pub fn dead_letters_of(topology: &str) -> String {
    format!("{topology}.dead-letters")
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
