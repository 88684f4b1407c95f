//! Inputs and the effects they must have, written as short texts: `n.a` is attempt `a` at id `n`.

use super::*;
use crate::two_phase::{Exclusion, Origin};
use crate::types::DepotId;

const RUN: Run = Run(7);

fn config(shards: u16) -> Config {
    let owners = (0..shards).map(ShardId).collect();
    Config { own: ShardId(0), owners, records_max: 10, faults: Faults::default() }
}

struct Bench {
    coordinator: Coordinator,
    now_ns: u64,
}

impl Bench {
    fn new(shards: u16) -> Self {
        Self::recovered(shards, None, vec![])
    }

    fn recovered(shards: u16, row: Option<Row>, begins: Vec<Begin>) -> Self {
        let coordinator = Coordinator::recover(config(shards), RUN, row, begins);
        Self { coordinator, now_ns: 0 }
    }

    fn give(&mut self, input: Input) -> Vec<String> {
        let mut effects = Vec::new();
        self.coordinator.step(self.now_ns, input, &mut effects);
        effects.iter().map(show).collect()
    }

    #[track_caller]
    fn expect(&mut self, input: Input, expected: &[&str]) {
        let name = format!("{input:?}");
        assert_eq!(self.give(input), expected, "after {name}");
    }

    /// Idle reports of these shards, and those that confirm them.
    fn come_to_rest(&mut self, attempt: &str, touched: &[&[u32]]) -> Vec<String> {
        let mut effects = Vec::new();
        for round in 0..2 {
            for (shard, touched) in (0..).zip(touched) {
                effects = self.give(report(shard, attempt, round, touched));
            }
        }
        effects
    }
}

fn source(partition: u32) -> Source {
    Source { depot: DepotId(1), partition: PartitionId(partition) }
}

fn attempt(text: &str) -> AttemptId {
    let (id, attempt) = text.split_once('.').unwrap();
    let (id, attempt) = (id.parse().unwrap(), attempt.parse().unwrap());
    AttemptId { id: MicrobatchId(id), run: RUN, attempt: Attempt(attempt) }
}

fn partitions(numbers: &[u32]) -> Vec<PartitionId> {
    numbers.iter().copied().map(PartitionId).collect()
}

fn ends(of: &[(u32, u64)]) -> Input {
    let ends = of.iter().map(|&(partition, offset)| SourceOffset {
        source: source(partition),
        offset: Offset(offset),
    });
    Input::SourceEnds(ends.collect())
}

fn from(shard: u16, message: Message) -> Input {
    Input::Message { from: ShardId(shard), message }
}

fn report(shard: u16, of: &str, round: u32, touched: &[u32]) -> Input {
    let (attempt, touched) = (attempt(of), partitions(touched));
    let message = Message::Report { attempt, round, sent: 0, received: 0, idle: true, touched };
    from(shard, message)
}

fn vote(shard: u16, of: &str, touched: &[u32]) -> Input {
    from(shard, Message::Vote { attempt: attempt(of), touched: partitions(touched) })
}

fn applied(shard: u16, of: &str) -> Input {
    from(shard, Message::Applied { attempt: attempt(of) })
}

fn ask(shard: u16, attempts: &[AttemptId]) -> Input {
    from(shard, Message::Ask { attempts: attempts.to_vec() })
}

fn failed(shard: u16, of: &str, kind: FailureKind, origin: Option<(u32, u64)>) -> Input {
    let origin = origin
        .map(|(partition, offset)| Origin { source: source(partition), offset: Offset(offset) });
    let failure = Failure { origin, kind, message: "why".to_owned() };
    from(shard, Message::Failed { attempt: attempt(of), failure })
}

fn name(attempt: &AttemptId) -> String {
    let run = if attempt.run == RUN { String::new() } else { format!(" of run {}", attempt.run) };
    format!("{}.{}{run}", attempt.id, attempt.attempt)
}

fn numbers(partitions: &[PartitionId]) -> Vec<u32> {
    partitions.iter().map(|partition| partition.0).collect()
}

fn spans(ranges: &[SourceRange], exclusions: &[Exclusion]) -> String {
    let ranges = ranges.iter().map(|r| format!(" {}:{}..{}", r.source.partition, r.from, r.to));
    let exclusions =
        exclusions.iter().map(|e| format!(" -{}:{}", e.origin.source.partition, e.origin.offset));
    ranges.chain(exclusions).collect()
}

fn stands(offsets: &[SourceOffset]) -> String {
    let stands = offsets.iter().map(|o| format!(" {}:{}", o.source.partition, o.offset));
    stands.collect::<Vec<_>>().concat()
}

fn show(effect: &Effect) -> String {
    match effect {
        Effect::Persist { token, record } => format!("write#{} {}", token.0, show_record(record)),
        Effect::PersistLazily { record } => format!("write some time {}", show_record(record)),
        Effect::Send { to, message } => format!("{to}: {}", show_message(message)),
        Effect::CommitLocally { token, decision } => {
            let record = show_record(&Record::Decision(decision.clone()));
            format!("locally#{} {record}", token.0)
        }
        Effect::Visible { id, offsets } => format!("visible {id}{}", stands(offsets)),
        Effect::WakeAt(at) => format!("wake at {at}"),
        Effect::Paused { reason } => format!("paused {reason:?}"),
        Effect::Resumed => "resumed".to_owned(),
        Effect::Excluded { id, exclusion } => {
            format!("excluded from {id}{}", spans(&[], std::slice::from_ref(exclusion)))
        }
    }
}

