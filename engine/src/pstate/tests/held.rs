//! Copies of held roots: whole, of one moment, checked, and read from an earlier copy where that has it.

use super::*;
use crate::env::copy::{Pieces, TargetError};
use crate::env::{Below, Disk};

/// What was copied, and after how many pieces to stop.
#[derive(Default)]
struct Counted {
    copied: Cell<u64>,
    taken_over: Cell<u64>,
    pieces_max: Option<u64>,
    pieces: Cell<u64>,
}

impl Pieces for Counted {
    fn done(&self, bytes: u64, taken_over: bool) -> bool {
        let counter = if taken_over { &self.taken_over } else { &self.copied };
        counter.set(counter.get() + bytes);
        self.pieces.set(self.pieces.get() + 1);
        self.pieces_max.is_none_or(|max| self.pieces.get() < max)
    }
}

struct Tested {
    disk: MemoryDisk,
    env: Env,
    store: Store,
    id: Cell<u64>,
}

impl Tested {
    async fn new(disk: MemoryDisk, env: Env) -> Self {
        let cache = Cache::new(1 << 20);
        let (store, _) = Store::open(&env, &cache, DIR, PARTITION, Index(1)).await.unwrap();
        Self { disk, env, store, id: Cell::new(0) }
    }

    /// Writes rows whose values name `round`, and folds them.
    async fn round(&self, round: u64, keys: impl Iterator<Item = u32>) {
        let mut writes = WriteSet::default();
        for key in keys {
            let bytes = if key.is_multiple_of(500) { 30_000 } else { 40 };
            let value: Vec<u8> = (0..bytes).map(|at| (round + at).to_le_bytes()[0]).collect();
            writes.put(PStateId(key % 3), &key.to_be_bytes(), &value);
        }
        self.id.set(self.id.get() + 1);
        let id = MicrobatchId(self.id.get());
        self.store.stack(LEDGER, id, Rc::new(writes.seal()));
        self.store.merge(LEDGER, id);
        self.store.fold(Index(id.0), &[]).await.unwrap();
    }

    fn held(&self) -> Held {
        self.store.hold(Index(self.id.get())).unwrap()
    }

    fn target(&self, dir: &str) -> Env {
        let disk: Rc<dyn Disk> = Rc::new(self.disk.clone());
        self.env.with_disk(Rc::new(Below::new(&disk, dir)))
    }

    async fn copy(
        &self,
        held: &Held,
        dir: &str,
        earlier: Option<&str>,
        counted: &Counted,
    ) -> Result<u64, CopyError> {
        let earlier = earlier.map(|dir| self.target(dir));
        let mut rows = 0;
        let show: &mut dyn FnMut(&[u8], &[u8]) = &mut |_, _| rows += 1;
        let to = (PATH, &self.target(dir));
        held.copy(to, earlier.as_ref(), counted, (PStateId(1), show)).await?;
        Ok(rows)
    }

    /// Every row of a page file.
    fn rows(&self, path: &str) -> Vec<(PStateId, Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let bytes = self.disk.contents(path).unwrap();
        let verified = verify_rows(&bytes, Some(PARTITION), &mut |row| {
            rows.push((row.pstate, row.key.to_vec(), row.value.concat()));
        });
        assert_eq!(verified.findings, []);
        rows
    }
}

fn tested<F: Future<Output = ()> + 'static>(body: impl FnOnce(Tested) -> F + 'static) {
    let disk = MemoryDisk::new();
    let own = disk.clone();
    run(&disk, |env| async move { body(Tested::new(own, env).await).await });
}

#[test]
fn a_copy_has_the_moment_of_the_root_whatever_is_folded_meanwhile() {
    tested(|it| async move {
        it.round(1, 0..3_000).await;
        let held = it.held();
        let then = it.rows(PATH);
        for round in 2..9 {
            it.round(round, (0..3_000).filter(|key| key % 7 != 3)).await;
        }
        let counted = Counted::default();
        assert_eq!(it.copy(&held, "copy", None, &counted).await.unwrap(), 1_000);
        assert_eq!(it.rows("copy/p/3/pages"), then);
        assert_eq!(counted.copied.get(), held.bytes());
        assert_ne!(it.rows(PATH), then);
        // Let go, its pages are free again.
        let used = |store: &Store| store.inner.state.borrow().space.held.iter().any(|it| *it != 0);
        assert!(used(&it.store));
        drop(held);
        assert!(!used(&it.store));
        sound(&it.disk);
    });
}

