//! Reads the whole state back and reconciles it with what was sent.

use std::collections::BTreeMap;

use anyhow::Context as _;
use tidemill::client::Launched;

use super::module::{Bank, Transfer};
use super::plan::{FUNDS_AT_FIRST, Plan};
use crate::report::Invariant;

/// A set of ids, dense from a few starting points on.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    /// Bits by the upper half of the id.
    pieces: BTreeMap<u64, Vec<u64>>,
    count: u64,
}

/// Ids of one piece share the bits above these.
pub const PIECE_BITS: u32 = 32;

impl Ids {
    /// Adds an id; `false` if it is there already.
    pub fn insert(&mut self, id: u64) -> bool {
        let (piece, word, bit) = place(id);
        let words = self.pieces.entry(piece).or_default();
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        let new = words[word] & bit == 0;
        words[word] |= bit;
        self.count += u64::from(new);
        new
    }

    /// Whether an id is there.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        let (piece, word, bit) = place(id);
        let words = self.pieces.get(&piece);
        words.and_then(|words| words.get(word)).is_some_and(|word| word & bit != 0)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.pieces.iter().flat_map(|(piece, words)| {
            (0_u64..).zip(words).flat_map(move |(index, word)| {
                let first = (piece << PIECE_BITS) + index * 64;
                (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit)
            })
        })
    }
}

fn place(id: u64) -> (u64, usize, u64) {
    let low = id & ((1 << PIECE_BITS) - 1);
    let word = usize::try_from(low / 64).expect("32 bits are an index");
    (id >> PIECE_BITS, word, 1 << (low % 64))
}

/// What the state says.
#[derive(Debug, Default)]
pub struct Books {
    /// Transfers found with who pays.
    pub sent: Ids,
    /// Those of them that were accepted.
    pub accepted: Ids,
    /// Transfers found with who gets them.
    pub received: Ids,
    /// Money in all accounts.
    pub total: i128,
    /// What is wrong, in words.
    pub faults: Vec<String>,
    /// How much is wrong.
    pub fault_count: u64,
}

/// Accounts read with one call.
const ACCOUNTS_AT_ONCE: u64 = 512;

/// More faults than this are only counted.
const FAULTS_SHOWN: usize = 5;

impl Books {
    /// Reads every account and both of its histories; `progress` hears how many were read.
    ///
    /// # Errors
    /// If the engine cannot read them.
    pub async fn read(
        bank: &Launched<Bank>,
        plan: &Plan,
        mut progress: impl FnMut(u64),
    ) -> anyhow::Result<Self> {
        let mut books = Self::default();
        let mut first = 0;
        while first < plan.accounts() {
            let accounts = first..(first + ACCOUNTS_AT_ONCE).min(plan.accounts());
            first = accounts.end;
            let paths = accounts.clone().map(|account| {
                (
                    bank.funds.key(account),
                    bank.outgoing.key(account).all(),
                    bank.incoming.key(account).all(),
                )
            });
            let read = bank.select_many(paths).await.context("cannot read the accounts back")?;
            for (account, (funds, outgoing, incoming)) in accounts.zip(read) {
                let outgoing = outgoing.into_iter().map(|(id, it)| {
                    (Transfer { id, from: account, to: it.to, amount: it.amount }, it.accepted)
                });
                let incoming = incoming.into_iter().map(|(id, it)| Transfer {
                    id,
                    from: it.from,
                    to: account,
                    amount: it.amount,
                });
                books.enter(plan, account, funds, outgoing, incoming);
            }
            progress(first);
        }
        Ok(books)
    }

    /// Enters one account: what it holds follows from its histories, or it is a fault.
    fn enter(
        &mut self,
        plan: &Plan,
        account: u64,
        funds: Option<i64>,
        outgoing: impl Iterator<Item = (Transfer, bool)>,
        incoming: impl Iterator<Item = Transfer>,
    ) {
        let mut expected = FUNDS_AT_FIRST;
        for (transfer, accepted) in outgoing {
            self.compare(plan, &transfer);
            if !self.sent.insert(transfer.id) {
                self.fault(format!("transfer {} was sent twice", transfer.id));
            }
            if accepted {
                self.accepted.insert(transfer.id);
                expected -= transfer.amount;
            }
        }
        for transfer in incoming {
            self.compare(plan, &transfer);
            if !self.received.insert(transfer.id) {
                self.fault(format!("transfer {} was received twice", transfer.id));
            }
            expected += transfer.amount;
        }
        let funds = funds.unwrap_or(0);
        self.total += i128::from(funds);
        if funds != expected || funds < 0 {
            self.fault(format!("account {account} holds {funds}, its histories make {expected}"));
        }
    }

    fn compare(&mut self, plan: &Plan, found: &Transfer) {
        let expected = plan.transfer(found.id);
        if *found != expected {
            self.fault(format!("{found:?} was never sent; that id was {expected:?}"));
        }
    }

    fn fault(&mut self, what: String) {
        self.fault_count += 1;
        if self.faults.len() < FAULTS_SHOWN {
            self.faults.push(what);
        }
    }

