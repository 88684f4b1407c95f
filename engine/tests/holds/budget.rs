//! What an engine's events cost, as its hook tells it.

use std::sync::mpsc;

use tidemill::client::{Engine, block_on};
use tidemill::node::Options;
use tidemill::schema::aggregate::Sum;
use tidemill::schema::{Map, Sub};
use tidemill::testing::{EventHook, Io};

use crate::kit::{directory, options};

#[test]
fn a_transfer_costs_what_it_should() {
    let dir = directory("budget");
    let (told, events) = mpsc::channel();
    let hook = EventHook::new(move |event| {
        told.send((event.topology.to_owned(), event.index.0, event.rows, event.io)).unwrap();
    });
    let options = Options { event_hook: Some(hook), ..options(2) };
    let engine = block_on(Engine::open(&dir, options)).unwrap();
    let bank = block_on(engine.launch("bank", |m| {
        let transfers = m.depot::<(u64, u64, i64)>("transfers").hash_by(|(from, _, _)| from);
        let ledger = m.microbatch(|| "ledger");
        let funds = ledger.pstate::<Map<u64, i64>>("funds");
        let sent = ledger.pstate::<Map<u64, Sub<Map<u64, i64>>>>("sent");
        ledger
            .source(transfers)
            .using((funds, sent))
            .filter_map(async move |at, (funds, sent), (from, to, cents): (u64, u64, i64)| {
                let left = at.get(funds.key(from)).await?.unwrap_or(0) - cents;
                at.put(funds.key(from), left)?;
                at.put(sent.key(from).key(to), cents)?;
                Ok(Some((to, cents)))
            })
            .aggregate(funds, |funds, (to, cents)| funds.key(to).add(Sum(cents)));
        (transfers, funds.reader())
    }))
    .unwrap();
    let (transfers, funds) = *bank;
    for n in 0..20 {
        let appended = block_on(bank.append(transfers, &(n % 5, 100 + n, 7))).unwrap();
        block_on(bank.wait("ledger", &appended)).unwrap();
    }
    assert_eq!(block_on(bank.select(funds.key(3))).unwrap(), Some(-28));
    assert_eq!(block_on(bank.select(funds.key(103))).unwrap(), Some(7));
    block_on(engine.close()).unwrap();

    let mut nodes = [(0, Io::default()), (0, Io::default())];
    for (topology, node, rows, io) in events.try_iter() {
        assert_eq!(topology, "ledger");
        nodes[node as usize].0 += rows;
        nodes[node as usize].1 += io;
    }
    // Nothing had to be tried again, so each transfer was run once.
    let [(paying, paid), (receiving, received)] = nodes;
    assert_eq!((paying, receiving), (20, 20));
    // Funds, and what was sent; of which it is asked whether it was there, and whose size is read and written:
    // each transfer is an event run.
    assert_eq!((paid.reads, paid.writes(), paid.scans), (60, 60, 0));
    assert_eq!((received.reads, received.writes(), received.scans), (20, 20, 0));
    std::fs::remove_dir_all(&dir).unwrap();
}