fn show_record(record: &Record) -> String {
    match record {
        Record::Begin(b) => {
            format!("begin {}{}", name(&b.attempt), spans(&b.ranges, &b.exclusions))
        }
        Record::Decision(d) => {
            format!(
                "commit {}{} on {:?}",
                name(&d.attempt),
                stands(&d.offsets),
                numbers(&d.touched)
            )
        }
        Record::AllApplied(applied) => format!("all applied {}", applied.id),
    }
}

fn show_message(message: &Message) -> String {
    match message {
        Message::Hello { run } => format!("hello {run}"),
        Message::Begin { attempt, ranges, exclusions, began_us: _ } => {
            format!("begin {}{}", name(attempt), spans(ranges, exclusions))
        }
        Message::Probe { attempt, round } => format!("probe {} round {round}", name(attempt)),
        Message::Prepare { attempt } => format!("prepare {}", name(attempt)),
        Message::Decided { attempt, touched } => {
            format!("decided {} on {:?}", name(attempt), numbers(touched))
        }
        Message::Abort { attempt } => format!("abort {}", name(attempt)),
        Message::Undecided { attempt } => format!("undecided {}", name(attempt)),
        Message::Visible { id, offsets } => format!("visible {id}{}", stands(offsets)),
        Message::SourceEnds { .. }
        | Message::Report { .. }
        | Message::Vote { .. }
        | Message::Failed { .. }
        | Message::Applied { .. }
        | Message::Ask { .. } => panic!("a participant's message"),
    }
}

/// A bench whose id 1 over `0:0..3 1:0..2` is quiescent and prepared for.
fn preparing() -> Bench {
    let mut bench = Bench::new(2);
    bench.expect(Input::Start, &["0: hello 7", "1: hello 7"]);
    bench.expect(
        ends(&[(0, 3), (1, 2)]),
        &["write#1 begin 1.1 0:0..3 1:0..2", "0: begin 1.1 0:0..3", "1: begin 1.1 1:0..2"],
    );
    assert_eq!(bench.come_to_rest("1.1", &[&[0], &[1]]), ["0: prepare 1.1", "1: prepare 1.1"]);
    bench
}

/// The same, decided and not applied.
fn decided() -> Bench {
    let mut bench = preparing();
    bench.expect(Input::Persisted(Token(1)), &[]);
    bench.expect(vote(0, "1.1", &[0]), &[]);
    bench.expect(vote(1, "1.1", &[1]), &["write#2 commit 1.1 0:3 1:2 on [0, 1]"]);
    bench.expect(Input::Persisted(Token(2)), &["0: decided 1.1 on [0]", "1: decided 1.1 on [1]"]);
    bench
}

#[test]
fn an_id_commits_step_by_step() {
    let mut bench = decided();
    bench.expect(applied(1, "1.1"), &[]);
    assert_eq!(bench.coordinator.visible(), MicrobatchId(0));
    bench.expect(
        applied(0, "1.1"),
        &[
            "write some time all applied 1",
            "visible 1 0:3 1:2",
            "0: visible 1 0:3 1:2",
            "1: visible 1 0:3 1:2",
        ],
    );
    assert!(bench.coordinator.is_caught_up());
}

#[test]
fn a_decision_needs_every_vote_and_the_durable_begin() {
    let mut bench = preparing();
    bench.expect(vote(0, "1.1", &[0]), &[]);
    bench.expect(vote(0, "1.1", &[0]), &[]);
    bench.expect(vote(1, "1.1", &[1]), &[]);
    bench.expect(Input::Persisted(Token(1)), &["write#2 commit 1.1 0:3 1:2 on [0, 1]"]);
    assert_eq!(bench.coordinator.decided(), MicrobatchId(0), "not durable yet");
}

#[test]
fn votes_of_other_attempts_and_for_foreign_partitions_do_not_count() {
    let mut bench = preparing();
    bench.expect(Input::Persisted(Token(1)), &[]);
    bench.expect(vote(0, "1.1", &[0]), &[]);
    bench.expect(vote(1, "1.2", &[1]), &[]);
    bench.expect(vote(1, "2.1", &[1]), &[]);
    bench.expect(vote(1, "1.1", &[0]), &[]);
    let older = AttemptId { run: Run(6), ..attempt("1.1") };
    bench.expect(from(1, Message::Vote { attempt: older, touched: vec![] }), &[]);
    bench.expect(from(9, Message::Vote { attempt: attempt("1.1"), touched: vec![] }), &[]);
    bench.expect(vote(1, "1.1", &[1]), &["write#2 commit 1.1 0:3 1:2 on [0, 1]"]);
}

