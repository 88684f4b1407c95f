//! How much memory the machine has.

/// Bytes of main memory, or 4 GiB where the system does not say.
#[must_use]
pub fn memory_bytes() -> u64 {
    // SAFETY: `sysconf` takes a number, touches no memory of ours, and -1 means it does not know.
    let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
    // SAFETY: as above.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    match (u64::try_from(pages), u64::try_from(page_bytes)) {
        (Ok(pages), Ok(page_bytes)) => pages.saturating_mul(page_bytes),
        _ => 4 << 30,
    }
}
