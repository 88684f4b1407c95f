//! [`Message`] to bytes and back.

use flatbuffers::{UnionWIPOffset, WIPOffset};

use super::generated::two_phase as fb;
use super::parts::{
    ascending_offsets_from, attempt_from, attempt_to, attempts_from, attempts_to, exclusions_from,
    exclusions_to, offsets_from, offsets_to, origin_from, origin_to, partitions_from,
    partitions_to, ranges_from, ranges_to, reason_from,
};
use super::{Error, VERSION, builder, check_version, root};
use crate::two_phase::{AttemptId, Failure, FailureKind, Message};
use crate::types::{MicrobatchId, Run, TopologyId};

/// The bytes of a message of one topology.
#[must_use]
pub fn encode_message(topology: TopologyId, message: &Message) -> Vec<u8> {
    let mut fbb = builder();
    let fbb = &mut fbb;
    let (body_type, body) = match message {
        Message::Hello { run } => {
            (fb::Body::Hello, any(fb::Hello::create(fbb, &fb::HelloArgs { run: run.0 })))
        }
        Message::Begin { attempt, ranges, exclusions, began_us } => {
            let ranges = Some(ranges_to(fbb, ranges));
            let exclusions = Some(exclusions_to(fbb, exclusions));
            let attempt = attempt_to(*attempt);
            let began_us = *began_us;
            let arguments = fb::BeginArgs { attempt: Some(&attempt), ranges, exclusions, began_us };
            (fb::Body::Begin, any(fb::Begin::create(fbb, &arguments)))
        }
        Message::Probe { attempt, round } => {
            let attempt = attempt_to(*attempt);
            let arguments = fb::ProbeArgs { attempt: Some(&attempt), round: *round };
            (fb::Body::Probe, any(fb::Probe::create(fbb, &arguments)))
        }
        Message::Prepare { attempt } => {
            let attempt = attempt_to(*attempt);
            let arguments = fb::PrepareArgs { attempt: Some(&attempt) };
            (fb::Body::Prepare, any(fb::Prepare::create(fbb, &arguments)))
        }
        Message::Decided { attempt, touched } => {
            let touched = Some(partitions_to(fbb, touched));
            let attempt = attempt_to(*attempt);
            let arguments = fb::DecidedArgs { attempt: Some(&attempt), touched };
            (fb::Body::Decided, any(fb::Decided::create(fbb, &arguments)))
        }
        Message::Abort { attempt } => {
            let attempt = attempt_to(*attempt);
            let arguments = fb::AbortArgs { attempt: Some(&attempt) };
            (fb::Body::Abort, any(fb::Abort::create(fbb, &arguments)))
        }
        Message::Undecided { attempt } => {
            let attempt = attempt_to(*attempt);
            let arguments = fb::UndecidedArgs { attempt: Some(&attempt) };
            (fb::Body::Undecided, any(fb::Undecided::create(fbb, &arguments)))
        }
        Message::Visible { id, offsets } => {
            let offsets = Some(offsets_to(fbb, offsets));
            let arguments = fb::VisibleArgs { id: id.0, offsets };
            (fb::Body::Visible, any(fb::Visible::create(fbb, &arguments)))
        }
        Message::SourceEnds { ends } => {
            let ends = Some(offsets_to(fbb, ends));
            let arguments = fb::SourceEndsArgs { ends };
            (fb::Body::SourceEnds, any(fb::SourceEnds::create(fbb, &arguments)))
        }
        Message::Report { attempt, round, sent, received, idle, touched } => {
            let touched = Some(partitions_to(fbb, touched));
            let attempt = attempt_to(*attempt);
            let arguments = fb::ReportArgs {
                attempt: Some(&attempt),
                round: *round,
                sent: *sent,
                received: *received,
                idle: *idle,
                touched,
            };
            (fb::Body::Report, any(fb::Report::create(fbb, &arguments)))
        }
        Message::Vote { attempt, touched } => {
            let touched = Some(partitions_to(fbb, touched));
            let attempt = attempt_to(*attempt);
            let arguments = fb::VoteArgs { attempt: Some(&attempt), touched };
            (fb::Body::Vote, any(fb::Vote::create(fbb, &arguments)))
        }
        Message::Failed { attempt, failure } => {
            let message = Some(fbb.create_string(&failure.message));
            let attempt = attempt_to(*attempt);
            let origin = failure.origin.map(origin_to);
            let arguments = fb::FailedArgs {
                attempt: Some(&attempt),
                origin: origin.as_ref(),
                kind: match failure.kind {
                    FailureKind::Retry => fb::FailureKind::Retry,
                    FailureKind::Reject => fb::FailureKind::Reject,
                    FailureKind::TooLarge => fb::FailureKind::TooLarge,
                },
                message,
            };
            (fb::Body::Failed, any(fb::Failed::create(fbb, &arguments)))
        }
        Message::Applied { attempt } => {
            let attempt = attempt_to(*attempt);
            let arguments = fb::AppliedArgs { attempt: Some(&attempt) };
            (fb::Body::Applied, any(fb::Applied::create(fbb, &arguments)))
        }
        Message::Ask { attempts } => {
            let attempts = Some(attempts_to(fbb, attempts));
            (fb::Body::Ask, any(fb::Ask::create(fbb, &fb::AskArgs { attempts })))
        }
    };
    let arguments =
        fb::EnvelopeArgs { version: VERSION, topology: topology.0, body_type, body: Some(body) };
    let envelope = fb::Envelope::create(fbb, &arguments);
    fbb.finish(envelope, Some(fb::ENVELOPE_IDENTIFIER));
    fbb.finished_data().to_vec()
}

