//! Another version of a module, over what the one before has left.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Harness, Partition};
use crate::codec;
use crate::module::{self, DepotIndex, PStateIndex, Traced};

impl Harness {
    /// Launches another version of the module over what is stored, as after opening an engine anew. A
    /// migration begins, or goes on. What is called the same is the same.
    ///
    /// # Errors
    /// A type of the module cannot be stored.
    ///
    /// # Panics
    /// If a migration is under way that `module` does not declare.
    pub fn relaunch(self, module: module::Definition) -> codec::Result<Self> {
        let traced = module.trace(self.fields)?;
        let mut sizes = traced.sizes();
        let Traced { fields, layouts, old_layouts: _, initials } = traced;
        let (mut moves, mut places) = (Vec::new(), BTreeMap::new());
        let place_of = |name: &str| self.module.pstates.iter().position(|it| it.name == name);
        for (place, (decl, layout)) in module.pstates.iter().zip(&layouts).enumerate() {
            let Some(was) = place_of(&decl.name) else { continue };
            let (was, place) = (pstate_index(was), pstate_index(place));
            let running = self.moves.iter().find(|it| it.pstate == was && !it.is_done());
            let begins = decl
                .migration
                .as_ref()
                .filter(|it| !self.migrated.contains(&(decl.name.clone(), it.id.clone())));
            let Some(migration) = begins else {
                assert!(running.is_none(), "{running:?} is under way");
                places.insert(was, place);
                continue;
            };
            let old = pstate_index(module.pstates.len() + moves.len());
            if let Some(running) = running {
                assert_eq!(running.id, migration.id, "it is under way");
                places.extend([(was, place), (running.old, old)]);
            } else {
                places.insert(was, old);
            }
            moves.push(Arc::new(migration.begin(layout, place, old)));
            sizes.push(None);
        }
        let depots = |from: DepotIndex| {
            let name = &self.module.depots[from.0 as usize].name;
            let place = module.depots.iter().position(|it| it.name == *name)?;
            Some(DepotIndex(u32::try_from(place).ok()?))
        };
        let partitions = self.partitions.into_iter().map(|partition| {
            let logs = partition.depots.into_iter();
            let state = partition.state.into_iter();
            Partition {
                depots: logs.filter_map(|(depot, log)| Some((depots(depot)?, log))).collect(),
                state: state
                    .filter_map(|((pstate, key), row)| Some(((*places.get(&pstate)?, key), row)))
                    .collect(),
            }
        });
        let partitions = partitions.collect();
        let topologies = |from: usize| {
            let name = &self.module.topologies[from].name;
            module.topologies.iter().position(|it| it.name == *name)
        };
        let read = self.read.into_iter().filter_map(|((topology, depot, partition), offset)| {
            Some(((topologies(topology)?, depots(depot)?, partition), offset))
        });
        let read = read.collect();
        Ok(Self { module, fields, layouts, initials, sizes, partitions, read, moves, ..self })
    }

    /// Whether no migration is under way.
    pub fn is_migrated(&self) -> bool {
        self.moves.iter().all(|it| it.is_done())
    }
}

fn pstate_index(place: usize) -> PStateIndex {
    PStateIndex(u32::try_from(place).expect("a module has fewer than 2^32 parts"))
}
