//! Decisions and their outcomes: what a coordinator decided must be held by every partition it names,
//! and nothing is committed that was not decided.

use std::collections::BTreeMap;

use tidemill_replication::two_phase::Source;

use super::partitions::pages_path;
use super::replay::State;
use super::{Files, Survey};
use crate::codec::Placement;
use crate::node::catalogue::Begun;
use crate::types::{MicrobatchId, Offset, PartitionId, TopologyId};

/// What is known of one topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyFacts {
    /// Its number.
    pub id: TopologyId,
    /// Its module's name.
    pub module: String,
    /// Its name.
    pub name: String,
    /// The partition in whose sequence its coordinator writes.
    pub partition: PartitionId,
    /// The last microbatch decided; 0 before the first.
    pub decided: MicrobatchId,
    /// Where it stands in each source.
    pub offsets: BTreeMap<Source, Offset>,
    /// Decided microbatches that are perhaps not applied everywhere.
    pub unapplied: Vec<MicrobatchId>,
    /// Microbatches that began and are not decided.
    pub begun: Vec<MicrobatchId>,
}

impl TopologyFacts {
    /// Where it has read nothing yet, it stands where it begins.
    fn begin(&mut self, sources: &[Begun]) {
        for (source, offset) in sources.iter().flat_map(Begun::offsets) {
            self.offsets.entry(source).or_insert(offset);
        }
    }
}

/// Compares the coordinators' rows with the partitions, if all of these could be read.
pub(super) fn look<F: Files + ?Sized>(
    survey: &mut Survey<'_, F>,
    states: &BTreeMap<PartitionId, State>,
) {
    let Some(partitions) = survey.report.manifest.as_ref().map(|it| it.partitions) else { return };
    let Some(catalogue) = survey.report.catalogue.clone() else { return };
    // Behind damage things are missing, and that is no further finding.
    let sound = survey.report.is_sound();
    let mut known = Vec::new();
    for module in &catalogue.modules {
        for topology in &module.topologies {
            let partition = Placement::of(topology.name.as_bytes()).partition(partitions);
            let id = TopologyId(topology.number);
            known.push(id);
            let mut facts = facts(states, id, (&module.name, &topology.name), partition);
            facts.begin(&topology.sources);
            if sound {
                compare(survey, states, &facts);
            }
            survey.report.topologies.push(facts);
        }
        for it in &module.recomputes {
            let partition = Placement::of(it.topology.as_bytes()).partition(partitions);
            let id = TopologyId(it.number);
            known.push(id);
            let name = format!("{} (recompute)", it.topology);
            let mut facts = facts(states, id, (&module.name, &name), partition);
            facts.begin(&it.sources);
            if sound {
                compare(survey, states, &facts);
            }
            survey.report.topologies.push(facts);
        }
    }
    known.extend(catalogue.leftovers.topologies.iter().copied().map(TopologyId));
    if sound {
        unknown(survey, states, &known);
    }
}

fn facts(
    states: &BTreeMap<PartitionId, State>,
    id: TopologyId,
    (module, name): (&str, &str),
    partition: PartitionId,
) -> TopologyFacts {
    let coordinated = states.get(&partition).and_then(|state| state.coordinated.get(&id));
    let coordinated = coordinated.cloned().unwrap_or_default();
    TopologyFacts {
        id,
        module: module.to_owned(),
        name: name.to_owned(),
        partition,
        decided: coordinated.row.decided,
        offsets: coordinated.row.offsets,
        unapplied: coordinated.row.unapplied.iter().map(|it| it.attempt.id).collect(),
        begun: coordinated.begins.iter().map(|it| it.attempt.id).collect(),
    }
}

fn compare<F: Files + ?Sized>(
    survey: &mut Survey<'_, F>,
    states: &BTreeMap<PartitionId, State>,
    facts: &TopologyFacts,
) {
    let topology = facts.id;
    for (&partition, state) in states {
        let committed = state.committed.get(&topology).copied().unwrap_or_default();
        if committed > facts.decided {
            let what = format!(
                "microbatch {committed} of topology {} is committed here, but {} is the last one \
                 decided, in partition {}",
                facts.name, facts.decided, facts.partition
            );
            survey.find(&pages_path(partition), 0, what);
        }
        if partition != facts.partition && state.coordinated.contains_key(&topology) {
            let what = format!(
                "the coordinator of topology {} wrote here, though it belongs to partition {}",
                facts.name, facts.partition
            );
            survey.find(&pages_path(partition), 0, what);
        }
    }
    let coordinated = states.get(&facts.partition).and_then(|it| it.coordinated.get(&topology));
    for decision in coordinated.iter().flat_map(|it| &it.row.unapplied) {
        for partition in &decision.touched {
            let held = states.get(partition).is_some_and(|state| {
                let committed = state.committed.get(&topology).copied().unwrap_or_default();
                committed >= decision.attempt.id
                    || state.prepared.contains_key(&(topology, decision.attempt))
            });
            if !held {
                let what = format!(
                    "microbatch {} of topology {} was decided, but is neither prepared nor \
                     committed here",
                    decision.attempt, facts.name
                );
                survey.find(&pages_path(*partition), 0, what);
            }
        }
    }
    for (source, &offset) in &facts.offsets {
        let log = states.get(&source.partition).and_then(|state| state.logs.get(&source.depot));
        let end = log.map(|log| log.end).unwrap_or_default();
        if offset > end {
            let what = format!(
                "topology {} has read depot {} up to offset {offset}, but it ends at {end}",
                facts.name, source.depot
            );
            survey.find(&pages_path(source.partition), 0, what);
        }
    }
}

/// Nothing may belong to a topology that the catalogue does not have.
fn unknown<F: Files + ?Sized>(
    survey: &mut Survey<'_, F>,
    states: &BTreeMap<PartitionId, State>,
    known: &[TopologyId],
) {
    for (&partition, state) in states {
        let prepared = state.prepared.keys().map(|(topology, _)| topology);
        let named = state.committed.keys().chain(state.coordinated.keys()).chain(prepared);
        for topology in named.filter(|topology| !known.contains(topology)) {
            let what = format!("topology {topology} is not in the catalogue");
            survey.find(&pages_path(partition), 0, what);
        }
    }
}
