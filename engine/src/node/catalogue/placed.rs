//! What the catalogue remembers of where the rows of a `PState` live.

use serde::{Deserialize, Serialize};

use crate::schema::{Layout, Placing};

/// Where the rows of a `PState` live. Never changes: they would be looked for where they are not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placed {
    /// By the hash of their first key.
    #[default]
    Hash,
    /// In partition 0.
    Single,
    /// By the hash of what the function of this name makes of their first key.
    By(String),
}

impl Placed {
    /// Whether that is what nothing needs to be said of.
    pub(crate) fn is_hash(&self) -> bool {
        *self == Self::Hash
    }

    /// The type of a `PState` as it would be written in Rust.
    #[must_use]
    pub fn written(&self, layout: &Layout) -> String {
        match self {
            Self::Hash => layout.to_string(),
            Self::Single => format!("Single<{}>", layout.written(true)),
            Self::By(name) => format!("{layout}, placed by `{name}`"),
        }
    }
}

impl From<Placing> for Placed {
    fn from(placing: Placing) -> Self {
        match placing {
            Placing::Hash => Self::Hash,
            Placing::Single => Self::Single,
            Placing::By { name, .. } => Self::By(name.to_owned()),
        }
    }
}
