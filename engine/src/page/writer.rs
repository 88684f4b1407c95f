//! A fold's writes: pages gathered into long writes, few of them in flight.

use std::io;
use std::rc::Rc;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::space::Draft;
use super::{EXTENT_BYTES, EXTENT_PAGES, Error, FileId, PAGE_BYTES};
use crate::env::{Buf, Env, File, LocalFuture, Sync, write_full};

/// Writes in flight: enough to hide one behind the other, few enough not to crowd the journal out.
const IN_FLIGHT_MAX: usize = 2;

/// Extents the file grows by at most in one step.
const GROWTH_EXTENTS_MAX: u32 = 16;

pub(crate) struct Writer {
    pub(crate) env: Env,
    pub(crate) file: Rc<dyn File>,
    pub(crate) file_id: FileId,
    pub(crate) fold: u64,
    pub(crate) draft: Draft,
    gathered: Option<Gathered>,
    in_flight: FuturesUnordered<LocalFuture<'static, Result<(), Error>>>,
}

/// Neighbouring pages not yet submitted.
struct Gathered {
    place: u32,
    pages: u32,
    buf: Buf,
}

impl Writer {
    pub(crate) fn new(
        env: Env,
        (file_id, file): (FileId, Rc<dyn File>),
        fold: u64,
        draft: Draft,
    ) -> Self {
        let in_flight = FuturesUnordered::new();
        Self { env, file, file_id, fold, draft, gathered: None, in_flight }
    }

    /// Neighbouring pages to write, growing the file if needed.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`].
    pub(crate) async fn claim(&mut self, pages: u32) -> Result<u32, Error> {
        if let Some(place) = self.draft.claim(pages) {
            return Ok(place);
        }
        self.grow().await?;
        Ok(self.draft.claim(pages).expect("a new extent holds any chunk"))
    }

    /// Takes whole pages for a claimed place.
    ///
    /// # Errors
    /// [`Error::Io`] of this or an earlier write.
    pub(crate) async fn put(&mut self, place: u32, bytes: &[u8]) -> Result<(), Error> {
        assert_eq!(bytes.len() % PAGE_BYTES, 0);
        let pages = u32::try_from(bytes.len() / PAGE_BYTES).expect("at most an extent");
        let follows = self.gathered.as_ref().is_some_and(|gathered| {
            gathered.place + gathered.pages == place && gathered.pages + pages <= EXTENT_PAGES
        });
        if !follows {
            self.submit().await?;
            let buf = Buf::zeroed(EXTENT_BYTES);
            self.gathered = Some(Gathered { place, pages: 0, buf });
        }
        if let Some(gathered) = &mut self.gathered {
            let at = gathered.pages as usize * PAGE_BYTES;
            gathered.buf[at..at + bytes.len()].copy_from_slice(bytes);
            gathered.pages += pages;
        }
        Ok(())
    }

    /// Submits the rest and waits for everything. Nothing is durable yet.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) async fn finish(&mut self) -> Result<(), Error> {
        self.submit().await?;
        while let Some(result) = self.in_flight.next().await {
            result?;
        }
        Ok(())
    }

    /// Waits for what is in flight, whatever becomes of it: it lands in pages that nobody reads, but must
    /// not land on top of a later fold.
    pub(crate) async fn settle(&mut self) {
        while self.in_flight.next().await.is_some() {}
    }

    /// Lets other tasks run if it is time.
    pub(crate) async fn pause(&self) {
        if self.env.should_yield() {
            self.env.yield_now().await;
        }
    }

    pub(crate) fn corrupt(&self, place: u32, what: &'static str) -> Error {
        Error::corrupt(self.file.path(), u64::from(place) * PAGE_BYTES as u64, what)
    }

    /// Takes pages back.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they were not live.
    pub(crate) fn free(&mut self, place: u32, pages: u32) -> Result<(), Error> {
        self.draft.free(place, pages).map_err(|what| self.corrupt(place, what))
    }

    async fn submit(&mut self) -> Result<(), Error> {
        let Some(gathered) = self.gathered.take() else { return Ok(()) };
        while self.in_flight.len() >= IN_FLIGHT_MAX {
            if let Some(result) = self.in_flight.next().await {
                result?;
            }
        }
        let buf = if gathered.pages == EXTENT_PAGES {
            gathered.buf
        } else {
            Buf::copy_of(&gathered.buf[..gathered.pages as usize * PAGE_BYTES])
        };
        let at = u64::from(gathered.place) * PAGE_BYTES as u64;
        let file = Rc::clone(&self.file);
        self.in_flight.push(Box::pin(async move {
            let (result, _buf) = write_full(&*file, at, buf, Sync::No).await;
            result.map_err(|error| Error::io("write", file.path(), at, error))
        }));
        self.pause().await;
        Ok(())
    }

    async fn grow(&mut self) -> Result<(), Error> {
        let have = self.draft.extents();
        let step = (have / 32).clamp(1, GROWTH_EXTENTS_MAX);
        for step in if step > 1 { vec![step, 1] } else { vec![1] } {
            let extents =
                have.checked_add(step).filter(|extents| *extents < u32::MAX / EXTENT_PAGES);
            let extents = extents.ok_or(self.corrupt(0, "a page file is limited to 16 TiB"))?;
            let bytes = u64::from(extents) * EXTENT_BYTES as u64;
            match self.file.allocate(bytes).await {
                Ok(()) => {
                    self.draft.grow(extents);
                    return Ok(());
                }
                Err(error) if no_space(&error) && step > 1 => {}
                Err(error) if no_space(&error) => {
                    return Err(Error::NoSpace { file: self.file.path().to_owned(), bytes });
                }
                Err(error) => {
                    return Err(Error::io("allocate", self.file.path(), bytes, error));
                }
            }
        }
        unreachable!("the last step returned")
    }
}

/// Whether an error says that the device is full.
pub(crate) fn no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
