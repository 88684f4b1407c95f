use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::two_phase::{
    AllApplied, AttemptId, Begin, Decision, Exclusion, Failure, FailureKind, Message, Origin,
    REASON_BYTES_MAX, Record, Row, Source, SourceOffset, SourceRange, cut_reason,
};
use crate::types::{Attempt, DepotId, MicrobatchId, Offset, PartitionId, Run, TopologyId};

fn attempts() -> impl Strategy<Value = AttemptId> {
    (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(id, run, attempt)| AttemptId {
        id: MicrobatchId(id),
        run: Run(run),
        attempt: Attempt(attempt),
    })
}

fn sources() -> impl Strategy<Value = Source> {
    (any::<u32>(), any::<u32>()).prop_map(|(depot, partition)| Source {
        depot: DepotId(depot),
        partition: PartitionId(partition),
    })
}

fn offsets() -> impl Strategy<Value = Vec<SourceOffset>> {
    btree_map(sources(), any::<u64>(), 0..6).prop_map(|offsets| {
        let offsets = offsets.into_iter();
        offsets.map(|(source, offset)| SourceOffset { source, offset: Offset(offset) }).collect()
    })
}

fn ranges() -> impl Strategy<Value = Vec<SourceRange>> {
    btree_map(sources(), (any::<u64>(), any::<u64>()), 0..6).prop_map(|ranges| {
        let ranges = ranges.into_iter().map(|(source, (a, b))| SourceRange {
            source,
            from: Offset(a.min(b)),
            to: Offset(a.max(b)),
        });
        ranges.collect()
    })
}

fn origins() -> impl Strategy<Value = Origin> {
    (sources(), any::<u64>()).prop_map(|(source, offset)| Origin { source, offset: Offset(offset) })
}

fn exclusions() -> impl Strategy<Value = Vec<Exclusion>> {
    btree_map(origins(), ".{0,300}", 0..4).prop_map(|exclusions| {
        let exclusions = exclusions.into_iter();
        exclusions
            .map(|(origin, reason)| Exclusion { origin, reason: cut_reason(&reason) })
            .collect()
    })
}

fn partitions() -> impl Strategy<Value = Vec<PartitionId>> {
    btree_set(any::<u32>().prop_map(PartitionId), 0..9)
        .prop_map(|partitions| partitions.into_iter().collect())
}

fn failures() -> impl Strategy<Value = Failure> {
    (proptest::option::of(origins()), 0..3usize, ".{0,300}").prop_map(|(origin, kind, message)| {
        Failure {
            origin,
            kind: [FailureKind::Retry, FailureKind::Reject, FailureKind::TooLarge][kind],
            message: cut_reason(&message),
        }
    })
}

fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![
        any::<u64>().prop_map(|run| Message::Hello { run: Run(run) }),
        (attempts(), ranges(), exclusions(), any::<u64>()).prop_map(
            |(attempt, ranges, exclusions, began_us)| {
                Message::Begin { attempt, ranges, exclusions, began_us }
            }
        ),
        (attempts(), any::<u32>()).prop_map(|(attempt, round)| Message::Probe { attempt, round }),
        attempts().prop_map(|attempt| Message::Prepare { attempt }),
        (attempts(), partitions())
            .prop_map(|(attempt, touched)| Message::Decided { attempt, touched }),
        attempts().prop_map(|attempt| Message::Abort { attempt }),
        attempts().prop_map(|attempt| Message::Undecided { attempt }),
        (any::<u64>(), offsets())
            .prop_map(|(id, offsets)| Message::Visible { id: MicrobatchId(id), offsets }),
        offsets().prop_map(|ends| Message::SourceEnds { ends }),
        (attempts(), any::<(u32, u64, u64, bool)>(), partitions()).prop_map(
            |(attempt, (round, sent, received, idle), touched)| Message::Report {
                attempt,
                round,
                sent,
                received,
                idle,
                touched,
            }
        ),
        (attempts(), partitions())
            .prop_map(|(attempt, touched)| Message::Vote { attempt, touched }),
        (attempts(), failures())
            .prop_map(|(attempt, failure)| Message::Failed { attempt, failure }),
        attempts().prop_map(|attempt| Message::Applied { attempt }),
        btree_set(attempts(), 0..6)
            .prop_map(|attempts| Message::Ask { attempts: attempts.into_iter().collect() }),
    ]
}

fn decisions() -> impl Strategy<Value = Decision> {
    (attempts(), offsets(), partitions(), any::<u64>()).prop_map(
        |(attempt, offsets, touched, visible)| Decision {
            attempt,
            offsets,
            touched,
            visible: MicrobatchId(visible),
        },
    )
}