#[test]
fn the_next_id_runs_while_one_is_prepared_and_is_decided_after_it() {
    let mut bench = preparing();
    bench.expect(Input::Persisted(Token(1)), &[]);
    bench.expect(
        ends(&[(1, 4)]),
        &["write#2 begin 2.1 1:2..4", "0: begin 2.1", "1: begin 2.1 1:2..4"],
    );
    bench.expect(ends(&[(0, 5)]), &[]);
    bench.come_to_rest("2.1", &[&[], &[1]]);
    bench.expect(Input::Persisted(Token(2)), &[]);
    bench.expect(vote(0, "2.1", &[]), &[]);
    bench.expect(vote(1, "2.1", &[1]), &[]);
    bench.expect(vote(0, "1.1", &[0]), &[]);
    bench.expect(vote(1, "1.1", &[1]), &["write#3 commit 1.1 0:3 1:2 on [0, 1]"]);
    let effects = bench.give(Input::Persisted(Token(3)));
    let written: Vec<_> = effects.iter().filter(|effect| effect.starts_with("write")).collect();
    assert_eq!(written, ["write#4 commit 2.1 1:4 on [1]", "write#5 begin 3.1 0:3..5"]);
}

#[test]
fn what_lies_in_one_journal_commits_in_one_write() {
    let mut bench = Bench::new(2);
    bench.give(Input::Start);
    bench.give(ends(&[(0, 3)]));
    let effects = bench.come_to_rest("1.1", &[&[0], &[]]);
    assert_eq!(effects, ["locally#2 commit 1.1 0:3 on [0]"]);
    bench.expect(
        Input::Persisted(Token(2)),
        &[
            "1: decided 1.1 on []",
            "write some time all applied 1",
            "visible 1 0:3",
            "0: visible 1 0:3",
            "1: visible 1 0:3",
        ],
    );
}

#[test]
fn a_local_commit_does_not_overtake() {
    let mut bench = preparing();
    bench.give(ends(&[(0, 4)]));
    let effects = bench.come_to_rest("2.1", &[&[0], &[]]);
    assert_eq!(effects, ["0: prepare 2.1", "1: prepare 2.1"], "id 1 is undecided");

    let mut bench = decided();
    bench.give(ends(&[(0, 4)]));
    let effects = bench.come_to_rest("2.1", &[&[0], &[]]);
    assert_eq!(effects, ["0: prepare 2.1", "1: prepare 2.1"], "id 1 is not applied here");
}

#[test]
fn a_refused_local_commit_is_tried_again() {
    let mut bench = Bench::new(2);
    bench.give(Input::Start);
    bench.give(ends(&[(0, 3)]));
    bench.come_to_rest("1.1", &[&[0], &[]]);
    let failure = Failure { origin: None, kind: FailureKind::Retry, message: String::new() };
    bench.expect(
        Input::Refused { token: Token(2), failure },
        &["0: abort 1.1", "1: abort 1.1", "wake at 1000000"],
    );
    bench.now_ns = 1_000_000;
    bench.expect(Input::Wake, &["0: begin 1.2 0:0..3", "1: begin 1.2"]);
}

/// A bench whose id 1 was begun without any record.
fn working() -> Bench {
    let mut bench = Bench::new(2);
    bench.give(Input::Start);
    bench.expect(Input::Work, &["write#1 begin 1.1", "0: begin 1.1", "1: begin 1.1"]);
    bench
}

#[test]
fn work_begins_a_microbatch_without_records_which_commits_like_any_other() {
    let mut bench = working();
    assert_eq!(bench.come_to_rest("1.1", &[&[0], &[1]]), ["0: prepare 1.1", "1: prepare 1.1"]);
    bench.give(Input::Persisted(Token(1)));
    bench.give(vote(0, "1.1", &[0]));
    bench.expect(vote(1, "1.1", &[1]), &["write#2 commit 1.1 on [0, 1]"]);
    bench.expect(Input::Persisted(Token(2)), &["0: decided 1.1 on [0]", "1: decided 1.1 on [1]"]);
    bench.give(applied(0, "1.1"));
    let effects = bench.give(applied(1, "1.1"));
    assert_eq!(
        effects,
        ["write some time all applied 1", "visible 1", "0: visible 1", "1: visible 1"]
    );
    assert!(bench.coordinator.is_caught_up());
    // It asked once.
    bench.expect(Input::Wake, &[]);
}

#[test]
fn work_asked_for_while_microbatches_run_shares_the_next_one() {
    let mut bench = preparing();
    bench.expect(Input::Pause, &["paused Asked"]);
    bench.expect(Input::Work, &[]);
    bench.expect(Input::Work, &[]);
    let begun = ["resumed", "write#2 begin 2.1", "0: begin 2.1", "1: begin 2.1"];
    bench.expect(Input::Resume, &begun);
    bench.expect(Input::Work, &[]);
    let effects = bench.come_to_rest("2.1", &[&[], &[]]);
    assert_eq!(effects, ["0: prepare 2.1", "1: prepare 2.1"]);

    // One that begins for records does the work, too.
    let mut bench = preparing();
    bench.give(Input::Pause);
    bench.give(Input::Work);
    bench.give(ends(&[(1, 4)]));
    let effects = bench.give(Input::Resume);
    assert_eq!(effects[1], "write#2 begin 2.1 1:2..4");
    bench.come_to_rest("2.1", &[&[], &[]]);
    bench.give(Input::Persisted(Token(1)));
    bench.give(vote(0, "1.1", &[]));
    let effects = bench.give(vote(1, "1.1", &[]));
    assert_eq!(effects, ["write#3 commit 1.1 0:3 1:2 on []"], "no third one");
}

