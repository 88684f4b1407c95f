//! Inputs and the effects they must have, written as short texts: `n.a` is attempt `a` at id `n` of
//! the present run.

use super::*;
use crate::two_phase::Faults;
use crate::types::{DepotId, ShardId};

const RUN: Run = Run(7);

struct Bench {
    participant: Participant,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self::recovered(&[], &[]);
        bench.expect(Input::Start, &[]);
        bench.expect(Input::Message(Message::Hello { run: RUN }), &[]);
        bench
    }

    fn recovered(prepares: &[(AttemptId, u32)], committed: &[(u32, u64)]) -> Self {
        let config = Config { own: ShardId(1), coordinator: ShardId(0), faults: Faults::default() };
        let prepares = prepares.iter().map(|&(attempt, number)| (attempt, PartitionId(number)));
        let committed =
            committed.iter().map(|&(number, id)| (PartitionId(number), MicrobatchId(id)));
        let recovered = Recovered { prepares: prepares.collect(), committed: committed.collect() };
        Self { participant: Participant::recover(config, recovered) }
    }

    fn give(&mut self, input: Input) -> Vec<String> {
        let mut effects = Vec::new();
        self.participant.step(0, input, &mut effects);
        effects.iter().map(show).collect()
    }

    #[track_caller]
    fn expect(&mut self, input: Input, expected: &[&str]) {
        let name = format!("{input:?}");
        assert_eq!(self.give(input), expected, "after {name}");
    }

    /// Begins, touches these partitions, comes to rest.
    fn run(&mut self, of: &str, touched: &[u32]) {
        let effects = self.give(begin(of));
        assert!(effects.last().unwrap().starts_with(&format!("start {of}")), "{effects:?}");
        for &partition in touched {
            let partition = PartitionId(partition);
            self.expect(Input::Touched { attempt: attempt(of), partition }, &[]);
        }
        let report = format!("report {of} round 0: 0 0 idle {touched:?}");
        self.expect(finished(of, 1), &[&report]);
    }

    /// The same, then prepares it.
    fn prepare(&mut self, of: &str, touched: &[u32]) {
        self.run(of, touched);
        self.expect(prepare(of), &[&format!("write prepare {of} on {touched:?}")]);
        self.expect(durable(of), &[&format!("vote {of} {touched:?}")]);
    }
}

fn attempt(text: &str) -> AttemptId {
    let (id, attempt) = text.split_once('.').unwrap();
    let (id, attempt) = (id.parse().unwrap(), attempt.parse().unwrap());
    AttemptId { id: MicrobatchId(id), run: RUN, attempt: Attempt(attempt) }
}

fn begin(of: &str) -> Input {
    let (ranges, exclusions) = (vec![], vec![]);
    Input::Message(Message::Begin { attempt: attempt(of), ranges, exclusions, began_us: 0 })
}

fn prepare(of: &str) -> Input {
    Input::Message(Message::Prepare { attempt: attempt(of) })
}

fn abort(of: &str) -> Input {
    Input::Message(Message::Abort { attempt: attempt(of) })
}

fn decided(of: &str, touched: &[u32]) -> Input {
    let touched = touched.iter().copied().map(PartitionId).collect();
    Input::Message(Message::Decided { attempt: attempt(of), touched })
}

fn visible(id: u64) -> Input {
    Input::Message(Message::Visible { id: MicrobatchId(id), offsets: vec![] })
}

fn finished(of: &str, count: u64) -> Input {
    Input::WorkFinished { attempt: attempt(of), count }
}

fn durable(of: &str) -> Input {
    Input::PrepareDurable { attempt: attempt(of) }
}

fn committed(of: &str) -> Input {
    Input::CommittedDurable { attempt: attempt(of) }
}

fn failed(of: &str, kind: FailureKind, origin: Option<u64>) -> Input {
    let source = Source { depot: DepotId(1), partition: PartitionId(1) };
    let origin = origin.map(|offset| crate::two_phase::Origin { source, offset: Offset(offset) });
    let message = "x".repeat(1000);
    Input::Failed { attempt: attempt(of), failure: Failure { origin, kind, message } }
}

fn name(attempt: &AttemptId) -> String {
    let run = if attempt.run == RUN { String::new() } else { format!(" of run {}", attempt.run) };
    format!("{}.{}{run}", attempt.id, attempt.attempt)
}

fn numbers(partitions: &[PartitionId]) -> Vec<u32> {
    partitions.iter().map(|partition| partition.0).collect()
}