    /// How many of `acknowledged` are not there.
    #[must_use]
    pub fn lost(&self, acknowledged: &Ids) -> u64 {
        let lost = acknowledged.iter().filter(|&id| !self.sent.contains(id)).count();
        lost as u64
    }

    /// What must hold after `acknowledged` transfers were.
    #[must_use]
    pub fn invariants(&self, plan: &Plan, acknowledged: &Ids) -> Vec<Invariant> {
        let deposited = i128::from(plan.accounts()) * i128::from(FUNDS_AT_FIRST);
        let lost = self.lost(acknowledged);
        let one_sided = self.accepted.iter().filter(|&id| !self.received.contains(id)).count()
            + self.received.iter().filter(|&id| !self.accepted.contains(id)).count();
        let mut detail = format!(
            "{} acknowledged, {lost} of them lost; {} found with who pays, {} of them accepted and \
             found with who gets them, {one_sided} with one only; {} faults",
            acknowledged.count(),
            self.sent.count(),
            self.accepted.count(),
            self.fault_count,
        );
        for fault in &self.faults {
            detail = detail + "; " + fault;
        }
        vec![
            Invariant {
                name: "money is conserved".to_owned(),
                holds: self.total == deposited,
                detail: format!(
                    "{} in {} accounts, {deposited} deposited",
                    self.total,
                    plan.accounts()
                ),
            },
            Invariant {
                name: "every transfer exactly once".to_owned(),
                holds: lost == 0 && one_sided == 0 && self.fault_count == 0,
                detail,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::new(1, 10, 50, 1, 1).unwrap()
    }

    /// The books of a bank of which every account has seen exactly `sent`, all accepted.
    fn books(plan: &Plan, sent: &[u64], received: &[u64]) -> Books {
        let mut books = Books::default();
        for account in 0..plan.accounts() {
            let own = |ids: &[u64]| ids.iter().map(|&id| plan.transfer(id)).collect::<Vec<_>>();
            let out: Vec<_> = own(sent).into_iter().filter(|it| it.from == account).collect();
            let into: Vec<_> = own(received).into_iter().filter(|it| it.to == account).collect();
            let funds = FUNDS_AT_FIRST - out.iter().map(|it| it.amount).sum::<i64>()
                + into.iter().map(|it| it.amount).sum::<i64>();
            let out = out.into_iter().map(|it| (it, true));
            books.enter(plan, account, Some(funds), out, into.into_iter());
        }
        books
    }

    fn verdicts(plan: &Plan, books: &Books, acknowledged: &[u64]) -> Vec<bool> {
        let mut ids = Ids::default();
        assert!(acknowledged.iter().all(|&id| ids.insert(id)));
        books.invariants(plan, &ids).iter().map(|it| it.holds).collect()
    }

    #[test]
    fn sound_books_pass_and_others_do_not() {
        let plan = plan();
        let all: Vec<u64> = (0..40).chain([1 << PIECE_BITS]).collect();
        assert_eq!(verdicts(&plan, &books(&plan, &all, &all), &all), [true, true]);
        // Applied and not acknowledged is fine: the acknowledgement was on its way.
        assert_eq!(verdicts(&plan, &books(&plan, &all, &all), &all[1..]), [true, true]);
        // Acknowledged and not there.
        assert_eq!(verdicts(&plan, &books(&plan, &all[1..], &all[1..]), &all), [true, false]);
        // Received and not sent, sent and not received: and the money shows it.
        assert_eq!(verdicts(&plan, &books(&plan, &all[1..], &all), &all[1..]), [false, false]);
        assert_eq!(verdicts(&plan, &books(&plan, &all, &all[1..]), &all), [false, false]);
        // In a history once, in the funds twice.
        let mut twice = books(&plan, &all, &all);
        twice.enter(&plan, 3, Some(FUNDS_AT_FIRST + 1), [].into_iter(), [].into_iter());
        assert_eq!(verdicts(&plan, &twice, &all), [false, false]);
        // A doubled row.
        assert_eq!(verdicts(&plan, &books(&plan, &[5, 5], &[5, 5]), &[5]), [true, false]);
        // A transfer that nobody sent.
        let mut strange = books(&plan, &all, &all);
        let made_up = Transfer { id: 99, from: 1, to: 2, amount: 1_000_000 };
        strange.enter(
            &plan,
            1,
            Some(FUNDS_AT_FIRST),
            [(made_up, false)].into_iter(),
            [].into_iter(),
        );
        assert!(!verdicts(&plan, &strange, &all)[1]);
    }

    #[test]
    fn ids_are_a_set() {
        let mut ids = Ids::default();
        let some = [3, 64, (7 << PIECE_BITS) + 1];
        assert!(some.iter().all(|&id| ids.insert(id)));
        assert!(!ids.insert(64) && !ids.contains(65) && ids.contains(3));
        assert_eq!(ids.iter().collect::<Vec<_>>(), some);
        assert_eq!(ids.count(), 3);
    }
}