#[test]
fn a_microbatch_without_records_is_retried_and_taken_up_as_it_is() {
    for kind in [FailureKind::Retry, FailureKind::Reject, FailureKind::TooLarge] {
        let mut bench = working();
        let mut effects = bench.give(failed(1, "1.1", kind, None));
        bench.now_ns = 2_000_000;
        effects.extend(bench.give(Input::Wake));
        effects.retain(|effect| !effect.starts_with("wake"));
        let expected = ["0: abort 1.1", "1: abort 1.1", "0: begin 1.2", "1: begin 1.2"];
        assert_eq!(effects, expected, "{kind:?}");
    }
    let begin = Begin {
        attempt: AttemptId { run: Run(6), ..attempt("1.1") },
        ranges: vec![],
        exclusions: vec![],
        began_us: 5,
    };
    let mut bench = Bench::recovered(2, None, vec![begin]);
    let effects = bench.give(Input::Start);
    assert_eq!(effects, ["0: hello 7", "1: hello 7", "0: begin 1.1", "1: begin 1.1"]);
    bench.expect(ends(&[(0, 3)]), &[]);
    let effects = bench.come_to_rest("1.1", &[&[], &[]]);
    assert_eq!(effects[..2], ["locally#1 commit 1.1 on []", "write#2 begin 2.1 0:0..3"]);
}

#[test]
fn a_retry_backs_off_to_at_most_a_second_and_reads_the_same() {
    let mut bench = Bench::new(2);
    bench.give(Input::Start);
    bench.give(ends(&[(0, 3)]));
    let mut longest_ns = 0;
    for number in 1..20 {
        bench.give(ends(&[(0, 3 + number)]));
        let effects = bench.give(failed(0, &format!("1.{number}"), FailureKind::Retry, None));
        let wake = effects.last().unwrap().strip_prefix("wake at ").unwrap();
        let at_ns: u64 = wake.parse().unwrap();
        longest_ns = longest_ns.max(at_ns - bench.now_ns);
        bench.expect(Input::Wake, &[wake_text(at_ns).as_str()]);
        bench.now_ns = at_ns;
        let begin = format!("0: begin 1.{} 0:0..3", number + 1);
        assert_eq!(bench.give(Input::Wake)[0], begin);
    }
    assert_eq!(longest_ns, 1_000_000_000);
}

fn wake_text(at_ns: u64) -> String {
    format!("wake at {at_ns}")
}

#[test]
fn a_record_rejected_twice_is_left_out_and_others_are_found_on_the_way() {
    let mut bench = Bench::new(2);
    bench.give(Input::Start);
    bench.give(ends(&[(0, 3), (1, 2)]));
    for number in 1..=2 {
        let of = format!("1.{number}");
        bench.expect(failed(0, &of, FailureKind::Reject, Some((0, 1))), &[]);
        bench.expect(failed(0, &of, FailureKind::Reject, Some((0, 1))), &[]);
        bench.expect(failed(1, &of, FailureKind::Reject, Some((1, 0))), &[]);
        let effects = bench.come_to_rest(&of, &[&[], &[]]);
        if number == 1 {
            assert_eq!(effects[2..], ["0: begin 1.2 0:0..3", "1: begin 1.2 1:0..2"]);
        } else {
            // Each is tried without the other.
            assert_eq!(effects[2..], ["0: begin 1.3 0:0..3", "1: begin 1.3 1:0..2 -1:0"]);
        }
    }
    bench.give(failed(0, "1.3", FailureKind::Reject, Some((0, 1))));
    let effects = bench.come_to_rest("1.3", &[&[], &[]]);
    assert_eq!(effects[2..], ["0: begin 1.4 0:0..3 -0:1", "1: begin 1.4 1:0..2"]);
    bench.give(failed(1, "1.4", FailureKind::Reject, Some((1, 0))));
    assert_eq!(
        bench.come_to_rest("1.4", &[&[], &[]]),
        [
            "0: abort 1.4",
            "1: abort 1.4",
            "excluded from 1 -0:1",
            "excluded from 1 -1:0",
            "write#2 begin 1.5 0:0..3 1:0..2 -0:1 -1:0",
            "0: begin 1.5 0:0..3 -0:1",
            "1: begin 1.5 1:0..2 -1:0",
        ]
    );
}

/// Runs attempts over records 0:0 to 0:2 until one prepares; `rejects` says who is rejected where these
/// run. Returns who is left out.
fn left_out(rejects: impl Fn(u64, &[u64]) -> bool) -> Vec<u64> {
    let mut bench = Bench::new(1);
    bench.give(Input::Start);
    bench.give(ends(&[(0, 3)]));
    for number in 1..40 {
        let flight = &bench.coordinator.flights[0];
        let plan = flight.attempted();
        let running: Vec<u64> =
            (0..).map_while(|number| plan.record(number)).map(|it| it.offset.0).collect();
        let of = format!("1.{number}");
        for &record in running.iter().filter(|&&record| rejects(record, &running)) {
            bench.give(failed(0, &of, FailureKind::Reject, Some((0, record))));
        }
        let effects = bench.come_to_rest(&of, &[&[]]);
        if effects.iter().any(|effect| effect.starts_with("locally")) {
            let flight = &bench.coordinator.flights[0];
            return flight.plan.exclusions().iter().map(|it| it.origin.offset.0).collect();
        }
        bench.now_ns += 2_000_000_000;
        bench.give(Input::Wake);
    }
    panic!("nothing was committed");
}