#[test]
fn a_second_copy_reads_what_changed_and_what_the_first_one_has_lost() {
    tested(|it| async move {
        it.round(1, 0..20_000).await;
        it.copy(&it.held(), "1", None, &Counted::default()).await.unwrap();
        it.round(2, 100..103).await;
        let held = it.held();
        let second = Counted::default();
        it.copy(&held, "2", Some("1"), &second).await.unwrap();
        assert_eq!(it.rows("2/p/3/pages"), it.rows(PATH));
        assert_eq!(second.copied.get() + second.taken_over.get(), held.bytes());
        assert!(
            second.copied.get() < held.bytes() / 20,
            "{} of {}",
            second.copied.get(),
            held.bytes()
        );

        // What is damaged in the earlier copy is read from the store.
        it.round(3, 100..103).await;
        it.disk.damage("2/p/3/pages", |file| {
            file[EXTENT_BYTES..].chunks_mut(PAGE_BYTES).for_each(|page| page[1_000] ^= 1);
        });
        let third = Counted::default();
        it.copy(&it.held(), "3", Some("2"), &third).await.unwrap();
        assert_eq!((third.taken_over.get(), third.copied.get()), (0, it.held().bytes()));
        assert_eq!(it.rows("3/p/3/pages"), it.rows(PATH));
        // What is no page file at all is no earlier copy.
        it.disk.damage("3/p/3/pages", |file| file.truncate(5_000));
        it.copy(&it.held(), "4", Some("3"), &Counted::default()).await.unwrap();
        assert_eq!(it.rows("4/p/3/pages"), it.rows(PATH));
    });
}

#[test]
fn damage_is_named_and_copies_nothing_wrong() {
    tested(|it| async move {
        it.round(1, 0..3_000).await;
        let held = it.held();
        let file = it.disk.contents(PATH).unwrap();
        let live = it.store.inner.state.borrow().space.durable.clone();
        for place in 0..u32::try_from(file.len() / PAGE_BYTES).unwrap() {
            let (extent, bit) = crate::page::space::bits(place, 1);
            if live.get(extent).is_none_or(|live| live & bit == 0) {
                continue;
            }
            let at = place as usize * PAGE_BYTES + 77;
            it.disk.damage(PATH, |file| file[at] ^= 4);
            let result = it.copy(&held, &format!("at{place}"), None, &Counted::default()).await;
            let Err(CopyError::Source(Error::Corrupt { file, byte, .. })) = result else {
                panic!("page {place}: {result:?}")
            };
            assert_eq!(file, PATH);
            let byte = usize::try_from(byte).unwrap();
            assert!(byte <= at && at < byte + EXTENT_BYTES, "{at} is not at {byte}");
            it.disk.damage(PATH, |file| file[at] ^= 4);
        }
    });
}

#[test]
fn a_full_target_and_a_change_of_mind_end_the_copy_and_harm_nothing() {
    tested(|it| async move {
        it.round(1, 0..3_000).await;
        let held = it.held();
        let counted = Counted { pieces_max: Some(3), ..Counted::default() };
        let stopped = it.copy(&held, "1", None, &counted).await;
        assert!(matches!(stopped, Err(CopyError::Stopped)), "{stopped:?}");
        let paths = it.disk.paths();
        let used: usize = paths.iter().map(|path| it.disk.contents(path).unwrap().len()).sum();
        it.disk.limit(Some(used as u64 + 1_000));
        let full = it.copy(&held, "2", None, &Counted::default()).await;
        let Err(CopyError::Target(TargetError { op: "allocate", file, source, .. })) = full else {
            panic!("{full:?}")
        };
        assert_eq!((&*file, source.kind()), (PATH, std::io::ErrorKind::StorageFull));
        it.disk.limit(None);
        drop(held);
        it.round(2, 0..3_000).await;
        sound(&it.disk);
    });
}

#[test]
fn a_fold_that_needs_the_space_gets_it_and_the_copy_says_so() {
    tested(|it| async move {
        it.round(1, 0..3_000).await;
        let held = it.held();
        it.store.drop_held_pages();
        for round in 2..6 {
            it.round(round, 0..3_000).await;
        }
        let released = it.copy(&held, "1", None, &Counted::default()).await;
        assert!(matches!(released, Err(CopyError::Released { .. })), "{released:?}");
    });
}
