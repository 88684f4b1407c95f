//! Memory for direct I/O: aligned to a block, a whole number of blocks long.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::BLOCK_BYTES;

/// An owned buffer, aligned to [`BLOCK_BYTES`], whose length is a multiple of it.
pub struct Buf {
    bytes: NonNull<u8>,
    /// What is used of `capacity`.
    len: usize,
    /// What was allocated.
    capacity: usize,
}

// SAFETY: a `Buf` owns its memory alone, like a `Box<[u8]>`.
unsafe impl Send for Buf {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Buf {}

impl Buf {
    /// A zeroed buffer of at least `len` bytes, rounded up to whole blocks; `len` must not be 0.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let len = len.next_multiple_of(BLOCK_BYTES);
        assert!(len > 0, "a buffer holds at least one block");
        let layout = Self::layout(len);
        // SAFETY: the layout has a size above zero, asserted above.
        let bytes = unsafe { alloc_zeroed(layout) };
        let Some(bytes) = NonNull::new(bytes) else { handle_alloc_error(layout) };
        Self { bytes, len, capacity: len }
    }

    /// A buffer that starts with `source` and is padded with zeros to whole blocks.
    #[must_use]
    pub fn copy_of(source: &[u8]) -> Self {
        let mut buf = Self::zeroed(source.len().max(1));
        buf[..source.len()].copy_from_slice(source);
        buf
    }

    /// Uses the first `len` bytes of what was allocated, a multiple of a block; what they hold stays
    /// as it was. Lets a frame be encoded in place before its size is known.
    pub fn set_len(&mut self, len: usize) {
        assert!(len > 0 && len.is_multiple_of(BLOCK_BYTES), "a buffer holds whole blocks");
        assert!(len <= self.capacity, "a buffer does not grow");
        self.len = len;
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, BLOCK_BYTES).expect("a block is a power of two")
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes` points at `capacity >= len` initialised bytes that this buffer owns.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with the same layout, freed once.
        unsafe { dealloc(self.bytes.as_ptr(), Self::layout(self.capacity)) }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buf").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_padded_and_zeroed() {
        let buf = Buf::copy_of(&[7; 5000]);
        assert_eq!(buf.len(), 8192);
        assert_eq!(buf.as_ptr().align_offset(BLOCK_BYTES), 0);
        assert!(buf[..5000].iter().all(|&byte| byte == 7));
        assert!(buf[5000..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn shrinks_and_comes_back() {
        let mut buf = Buf::copy_of(&[7; 8192]);
        buf.set_len(4096);
        assert_eq!(buf.len(), 4096);
        buf.set_len(8192);
        assert_eq!(&buf[..], &[7; 8192]);
    }
}