#[test]
fn a_record_that_fails_by_contagion_alone_is_not_left_out() {
    // What 1 wrote before it failed makes 2 fail, and the other way round 2 harms nobody.
    assert_eq!(left_out(|it, running| it == 1 || it == 2 && running.contains(&1)), [1]);
    assert_eq!(left_out(|it, _| it != 0), [1, 2]);
    assert_eq!(left_out(|_, _| true), [0, 1, 2]);
    // Two that pass without each other: the later one gives way.
    assert_eq!(left_out(|it, running| it != 0 && running.len() == 3), [2]);
    assert_eq!(left_out(|_, _| false), []);
}

#[test]
fn a_nameless_rejection_is_searched_for_by_trials_that_never_prepare() {
    let mut bench = Bench::new(2);
    bench.give(Input::Start);
    bench.give(ends(&[(0, 3), (1, 2)]));
    // Record 3 of 0..5, which is 1:0, fails whenever it is read.
    let mut trials = 0;
    for number in 1..12 {
        let of = format!("1.{number}");
        let flight = &bench.coordinator.flights[0];
        let count = flight.attempted().records_count();
        trials += u32::from(flight.is_trial());
        if count > 3 && flight.plan.exclusions().is_empty() {
            let effects = bench.give(failed(1, &of, FailureKind::Reject, None));
            if effects.contains(&"excluded from 1 -1:0".to_owned()) {
                assert!(trials <= 5, "{trials} trials");
                assert!(effects.contains(&format!("1: begin 1.{} 1:0..2 -1:0", number + 1)));
                return;
            }
        } else {
            let effects = bench.come_to_rest(&of, &[&[0], &[1]]);
            assert!(effects[0].contains("abort"), "a trial never prepares: {effects:?}");
        }
    }
    panic!("the record was not found");
}

#[test]
fn a_rejection_without_records_pauses_until_resumed() {
    let mut bench = Bench::new(1);
    bench.give(Input::Start);
    bench.give(ends(&[(0, 1)]));
    for of in ["1.1", "1.2"] {
        bench.give(failed(0, of, FailureKind::Reject, Some((0, 0))));
        bench.come_to_rest(of, &[&[]]);
    }
    bench.give(failed(0, "1.3", FailureKind::Reject, None));
    let effects = bench.give(failed(0, "1.4", FailureKind::Reject, None));
    assert!(effects.last().unwrap().starts_with("paused Rejected"), "{effects:?}");
    bench.now_ns = u64::MAX;
    bench.expect(Input::Wake, &[]);
    bench.expect(Input::Resume, &["resumed", "0: begin 1.5 0:0..1 -0:0"]);
}

#[test]
fn an_abort_takes_the_next_id_along_highest_first() {
    let mut bench = preparing();
    bench.give(ends(&[(1, 4)]));
    bench.come_to_rest("2.1", &[&[], &[1]]);
    bench.give(vote(1, "2.1", &[1]));
    let effects = bench.give(failed(0, "1.1", FailureKind::Retry, None));
    assert_eq!(
        effects,
        ["0: abort 2.1", "1: abort 2.1", "0: abort 1.1", "1: abort 1.1", "wake at 1000000"]
    );
    bench.now_ns = 1_000_000;
    bench.expect(Input::Wake, &["0: begin 1.2 0:0..3", "1: begin 1.2 1:0..2"]);
    let effects = bench.come_to_rest("1.2", &[&[0], &[1]]);
    assert_eq!(effects[2..], ["0: begin 2.2", "1: begin 2.2 1:2..4"], "same range, no new record");
}

#[test]
fn a_shard_that_is_down_aborts_what_is_undecided_and_is_waited_for() {
    let mut bench = preparing();
    bench.expect(Input::ShardDown(ShardId(1)), &["0: abort 1.1", "paused ShardDown(ShardId(1))"]);
    bench.expect(vote(1, "1.1", &[1]), &[]);
    bench.expect(
        Input::ShardUp(ShardId(1)),
        &["1: hello 7", "resumed", "0: begin 1.2 0:0..3", "1: begin 1.2 1:0..2"],
    );
}

#[test]
fn what_is_decided_is_told_again_and_nothing_begins_before_it_is_applied() {
    let mut bench = decided();
    bench.give(applied(0, "1.1"));
    bench.give(Input::ShardDown(ShardId(1)));
    bench.expect(ends(&[(0, 9)]), &[]);
    bench.expect(Input::ShardUp(ShardId(1)), &["1: hello 7", "1: decided 1.1 on [1]", "resumed"]);
    let effects = bench.give(applied(1, "1.1"));
    assert_eq!(effects[1], "visible 1 0:3 1:2");
    assert_eq!(effects[4..], ["write#3 begin 2.1 0:3..9", "0: begin 2.1 0:3..9", "1: begin 2.1"]);
}

