//! The directory of backups, and the first and the last step of one.

use std::io;
use std::rc::Rc;

use crate::env::copy::TargetError;
use crate::env::{Below, Buf, Disk, Env, LocalFuture, Open, Sync, write_full};
use crate::error::{Error, Result, chain};
use crate::journal::{self, Journal, JournalFile, JournalId};
use crate::manifest::{self, JournalRecord, Manifest};
use crate::node::catalogue::Catalogue;
use crate::shard::keeper;
use crate::types::{PartitionId, ShardId};

/// Marks a directory as that of a backup, from the first moment.
pub(crate) const MARK: &str = "BACKUP";

/// Where one backup is made.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// As [`Disk::elsewhere`] takes it.
    dir: String,
    number: u64,
    /// The backup from which things are taken over.
    earlier: Option<u64>,
}

impl Place {
    /// The path of the backup.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.dir, self.number)
    }

    /// The backup as the disk of an environment.
    ///
    /// # Errors
    /// `Backup`.
    pub(crate) fn open(&self, env: &Env) -> Result<Env> {
        Ok(below(env, &root(env, &self.dir)?, self.number))
    }

    /// The same for the backup before.
    ///
    /// # Errors
    /// `Backup`.
    pub(crate) fn open_earlier(&self, env: &Env) -> Result<Option<Env>> {
        let Some(earlier) = self.earlier else { return Ok(None) };
        Ok(Some(below(env, &root(env, &self.dir)?, earlier)))
    }

    /// Gives a file of the backup before a second name in this one; false where that cannot be.
    ///
    /// # Errors
    /// `Backup`.
    pub(crate) async fn link(&self, env: &Env, path: &str) -> Result<bool> {
        let Some(earlier) = self.earlier else { return Ok(false) };
        let (from, to) = (format!("{earlier}/{path}"), format!("{}/{path}", self.number));
        // Whatever the reason is (there is no such thing as a second name, or there are too many already, ...),
        // the file can be copied.
        Ok(root(env, &self.dir)?.link(&from, &to).await.is_ok())
    }

    /// What an error of writing it means to the caller.
    pub(crate) fn error(&self, error: &TargetError) -> Error {
        target_error(&self.path(), error)
    }
}

/// Why a backup in `dir` could not be written.
fn target_error(dir: &str, error: &TargetError) -> Error {
    match error.source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::DiskFull { what: format!("{dir} has no room for the backup's {}", error.file) }
        }
        _ => Error::Backup { what: format!("in {dir}: {}", chain(error)) },
    }
}

fn root(env: &Env, dir: &str) -> Result<Rc<dyn Disk>> {
    let failed = |error: io::Error| Error::Backup { what: format!("cannot open {dir}: {error}") };
    env.disk().elsewhere(dir).map_err(failed)
}

fn below(env: &Env, root: &Rc<dyn Disk>, number: u64) -> Env {
    env.with_disk(Rc::new(Below::new(root, &number.to_string())))
}

/// Finds the place of the next backup of the data `data_id` in `dir`, makes it empty, and marks it, durably.
///
/// # Errors
/// `Invalid` if `dir` is not for such backups; `DiskFull`, `Backup`.
pub(crate) async fn begin(env: &Env, dir: &str, data_id: u128) -> Result<Place> {
    let root = root(env, dir)?;
    let failed = |op, path: &str, source| {
        let error = TargetError { op, file: path.to_owned(), byte: 0, source };
        target_error(dir, &error)
    };
    let invalid = |what: &str| Err(Error::Invalid { what: format!("{dir} {what}") });
    let names = root.list(".").await.map_err(|error| failed("list", ".", error))?;
    if names.iter().any(|name| name == manifest::PATH) {
        return invalid("is a data directory: choose another one for backups");
    }
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number(name)).collect();
    numbers.sort_unstable();
    let mut place = Place { dir: dir.to_owned(), number: 1, earlier: None };
    for &number in numbers.iter().rev() {
        match Manifest::load(&below(env, &root, number)).await {
            Ok(None) => continue,
            Ok(Some(manifest)) if manifest.data_id != data_id => {
                return invalid("holds backups of other data: choose another one for these");
            }
            Ok(Some(_)) => place.earlier = Some(number),
            // One that is damaged has nothing to give.
            Err(manifest::Error::Corrupt { .. } | manifest::Error::Format { .. }) => {}
            Err(error) => {
                return Err(Error::Backup { what: format!("in {dir}: {}", chain(&error)) });
            }
        }
        place.number = number + 1;
        break;
    }
    let new = place.number.to_string();
    root.create_dir(&new).await.map_err(|error| failed("create", &new, error))?;
    let env = below(env, &root, place.number);
    if !clear(&env).await.map_err(|error| place.error(&error))? {
        return invalid(&format!("has a directory {new} that is no backup: move it away"));
    }
    mark(&env, data_id).await.map_err(|error| place.error(&error))?;
    root.sync_dir(".").await.map_err(|error| failed("sync", ".", error))?;
    Ok(place)
}

