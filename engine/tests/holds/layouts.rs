//! Types of `PState`s that change from launch to launch, over rows that stay.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidemill::module::{Depot, Module};
use tidemill::schema::{Map, PState};
use tidemill::{Engine, Error, Launched, block_on};

use crate::kit::{directory, options};

/// What all versions of the shop are told.
#[derive(Clone, Serialize, Deserialize)]
struct Sold {
    sku: String,
    count: u32,
}

mod first {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Stock {
        pub(super) sold: u32,
    }

    impl From<&Sold> for Stock {
        fn from(it: &Sold) -> Self {
            Self { sold: it.count }
        }
    }
}

mod wider {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Stock {
        pub(super) sold: u64,
        pub(super) note: Option<String>,
    }

    impl From<&Sold> for Stock {
        fn from(it: &Sold) -> Self {
            Self { sold: u64::from(it.count) << 32, note: Some(it.sku.clone()) }
        }
    }
}

mod narrow {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Stock {
        pub(super) sold: u16,
    }

    impl From<&Sold> for Stock {
        fn from(_: &Sold) -> Self {
            Self { sold: 0 }
        }
    }
}

struct Shop<V> {
    sold: Depot<Sold>,
    stock: PState<Map<String, V>>,
}

trait Version: for<'a> From<&'a Sold> + Serialize + DeserializeOwned + Send + 'static {}

impl<V: for<'a> From<&'a Sold> + Serialize + DeserializeOwned + Send + 'static> Version for V {}

fn shop<V: Version>(m: &Module) -> Shop<V> {
    let sold = m.depot::<Sold>("sold").hash_by(|it| &it.sku);
    let counting = m.microbatch(|| "counting");
    let stock = counting.pstate::<Map<String, V>>("stock");
    counting
        .source(sold)
        .using(stock)
        .for_each(async |at, stock, it: Sold| Ok(at.put(stock.key(&it.sku), V::from(&it))?));
    Shop { sold, stock: stock.reader() }
}

async fn sell<V: Version>(shop: &Launched<Shop<V>>, sku: &str, count: u32) {
    shop.append(shop.sold, &Sold { sku: sku.to_owned(), count }).await.unwrap();
    shop.caught_up("counting").await.unwrap();
}

/// The manifest and the catalogue, byte by byte.
fn root(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir).unwrap().map(|it| it.unwrap());
    let names = files.map(|it| it.file_name().into_string().unwrap());
    let names = names.filter(|it| it == "MANIFEST" || it.starts_with("catalogue-"));
    names.map(|name| (name.clone(), std::fs::read(dir.join(name)).unwrap())).collect()
}

async fn refused<V: Version>(engine: &Engine, place: &str) {
    match engine.launch("shop", shop::<V>).await {
        Err(Error::Invalid { what }) => assert!(what.contains(place), "{what}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was launched"),
    }
}

#[test]
fn wider_types_read_old_rows_and_narrower_ones_are_refused_before_anything_is_written() {
    let dir = directory("layouts");
    block_on(async {
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let shop = engine.launch("shop", shop::<first::Stock>).await.unwrap();
        sell(&shop, "nut", u32::MAX).await;
        drop(shop);
        engine.close().await.unwrap();
    });
    block_on(async {
        let engine = Engine::open(&dir, options(2)).await.unwrap();
        let before = root(&dir);
        assert_eq!(before.len(), 2, "{:?}", before.keys());
        let place = "PState `stock` of module `shop` is declared as `Map<String, Stock>`, and what is \
                     stored does not fit that, at values > Stock.sold: it was stored as `u32` and is \
                     declared as `u16`";
        refused::<narrow::Stock>(&engine, place).await;
        assert_eq!(root(&dir), before);
        // No shard stopped over it, and what fits can be launched.
        let shop = engine.launch("shop", shop::<wider::Stock>).await.unwrap();
        let nut = shop.select(shop.stock.key("nut")).await.unwrap();
        assert_eq!(nut, Some(wider::Stock { sold: u64::from(u32::MAX), note: None }));
        sell(&shop, "bolt", 3).await;
        assert_ne!(root(&dir), before);
        drop(shop);
        engine.stop().await;
    });
    block_on(async {
        let engine = Engine::open(&dir, options(3)).await.unwrap();
        refused::<first::Stock>(&engine, "it was stored as `u64` and is declared as `u32`").await;
        let shop = engine.launch("shop", shop::<wider::Stock>).await.unwrap();
        let all = shop.select(shop.stock.all()).await.unwrap();
        let sold: Vec<_> = all.into_iter().map(|(sku, stock)| (sku, stock.sold)).collect();
        let max = u64::from(u32::MAX);
        assert_eq!(sold, [("bolt".to_owned(), 3 << 32), ("nut".to_owned(), max)]);
        drop(shop);
        engine.close().await.unwrap();
    });
}
