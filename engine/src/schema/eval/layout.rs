//! [`Layout`]: how a `PState` lies in rows, without its types.

use std::any::type_name;
use std::fmt;

use super::Problem;
use crate::codec::{self, FieldTable, Key, KeyBuf};
use crate::schema::sizes::Counting;
use crate::schema::{Data, Map, Root, Set, Sub};

/// How what is under a key is stored.
#[derive(Clone, Debug)]
pub enum Layout {
    /// As one value, in one row.
    Value(ValueType),
    /// As a map: what is under each key, under the bytes of the key.
    Map {
        /// The keys.
        key: KeyType,
        /// What is under each.
        value: Box<Layout>,
        /// Whether a row before those of the elements says how many there are.
        counted: bool,
    },
    /// As a set: a row without bytes for each element.
    Set {
        /// The elements.
        element: KeyType,
        /// Whether a row before those of the elements says how many there are.
        counted: bool,
    },
}

impl Layout {
    /// Whether rows of collections in it may be heads.
    pub(super) fn has_heads(&self) -> bool {
        match self {
            Self::Map { value, .. } => match &**value {
                Self::Map { counted, .. } | Self::Set { counted, .. } => {
                    *counted || value.has_heads()
                }
                Self::Value(_) => false,
            },
            Self::Set { .. } | Self::Value(_) => false,
        }
    }

    /// The layout of a `PState` of type `S`: `Map<K, V>` or `Set<E>`.
    #[must_use]
    pub fn of<S>() -> Self
    where
        Root<S>: Laid,
    {
        <Root<S> as Laid>::layout()
    }
}

/// A position whose layout is known: every value, and every `Sub` whose keys are serde types too.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be reached by queries that are data",
    note = "the keys of its collections must derive `serde::Serialize` and `serde::Deserialize`"
)]
pub trait Laid {
    /// The layout.
    fn layout() -> Layout;
}

#[diagnostic::do_not_recommend]
impl<T: Data> Laid for T {
    fn layout() -> Layout {
        Layout::Value(ValueType::of::<T>())
    }
}

impl<K: Key + Data, V: Laid, Z: Counting> Laid for Sub<Map<K, V>, Z> {
    fn layout() -> Layout {
        let (key, value) = (KeyType::of::<K>(), Box::new(V::layout()));
        Layout::Map { key, value, counted: Z::COUNTED }
    }
}

impl<E: Key + Data, Z: Counting> Laid for Sub<Set<E>, Z> {
    fn layout() -> Layout {
        Layout::Set { element: KeyType::of::<E>(), counted: Z::COUNTED }
    }
}

/// A type of values.
#[derive(Clone, Copy)]
pub struct ValueType {
    pub(super) check: fn(&FieldTable, &[u8]) -> codec::Result<()>,
    pub(super) name: &'static str,
}

impl ValueType {
    /// The values of `T`.
    #[must_use]
    pub fn of<T: Data>() -> Self {
        let check = |fields: &FieldTable, bytes: &[u8]| codec::decode::<T>(fields, bytes).map(drop);
        Self { check, name: type_name::<T>() }
    }

    /// Asserts that typed code can read what a query made.
    pub(super) fn check(self, fields: &FieldTable, bytes: &[u8]) -> Result<(), Problem> {
        (self.check)(fields, bytes).map_err(|source| Problem::WrongType { source })
    }
}

impl fmt::Debug for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A type of keys, which has two encodings: as a key, which keeps the order, and as a value.
#[derive(Clone, Copy)]
pub struct KeyType {
    to_value: fn(&FieldTable, &mut &[u8], &mut Vec<u8>) -> codec::Result<()>,
    skip: fn(&mut &[u8]) -> codec::Result<()>,
    to_key: fn(&FieldTable, &[u8], &mut KeyBuf) -> codec::Result<()>,
    name: &'static str,
}

impl KeyType {
    /// The keys of `K`.
    #[must_use]
    pub fn of<K: Key + Data>() -> Self {
        Self {
            to_value: |fields, input, out| codec::encode(fields, &K::decode_key(input)?, out),
            skip: |input| K::decode_key(input).map(drop),
            to_key: |fields, value, out| {
                codec::decode::<K>(fields, value)?.encode_key(out);
                Ok(())
            },
            name: type_name::<K>(),
        }
    }

    /// Appends the key that `value` is to `prefix`.
    pub(super) fn push(
        self,
        fields: &FieldTable,
        value: &[u8],
        prefix: &mut KeyBuf,
    ) -> Result<(), Problem> {
        let key_type = self.name;
        (self.to_key)(fields, value, prefix)
            .map_err(|source| Problem::BadKey { key_type, source })?;
        match prefix.len() {
            bytes if bytes > codec::KEY_BYTES_MAX => Err(Problem::KeyTooLong { bytes }),
            _ => Ok(()),
        }
    }

    /// Appends the value that the key at the front of `input` is.
    pub(super) fn value(
        self,
        fields: &FieldTable,
        mut input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Problem> {
        (self.to_value)(fields, &mut input, out).map_err(Problem::BadRow)
    }

    /// How many bytes the key at the front of `input` has.
    pub(super) fn bytes(self, input: &[u8]) -> Result<usize, Problem> {
        let mut rest = input;
        (self.skip)(&mut rest).map_err(Problem::BadRow)?;
        Ok(input.len() - rest.len())
    }
}

impl fmt::Debug for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
