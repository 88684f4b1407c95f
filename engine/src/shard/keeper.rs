//! The keeper of `MANIFEST` and the catalogue: one per node, whose requests are carried out one after the
//! other, each durable before it is answered.
//!
//! It lives on no shard, so that it does not stop with one. A shard that wants something takes the keeper's
//! lock and writes with its own device: one writer at a time, whoever it is. A shard that stops amid a
//! store lets go of the lock, but what it gave to its device may still be under way. So the next one
//! waits until that life of the shard has let go of its files, and reads back which manifest holds.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::Shared;
use futures_util::lock::{Mutex, MutexGuard};

use super::message::{Closed, KeeperRequest, answer};
use super::{Setup, Shard, recompute};
use crate::codec::FieldTable;
use crate::env::{Buf, Env, Open, Sync, read_full, write_full};
use crate::error::{Error, Result, chain};
use crate::journal::{JournalFile, JournalId};
use crate::manifest::{CatalogueRef, JournalRecord, Manifest};
use crate::module::Definition;
use crate::node::catalogue::recomputes::{Alteration, Step};
use crate::node::catalogue::{Catalogue, Installed, Starts};
use crate::topology::panic_message;
use crate::types::{Run, ShardId};

/// See the module.
pub(crate) struct Keeper {
    state: Mutex<State>,
}

struct State {
    manifest: Manifest,
    catalogue: Catalogue,
    /// Whether these are what the directory holds: not between the beginning of a store and its success.
    is_known: bool,
    /// The life of the shard that began a store, until its device has answered.
    storing: Option<Ended>,
}

/// Resolves when one life of a shard has let go of its files.
pub(crate) type Ended = Shared<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// How one life of a shard reaches the keeper.
#[derive(Clone)]
pub(crate) struct Hand {
    env: Env,
    setup: Arc<Setup>,
    ended: Ended,
}

/// A catalogue larger than this is not ours.
const CATALOGUE_BYTES_MAX: u64 = 64 << 20;