fn records() -> impl Strategy<Value = Record> {
    prop_oneof![
        (attempts(), ranges(), exclusions(), any::<u64>()).prop_map(
            |(attempt, ranges, exclusions, began_us)| {
                Record::Begin(Begin { attempt, ranges, exclusions, began_us })
            }
        ),
        decisions().prop_map(Record::Decision),
        any::<u64>().prop_map(|id| Record::AllApplied(AllApplied { id: MicrobatchId(id) })),
    ]
}

fn rows() -> impl Strategy<Value = Row> {
    (any::<u64>(), offsets(), vec(decisions(), 0..4)).prop_map(|(decided, offsets, unapplied)| {
        let unapplied: std::collections::BTreeMap<_, _> =
            unapplied.into_iter().map(|decision| (decision.attempt.id, decision)).collect();
        let decided = unapplied.keys().next_back().copied().unwrap_or(MicrobatchId(decided));
        let offsets = offsets.into_iter().map(|end| (end.source, end.offset)).collect();
        Row { decided, offsets, unapplied: unapplied.into_values().collect() }
    })
}

/// Gives damaged bytes to every reader: they may refuse, or read something else, but not panic.
fn read_all(bytes: &[u8]) {
    drop(decode_message(bytes));
    drop(decode_record(bytes));
    drop(decode_row(bytes));
}

proptest! {
    #[test]
    fn messages_come_back(topology: u32, message in messages()) {
        let bytes = encode_message(TopologyId(topology), &message);
        prop_assert_eq!(decode_message(&bytes), Ok((TopologyId(topology), message)));
    }

    #[test]
    fn records_come_back(record in records()) {
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn rows_come_back(row in rows()) {
        prop_assert_eq!(Row::decode(&row.encode()), Ok(row));
    }

    #[test]
    fn bytes_need_no_alignment(message in messages(), shift in 1usize..8) {
        let mut bytes = vec![0xee; shift];
        bytes.extend(encode_message(TopologyId(1), &message));
        prop_assert_eq!(decode_message(&bytes[shift..]), Ok((TopologyId(1), message)));
    }

    #[test]
    fn random_bytes_are_refused(mut bytes in vec(any::<u8>(), 0..300), identifier in 0..4usize) {
        if let Some(place) = bytes.get_mut(4..8) {
            place.copy_from_slice([b"TMMS", b"TMRC", b"TMRW", b"none"][identifier]);
        }
        read_all(&bytes);
    }

    #[test]
    fn damaged_bytes_never_panic(
        message in messages(),
        record in records(),
        row in rows(),
        flips in vec((any::<prop::sample::Index>(), 0u8..8), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        for mut bytes in
            [encode_message(TopologyId(3), &message), record.encode(), row.encode()]
        {
            read_all(&bytes[..cut.index(bytes.len())]);
            for (place, bit) in &flips {
                let place = place.index(bytes.len());
                bytes[place] ^= 1 << bit;
                read_all(&bytes);
            }
        }
    }
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_sample_is_survived() {
    for bytes in [sample_message(), sample_record(), sample_row()] {
        for length in 0..bytes.len() {
            read_all(&bytes[..length]);
        }
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[place] ^= 1 << bit;
                read_all(&damaged);
            }
        }
    }
}

#[test]
fn kinds_of_buffers_are_not_taken_for_each_other() {
    let [message, record, row] = [sample_message(), sample_record(), sample_row()];
    for (bytes, others) in [(&message, [&record, &row]), (&record, [&message, &row])] {
        assert!(others.iter().all(|other| other[4..8] != bytes[4..8]));
    }
    assert!(matches!(decode_message(&record), Err(Error::Identifier { .. })));
    assert!(matches!(decode_record(&row), Err(Error::Identifier { .. })));
    assert!(matches!(decode_row(&message), Err(Error::Identifier { .. })));
}

#[test]
fn what_must_not_occur_is_refused() {
    let attempt = sample_attempt();
    let source = |depot| Source { depot: DepotId(depot), partition: PartitionId(0) };
    let refused = |message: &Message, field| {
        let bytes = encode_message(TopologyId(1), message);
        assert_eq!(decode_message(&bytes), Err(Error::Field { field }));
    };
    let backwards = SourceRange { source: source(1), from: Offset(2), to: Offset(1) };
    let begin = |ranges, exclusions| Message::Begin { attempt, ranges, exclusions, began_us: 1 };
    refused(&begin(vec![backwards], vec![]), "ranges");
    let twice = SourceRange { source: source(1), from: Offset(1), to: Offset(2) };
    refused(&begin(vec![twice, twice], vec![]), "ranges");
    let origin = Origin { source: source(1), offset: Offset(1) };
    let exclusion = Exclusion { origin, reason: String::new() };
    refused(&begin(vec![twice], vec![exclusion.clone(), exclusion]), "exclusions");
    let reason = "x".repeat(REASON_BYTES_MAX + 1);
    refused(&begin(vec![twice], vec![Exclusion { origin, reason: reason.clone() }]), "reason");
    let failure = Failure { origin: None, kind: FailureKind::Retry, message: reason };
    refused(&Message::Failed { attempt, failure }, "reason");
    let touched = vec![PartitionId(2), PartitionId(1)];
    refused(&Message::Vote { attempt, touched }, "touched");
    refused(&Message::Ask { attempts: vec![attempt, attempt] }, "attempts");
    refused(
        &Message::Visible {
            id: MicrobatchId(1),
            offsets: vec![SourceOffset { source: source(1), offset: Offset(1) }; 2],
        },
        "offsets",
    );
    let row =
        Row { decided: MicrobatchId(9), unapplied: vec![sample_decision()], ..Row::default() };
    assert_eq!(Row::decode(&row.encode()), Err(Error::Field { field: "unapplied" }));
}

#[test]
fn sizes_are_bounded() {
    assert_eq!(decode_message(&[0; 7]), Err(Error::Size { found: 7 }));
    let found = BYTES_MAX + 1;
    assert_eq!(decode_message(&vec![0; found]), Err(Error::Size { found }));
}

#[test]
fn the_largest_lists_come_back() {
    let reason = String::new();
    let source = Source { depot: DepotId(1), partition: PartitionId(1) };
    let exclusions = (0..EXCLUSIONS_MAX as u64).map(|offset| Exclusion {
        origin: Origin { source, offset: Offset(offset) },
        reason: reason.clone(),
    });
    let begin = Begin {
        attempt: sample_attempt(),
        ranges: vec![],
        exclusions: exclusions.collect(),
        began_us: 0,
    };
    let record = Record::Begin(begin);
    assert_eq!(Record::decode(&record.encode()), Ok(record));
    let ends = (0..LIST_MAX).map(|number| SourceOffset { source, offset: Offset(number as u64) });
    let message = Message::SourceEnds { ends: ends.collect() };
    let bytes = encode_message(TopologyId(1), &message);
    assert_eq!(decode_message(&bytes), Ok((TopologyId(1), message)));
}

/// The formats are for ever: what the first version wrote is read as it was meant.
#[test]
fn golden_bytes_are_read() {
    let golden = |name: &str, text: &str| -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        assert!(digits.len().is_multiple_of(2), "{name}");
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    };
    let message = golden("message", include_str!("../../testdata/message-1.hex"));
    assert_eq!(decode_message(&message), decode_message(&sample_message()));
    let record = golden("record", include_str!("../../testdata/record-1.hex"));
    assert_eq!(Record::decode(&record), Record::decode(&sample_record()));
    let row = golden("row", include_str!("../../testdata/row-1.hex"));
    assert_eq!(Row::decode(&row), Row::decode(&sample_row()));
}

