//! *acknowledged*: an append that was acknowledged as durable lies at its acknowledged offset, with its
//! bytes, for ever; one that was refused lies nowhere.

use super::super::history::{Fate, History};
use super::super::replay::Depots;
use crate::scenario::{Failure, check};

const NAME: &str = "acknowledged";

pub(in super::super) fn judge(history: &History, depots: &Depots) -> Result<(), Failure> {
    for (id, sent) in &history.sent {
        if let Fate::Acknowledged(place) = sent.fate {
            let found = depots.get(&place);
            check(NAME, found == Some(&sent.record), || match found {
                None => format!("record {id}, acknowledged at {place:?}, is lost"),
                Some(found) => format!(
                    "at {place:?} lies record {} and not {id}, which was acknowledged there",
                    found.id()
                ),
            })?;
        }
    }
    for (place, found) in depots {
        let refused = history.sent.get(&found.id()).is_some_and(|it| it.fate == Fate::Refused);
        check(NAME, !refused, || {
            format!("record {} was refused and lies at {place:?}", found.id())
        })?;
    }
    Ok(())
}