/// A name that backups have.
fn number(name: &str) -> Option<u64> {
    let number: u64 = name.parse().ok()?;
    (number > 0 && number < u64::MAX && number.to_string() == name).then_some(number)
}

/// Removes what a backup that was not finished has left, but for the mark, without which nothing is touched.
/// False if there is something without it.
async fn clear(env: &Env) -> Result<bool, TargetError> {
    let disk = env.disk();
    let list = async |dir: &str| disk.list(dir).await.map_err(TargetError::of("list", dir, 0));
    let names = list(".").await?;
    if !names.iter().any(|name| name == MARK) {
        return Ok(names.is_empty());
    }
    let mut dirs = vec![journal::DIR.to_owned()];
    dirs.extend(list("p").await?.into_iter().map(|partition| format!("p/{partition}")));
    let kept = [MARK, "p", journal::DIR];
    let mut files: Vec<String> =
        names.into_iter().filter(|name| !kept.contains(&&**name)).collect();
    for dir in dirs {
        files.extend(list(&dir).await?.into_iter().map(|name| format!("{dir}/{name}")));
    }
    for path in files {
        if let Err(error) = disk.remove(&path).await
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(TargetError::of("remove", &path, 0)(error));
        }
    }
    Ok(true)
}

/// Writes the mark. From then on the directory is a backup, though none that can be opened.
async fn mark(env: &Env, data_id: u128) -> Result<(), TargetError> {
    let text = format!(
        "A backup of the data {data_id:032x}. If there is no {} beside this file, the backup was not \
         finished.\n",
        manifest::PATH
    );
    let opened = env.disk().open(MARK, Open::Any).await;
    let file = opened.map_err(TargetError::of("create", MARK, 0))?;
    let (written, _) = write_full(&*file, 0, Buf::copy_of(text.as_bytes()), Sync::No).await;
    written.map_err(TargetError::of("write", MARK, 0))?;
    file.truncate(text.len() as u64).await.map_err(TargetError::of("truncate", MARK, 0))?;
    file.sync().await.map_err(TargetError::of("sync", MARK, 0))?;
    env.disk().sync_dir(".").await.map_err(TargetError::of("sync", ".", 0))
}

/// Whether a directory without a manifest is a backup that was not finished.
pub(crate) async fn is_unfinished(env: &Env) -> bool {
    env.disk().open(MARK, Open::Existing).await.is_ok()
}

/// What to say of such a directory.
pub(crate) const UNFINISHED: &str = "this is a backup that was not finished: its files are of no use; the next \
                                     backup into the directory above clears them away";

/// Makes the backup complete, whose partitions are all there and synced: `source` is the manifest of the
/// data directory at its moment.
///
/// # Errors
/// `DiskFull`, `Backup`. After some of the last it may be complete all the same.
pub(crate) async fn finish(
    env: &Env,
    place: &Place,
    source: &Manifest,
    catalogue: &Catalogue,
) -> Result<()> {
    let env = place.open(env)?;
    let failed = |what: String| Error::Backup { what: format!("in {}: {what}", place.path()) };
    env.disk()
        .sync_dir("p")
        .await
        .map_err(|error| place.error(&TargetError::of("sync", "p", 0)(error)))?;
    let mut manifest = Manifest::new(source.data_id, source.partitions);
    (manifest.run, manifest.clean) = (source.run, true);
    if source.catalogue.number > 0 {
        let written = keeper::write_catalogue(&env, source.catalogue.number, catalogue).await;
        manifest.catalogue = written.map_err(|error| match error {
            Error::Open { what } => failed(what),
            error => error,
        })?;
    }
    let id = JournalId(1);
    let mut options = journal::Options::new(id, source.run);
    (options.file_bytes, options.frame_bytes_max) = (JOURNAL_FILE_BYTES, JOURNAL_FILE_BYTES);
    let made = async { Journal::create(&env, options, Rc::new(Nobody)).await?.close().await };
    let end = made.await.map_err(|error| match error {
        journal::Error::DiskFull { .. } => Error::DiskFull {
            what: format!("{} has no room for the backup's journal", place.path()),
        },
        error => failed(chain(&error)),
    })?;
    let (first, clean_end) = (JournalFile::FIRST, Some(end));
    manifest.journals = vec![JournalRecord { id, shard: NO_SHARD, first, clean_end }];
    manifest.store(&env).await.map_err(|error| failed(chain(&error)))
}

/// Whose journal that of a backup is: whoever opens it makes new ones, of the size he wants.
const NO_SHARD: ShardId = ShardId(u16::MAX);

/// The journal of a backup stays empty.
const JOURNAL_FILE_BYTES: u32 = 64 << 10;

/// An empty journal gives nothing up.
struct Nobody;

impl journal::Retain for Nobody {
    fn advance(
        &self,
        _id: JournalId,
        _first: JournalFile,
    ) -> LocalFuture<'_, Result<(), journal::Error>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The directory of a partition.
pub(crate) fn partition_dir(partition: PartitionId) -> String {
    format!("p/{partition}")
}