fn sample_attempt() -> AttemptId {
    AttemptId { id: MicrobatchId(5), run: Run(2), attempt: Attempt(3) }
}

fn sample_decision() -> Decision {
    let source = Source { depot: DepotId(4), partition: PartitionId(1) };
    Decision {
        attempt: sample_attempt(),
        offsets: vec![SourceOffset { source, offset: Offset(77) }],
        touched: vec![PartitionId(1), PartitionId(6)],
        visible: MicrobatchId(4),
    }
}

fn sample_begin() -> Begin {
    let source = Source { depot: DepotId(4), partition: PartitionId(1) };
    Begin {
        attempt: sample_attempt(),
        ranges: vec![SourceRange { source, from: Offset(70), to: Offset(77) }],
        exclusions: vec![Exclusion {
            origin: Origin { source, offset: Offset(71) },
            reason: "undecodable".to_owned(),
        }],
        began_us: 1_700_000_000_000_001,
    }
}

fn sample_message() -> Vec<u8> {
    let Begin { attempt, ranges, exclusions, began_us } = sample_begin();
    encode_message(TopologyId(9), &Message::Begin { attempt, ranges, exclusions, began_us })
}

fn sample_record() -> Vec<u8> {
    Record::Decision(sample_decision()).encode()
}

fn sample_row() -> Vec<u8> {
    let decision = sample_decision();
    let offsets = decision.offsets.iter().map(|end| (end.source, end.offset)).collect();
    let unapplied = vec![Decision { offsets: vec![], ..decision }];
    Row { decided: MicrobatchId(5), offsets, unapplied }.encode()
}
