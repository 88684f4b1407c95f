//! What the catalogue says of recomputes: which are under way, and what the ones before have left.
//!
//! ```text
//!   begin    the shadow topology and its PStates get numbers
//!   switch   its PStates' numbers become those of the topology's; the old ones are to be dropped
//!   end      the numbers that begin gave are to be dropped
//! ```
//!
//! Each is one new catalogue, so it happens at the instant at which `MANIFEST` names that, or not at all.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Begun, Catalogue, ModuleEntry, Numbered};
use crate::error::{Error, Result};
use crate::types::{MicrobatchId, PStateId, TopologyId};

/// A topology that is being recomputed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Recomputing {
    /// Its name.
    pub topology: String,
    /// The module's version whose code recomputes.
    pub version: u32,
    /// The number of the second instance.
    pub number: u32,
    /// The topology's `PState`s, with the numbers to which the second instance writes.
    pub pstates: Vec<Numbered>,
    /// Where the second instance began in depots that let go of records, if not where the topology did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Begun>,
}

/// What recomputes that are over have left. Numbers are never used again, so these lists are right for ever.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Leftovers {
    /// Numbers of `PState`s whose rows count no more.
    pub pstates: Vec<u32>,
    /// Numbers of topologies that never run again: what they prepared and did not commit is to be aborted.
    pub topologies: Vec<u32>,
}

impl Leftovers {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pstates.is_empty() && self.topologies.is_empty()
    }
}

/// What a recompute does to the catalogue.
#[derive(Clone, Debug)]
pub(crate) struct Alteration {
    pub(crate) module: String,
    pub(crate) topology: String,
    pub(crate) step: Step,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// With the names of all the topology's `PState`s, and where to begin, if not where the topology did.
    Begin {
        pstates: Vec<String>,
        sources: Vec<Begun>,
    },
    /// With the place of the topology, the number under which it is stopped, and the id at which it is.
    Switch {
        place: usize,
        number: u64,
        since: MicrobatchId,
    },
    End,
}

impl Catalogue {
    /// Does what is asked for. Beginning what has begun changes nothing.
    pub(crate) fn alter(&mut self, alteration: &Alteration) -> Result<()> {
        let Alteration { module, topology, step } = alteration;
        self.format = super::FORMAT;
        let unknown = || Error::Invalid { what: format!("no module `{module}` was launched here") };
        let entry = self.modules.iter_mut().find(|it| it.name == *module).ok_or_else(unknown)?;
        if let Step::Begin { pstates, sources } = step {
            if entry.recomputing(topology).is_some() {
                return Ok(());
            }
            let is_migrating =
                |it: &&Numbered| it.migrating.is_some() && pstates.contains(&it.name);
            if let Some(pstate) = entry.pstates.iter().find(is_migrating) {
                let what = format!(
                    "PState `{}` of topology `{topology}` of module `{module}` is being migrated: try again when \
                     that is done (`Launched::migrations`)",
                    pstate.name
                );
                return Err(Error::Recompute { what });
            }
            let next = |last: &mut u32| {
                let number = *last;
                *last = number.checked_add(1).expect("2^32 declarations are out of reach");
                number
            };
            let number = next(&mut self.next_topology);
            let pstates = pstates
                .iter()
                .map(|name| {
                    let known = entry.pstates.iter().find(|it| it.name == *name);
                    let (layout, placed) =
                        known.map(|it| (it.layout.clone(), it.placed.clone())).unwrap_or_default();
                    Numbered { layout, placed, ..Numbered::new(name, next(&mut self.next_pstate)) }
                })
                .collect();
            let (topology, version) = (topology.clone(), entry.version);
            let sources = sources.clone();
            entry.recomputes.push(Recomputing { topology, version, number, pstates, sources });
            return Ok(());
        }
        let place = entry.recomputes.iter().position(|it| it.topology == *topology);
        let place = place.ok_or_else(|| Error::Recompute {
            what: format!("topology `{topology}` of module `{module}` is not being recomputed"),
        })?;
        let over = entry.recomputes.remove(place);
        self.leftovers.topologies.push(over.number);
        match step {
            Step::Begin { .. } => unreachable!("done above"),
            Step::Switch { since, .. } => {
                let known = entry.topologies.iter_mut().find(|it| it.name == over.topology);
                let mut known =
                    known.into_iter().flat_map(|it| &mut it.sources).collect::<Vec<_>>();
                for begun in over.sources {
                    if let Some(known) = known.iter_mut().find(|it| it.depot == begun.depot) {
                        known.starts = begun.starts;
                    }
                }
                for new in over.pstates {
                    let Some(pstate) = entry.pstates.iter_mut().find(|it| it.name == new.name)
                    else {
                        unreachable!("a PState that was launched stays in the catalogue");
                    };
                    self.leftovers.pstates.push(std::mem::replace(&mut pstate.number, new.number));
                    pstate.since = since.0;
                }
            }
            Step::End => self.leftovers.pstates.extend(over.pstates.iter().map(|it| it.number)),
        }
        Ok(())
    }