fn show(effect: &Effect) -> String {
    match effect {
        Effect::StartSources { attempt, below, .. } => match below {
            Some(below) => format!("start {} on {}", name(attempt), name(below)),
            None => format!("start {}", name(attempt)),
        },
        Effect::WritePrepare { attempt, partitions } => {
            format!("write prepare {} on {:?}", name(attempt), numbers(partitions))
        }
        Effect::WriteCommitted { attempt, partitions } => {
            format!("write committed {} on {:?}", name(attempt), numbers(partitions))
        }
        Effect::WriteLocally { attempt, partitions } => {
            format!("write both {} on {:?}", name(attempt), numbers(partitions))
        }
        Effect::Drop { attempt, aborted } => {
            format!("drop {} {:?}", name(attempt), numbers(aborted))
        }
        Effect::MergeVisible { id, offsets: _ } => format!("visible {id}"),
        Effect::Send { to: _, message } => show_message(message),
        Effect::WakeAt(at) => format!("wake at {at}"),
        Effect::Lost { attempt, partitions } => {
            format!("lost {} on {:?}", name(attempt), numbers(partitions))
        }
    }
}

fn show_message(message: &Message) -> String {
    match message {
        Message::SourceEnds { ends } => {
            let ends = ends.iter().map(|end| format!(" {}", end.offset));
            format!("ends{}", ends.collect::<String>())
        }
        Message::Report { attempt, round, sent, received, idle, touched } => {
            let idle = if *idle { "idle" } else { "busy" };
            let touched = numbers(touched);
            format!("report {} round {round}: {sent} {received} {idle} {touched:?}", name(attempt))
        }
        Message::Vote { attempt, touched } => {
            format!("vote {} {:?}", name(attempt), numbers(touched))
        }
        Message::Failed { attempt, failure } => {
            assert!(failure.message.len() <= crate::two_phase::REASON_BYTES_MAX);
            let origin = failure.origin.map(|origin| origin.offset.0);
            format!("failed {} {:?} {origin:?}", name(attempt), failure.kind)
        }
        Message::Applied { attempt } => format!("applied {}", name(attempt)),
        Message::Ask { attempts } => {
            let attempts: Vec<_> = attempts.iter().map(name).collect();
            format!("ask {}", attempts.join(", "))
        }
        Message::Hello { .. }
        | Message::Begin { .. }
        | Message::Probe { .. }
        | Message::Prepare { .. }
        | Message::Decided { .. }
        | Message::Abort { .. }
        | Message::Undecided { .. }
        | Message::Visible { .. } => panic!("a coordinator's message"),
    }
}

#[test]
fn an_attempt_commits_step_by_step() {
    let mut bench = Bench::new();
    bench.prepare("1.1", &[1, 3]);
    assert_eq!(bench.participant.in_doubt(), [attempt("1.1")]);
    bench.expect(decided("1.1", &[1, 3]), &["write committed 1.1 on [1, 3]"]);
    assert_eq!(bench.participant.in_doubt(), []);
    bench.expect(committed("1.1"), &["applied 1.1"]);
    bench.expect(visible(1), &["visible 1"]);
    assert_eq!(bench.participant.visible(), MicrobatchId(1));
}

#[test]
fn a_shard_that_was_not_touched_writes_nothing() {
    let mut bench = Bench::new();
    bench.run("1.1", &[]);
    bench.expect(prepare("1.1"), &["vote 1.1 []"]);
    bench.expect(decided("1.1", &[]), &["applied 1.1"]);
    bench.run("2.1", &[]);
    bench.expect(decided("2.1", &[]), &["applied 2.1"]);
}

#[test]
fn work_is_counted_until_the_shard_is_idle() {
    let mut bench = Bench::new();
    let of = attempt("1.1");
    bench.give(begin("1.1"));
    bench.expect(Input::WorkStarted { attempt: of, count: 2 }, &[]);
    bench.expect(finished("1.1", 1), &[]);
    bench.expect(Input::BatchSent { attempt: of, count: 1 }, &[]);
    bench.expect(
        Input::Message(Message::Probe { attempt: of, round: 1 }),
        &["report 1.1 round 1: 1 0 busy []"],
    );
    bench.expect(finished("1.1", 2), &["report 1.1 round 0: 1 0 idle []"]);
    bench.expect(Input::BatchReceived { attempt: of, count: 1 }, &[]);
    bench.expect(Input::Touched { attempt: of, partition: PartitionId(3) }, &[]);
    bench.expect(prepare("1.1"), &[]);
    bench.expect(finished("1.1", 1), &["report 1.1 round 0: 1 1 idle [3]"]);
}