impl Keeper {
    /// The keeper of what boot found, or made.
    pub(crate) fn new(manifest: Manifest, catalogue: Catalogue) -> Self {
        let state = State { manifest, catalogue, is_known: true, storing: None };
        Self { state: Mutex::new(state) }
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

impl Shard {
    /// Does what the keeper is asked for. If the device refuses, this shard stops, and another can try.
    pub(super) async fn keep(&self, request: KeeperRequest) {
        match request {
            KeeperRequest::Launch { definition, starts, reply } => {
                let launched = self.hand.launch(definition, &starts).await;
                answer(reply, launched.map_err(|error| self.cannot_keep(error)));
            }
            KeeperRequest::Alter { alteration, reply } => {
                let altered = self.hand.alter(&alteration).await;
                answer(reply, altered.map_err(|error| self.cannot_keep(error)));
            }
            KeeperRequest::Switch { journals, reply } => {
                let switched = self.hand.switch(&journals).await;
                answer(reply, switched.map_err(|error| self.cannot_keep(error)));
            }
            KeeperRequest::Read { reply } => {
                let read = self.hand.read().await;
                answer(reply, read.map_err(|error| self.cannot_keep(error)));
            }
            KeeperRequest::Clean { closed, reply } => {
                let cleaned = self.hand.clean(&closed).await;
                answer(reply, cleaned.map_err(|error| self.cannot_keep(error)));
            }
        }
    }

    fn cannot_keep(&self, error: Error) -> Error {
        match error {
            Error::Open { .. } | Error::Corrupt { .. } => self.stopped_by(&error),
            error => error,
        }
    }
}

impl Hand {
    pub(crate) fn new(env: &Env, setup: &Arc<Setup>, ended: Ended) -> Self {
        Self { env: env.clone(), setup: Arc::clone(setup), ended }
    }

    /// The keeper, for this shard alone until the guard is dropped.
    async fn lock(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.setup.keeper.state.lock().await;
        if let Some(ended) = state.storing.clone() {
            ended.await;
            state.storing = None;
        }
        if !state.is_known {
            let failed = |error| Error::Open { what: chain(&error) };
            let manifest = Manifest::load_doubted(&self.env).await.map_err(failed)?;
            state.catalogue = read_catalogue(&self.env, manifest.catalogue).await?;
            state.manifest = manifest;
            state.is_known = true;
            recompute::follow(&self.env, &self.setup, &state.catalogue);
        }
        Ok(state)
    }

    async fn store(&self, state: &mut State, next: Manifest) -> Result<()> {
        state.storing = Some(self.ended.clone());
        state.is_known = false;
        state.manifest = next;
        let stored = state.manifest.store(&self.env).await;
        state.storing = None;
        stored.map_err(|error| Error::Open { what: chain(&error) })?;
        state.is_known = true;
        Ok(())
    }

    /// Gives numbers to a module and makes them durable. What has numbers keeps them.
    async fn launch(&self, definition: Arc<Definition>, starts: &Starts) -> Result<Arc<Installed>> {
        let mut state = self.lock().await?;
        let mut catalogue = state.catalogue.clone();
        let stored = if catalogue.fields.is_empty() {
            FieldTable::new()
        } else {
            let decoded = FieldTable::decode(&catalogue.fields);
            decoded.map_err(|error| Error::Corrupt { what: format!("catalogue: {error}") })?
        };
        // Code of the module says what its types and initial values are; if that panics, only the launch fails.
        let traced = catch_unwind(AssertUnwindSafe(|| definition.trace(stored)));
        let traced = traced.map_err(|payload| Error::Invalid {
            what: format!(
                "module `{}` cannot be launched: its code panicked when it was asked for its types and initial \
                 values: {}",
                definition.name,
                panic_message(&*payload)
            ),
        })?;
        let traced = traced.map_err(Error::invalid)?;
        let installed = catalogue.install(definition, traced, starts)?;
        self.store_catalogue(&mut state, catalogue).await?;
        Ok(Arc::new(installed))
    }

    /// Drops the old number of a `PState` that was migrated: nothing is stored under it in any partition, nor
    /// ever will be. What its trees still hold that was moved since their last folds goes with the next ones.
    pub(super) async fn migrated(&self, module: &str, pstate: &str, id: &str) -> Result<()> {
        let mut state = self.lock().await?;
        let mut catalogue = state.catalogue.clone();
        catalogue.migrated(module, pstate, id);
        self.store_catalogue(&mut state, catalogue).await
    }

    /// Makes another catalogue durable, if it is another one.
    async fn store_catalogue(&self, state: &mut State, catalogue: Catalogue) -> Result<()> {
        if catalogue == state.catalogue {
            state.is_known = true;
            return Ok(());
        }
        let old = state.manifest.catalogue.number;
        // A leftover of an attempt that crashed is overwritten: no manifest names it. If this life of the
        // shard ends meanwhile, its write may still be on its way to the same file.
        state.storing = Some(self.ended.clone());
        let written = write_catalogue(&self.env, old + 1, &catalogue).await;
        state.storing = None;
        let mut next = state.manifest.clone();
        // If that was refused, nothing has changed.
        state.is_known = true;
        next.catalogue = written?;
        self.store(state, next).await?;
        state.catalogue = catalogue;
        // At once: this shard may end before the rest is done.
        recompute::follow(&self.env, &self.setup, &state.catalogue);
        if old > 0 {
            // A leftover costs space and nothing else.
            drop(self.env.disk().remove(&catalogue_path(old)).await);
        }
        Ok(())
    }

    /// Changes the catalogue for a recompute, and has everybody in the process follow it. If the device refuses
    /// the manifest, whoever takes the lock next finds out which one holds, and does that.
    async fn alter(&self, alteration: &Alteration) -> Result<Catalogue> {
        let mut state = self.lock().await?;
        let mut catalogue = state.catalogue.clone();
        catalogue.alter(alteration)?;
        if let Step::Switch { place, number, .. } = alteration.step {
            let module = self.setup.module(&alteration.module).ok_or(Error::Closed)?;
            // From here on the topology stays where it is until the outcome is known.
            module.stops.begin_switch(place, number)?;
            // If this shard ends before that, the next one who takes the lock tells.
            state.is_known = false;
        }
        let stored = self.store_catalogue(&mut state, catalogue).await;
        if state.is_known {
            // Also if it was refused before anything was changed.
            recompute::follow(&self.env, &self.setup, &state.catalogue);
        }
        stored?;
        Ok(state.catalogue.clone())
    }

    /// The journal of this name starts with `first` from now on.
    async fn retain(&self, id: JournalId, first: JournalFile) -> Result<()> {
        let mut state = self.lock().await?;
        let mut next = state.manifest.clone();
        for journal in next.journals.iter_mut().filter(|journal| journal.id == id) {
            journal.first = first;
        }
        self.store(&mut state, next).await
    }

    /// Journals that were created are the directory's journals from now on, and no others.
    async fn switch(&self, journals: &[(ShardId, JournalId)]) -> Result<()> {
        let mut state = self.lock().await?;
        let mut next = state.manifest.clone();
        next.journals = journals
            .iter()
            .map(|&(shard, id)| JournalRecord {
                id,
                shard,
                first: JournalFile::FIRST,
                clean_end: None,
            })
            .collect();
        self.store(&mut state, next).await?;
        remove_unlisted(&self.env, &state.manifest).await.map(|_| ())
    }

    /// A number for this shard, which starts again, and its journal.
    pub(super) async fn raise_run(&self) -> Result<(Run, JournalRecord)> {
        let mut state = self.lock().await?;
        let mut next = state.manifest.clone();
        next.run = Run(next.run.0 + 1);
        self.store(&mut state, next).await?;
        let shard = self.env.shard();
        let record = state.manifest.journals.iter().find(|record| record.shard == shard);
        let record = record.copied().ok_or_else(|| Error::Corrupt {
            what: format!("MANIFEST names no journal of shard {shard}"),
        })?;
        Ok((state.manifest.run, record))
    }

    /// What the directory holds.
    async fn read(&self) -> Result<(Manifest, Catalogue)> {
        let state = self.lock().await?;
        Ok((state.manifest.clone(), state.catalogue.clone()))
    }

    /// Every journal was closed: the directory is clean.
    async fn clean(&self, closed: &[Closed]) -> Result<()> {
        let mut state = self.lock().await?;
        let mut next = state.manifest.clone();
        next.clean = true;
        for journal in &mut next.journals {
            let end = closed.iter().find(|closed| closed.journal == journal.id);
            journal.clean_end = end.map(|closed| closed.end);
            next.clean &= journal.clean_end.is_some();
        }
        self.store(&mut state, next).await
    }
}

impl crate::journal::Retain for Hand {
    fn advance(
        &self,
        id: JournalId,
        first: JournalFile,
    ) -> crate::env::LocalFuture<'_, Result<(), crate::journal::Error>> {
        Box::pin(async move { self.retain(id, first).await.map_err(crate::journal::Error::retain) })
    }
}

fn catalogue_path(number: u64) -> String {
    format!("catalogue-{number}")
}

pub(crate) async fn write_catalogue(
    env: &Env,
    number: u64,
    catalogue: &Catalogue,
) -> Result<CatalogueRef> {
    let bytes = catalogue.encode();
    let path = catalogue_path(number);
    let full = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::StorageFull => Error::DiskFull { what: format!("writing {path}") },
        _ => Error::Open { what: format!("cannot write {path}: {error}") },
    };
    // A leftover of an attempt that crashed is overwritten: no manifest names it.
    let file = env.disk().open(&path, Open::Any).await.map_err(full)?;
    let buf = Buf::copy_of(&bytes);
    file.allocate(buf.len() as u64).await.map_err(full)?;
    let mut at = 0;
    for part in buf.chunks(crate::env::IO_BYTES_MAX) {
        let (result, _buf) = write_full(&*file, at, Buf::copy_of(part), Sync::No).await;
        result.map_err(full)?;
        at += part.len() as u64;
    }
    file.sync().await.map_err(full)?;
    env.disk().sync_dir(".").await.map_err(full)?;
    let crc = crc32fast::hash(&bytes);
    Ok(CatalogueRef { number, bytes: bytes.len() as u64, crc })
}

