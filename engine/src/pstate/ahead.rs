//! Fetching memory into the cache of the core before it is looked at.
//!
//! A miss costs some hundred nanoseconds if the next instruction needs the answer, and a twentieth of that
//! if ten others are under way meanwhile. So whoever looks many things up names them first.

/// Asks for the memory of `values`; changes nothing, and waits for nothing.
#[inline]
pub(super) fn fetch<T>(values: &[T]) {
    let from = values.as_ptr().cast::<i8>();
    let bytes = size_of_val(values);
    let mut at = 0;
    while at < bytes {
        fetch_line(from.wrapping_add(at));
        at += LINE_BYTES;
    }
    if bytes > 0 {
        // It may not begin at the start of a line.
        fetch_line(from.wrapping_add(bytes - 1));
    }
}

const LINE_BYTES: usize = 64;

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
fn fetch_line(at: *const i8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: every x86-64 has the instruction, and it reads nothing that the program could see.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline]
fn fetch_line(_at: *const i8) {}
