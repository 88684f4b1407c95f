//! Sets.

use std::collections::BTreeSet;

use super::{Adds, Aggregate, ChangeOps, How, to_element};
use crate::codec::{Key, Result};
use crate::schema::plan::Target;
use crate::schema::sizes::Counting;
use crate::schema::{Data, Set, Sub};

/// Adds an element to a set: to a `Sub<Set<E>>`, without reading, or to a `BTreeSet<E>` that is one
/// value.
///
/// ```
/// # use tidemill::schema::{Map, Owned, Set, Sub, aggregate::SetOf};
/// # fn example<O>(fans: Owned<Map<u64, Sub<Set<String>>>, O>) {
/// let _ = fans.key(7).add(SetOf("ann".to_owned()));
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SetOf<E>(pub E);

impl<E: Data + Ord> Aggregate<BTreeSet<E>> for SetOf<E> {
    type Partial = BTreeSet<E>;

    fn partial(self) -> BTreeSet<E> {
        BTreeSet::from([self.0])
    }

    fn combine(a: &mut BTreeSet<E>, mut b: BTreeSet<E>) {
        a.append(&mut b);
    }

    fn apply(mut partial: BTreeSet<E>, old: Option<BTreeSet<E>>) -> Option<BTreeSet<E>> {
        partial.append(&mut old.unwrap_or_default());
        Some(partial)
    }
}

impl<E: Key, Z: Counting> Adds<Sub<Set<E>, Z>> for SetOf<E> {
    type Sent = ();

    const OPS: &'static ChangeOps<()> = &ChangeOps {
        combine: |(), ()| (),
        must_flush: None,
        how: How::Rows {
            reads_old: false,
            apply: |to, ()| {
                (to.write)(to.key, Some(&[]));
                Ok(())
            },
        },
    };

    fn sent(self, target: &mut Result<Target>) {
        to_element(target, &self.0);
    }
}

/// Removes an element from a set: from a `Sub<Set<E>>`, without reading, or from a `BTreeSet<E>` that is
/// one value, and that stays when the last element goes. Nothing stored stays nothing.
///
/// Changes by [`SetOf`] and by this one keep their order where one closure makes both, as in
/// `if joins { fans.key(k).add(SetOf(e)) } else { fans.key(k).add(SetRemove(e)) }`.
///
/// ```
/// # use tidemill::schema::{Map, Owned, Set, Sub, aggregate::SetRemove};
/// # fn example<O>(fans: Owned<Map<u64, Sub<Set<String>>>, O>) {
/// let _ = fans.key(7).add(SetRemove("ann".to_owned()));
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SetRemove<E>(pub E);

impl<E: Data + Ord> Aggregate<BTreeSet<E>> for SetRemove<E> {
    type Partial = BTreeSet<E>;

    fn partial(self) -> BTreeSet<E> {
        BTreeSet::from([self.0])
    }

    fn combine(a: &mut BTreeSet<E>, mut b: BTreeSet<E>) {
        a.append(&mut b);
    }

    fn apply(partial: BTreeSet<E>, old: Option<BTreeSet<E>>) -> Option<BTreeSet<E>> {
        let mut set = old?;
        for element in &partial {
            set.remove(element);
        }
        Some(set)
    }
}

impl<E: Key, Z: Counting> Adds<Sub<Set<E>, Z>> for SetRemove<E> {
    type Sent = ();

    const OPS: &'static ChangeOps<()> = &ChangeOps {
        combine: |(), ()| (),
        must_flush: None,
        how: How::Rows {
            reads_old: false,
            apply: |to, ()| {
                (to.write)(to.key, None);
                Ok(())
            },
        },
    };

    fn sent(self, target: &mut Result<Target>) {
        to_element(target, &self.0);
    }
}