#[test]
fn a_decision_being_written_survives_a_shard() {
    let mut bench = preparing();
    bench.give(Input::Persisted(Token(1)));
    bench.give(vote(0, "1.1", &[0]));
    bench.give(vote(1, "1.1", &[1]));
    bench.expect(Input::ShardDown(ShardId(1)), &["paused ShardDown(ShardId(1))"]);
    bench.expect(Input::ShardUp(ShardId(1)), &["1: hello 7", "resumed"]);
    bench.expect(ask(1, &[attempt("1.1")]), &["1: undecided 1.1"]);
    bench.expect(ends(&[(0, 9)]), &[]);
    bench.expect(Input::Persisted(Token(2)), &["0: decided 1.1 on [0]", "1: decided 1.1 on [1]"]);
}

#[test]
fn an_asker_hears_the_truth() {
    let mut bench = decided();
    let older = AttemptId { run: Run(6), ..attempt("1.1") };
    let newer = AttemptId { run: Run(8), ..attempt("2.1") };
    bench.expect(
        ask(1, &[older, attempt("1.1"), attempt("1.2"), attempt("2.1"), newer]),
        &[
            "1: abort 1.1 of run 6",
            "1: decided 1.1 on [1]",
            "1: abort 1.2",
            "1: undecided 2.1",
            "1: undecided 2.1 of run 8",
        ],
    );
    let mut bench = preparing();
    bench.expect(ask(1, &[attempt("1.1"), older]), &["1: undecided 1.1", "1: abort 1.1 of run 6"]);
    bench.give(failed(0, "1.1", FailureKind::Retry, None));
    bench.expect(ask(1, &[attempt("1.1")]), &["1: abort 1.1"]);
}

#[test]
fn recovery_tells_decisions_again_then_retries_what_had_begun() {
    let older =
        |id, attempt| AttemptId { id: MicrobatchId(id), run: Run(3), attempt: Attempt(attempt) };
    let mut row = Row::default();
    let decision = |id, to, visible| {
        Record::Decision(Decision {
            attempt: older(id, 2),
            offsets: vec![SourceOffset { source: source(0), offset: Offset(to) }],
            touched: partitions(&[0, 1]),
            visible: MicrobatchId(visible),
        })
    };
    row.add(&decision(1, 4, 0)).unwrap();
    row.add(&decision(2, 6, 1)).unwrap();
    let begin = |id, attempt, from, to| Begin {
        attempt: older(id, attempt),
        ranges: vec![SourceRange { source: source(0), from: Offset(from), to: Offset(to) }],
        exclusions: vec![],
        began_us: 5,
    };
    let mut with_exclusion = begin(3, 2, 6, 8);
    with_exclusion.exclusions.push(Exclusion {
        origin: Origin { source: source(0), offset: Offset(7) },
        reason: "bad".to_owned(),
    });
    // A stray one does not continue what is known.
    let begins = vec![begin(2, 1, 4, 6), begin(3, 1, 6, 8), with_exclusion, begin(4, 1, 9, 10)];
    let mut bench = Bench::recovered(2, Some(row), begins);
    bench.expect(
        Input::Start,
        &[
            "0: hello 7",
            "1: hello 7",
            "0: decided 2.2 of run 3 on [0]",
            "1: decided 2.2 of run 3 on [1]",
        ],
    );
    bench.expect(ends(&[(0, 20)]), &[]);
    let committed = |shard| from(shard, Message::Applied { attempt: older(2, 2) });
    bench.expect(committed(0), &[]);
    bench.expect(
        committed(1),
        &[
            "visible 2 0:6",
            "0: visible 2 0:6",
            "1: visible 2 0:6",
            "0: begin 3.1 0:6..8 -0:7",
            "1: begin 3.1",
        ],
    );
}

#[test]
fn a_microbatch_begins_once_whatever_the_wall_clock_says_later() {
    let began = |effects: &[Effect]| -> Vec<u64> {
        let message = |effect: &Effect| match effect {
            Effect::Send { message: Message::Begin { began_us, .. }, .. }
            | Effect::Persist { record: Record::Begin(Begin { began_us, .. }), .. } => {
                Some(*began_us)
            }
            _ => None,
        };
        effects.iter().filter_map(message).collect()
    };
    let mut coordinator = Coordinator::recover(config(2), RUN, None, vec![]);
    let mut step = |wall_us, now_ns, input| {
        let mut effects = Vec::new();
        coordinator.observe_wall(wall_us);
        coordinator.step(now_ns, input, &mut effects);
        began(&effects)
    };
    assert_eq!(step(70, 0, Input::Start), []);
    assert_eq!(step(80, 0, ends(&[(0, 3)])), [80, 80, 80], "the record, and two shards");
    let failure = Failure { origin: None, kind: FailureKind::Retry, message: String::new() };
    let failed = Message::Failed { attempt: attempt("1.1"), failure };
    assert_eq!(step(90, 0, from(1, failed)), []);
    assert_eq!(step(60, 2_000_000, Input::Wake), [80, 80], "the record stands");

    let (begun, source) = (AttemptId { run: Run(3), ..attempt("1.4") }, source(0));
    let range = SourceRange { source, from: Offset(0), to: Offset(3) };
    let begin = Begin { attempt: begun, ranges: vec![range], exclusions: vec![], began_us: 80 };
    let mut coordinator = Coordinator::recover(config(2), RUN, None, vec![begin]);
    let mut effects = Vec::new();
    coordinator.observe_wall(1_000);
    coordinator.step(0, Input::Start, &mut effects);
    assert_eq!(began(&effects), [80, 80], "taken up after a crash");
}

