//! Pages and items: what they give, and what they cost.

use crate::schema::ast::{Query, Step, Value};
use crate::schema::{List, Map, Sub};
use crate::testing::{Io, TestPState};

type Shelves = Map<u32, Sub<Map<u64, u64>>>;
type Logs = Map<u32, Sub<List<u64>>>;

fn shelves(count: u64) -> TestPState<Shelves> {
    let mut shelves = TestPState::<Shelves>::new().unwrap();
    let token = shelves.token();
    shelves
        .run(async |at| {
            for shelf in 0..3 {
                for item in 0..count {
                    at.put(token.key(shelf).key(item), 10 * item)?;
                }
            }
            Ok(())
        })
        .unwrap();
    shelves.reopen();
    shelves.take_io();
    shelves
}

#[test]
fn a_page_costs_one_seek_and_its_rows() {
    let shelves = shelves(1_000);
    let shelf = shelves.token().key(1);
    for (path, expected) in [
        (shelf.clone().all(), (0..1_000).collect::<Vec<u64>>()),
        (shelf.clone().range(300..=620), (300..=620).collect()),
        (shelf.clone().all().reverse(), (0..1_000).rev().collect()),
        (shelf.clone().range(100..).limit(256), (100..356).collect()),
        (shelf.clone().all().limit(0), Vec::new()),
        (shelf.clone().range(5..5), Vec::new()),
    ] {
        let given = shelves.run(async |at| {
            let (mut pages, mut all) = (at.pages(path, 128), Vec::new());
            while let Some(page) = pages.next().await? {
                assert!(page.len() == 128 || all.len() + page.len() == expected.len());
                all.extend(page);
            }
            assert_eq!(pages.next().await?, None);
            Ok(all)
        });
        assert!(given.unwrap().into_iter().eq(expected.iter().map(|&item| (item, 10 * item))));
        let io = shelves.take_io();
        assert_eq!((io.reads, io.rows_scanned), (0, expected.len() as u64));
        assert!(io.scans <= expected.len() as u64 / 128 + 1, "{io:?}");
    }
}

#[test]
fn an_event_may_write_between_two_pages() {
    let shelves = shelves(10);
    let shelf = shelves.token().key(1);
    let seen = shelves.run(async |at| {
        let mut pages = at.pages(shelf.clone().all().keys(), 4);
        let mut seen = Vec::new();
        while let Some(page) = pages.next().await? {
            let last = page[page.len() - 1];
            at.delete(shelf.clone().key(last))?;
            at.delete(shelf.clone().key(last + 1))?;
            seen.extend(page);
        }
        Ok(seen)
    });
    assert_eq!(seen.unwrap(), [0, 1, 2, 3, 5, 6, 7, 8]);
    assert_eq!(shelves.select(shelf.all().keys()).unwrap(), [0, 1, 2, 5, 6, 7]);
}

#[test]
fn deep_in_a_long_list_a_page_costs_little() {
    const COUNT: u64 = 20_000;
    let mut logs = TestPState::<Logs>::new().unwrap();
    let log = logs.token().key(1);
    logs.run(async |at| {
        for item in 0..COUNT {
            at.push(log.clone(), item).await?;
        }
        Ok(())
    })
    .unwrap();
    logs.reopen();
    logs.take_io();

    // Head, two levels of blocks, items.
    assert_eq!(logs.select(log.clone().item(12_345)).unwrap(), Some(12_345));
    let io = logs.take_io();
    assert!(io.reads == 1 && io.scans == 3 && io.rows_scanned <= 3 * 65, "{io:?}");
    let nth = Query::from([Step::Key(Value::from(1_u32)), Step::Nth(12_345)]);
    let found = logs.run(async |at| Ok(at.query::<u64>(logs.token(), &nth).await?)).unwrap();
    assert_eq!((found, logs.take_io()), (vec![12_345], Io { misses: 0, ..io }));

    // The first page finds its place, and those behind it too, since places move.
    let given = logs.run(async |at| {
        let mut pages = at.pages(log.clone().items(15_000..15_050), 20);
        let mut all = Vec::new();
        while let Some(page) = pages.next().await? {
            all.extend(page);
        }
        Ok(all)
    });
    assert!(given.unwrap().into_iter().eq(15_000..15_050));
    let io = logs.take_io();
    assert!(io.reads == 3 && io.scans == 9 && io.rows_scanned <= 9 * 84, "{io:?}");

    // Item by item, none is counted.
    let given = logs.run(async |at| {
        let (mut pages, mut next) = (at.pages(log.clone().all(), 1_000), 0);
        while let Some(page) = pages.next().await? {
            assert!(page.into_iter().eq(next..next + 1_000));
            next += 1_000;
        }
        Ok(next)
    });
    assert_eq!(given.unwrap(), COUNT);
    let io = logs.take_io();
    // One more finds that there is no other.
    assert_eq!(io, Io { scans: 21, rows_scanned: COUNT, ..Io::default() });
}
