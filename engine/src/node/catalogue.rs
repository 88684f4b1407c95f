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
//! collections: what was launched before keeps none. Format 4 added recomputes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::numbers::{Current, Numbers, Stops};
use crate::codec::FieldTable;
use crate::codec::table::Misfit;
use crate::error::{Error, Result};
use crate::module::{Definition, PStateIndex, Traced};
use crate::schema::{Layout, ReadPlan, Reads};
use crate::types::{DepotId, MicrobatchId, PStateId, ShardId, TopologyId};

pub(crate) mod recomputes;

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
    /// Of a `PState`: the id of its topology from which on it lies under this number, if it lay elsewhere before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for that")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Numbered {
    /// A name with its number.
    #[must_use]
    pub fn new(name: &str, number: u32) -> Self {
        Self { name: name.to_owned(), number, layout: None, since: 0 }
    }
}

/// A module as the shards run it: its definition with the numbers of everything in it.
#[derive(Debug)]
pub(crate) struct Installed {
    pub(crate) definition: Arc<Definition>,
    /// By place in the definition.
    pub(crate) depots: Vec<DepotId>,
    numbers: Current,
    /// The layouts of those in which sizes of collections are kept.
    pub(crate) sizes: Vec<Option<Layout>>,
    pub(crate) topologies: Vec<TopologyId>,
    /// Where each topology's rejected records go.
    pub(crate) dead_letters: Vec<DepotId>,
    pub(crate) fields: Arc<FieldTable>,
    /// Of its `PState`s as it declares them, by place.
    pub(crate) layouts: Vec<Layout>,
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
}

impl Installed {
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
    /// `PState`s. It reads what other topologies write where this one does.
    pub(crate) fn shadow(&self, place: usize, id: TopologyId, pstates: Vec<PStateId>) -> Self {
        let mut topologies = self.topologies.clone();
        topologies[place] = id;
        let mut visible = self.visible.clone();
        visible[place] = Arc::default();
        let mut since = self.numbers().since.clone();
        since[place] = MicrobatchId(0);
        Self {
            definition: Arc::clone(&self.definition),
            depots: self.depots.clone(),
            numbers: Current::new(Numbers { pstates, since }),
            sizes: self.sizes.clone(),
            topologies,
            dead_letters: self.dead_letters.clone(),
            fields: Arc::clone(&self.fields),
            layouts: self.layouts.clone(),
            visible,
            shown: RwLock::default(),
            is_everywhere: AtomicBool::new(false),
            has_readers: AtomicBool::new(false),
            stops: Stops::default(),
            shadow: Some(place),
        }
    }

    /// How far each topology is visible.
    pub(crate) fn visible(&self) -> Vec<(TopologyId, MicrobatchId)> {
        let visible = self.visible.iter().map(|id| MicrobatchId(id.load(Ordering::SeqCst)));
        self.topologies.iter().copied().zip(visible).collect()
    }

    /// The name of a `PState`, and how it lies in rows.
    pub(crate) fn described(&self, pstate: PStateIndex) -> (&str, &Layout) {
        let place = pstate.0 as usize;
        (&self.definition.pstates[place].name, &self.layouts[place])
    }

    /// What some reads are of, for people.
    pub(crate) fn names(&self, reads: &Reads) -> String {
        let name = |plan: &ReadPlan| self.described(PStateIndex(plan.pstate.0)).0;
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
    ) -> Result<Installed> {
        let sizes = traced.sizes();
        let Traced { fields, layouts } = traced;
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
            entry.remember(&pstate.name, layout.clone(), id.0 >= pstates_before)?;
        }
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
            stops: Stops::default(),
            shadow: None,
            definition,
            depots,
            numbers: Current::new(Numbers { pstates, since }),
            sizes,
            topologies,
            dead_letters,
            fields,
            layouts,
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