/// Reads the catalogue that the manifest names.
pub(crate) async fn read_catalogue(env: &Env, named: CatalogueRef) -> Result<Catalogue> {
    if named.number == 0 {
        return Ok(Catalogue::default());
    }
    let path = catalogue_path(named.number);
    let damaged = |what: &str| Error::Corrupt { what: format!("{path} is damaged: {what}") };
    if named.bytes > CATALOGUE_BYTES_MAX {
        return Err(damaged("MANIFEST gives it an impossible length"));
    }
    let missing = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof => {
            damaged(&error.to_string())
        }
        // The device refused, which says nothing about what is stored.
        _ => Error::Open { what: format!("cannot read {path}: {error}") },
    };
    let file = env.disk().open(&path, Open::Existing).await.map_err(missing)?;
    let mut bytes = Vec::new();
    let length = usize::try_from(named.bytes).map_err(|_| damaged("it exceeds the memory"))?;
    while bytes.len() < length {
        let wanted = (length - bytes.len()).min(crate::env::IO_BYTES_MAX);
        let (result, buf) = read_full(&*file, bytes.len() as u64, Buf::zeroed(wanted)).await;
        result.map_err(missing)?;
        bytes.extend_from_slice(&buf);
    }
    bytes.truncate(length);
    if crc32fast::hash(&bytes) != named.crc {
        return Err(damaged("its checksum is not the one in MANIFEST"));
    }
    Catalogue::decode(&bytes).map_err(|what| damaged(&what))
}

/// Removes files of journals that the manifest does not name. Returns whether there were any.
pub(crate) async fn remove_unlisted(env: &Env, manifest: &Manifest) -> Result<bool> {
    let failed = |error: std::io::Error| Error::Open {
        what: format!("cannot remove an unused journal: {error}"),
    };
    let mut removed = false;
    for name in env.disk().list("journal").await.map_err(failed)? {
        let id = name.split('-').next().and_then(|id| id.parse().ok()).map(JournalId);
        let listed = id.is_some_and(|id| manifest.journals.iter().any(|it| it.id == id));
        if id.is_some() && !listed {
            env.disk().remove(&format!("journal/{name}")).await.map_err(failed)?;
            removed = true;
        }
    }
    if removed {
        env.disk().sync_dir("journal").await.map_err(failed)?;
    }
    Ok(removed)
}
