//! Copying from one disk to another, in pieces: what those have in common who copy.

use std::io;

/// Counts what is copied, and says whether to go on.
pub(crate) trait Pieces {
    /// So many bytes more have their place in the copy: they were read from the source, or an earlier copy had
    /// them. False ends the copying.
    fn done(&self, bytes: u64, taken_over: bool) -> bool;
}

/// A copy could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {file} at byte {byte}")]
pub(crate) struct TargetError {
    pub(crate) op: &'static str,
    /// A path of the disk that is written to.
    pub(crate) file: String,
    pub(crate) byte: u64,
    #[source]
    pub(crate) source: io::Error,
}

impl TargetError {
    /// For `map_err`.
    pub(crate) fn of<'f>(
        op: &'static str,
        file: &'f str,
        byte: u64,
    ) -> impl FnOnce(io::Error) -> Self + use<'f> {
        move |source| Self { op, file: file.to_owned(), byte, source }
    }
}

/// No piece is larger: what is copied in the background is not to be noticed.
pub(crate) const PIECE_BYTES: usize = 256 << 10;
