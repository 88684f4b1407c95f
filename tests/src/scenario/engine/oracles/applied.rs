//! *applied*: once a wait was answered with `Applied`, the effects of the record are visible, after every
//! crash too; those of a record that was dead-lettered never are.

use super::super::history::{History, Record};
use super::super::module::Refused;
use super::super::replay::State;
use crate::scenario::{Failure, check};

const NAME: &str = "applied";

/// What a wait for one record may be answered with.
pub(in super::super) fn answer(record: &Record, applied: bool) -> Result<(), Failure> {
    let refused = matches!(record, Record::Transfer(it) if it.refused != Refused::Nowhere);
    check(NAME, applied != refused, || {
        let what = if applied { "applied" } else { "dead-lettered" };
        format!("record {} is said to be {what}: {record:?}", record.id())
    })
}

/// Judges a state read after every promise was made.
pub(in super::super) fn judge(history: &History, state: &State) -> Result<(), Failure> {
    for promise in &history.promises {
        let Record::Transfer(it) = &history.sent[&promise.id].record else { continue };
        let done = state.done.get(&it.from).is_some_and(|done| done.contains(&it.id));
        check(NAME, done == promise.applied, || {
            let what = if promise.applied { "applied" } else { "dead-lettered" };
            format!("a wait for transfer {} was answered with {what}, but it is not", it.id)
        })?;
    }
    Ok(())
}
