//! How much memory the machine has, and in pages of what size this process gets it.

use std::io;

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

/// Has the kernel back this process with small pages only, whatever an allocator asks for; worth calling
/// first in `main` where latency counts.
///
/// On a virtual machine, polls that touched a page of 2 MiB first took 6 to 13 ms, nearly all of it zeroing the page
/// (presumably the host had to find the memory). A shard that grows by some megabytes a second meets that several times a second, in the midst of a transaction. It
/// is for the service to decide, since it concerns all of its memory: what gains from large pages loses them.
///
/// # Errors
/// What the kernel says; one without transparent huge pages says nothing.
pub fn disable_huge_pages() -> io::Result<()> {
    // SAFETY: takes numbers, touches no memory of ours.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_off_once_disabled() {
        disable_huge_pages().unwrap();
        // SAFETY: takes numbers, touches no memory of ours.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) }, 1);
    }
}