/// Reads a message.
///
/// # Errors
/// When the bytes are damaged, too large, or of another version. Never panics.
pub fn decode_message(bytes: &[u8]) -> Result<(TopologyId, Message), Error> {
    let envelope = root::<fb::Envelope<'_>>(bytes, fb::ENVELOPE_IDENTIFIER)?;
    check_version(envelope.version())?;
    let message = body(&envelope)?.ok_or(Error::Field { field: "body" })?;
    Ok((TopologyId(envelope.topology()), message))
}

/// `None` for a kind of message that this build does not know.
fn body(envelope: &fb::Envelope<'_>) -> Result<Option<Message>, Error> {
    let id_of = |attempt: &fb::AttemptId| -> AttemptId { attempt_from(attempt) };
    let message = match envelope.body_type() {
        fb::Body::Hello => {
            envelope.body_as_hello().map(|body| Message::Hello { run: Run(body.run()) })
        }
        fb::Body::Begin => match envelope.body_as_begin() {
            Some(body) => Some(Message::Begin {
                attempt: id_of(body.attempt()),
                ranges: ranges_from(body.ranges())?,
                exclusions: exclusions_from(body.exclusions())?,
                began_us: body.began_us(),
            }),
            None => None,
        },
        fb::Body::Probe => envelope
            .body_as_probe()
            .map(|body| Message::Probe { attempt: id_of(body.attempt()), round: body.round() }),
        fb::Body::Prepare => envelope
            .body_as_prepare()
            .map(|body| Message::Prepare { attempt: id_of(body.attempt()) }),
        fb::Body::Decided => match envelope.body_as_decided() {
            Some(body) => Some(Message::Decided {
                attempt: id_of(body.attempt()),
                touched: partitions_from(body.touched())?,
            }),
            None => None,
        },
        fb::Body::Abort => {
            envelope.body_as_abort().map(|body| Message::Abort { attempt: id_of(body.attempt()) })
        }
        fb::Body::Undecided => envelope
            .body_as_undecided()
            .map(|body| Message::Undecided { attempt: id_of(body.attempt()) }),
        fb::Body::Visible => match envelope.body_as_visible() {
            Some(body) => Some(Message::Visible {
                id: MicrobatchId(body.id()),
                offsets: ascending_offsets_from(body.offsets(), "offsets")?,
            }),
            None => None,
        },
        fb::Body::SourceEnds => match envelope.body_as_source_ends() {
            Some(body) => Some(Message::SourceEnds { ends: offsets_from(body.ends(), "ends")? }),
            None => None,
        },
        fb::Body::Report => match envelope.body_as_report() {
            Some(body) => Some(Message::Report {
                attempt: id_of(body.attempt()),
                round: body.round(),
                sent: body.sent(),
                received: body.received(),
                idle: body.idle(),
                touched: partitions_from(body.touched())?,
            }),
            None => None,
        },
        fb::Body::Vote => match envelope.body_as_vote() {
            Some(body) => Some(Message::Vote {
                attempt: id_of(body.attempt()),
                touched: partitions_from(body.touched())?,
            }),
            None => None,
        },
        fb::Body::Failed => match envelope.body_as_failed() {
            Some(body) => Some(Message::Failed {
                attempt: id_of(body.attempt()),
                failure: failure_from(&body)?,
            }),
            None => None,
        },
        fb::Body::Applied => envelope
            .body_as_applied()
            .map(|body| Message::Applied { attempt: id_of(body.attempt()) }),
        fb::Body::Ask => match envelope.body_as_ask() {
            Some(body) => Some(Message::Ask { attempts: attempts_from(body.attempts())? }),
            None => None,
        },
        _ => None,
    };
    Ok(message)
}

fn failure_from(body: &fb::Failed<'_>) -> Result<Failure, Error> {
    let kind = match body.kind() {
        fb::FailureKind::Retry => FailureKind::Retry,
        fb::FailureKind::Reject => FailureKind::Reject,
        fb::FailureKind::TooLarge => FailureKind::TooLarge,
        _ => return Err(Error::Field { field: "kind" }),
    };
    let origin = body.origin().map(origin_from);
    Ok(Failure { origin, kind, message: reason_from(body.message())? })
}

fn any<T>(body: WIPOffset<T>) -> WIPOffset<UnionWIPOffset> {
    body.as_union_value()
}