#[test]
fn rows_are_admitted_for_what_runs_here() {
    let mut bench = Bench::new();
    bench.give(begin("1.2"));
    let older = AttemptId { run: Run(6), ..attempt("3.1") };
    let newer = AttemptId { run: Run(8), ..attempt("1.1") };
    for (of, expected) in [
        (attempt("1.2"), Admission::Run),
        (attempt("1.1"), Admission::Stale),
        (attempt("1.3"), Admission::Hold),
        (attempt("2.1"), Admission::Hold),
        (older, Admission::Stale),
        (newer, Admission::Hold),
    ] {
        assert_eq!(bench.participant.admission(of), expected, "{of}");
    }
    bench.give(finished("1.2", 1));
    bench.give(prepare("1.2"));
    assert_eq!(bench.participant.admission(attempt("1.2")), Admission::Stale);
    bench.give(abort("1.2"));
    assert_eq!(bench.participant.admission(attempt("1.2")), Admission::Stale);
}

#[test]
fn old_and_repeated_messages_change_nothing() {
    let mut bench = Bench::new();
    bench.prepare("1.2", &[1]);
    for message in [begin("1.2"), begin("1.1"), prepare("1.2"), prepare("1.1"), abort("1.1")] {
        bench.expect(message, &[]);
    }
    let attempt_of_older_run = AttemptId { run: Run(6), ..attempt("1.9") };
    let older = Message::Begin {
        attempt: attempt_of_older_run,
        ranges: vec![],
        exclusions: vec![],
        began_us: 0,
    };
    bench.expect(Input::Message(older), &[]);
    bench.expect(decided("1.2", &[1]), &["write committed 1.2 on [1]"]);
    bench.expect(decided("1.2", &[1]), &[]);
    bench.expect(abort("1.2"), &[]);
    bench.expect(committed("1.2"), &["applied 1.2"]);
    bench.expect(decided("1.2", &[1]), &["applied 1.2"]);
    bench.expect(begin("1.2"), &[]);
    bench.expect(visible(1), &["visible 1"]);
    bench.expect(visible(1), &[]);
    bench.expect(begin("1.3"), &[]);
    bench.expect(abort("1.3"), &[]);
}

#[test]
fn an_unknown_attempt_is_not_voted_for() {
    Bench::new().expect(prepare("1.1"), &[]);
}

#[test]
fn an_abort_releases_a_prepare_also_while_it_is_written() {
    let mut bench = Bench::new();
    bench.run("1.1", &[1]);
    bench.give(prepare("1.1"));
    bench.expect(abort("1.1"), &["drop 1.1 [1]"]);
    bench.expect(durable("1.1"), &[]);
    bench.prepare("1.2", &[1]);
    bench.expect(abort("1.2"), &["drop 1.2 [1]"]);
    bench.give(begin("1.3"));
    bench.expect(abort("1.3"), &["drop 1.3 []"]);
}

#[test]
fn the_next_id_runs_on_top_and_goes_with_it() {
    let mut bench = Bench::new();
    bench.prepare("1.1", &[1]);
    bench.expect(begin("2.1"), &["start 2.1 on 1.1"]);
    bench.expect(abort("2.1"), &["drop 2.1 []"]);
    bench.expect(begin("2.2"), &["start 2.2 on 1.1"]);
    // The aborts of the old ones may have been lost together with a shard.
    bench.expect(begin("1.2"), &["drop 2.2 []", "drop 1.1 [1]", "start 1.2"]);
}

#[test]
fn failures_are_told_and_never_voted_for() {
    let mut bench = Bench::new();
    bench.give(begin("1.1"));
    bench.expect(failed("1.1", FailureKind::Reject, Some(4)), &["failed 1.1 Reject Some(4)"]);
    bench.expect(finished("1.1", 1), &["report 1.1 round 0: 0 0 idle []"]);
    bench.expect(prepare("1.1"), &[]);

    bench.give(begin("1.2"));
    bench.expect(failed("1.2", FailureKind::Retry, Some(4)), &["failed 1.2 Retry Some(4)"]);
    bench.expect(failed("1.2", FailureKind::Reject, None), &[]);
    bench.expect(finished("1.2", 1), &[]);
    bench.expect(prepare("1.2"), &[]);

    bench.run("1.3", &[1]);
    bench.give(prepare("1.3"));
    bench.expect(failed("1.3", FailureKind::Retry, None), &["failed 1.3 Retry None"]);
    bench.expect(durable("1.3"), &[]);
    bench.expect(abort("1.3"), &["drop 1.3 [1]"]);
}

