//! Owned bytes that need no allocation while they are short, as most keys and many values are.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Deref;

/// Immutable bytes; up to 22 of them lie in place.
#[derive(Clone)]
pub(crate) enum Small {
    Inline(u8, [u8; INLINE_BYTES]),
    Heap(Box<[u8]>),
}

/// What fits beside a tag and a length into the three words a `Box` and a tag need anyway.
const INLINE_BYTES: usize = 22;

impl Small {
    /// What [`Small::heap_bytes`] would say of these bytes.
    pub(crate) fn heap_bytes_of(bytes: &[u8]) -> u64 {
        if bytes.len() <= INLINE_BYTES { 0 } else { bytes.len() as u64 + 16 }
    }

    /// Bytes of memory beyond the value itself, with the allocator's share.
    pub(crate) fn heap_bytes(&self) -> u64 {
        match self {
            Self::Inline(..) => 0,
            Self::Heap(bytes) => bytes.len() as u64 + 16,
        }
    }
}

impl From<&[u8]> for Small {
    fn from(bytes: &[u8]) -> Self {
        match u8::try_from(bytes.len()) {
            Ok(len) if bytes.len() <= INLINE_BYTES => {
                let mut inline = [0; INLINE_BYTES];
                inline[..bytes.len()].copy_from_slice(bytes);
                Self::Inline(len, inline)
            }
            _ => Self::Heap(bytes.into()),
        }
    }
}

impl Deref for Small {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Self::Heap(bytes) => bytes,
        }
    }
}

impl Borrow<[u8]> for Small {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Small {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Small {}

impl PartialOrd for Small {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Small {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl std::fmt::Debug for Small {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}