#[test]
fn a_pause_lets_what_is_under_way_complete() {
    let mut bench = preparing();
    bench.expect(Input::Pause, &["paused Asked"]);
    bench.expect(ends(&[(0, 9)]), &[]);
    bench.give(Input::Persisted(Token(1)));
    bench.give(vote(0, "1.1", &[0]));
    bench.expect(vote(1, "1.1", &[1]), &["write#2 commit 1.1 0:3 1:2 on [0, 1]"]);
    bench.expect(
        Input::Resume,
        &["resumed", "write#3 begin 2.1 0:3..9", "0: begin 2.1 0:3..9", "1: begin 2.1"],
    );
}

#[test]
fn while_it_is_held_nothing_starts_and_what_is_under_way_completes() {
    let mut bench = preparing();
    bench.expect(Input::Hold, &[]);
    bench.expect(ends(&[(0, 9)]), &[]);
    bench.give(Input::Persisted(Token(1)));
    bench.give(vote(0, "1.1", &[0]));
    bench.expect(vote(1, "1.1", &[1]), &["write#2 commit 1.1 0:3 1:2 on [0, 1]"]);
    bench.give(Input::Persisted(Token(2)));
    bench.give(applied(0, "1.1"));
    assert!(!bench.coordinator.is_at_rest(), "one shard has not applied it");
    bench.give(applied(1, "1.1"));
    assert!(bench.coordinator.is_at_rest());
    assert_eq!(bench.coordinator.visible(), MicrobatchId(1));
    bench.expect(
        Input::Release,
        &["write#3 begin 2.1 0:3..9", "0: begin 2.1 0:3..9", "1: begin 2.1"],
    );
    assert!(!bench.coordinator.is_at_rest());
}

/// Of each of these sources, up to there.
fn until(of: &[(u32, u64)]) -> Input {
    Input::Until(Some(of.iter().map(|&(partition, to)| (source(partition), Offset(to))).collect()))
}

#[test]
fn it_reads_up_to_where_it_is_told_and_no_further() {
    let mut bench = decided();
    bench.expect(until(&[(0, 5), (1, 2)]), &[]);
    bench.give(applied(0, "1.1"));
    bench.give(applied(1, "1.1"));
    assert!(!bench.coordinator.has_reached(), "it does not know yet of what it is to read");
    assert_eq!(bench.coordinator.planned().get(&source(0)), Some(&Offset(3)));
    bench.expect(
        ends(&[(0, 9), (1, 7), (2, 4)]),
        &["write#3 begin 2.1 0:3..5", "0: begin 2.1 0:3..5", "1: begin 2.1"],
    );
    bench.come_to_rest("2.1", &[&[0], &[1]]);
    bench.give(Input::Persisted(Token(3)));
    assert!(!bench.coordinator.has_reached());
    bench.give(vote(0, "2.1", &[0]));
    bench.expect(vote(1, "2.1", &[1]), &["write#4 commit 2.1 0:5 on [0, 1]"]);
    bench.give(Input::Persisted(Token(4)));
    bench.give(applied(0, "2.1"));
    assert!(!bench.coordinator.has_reached(), "not all have applied it");
    bench.give(applied(1, "2.1"));
    assert!(bench.coordinator.has_reached());
    bench.give(Input::ShardDown(ShardId(1)));
    assert!(!bench.coordinator.has_reached(), "what a lost shard has is not known");
    bench.give(Input::ShardUp(ShardId(1)));
    assert!(bench.coordinator.has_reached());
    bench.expect(Input::Work, &[]);
    assert!(bench.coordinator.has_reached(), "work waits");
    bench.expect(
        Input::Until(None),
        &["write#5 begin 3.1 0:5..9 1:2..7", "0: begin 3.1 0:5..9", "1: begin 3.1 1:2..7"],
    );
    assert!(!bench.coordinator.has_reached());
    assert_eq!(bench.coordinator.records(), (7, 16));
}

#[test]
fn what_is_above_where_it_is_told_to_stop_is_not_taken_for_it() {
    let mut bench = decided();
    bench.give(applied(0, "1.1"));
    bench.give(applied(1, "1.1"));
    assert_eq!(bench.coordinator.planned().get(&source(0)), Some(&Offset(3)));
    for beyond in [&[(0, 2), (1, 2)][..], &[(0, 3)], &[]] {
        bench.expect(until(beyond), &[]);
        assert!(!bench.coordinator.has_reached(), "it is beyond {beyond:?}");
    }
    bench.expect(until(&[(0, 3), (1, 2)]), &[]);
    assert!(bench.coordinator.has_reached());
    // One that rests is bounded before it is let go.
    bench.expect(Input::Hold, &[]);
    bench.expect(ends(&[(0, 9)]), &[]);
    bench.expect(until(&[(0, 5), (1, 2)]), &[]);
    bench.expect(
        Input::Release,
        &["write#3 begin 2.1 0:3..5", "0: begin 2.1 0:3..5", "1: begin 2.1"],
    );
}

