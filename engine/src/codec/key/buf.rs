//! [`KeyBuf`]: the bytes of one key, inline as long as they are few.

use std::fmt;
use std::mem::MaybeUninit;

/// Keys up to this length need no allocation: an id or two, a date, a short name. With the length and
/// the spill pointer, the buffer fills one cache line.
const INLINE_BYTES: usize = 54;

/// The bytes of one key. Growing past 54 bytes moves them to the heap.
pub struct KeyBuf {
    /// `Some` once the bytes did not fit; then `inline` and `len` are no longer used.
    #[allow(clippy::box_collection, reason = "one pointer, so that the inline bytes get the rest")]
    spill: Option<Box<Vec<u8>>>,
    /// How many bytes of `inline` are initialised.
    len: u16,
    inline: [MaybeUninit<u8>; INLINE_BYTES],
}

impl KeyBuf {
    /// An empty key. The inline bytes are not zeroed: building a path would cost ten times as much.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self { spill: None, len: 0, inline: [MaybeUninit::uninit(); INLINE_BYTES] }
    }

    /// Appends bytes of a length the compiler knows.
    #[inline]
    pub fn push_array<const N: usize>(&mut self, bytes: [u8; N]) {
        self.push_slice(&bytes);
    }

    /// Appends bytes.
    #[inline]
    pub fn push_slice(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        if let (None, Some(room)) = (&self.spill, self.inline[start..].get_mut(..bytes.len())) {
            room.write_copy_of_slice(bytes);
            self.len += u16::try_from(bytes.len()).expect("no longer than the inline bytes");
        } else {
            self.push_spilled(bytes);
        }
    }

    /// Appends one byte.
    #[inline]
    pub fn push(&mut self, byte: u8) {
        self.push_array([byte]);
    }

    #[cold]
    fn push_spilled(&mut self, bytes: &[u8]) {
        if self.spill.is_none() {
            let mut grown = Vec::with_capacity(2 * INLINE_BYTES + bytes.len());
            grown.extend_from_slice(self.as_slice());
            self.spill = Some(Box::new(grown));
        }
        self.spill.as_mut().expect("set above").extend_from_slice(bytes);
    }

    /// The bytes.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        if let Some(spill) = &self.spill {
            return spill;
        }
        let filled = &self.inline[..usize::from(self.len)];
        // SAFETY: the first `len` bytes were written by `push_slice`, the only place that raises
        // `len`.
        unsafe { filled.assume_init_ref() }
    }

    /// The bytes, to be changed in place.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        if let Some(spill) = &mut self.spill {
            return spill;
        }
        let filled = &mut self.inline[..usize::from(self.len)];
        // SAFETY: as in `as_slice`.
        unsafe { filled.assume_init_mut() }
    }

    /// How many bytes there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the first `len` bytes; nothing if there are fewer.
    pub fn truncate(&mut self, len: usize) {
        match &mut self.spill {
            Some(spill) => spill.truncate(len),
            None => self.len = self.len.min(u16::try_from(len).unwrap_or(u16::MAX)),
        }
    }

    /// The smallest key above every key that begins with these bytes; `None` if there is none, which
    /// means the end of the tree.
    #[must_use]
    pub fn prefix_end(mut self) -> Option<Self> {
        let keep = self.as_slice().iter().rposition(|&byte| byte != 0xff)? + 1;
        self.truncate(keep);
        *self.as_mut_slice().last_mut()? += 1;
        Some(self)
    }
}

impl Default for KeyBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for KeyBuf {
    fn clone(&self) -> Self {
        Self { spill: self.spill.clone(), len: self.len, inline: self.inline }
    }
}

impl From<&[u8]> for KeyBuf {
    fn from(bytes: &[u8]) -> Self {
        let mut key = Self::new();
        key.push_slice(bytes);
        key
    }
}

impl AsRef<[u8]> for KeyBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::ops::Deref for KeyBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for KeyBuf {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for KeyBuf {}

impl PartialOrd for KeyBuf {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyBuf {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl std::hash::Hash for KeyBuf {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Debug for KeyBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyBuf(")?;
        for byte in self.as_slice() {
            write!(f, "{byte:02x}")?;
        }
        write!(f, ")")
    }
}
