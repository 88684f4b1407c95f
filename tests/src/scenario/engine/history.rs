//! What clients did and what they heard: all that the oracles may judge the engine by.

use std::collections::BTreeMap;

use tidemill::codec::{Placement, encode_key};
use tidemill::depot::Key;
use tidemill::types::{MicrobatchId, Offset, PartitionId};

use super::PARTITIONS;
use super::module::{Chain, Deposit, Happening, Receipt, Transfer};

/// A depot of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Deposits,
    Transfers,
    Happenings,
    Receipts,
}

impl Kind {
    pub(super) const ALL: [Self; 4] =
        [Self::Deposits, Self::Transfers, Self::Happenings, Self::Receipts];

    /// The topology that reads it.
    pub(super) fn topology(self) -> &'static str {
        match self {
            Self::Deposits | Self::Transfers => "ledger",
            Self::Happenings => super::module::AUDIT,
            Self::Receipts => "tally",
        }
    }
}

/// A record of any depot.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    Deposit(Deposit),
    Transfer(Transfer),
    Happening(Happening),
    Receipt(Receipt),
}

impl Record {
    /// Every record has an id that no other has.
    pub(super) fn id(&self) -> u64 {
        match self {
            Self::Deposit(it) => it.id,
            Self::Transfer(it) => it.id,
            Self::Happening(it) => it.id,
            Self::Receipt(it) => it.id,
        }
    }

    /// Where its depot places it.
    pub(super) fn partition(&self) -> PartitionId {
        let key = match self {
            Self::Deposit(it) => it.account,
            Self::Transfer(it) => it.from,
            Self::Happening(it) => it.key,
            Self::Receipt(it) => it.to,
        };
        Placement::of(&encode_key(&key)).partition(PARTITIONS)
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Deposit(_) => Kind::Deposits,
            Self::Transfer(_) => Kind::Transfers,
            Self::Happening(_) => Kind::Happenings,
            Self::Receipt(_) => Kind::Receipts,
        }
    }
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) partition: PartitionId,
    pub(super) offset: Offset,
}

/// What a client knows of a record it appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Every attempt was answered with an error that promises that nothing was appended.
    Refused,
    /// Some attempt was not answered, or not for good.
    Unknown,
    /// Acknowledged as durable.
    Acknowledged(Place),
}

/// A record that a client appended, perhaps several times under one key.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) record: Record,
    pub(super) fate: Fate,
    /// Repeated with this key until it is acknowledged.
    pub(super) key: Option<Key>,
    /// The `append_many` it was part of.
    pub(super) group: Option<u64>,
}

/// A wait that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) id: u64,
    pub(super) applied: bool,
}

/// Which chain a key had, as some client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ChainOf {
    Sent(u64),
    Received(u64),
    Counted(u64),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct History {
    ids: u64,
    groups: u64,
    pub(super) sent: BTreeMap<u64, Sent>,
    pub(super) promises: Vec<Promise>,
    /// The last microbatch of each topology that a wait was answered with.
    pub(super) visible: BTreeMap<&'static str, MicrobatchId>,
    /// What clients have read from depots.
    pub(super) read: BTreeMap<Place, u64>,
    /// The longest chain that was seen of each key.
    pub(super) longest: BTreeMap<ChainOf, u64>,
    /// Every chain that was seen, by its length.
    pub(super) chains: BTreeMap<(ChainOf, u64), u64>,
}

impl History {
    pub(super) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub(super) fn next_group(&mut self) -> u64 {
        self.groups += 1;
        self.groups
    }

    /// A record is about to be appended, for the first time.
    pub(super) fn send(&mut self, record: &Record, key: Option<Key>, group: Option<u64>) {
        let sent = Sent { record: record.clone(), fate: Fate::Unknown, key, group };
        let before = self.sent.insert(record.id(), sent);
        assert!(before.is_none(), "every record is new");
    }

    /// It is known that nothing was appended, and there was no earlier attempt.
    pub(super) fn refused(&mut self, id: u64) {
        self.sent.get_mut(&id).expect("it was sent").fate = Fate::Refused;
    }

    /// It is durable there.
    pub(super) fn acknowledged(&mut self, id: u64, place: Place) {
        self.sent.get_mut(&id).expect("it was sent").fate = Fate::Acknowledged(place);
    }

    /// Records under a key of `client` whose outcome is not known, oldest first.
    pub(super) fn to_repeat(&self, client: u128) -> Vec<(Key, Record)> {
        let mine = self.sent.values().filter(|sent| sent.fate == Fate::Unknown);
        let keyed = mine.filter_map(|sent| Some((sent.key?, sent.record.clone())));
        keyed.filter(|(key, _)| key.client == client).collect()
    }

    /// How many microbatches were committed, as far as clients know.
    pub(super) fn microbatches(&self) -> u64 {
        self.visible.values().map(|id| id.0).sum()
    }

    /// The longest chain that some client has seen of a key: reads asked for from now on must not be
    /// shorter.
    pub(super) fn floor(&self, of: ChainOf) -> u64 {
        self.longest.get(&of).copied().unwrap_or_default()
    }

    /// Remembers a chain that a client saw, whose read it asked for when the floor was `floor`.
    ///
    /// # Errors
    /// What does not fit what was seen before.
    pub(super) fn see(&mut self, of: ChainOf, floor: u64, chain: Chain) -> Result<(), String> {
        if chain.count < floor {
            return Err(format!("{of:?} went back from {floor} to {}", chain.count));
        }
        let longest = self.longest.entry(of).or_default();
        *longest = chain.count.max(*longest);
        let known = *self.chains.entry((of, chain.count)).or_insert(chain.hash);
        if known == chain.hash {
            Ok(())
        } else {
            Err(format!("{of:?} at {} was replaced by another state", chain.count))
        }
    }
}
