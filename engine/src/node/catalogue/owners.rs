//! A `PState` that another topology writes than before.
//!
//! What the one before has prepared or committed comes into the state when its coordinator says so, which may be long
//! after the launch: late, over what the new owner has written meanwhile or under the number that a
//! [migration](crate::migrate) has left, or never, if the topology is declared no more. So such a launch waits until
//! nothing of that is left.

use super::Catalogue;
use crate::error::Error;
use crate::module::Definition;
use crate::types::{PartitionId, TopologyId};

/// A topology that may have written what another one writes from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disowned {
    module: String,
    /// The `PState`, and who is declared to write it.
    pstate: String,
    owner: String,
    /// Who did before, as far as is known.
    before: String,
    pub(crate) topology: TopologyId,
}

impl Catalogue {
    /// The topologies that may have written what `definition` gives to others.
    pub(crate) fn disowned(&self, definition: &Definition) -> Vec<Disowned> {
        let mut found = Vec::new();
        let Some(entry) = self.modules.iter().find(|it| it.name == definition.name) else {
            return found;
        };
        for decl in &definition.pstates {
            let Some(pstate) = entry.pstates.iter().find(|it| it.name == decl.name) else {
                continue;
            };
            let owner = &definition.topologies[decl.owner].name;
            // Where the catalogue does not say who it was, it may have been anyone. That matters to a migration that
            // begins; whatever else is launched is what was launched before, for all that is known.
            let begins = decl
                .migration
                .as_ref()
                .is_some_and(|it| pstate.migrating.is_none() && !pstate.migrated.contains(&it.id));
            let wrote = |name: &str| pstate.owner.as_ref().map_or(begins, |was| was == name);
            let others = entry.topologies.iter().filter(|it| it.name != *owner);
            let writers = others.filter(|it| wrote(&it.name));
            found.extend(writers.map(|it| Disowned {
                module: definition.name.clone(),
                pstate: decl.name.clone(),
                owner: owner.clone(),
                before: it.name.clone(),
                topology: TopologyId(it.number),
            }));
        }
        found
    }
}

impl Disowned {
    /// Why the launch is refused, since the topology has left something in a partition.
    pub(crate) fn refused(&self, partition: PartitionId) -> Error {
        let Self { module, pstate, owner, before, topology: _ } = self;
        let what = format!(
            "PState `{pstate}` of module `{module}` is declared as written by `{owner}`, and `{before}`, which wrote to \
             it or may have, has left a microbatch in partition {partition} that not everybody has applied: its rows \
             would come late, or never. Nothing was changed. Launch what was launched before, close the engine when \
             `{before}` has caught up, and launch this then"
        );
        Error::Invalid { what }
    }
}
