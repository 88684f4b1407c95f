//! Topologies as text, for people.

use std::fmt::{self, Display, Formatter};

use super::{Definition, Input, Node};
use crate::module::{self, DepotIndex, PStateIndex};

/// A topology as text; made by [`Definition::explain`].
#[derive(Debug)]
pub struct Explanation<'a> {
    topology: &'a Definition,
    module: &'a module::Definition,
}

impl Definition {
    /// Its nodes, what feeds them, what each does in which line of code, and the `PState`s it reads and
    /// writes. Of `PState`s that a stage captured instead of taking them by
    /// [`using`](super::Flow::using), nothing is known.
    #[must_use]
    pub fn explain<'a>(&'a self, module: &'a module::Definition) -> Explanation<'a> {
        Explanation { topology: self, module }
    }
}

impl Display for Explanation<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "topology {} ({})", self.topology.name, self.topology.location)?;
        for (number, node) in self.topology.nodes.iter().enumerate() {
            self.node(f, number, node)?;
        }
        Ok(())
    }
}

impl Explanation<'_> {
    fn node(&self, f: &mut Formatter<'_>, number: usize, node: &Node) -> fmt::Result {
        write!(f, "  {number}: ")?;
        match node.input {
            Input::Depot(depot) => writeln!(f, "each record of {}", self.depot(depot))?,
            Input::Append(depot) => writeln!(f, "where {} puts the record", self.depot(depot))?,
            Input::Hash => writeln!(f, "where the key lives")?,
            Input::All => writeln!(f, "on every partition")?,
            Input::Global => writeln!(f, "on partition 0")?,
            Input::Aggregate => writeln!(f, "where the changed key lives")?,
        }
        for stage in &node.stages {
            write!(f, "     {} ({})", stage.name, stage.location)?;
            self.pstates(f, "reads", &stage.reads)?;
            self.pstates(f, "writes", &stage.writes)?;
            for (nth, to) in stage.sends.iter().enumerate() {
                f.write_str(if nth == 0 { " -> " } else { ", " })?;
                write!(f, "{}", to.0)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn depot(&self, depot: DepotIndex) -> &str {
        self.module.depots.get(depot.0 as usize).map_or("?", |decl| &decl.name)
    }

    fn pstates(&self, f: &mut Formatter<'_>, verb: &str, pstates: &[PStateIndex]) -> fmt::Result {
        for (nth, pstate) in pstates.iter().enumerate() {
            let name = self.module.pstates.get(pstate.0 as usize).map_or("?", |p| &p.name);
            if nth == 0 {
                write!(f, " {verb} {name}")?;
            } else {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}