#[test]
fn a_new_coordinator_ends_what_was_not_prepared_and_is_asked_about_the_rest() {
    let mut bench = Bench::new();
    bench.prepare("1.1", &[1]);
    bench.give(begin("2.1"));
    bench.expect(
        Input::Message(Message::Hello { run: Run(8) }),
        &["drop 2.1 []", "ask 1.1", "wake at 10000000"],
    );
    bench.expect(
        Input::Message(Message::Undecided { attempt: attempt("1.1") }),
        &["wake at 20000000"],
    );
    bench.expect(Input::Wake, &["ask 1.1", "wake at 40000000"]);
    bench.expect(abort("1.1"), &["drop 1.1 [1]"]);
    bench.expect(Input::Wake, &[]);
    bench.expect(begin("2.2"), &[]);
}

#[test]
fn what_was_built_on_an_attempt_is_dropped_with_it_and_first() {
    // A new coordinator answers one by one, in the order asked.
    let mut bench = Bench::new();
    bench.prepare("1.1", &[1]);
    bench.prepare("2.1", &[1, 3]);
    let hello = Input::Message(Message::Hello { run: Run(8) });
    bench.expect(hello, &["ask 1.1, 2.1", "wake at 10000000"]);
    bench.expect(abort("1.1"), &["drop 2.1 [1, 3]", "drop 1.1 [1]"]);
    bench.expect(abort("2.1"), &[]);
    // Another attempt than the one it was built on is decided.
    let mut bench = Bench::new();
    bench.prepare("1.1", &[1]);
    bench.run("2.1", &[1]);
    bench.expect(decided("1.2", &[]), &["drop 2.1 []", "drop 1.1 [1]", "applied 1.2"]);
    // Nothing is built on a doubt.
    let older = |of| AttemptId { run: Run(5), ..attempt(of) };
    let mut bench = Bench::recovered(&[(older("1.1"), 1), (older("2.1"), 1)], &[(1, 0)]);
    bench.give(Input::Start);
    let over = Input::Message(Message::Abort { attempt: older("1.1") });
    bench.expect(over, &["drop 1.1 of run 5 [1]"]);
}

#[test]
fn recovered_doubts_are_asked_about_and_resolved() {
    let older = AttemptId { run: Run(5), ..attempt("1.9") };
    let prepares = [(attempt("1.1"), 1), (older, 3), (attempt("1.1"), 3), (attempt("2.1"), 1)];
    let mut bench = Bench::recovered(&prepares, &[(1, 0), (3, 0)]);
    bench.expect(Input::Start, &["ask 1.9 of run 5, 1.1, 2.1", "wake at 10000000"]);
    bench.expect(
        decided("1.1", &[1, 3]),
        &["drop 1.9 of run 5 [3]", "write committed 1.1 on [1, 3]"],
    );
    bench.expect(abort("2.1"), &["drop 2.1 [1]"]);
    bench.expect(committed("1.1"), &["applied 1.1"]);
    bench.expect(begin("2.1"), &[]);
    bench.expect(begin("2.2"), &["start 2.2"]);
}

#[test]
fn a_committed_prepare_that_is_gone_is_reported() {
    let mut bench = Bench::recovered(&[(attempt("4.1"), 1)], &[(1, 3), (3, 3), (5, 4)]);
    bench.give(Input::Start);
    bench.expect(decided("4.1", &[1, 3, 5]), &["lost 4.1 on [3]"]);
    let mut bench = Bench::recovered(&[(attempt("4.1"), 1)], &[(1, 3), (3, 4)]);
    bench.give(Input::Start);
    bench.expect(decided("4.1", &[1, 3]), &["write committed 4.1 on [1]"]);
}

#[test]
fn a_local_commit_is_written_at_once() {
    let mut bench = Bench::new();
    bench.run("1.1", &[1]);
    bench.expect(Input::CommitLocally { attempt: attempt("1.1") }, &["write both 1.1 on [1]"]);
    bench.expect(abort("1.1"), &[]);
    bench.expect(begin("2.1"), &["start 2.1 on 1.1"]);
    bench.expect(committed("1.1"), &["applied 1.1"]);
}

#[test]
fn source_ends_are_told_when_they_grow_and_again_to_a_coordinator_that_greets() {
    let mut bench = Bench::new();
    let ends = |offset| {
        let source = Source { depot: DepotId(1), partition: PartitionId(1) };
        Input::SourceEnds(vec![SourceOffset { source, offset: Offset(offset) }])
    };
    bench.expect(ends(5), &["ends 5"]);
    bench.expect(ends(5), &[]);
    bench.expect(ends(4), &[]);
    bench.expect(Input::Message(Message::Hello { run: Run(8) }), &["ends 5"]);
}

#[test]
#[should_panic(expected = "work is started before it is finished")]
fn counting_wrong_is_noticed() {
    let mut bench = Bench::new();
    bench.give(begin("1.1"));
    bench.give(finished("1.1", 2));
}
