//! Sets.

use std::collections::BTreeSet;

use super::{Adds, Aggregate, ChangeOps};
use crate::codec::{Error, KEY_BYTES_MAX, Key, KeyBuf};
use crate::schema::{Data, Set, Sub};

/// Adds an element to a set: to a `Sub<Set<E>>`, or to a `BTreeSet<E>` that is one value.
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

impl<E: Key + Data + Ord> Adds<Sub<Set<E>>> for SetOf<E> {
    type Sent = BTreeSet<E>;

    const OPS: &'static ChangeOps<BTreeSet<E>> = &ChangeOps {
        combine: |a, mut b| a.append(&mut b),
        reads_old: false,
        apply: |to, elements| {
            for element in &elements {
                let mut key = KeyBuf::from(to.key);
                element.encode_key(&mut key);
                if key.len() > KEY_BYTES_MAX {
                    return Err(Error::ElementTooLong {
                        element_type: std::any::type_name::<E>(),
                        bytes: key.len(),
                    });
                }
                (to.write)(&key, Some(&[]));
            }
            Ok(())
        },
    };

    fn sent(self) -> BTreeSet<E> {
        BTreeSet::from([self.0])
    }
}