    /// What is to be dropped, and what is to be aborted.
    pub(crate) fn left_over(&self) -> (Vec<PStateId>, BTreeSet<TopologyId>) {
        let pstates = self.leftovers.pstates.iter().copied().map(PStateId).collect();
        (pstates, self.leftovers.topologies.iter().copied().map(TopologyId).collect())
    }
}

impl ModuleEntry {
    /// The recompute of a topology that is under way.
    pub(crate) fn recomputing(&self, topology: &str) -> Option<&Recomputing> {
        self.recomputes.iter().find(|it| it.topology == topology)
    }

    /// Takes out the recomputes that the code of `version` cannot go on with. `pstates` gives the names of a
    /// topology's `PState`s, if it still is declared.
    pub(super) fn outdated(
        &mut self,
        version: u32,
        pstates: impl Fn(&str) -> Option<Vec<String>>,
    ) -> Leftovers {
        let mut left = Leftovers::default();
        self.recomputes.retain(|it| {
            let names: Vec<_> = it.pstates.iter().map(|it| it.name.clone()).collect();
            let goes_on = it.version == version && pstates(&it.topology) == Some(names);
            if !goes_on {
                left.topologies.push(it.number);
                left.pstates.extend(it.pstates.iter().map(|it| it.number));
            }
            goes_on
        });
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        let numbered = |name: &str, number| Numbered::new(name, number);
        let module = ModuleEntry {
            name: "bank".to_owned(),
            version: 1,
            depots: vec![numbered("transfers", 1)],
            pstates: vec![numbered("funds", 1), numbered("other", 2), numbered("counts", 3)],
            topologies: vec![numbered("ledger", 1)],
            recomputes: Vec::new(),
        };
        let next =
            Catalogue { next_depot: 2, next_pstate: 4, next_topology: 2, ..Default::default() };
        Catalogue { modules: vec![module], ..next }
    }

    fn alter(catalogue: &mut Catalogue, step: Step) -> Result<()> {
        let (module, topology) = ("bank".to_owned(), "ledger".to_owned());
        catalogue.alter(&Alteration { module, topology, step })
    }

    fn begin(catalogue: &mut Catalogue) {
        let pstates = vec!["funds".to_owned(), "counts".to_owned()];
        alter(catalogue, Step::Begin { pstates, sources: Vec::new() }).unwrap();
    }

    fn numbers(catalogue: &Catalogue) -> Vec<u32> {
        catalogue.modules[0].pstates.iter().map(|it| it.number).collect()
    }

    #[test]
    fn a_switch_exchanges_numbers_and_leaves_the_old_ones() {
        let mut it = catalogue();
        begin(&mut it);
        let begun = it.clone();
        begin(&mut it);
        assert_eq!(it, begun, "it had begun");
        assert_eq!(numbers(&it), [1, 2, 3]);
        alter(&mut it, Step::Switch { place: 0, number: 1, since: MicrobatchId(9) }).unwrap();
        assert_eq!(numbers(&it), [4, 2, 5]);
        let since: Vec<_> = it.modules[0].pstates.iter().map(|it| it.since).collect();
        assert_eq!(since, [9, 0, 9]);
        assert_eq!(it.leftovers, Leftovers { pstates: vec![1, 3], topologies: vec![2] });
        assert_eq!((it.next_pstate, it.next_topology), (6, 3));
        assert_eq!(Catalogue::decode(&it.encode()).unwrap(), it);
        assert!(alter(&mut it, Step::End).is_err(), "it is over");
    }

    #[test]
    fn an_end_and_a_new_version_leave_the_new_numbers() {
        let mut it = catalogue();
        begin(&mut it);
        let mut newer = it.clone();
        alter(&mut it, Step::End).unwrap();
        assert_eq!(numbers(&it), [1, 2, 3]);
        let left = Leftovers { pstates: vec![4, 5], topologies: vec![2] };
        assert_eq!(it.leftovers, left);

        let names = |_: &str| Some(vec!["funds".to_owned(), "counts".to_owned()]);
        assert!(newer.modules[0].outdated(1, names).is_empty());
        assert_eq!(newer.modules[0].clone().outdated(1, |_| None), left);
        assert_eq!(newer.modules[0].outdated(2, names), left);
        assert!(newer.modules[0].recomputes.is_empty());
    }
}