#[test]
fn work_that_is_asked_for_waits_while_it_is_held() {
    let mut bench = working();
    bench.come_to_rest("1.1", &[&[0], &[1]]);
    bench.expect(Input::Hold, &[]);
    bench.expect(Input::Work, &[]);
    bench.give(Input::Persisted(Token(1)));
    bench.give(vote(0, "1.1", &[0]));
    bench.expect(vote(1, "1.1", &[1]), &["write#2 commit 1.1 on [0, 1]"]);
    bench.give(Input::Persisted(Token(2)));
    bench.give(applied(0, "1.1"));
    bench.give(applied(1, "1.1"));
    assert!(bench.coordinator.is_at_rest(), "work does not keep it from that");
    bench.expect(Input::Work, &[]);
    assert!(bench.coordinator.is_at_rest());
    // It was not forgotten.
    bench.expect(Input::Release, &["write#3 begin 2.1", "0: begin 2.1", "1: begin 2.1"]);
}

#[test]
fn while_it_is_held_nothing_that_failed_is_tried_again() {
    let mut bench = preparing();
    bench.expect(Input::Hold, &[]);
    assert!(!bench.coordinator.is_at_rest());
    bench.expect(failed(0, "1.1", FailureKind::Retry, None), &["0: abort 1.1", "1: abort 1.1"]);
    assert!(bench.coordinator.is_at_rest(), "what failed waits");
    bench.now_ns = 1_000_000_000;
    bench.expect(Input::Wake, &[]);
    bench.expect(Input::ShardDown(ShardId(1)), &["paused ShardDown(ShardId(1))"]);
    assert!(!bench.coordinator.is_at_rest(), "it may have applied nothing");
    bench.give(Input::ShardUp(ShardId(1)));
    assert!(bench.coordinator.is_at_rest());
    bench.expect(Input::Release, &["0: begin 1.2 0:0..3", "1: begin 1.2 1:0..2"]);
}

#[test]
fn a_microbatch_that_is_too_large_is_halved_and_what_stands_on_it_is_planned_anew() {
    let too_large = |shard, of| {
        let message = "large".to_owned();
        let failure = Failure { origin: None, kind: FailureKind::TooLarge, message };
        from(shard, Message::Failed { attempt: attempt(of), failure })
    };
    let mut bench = Bench::new(2);
    bench.give(Input::Start);
    bench.give(ends(&[(0, 9), (1, 1)]));
    bench.come_to_rest("1.1", &[&[0], &[1]]);
    bench.expect(
        ends(&[(0, 12)]),
        &["write#2 begin 2.1 0:9..12", "0: begin 2.1 0:9..12", "1: begin 2.1"],
    );
    bench.expect(
        too_large(1, "1.1"),
        &[
            "0: abort 2.1",
            "1: abort 2.1",
            "0: abort 1.1",
            "1: abort 1.1",
            "write#3 begin 1.2 0:0..5 1:0..1",
            "0: begin 1.2 0:0..5",
            "1: begin 1.2 1:0..1",
        ],
    );
    let asked = Message::Ask { attempts: vec![attempt("2.1")] };
    bench.expect(from(1, asked), &["1: abort 2.1"]);
    let effects = bench.come_to_rest("1.2", &[&[0], &[1]]);
    assert_eq!(effects[2], "write#4 begin 2.2 0:5..10", "numbers are not used twice");
    // The limit grows again with what commits.
    bench.give(Input::Persisted(Token(3)));
    bench.give(vote(0, "1.2", &[0]));
    bench.give(vote(1, "1.2", &[1]));
    bench.give(Input::Persisted(Token(5)));
    bench.give(ends(&[(0, 100)]));
    let effects = bench.come_to_rest("2.2", &[&[0], &[1]]);
    assert_eq!(effects[3], "0: begin 3.1 0:10..17", "{effects:?}");
}

#[test]
fn one_record_that_is_too_large_is_left_out() {
    let too_large = |of| {
        let failure =
            Failure { origin: None, kind: FailureKind::TooLarge, message: "large".to_owned() };
        from(0, Message::Failed { attempt: attempt(of), failure })
    };
    let mut bench = Bench::new(2);
    bench.give(Input::Start);
    bench.give(ends(&[(0, 2)]));
    bench.give(too_large("1.1"));
    bench.expect(
        too_large("1.2"),
        &["0: abort 1.2", "1: abort 1.2", "0: begin 1.3 0:0..1", "1: begin 1.3"],
    );
    let effects = bench.give(too_large("1.3"));
    assert!(effects.contains(&"0: begin 1.4 0:0..1 -0:0".to_owned()), "{effects:?}");
}

#[test]
fn a_microbatch_takes_a_bounded_number_of_records() {
    let mut bench = Bench::new(1);
    bench.give(Input::Start);
    bench.expect(ends(&[(0, 25)]), &["write#1 begin 1.1 0:0..10", "0: begin 1.1 0:0..10"]);
    let effects = bench.come_to_rest("1.1", &[&[]]);
    assert_eq!(effects[0], "locally#2 commit 1.1 0:10 on []");
    assert_eq!(effects[2], "0: begin 2.1 0:10..20");
}
