//! The keeper of `MANIFEST` and the catalogue: one per node, on shard 0. Its requests are carried out
//! one after the other, each durable before it is answered.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::lock::Mutex;

use super::message::{Closed, KeeperRequest, Restart, answer};
use crate::codec::FieldTable;
use crate::env::{Buf, Class, Env, Open, Sync, read_full, write_full};
use crate::error::{Error, Result, chain};
use crate::journal::{JournalFile, JournalId};
use crate::manifest::{CatalogueRef, JournalRecord, Manifest};
use crate::node::Launch;
use crate::node::catalogue::{Catalogue, Installed};
use crate::types::{Run, ShardId};

/// See the module.
pub(crate) struct Keeper {
    state: Rc<Mutex<State>>,
}

struct State {
    manifest: Manifest,
    catalogue: Catalogue,
}

/// A catalogue larger than this is not ours.
const CATALOGUE_BYTES_MAX: u64 = 64 << 20;

impl Keeper {
    pub(crate) fn new(manifest: Manifest, catalogue: Catalogue) -> Self {
        Self { state: Rc::new(Mutex::new(State { manifest, catalogue })) }
    }

    pub(super) fn handle(&self, env: &Env, request: KeeperRequest) {
        let (state, task_env) = (Rc::clone(&self.state), env.clone());
        env.spawn(Class::Core, "keeper", async move {
            let mut state = state.lock().await;
            match request {
                KeeperRequest::Launch { launch, reply } => {
                    answer(reply, state.launch(&task_env, *launch).await);
                }
                KeeperRequest::Retain { journal, first, reply } => {
                    answer(reply, state.retain(&task_env, journal, first).await);
                }
                KeeperRequest::Switch { journals, reply } => {
                    answer(reply, state.switch(&task_env, &journals).await);
                }
                KeeperRequest::RaiseRun { reply } => {
                    answer(reply, state.raise_run(&task_env).await);
                }
                KeeperRequest::Clean { closed, reply } => {
                    answer(reply, state.clean(&task_env, &closed).await);
                }
            }
        });
    }
}

impl State {
    async fn store(&mut self, env: &Env, next: Manifest) -> Result<()> {
        // Also after a failure: which manifest holds is unknown then, and this one refuses to be
        // stored again.
        self.manifest = next;
        self.manifest.store(env).await.map_err(|error| Error::Open { what: chain(&error) })
    }

    async fn launch(&mut self, env: &Env, launch: Launch) -> Result<Arc<Installed>> {
        let mut catalogue = self.catalogue.clone();
        let stored = if catalogue.fields.is_empty() {
            FieldTable::new()
        } else {
            let decoded = FieldTable::decode(&catalogue.fields);
            decoded.map_err(|error| Error::Corrupt { what: format!("catalogue: {error}") })?
        };
        let fields = launch.definition.field_table(stored).map_err(Error::invalid)?;
        let installed = catalogue.install(launch.definition, fields).map_err(Error::invalid)?;
        if catalogue != self.catalogue {
            let number = self.manifest.catalogue.number + 1;
            let written = write_catalogue(env, number, &catalogue).await?;
            let mut next = self.manifest.clone();
            next.catalogue = written;
            let old = self.manifest.catalogue.number;
            self.store(env, next).await?;
            self.catalogue = catalogue;
            if old > 0 {
                // A leftover costs space and nothing else.
                drop(env.disk().remove(&catalogue_path(old)).await);
            }
        }
        Ok(Arc::new(installed))
    }

    async fn retain(&mut self, env: &Env, id: JournalId, first: JournalFile) -> Result<()> {
        let mut next = self.manifest.clone();
        for journal in next.journals.iter_mut().filter(|journal| journal.id == id) {
            journal.first = first;
        }
        self.store(env, next).await
    }

    async fn switch(&mut self, env: &Env, journals: &[(ShardId, JournalId)]) -> Result<()> {
        let mut next = self.manifest.clone();
        next.journals = journals
            .iter()
            .map(|&(shard, id)| JournalRecord {
                id,
                shard,
                first: JournalFile::FIRST,
                clean_end: None,
            })
            .collect();
        self.store(env, next).await?;
        remove_unlisted(env, &self.manifest).await.map(|_| ())
    }

    async fn raise_run(&mut self, env: &Env) -> Result<Restart> {
        let mut next = self.manifest.clone();
        next.run = Run(next.run.0 + 1);
        self.store(env, next).await?;
        Ok(Restart { run: self.manifest.run, journals: self.manifest.journals.clone() })
    }

    async fn clean(&mut self, env: &Env, closed: &[Closed]) -> Result<()> {
        let mut next = self.manifest.clone();
        next.clean = true;
        for journal in &mut next.journals {
            let end = closed.iter().find(|closed| closed.journal == journal.id);
            journal.clean_end = end.map(|closed| closed.end);
            next.clean &= journal.clean_end.is_some();
        }
        self.store(env, next).await
    }
}

fn catalogue_path(number: u64) -> String {
    format!("catalogue-{number}")
}

async fn write_catalogue(env: &Env, number: u64, catalogue: &Catalogue) -> Result<CatalogueRef> {
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

/// Tells the keeper, wherever it lives, which files a journal still needs.
pub(crate) struct RetainByKeeper {
    pub(crate) env: Env,
}

impl crate::journal::Retain for RetainByKeeper {
    fn advance(
        &self,
        id: JournalId,
        first: JournalFile,
    ) -> crate::env::LocalFuture<'_, Result<(), crate::journal::Error>> {
        Box::pin(async move {
            loop {
                let (reply, answered) = futures_channel::oneshot::channel();
                let request = KeeperRequest::Retain { journal: id, first, reply };
                let message = super::Message::Keeper(request);
                self.env.mesh().send(KEEPER, Box::new(message));
                match answered.await {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(error)) => {
                        return Err(crate::journal::Error::Io {
                            op: "record the first retained file in",
                            path: "MANIFEST".to_owned(),
                            byte: 0,
                            source: Arc::new(std::io::Error::other(error.to_string())),
                        });
                    }
                    // The keeper's shard is down: files wait until it runs again.
                    Err(_) => self.env.sleep(RETRY_EVERY).await,
                }
            }
        })
    }
}

/// The shard that keeps the manifest.
pub(crate) const KEEPER: ShardId = ShardId(0);

/// How long to wait for a keeper that is down.
const RETRY_EVERY: std::time::Duration = std::time::Duration::from_millis(100);
