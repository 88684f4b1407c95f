//! How many changes of an aggregation travel: combined over a whole microbatch where they arise.

use std::collections::BTreeMap;
use std::sync::mpsc;

use serde::{Deserialize, Serialize};
use tidemill::client::{Engine, block_on};
use tidemill::node::Options;
use tidemill::schema::Map;
use tidemill::schema::aggregate::{Last, Sum};
use tidemill::testing::EventHook;

use crate::kit::{directory, options};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sale {
    shop: u64,
    cents: i64,
    nth: u64,
}

const SALES: u64 = 5_000;

/// For each node, how often it ran, and over how many rows.
type Ran = [(u64, usize); 3];

/// What one microbatch over all sales costs, which lie in one partition, or in all; the sums must be right.
fn ran(name: &str, options: Options, shops: u64, is_single: bool) -> Ran {
    let dir = directory(name);
    let sale = |nth| Sale { shop: nth % shops, cents: 7, nth };
    let declare = |m: &tidemill::module::Module| {
        let sales = m.depot::<Sale>("sales");
        if is_single { sales.single() } else { sales.hash_by(|sale| &sale.nth) }
    };

    // Without the topology, so that its first microbatch finds everything there.
    let engine = block_on(Engine::open(&dir, options.clone())).unwrap();
    let module = block_on(engine.launch("shops", declare)).unwrap();
    let sales: Vec<_> = (0..SALES).map(sale).collect();
    block_on(module.append_many(*module, &sales)).unwrap();
    drop(module);
    block_on(engine.close()).unwrap();

    let (told, events) = mpsc::channel();
    let hook = EventHook::new(move |event| told.send((event.index.0, event.rows)).unwrap());
    let options = Options { event_hook: Some(hook), microbatch_records_max: SALES, ..options };
    let engine = block_on(Engine::open(&dir, options)).unwrap();
    let module = block_on(engine.launch("shops", |m| {
        let sales = declare(m);
        let t = m.microbatch(|| "till");
        let sums = t.pstate::<Map<u64, i64>>("sums");
        let last = t.pstate::<Map<u64, u64>>("last");
        t.source(sales).aggregate((sums, last), |(sums, last), sale: Sale| {
            (sums.key(sale.shop).add(Sum(sale.cents)), last.key(sale.shop).add(Last(sale.nth)))
        });
        (sums.reader(), last.reader())
    }))
    .unwrap();
    let (sums, last) = *module;
    block_on(module.caught_up("till")).unwrap();
    let found: BTreeMap<_, _> = block_on(module.select(sums.all())).unwrap().into_iter().collect();
    let each = i64::try_from(SALES / shops * 7).unwrap();
    assert_eq!(found, (0..shops).map(|shop| (shop, each)).collect());
    if is_single {
        assert_eq!(block_on(module.select(last.key(shops - 1))).unwrap(), Some(SALES - 1));
    }
    block_on(engine.close()).unwrap();
    let mut nodes = Ran::default();
    for (node, rows) in events.try_iter() {
        nodes[node as usize].0 += 1;
        nodes[node as usize].1 += rows;
    }
    std::fs::remove_dir_all(&dir).unwrap();
    nodes
}

#[test]
fn changes_of_a_partition_travel_once_in_a_microbatch() {
    for shards in [1, 2] {
        let [(runs, sales), (_, sums), (_, lasts)] = ran("combined", options(shards), 4, true);
        assert_eq!(sales, 5_000, "nothing was tried again");
        assert!(runs > 4, "no run is over more than 1,024 records, and there were {runs}");
        assert_eq!((sums, lasts), (4, 4), "one change for each shop and aggregator");
    }
}

#[test]
fn changes_of_all_partitions_of_a_shard_travel_together() {
    let [(_, sales), (_, sums), (_, lasts)] = ran("combined_shard", options(2), 4, false);
    assert_eq!((sales, sums, lasts), (5_000, 8, 8), "a change of each shop from each shard");
}

#[test]
fn what_waits_is_bounded() {
    // A quarter of it may wait, which is a few dozen changes.
    let options = Options { hop_bytes_max: 16 << 10, ..options(2) };
    let [(runs, _), (_, sums), _] = ran("combined_bounded", options, 500, true);
    // No run waits for the next one.
    assert_eq!(sums as u64, 500 * runs);
}
