//! [`Record`] and [`Row`] to bytes and back.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::generated::two_phase as fb;
use super::parts::{
    ascending, ascending_offsets_from, attempt_from, attempt_to, bounded, exclusions_from,
    exclusions_to, offsets_to, partitions_from, partitions_to, ranges_from, ranges_to,
};
use super::{Error, UNAPPLIED_MAX, VERSION, builder, check_version, root};
use crate::two_phase::{AllApplied, Begin, Decision, Record, Row, SourceOffset};
use crate::types::MicrobatchId;

const RECORD_IDENTIFIER: &str = "TMRC";
const ROW_IDENTIFIER: &str = "TMRW";

pub(crate) fn encode_record(record: &Record) -> Vec<u8> {
    let mut fbb = builder();
    let fbb = &mut fbb;
    let (body_type, body) = match record {
        Record::Begin(begin) => {
            let ranges = Some(ranges_to(fbb, &begin.ranges));
            let exclusions = Some(exclusions_to(fbb, &begin.exclusions));
            let attempt = attempt_to(begin.attempt);
            let began_us = begin.began_us;
            let arguments = fb::BeginArgs { attempt: Some(&attempt), ranges, exclusions, began_us };
            (fb::RecordBody::Begin, fb::Begin::create(fbb, &arguments).as_union_value())
        }
        Record::Decision(decision) => {
            (fb::RecordBody::Decision, decision_to(fbb, decision).as_union_value())
        }
        Record::AllApplied(AllApplied { id }) => {
            let applied = fb::AllApplied::create(fbb, &fb::AllAppliedArgs { id: id.0 });
            (fb::RecordBody::AllApplied, applied.as_union_value())
        }
    };
    let arguments = fb::RecordEnvelopeArgs { version: VERSION, body_type, body: Some(body) };
    let envelope = fb::RecordEnvelope::create(fbb, &arguments);
    fbb.finish(envelope, Some(RECORD_IDENTIFIER));
    fbb.finished_data().to_vec()
}

pub(crate) fn decode_record(bytes: &[u8]) -> Result<Record, Error> {
    let envelope = root::<fb::RecordEnvelope<'_>>(bytes, RECORD_IDENTIFIER)?;
    check_version(envelope.version())?;
    if let Some(body) = envelope.body_as_begin() {
        let begin = Begin {
            attempt: attempt_from(body.attempt()),
            ranges: ranges_from(body.ranges())?,
            exclusions: exclusions_from(body.exclusions())?,
            began_us: body.began_us(),
        };
        Ok(Record::Begin(begin))
    } else if let Some(body) = envelope.body_as_decision() {
        Ok(Record::Decision(decision_from(&body)?))
    } else if let Some(body) = envelope.body_as_all_applied() {
        Ok(Record::AllApplied(AllApplied { id: MicrobatchId(body.id()) }))
    } else {
        Err(Error::Field { field: "body" })
    }
}

pub(crate) fn encode_row(row: &Row) -> Vec<u8> {
    let mut fbb = builder();
    let fbb = &mut fbb;
    let offsets: Vec<_> =
        row.offsets.iter().map(|(&source, &offset)| SourceOffset { source, offset }).collect();
    let offsets = Some(offsets_to(fbb, &offsets));
    let unapplied: Vec<_> =
        row.unapplied.iter().map(|decision| decision_to(fbb, decision)).collect();
    let unapplied = Some(fbb.create_vector(&unapplied));
    let arguments = fb::RowArgs { version: VERSION, decided: row.decided.0, offsets, unapplied };
    let stored = fb::Row::create(fbb, &arguments);
    fbb.finish(stored, Some(ROW_IDENTIFIER));
    fbb.finished_data().to_vec()
}

pub(crate) fn decode_row(bytes: &[u8]) -> Result<Row, Error> {
    let stored = root::<fb::Row<'_>>(bytes, ROW_IDENTIFIER)?;
    check_version(stored.version())?;
    let decided = MicrobatchId(stored.decided());
    let offsets = ascending_offsets_from(stored.offsets(), "offsets")?;
    bounded(stored.unapplied().len(), UNAPPLIED_MAX, "unapplied")?;
    let unapplied = stored.unapplied().iter().map(|decision| decision_from(&decision));
    let unapplied: Vec<_> = unapplied.collect::<Result<_, _>>()?;
    ascending(&unapplied, |decision| decision.attempt.id, "unapplied")?;
    if unapplied.last().is_some_and(|last| last.attempt.id != decided) {
        return Err(Error::Field { field: "unapplied" });
    }
    let offsets = offsets.into_iter().map(|stored| (stored.source, stored.offset)).collect();
    Ok(Row { decided, offsets, unapplied })
}

fn decision_to<'a>(
    fbb: &mut FlatBufferBuilder<'a>,
    decision: &Decision,
) -> WIPOffset<fb::Decision<'a>> {
    let offsets = Some(offsets_to(fbb, &decision.offsets));
    let touched = Some(partitions_to(fbb, &decision.touched));
    let attempt = attempt_to(decision.attempt);
    let visible = decision.visible.0;
    let arguments = fb::DecisionArgs { attempt: Some(&attempt), offsets, touched, visible };
    fb::Decision::create(fbb, &arguments)
}

fn decision_from(stored: &fb::Decision<'_>) -> Result<Decision, Error> {
    Ok(Decision {
        attempt: attempt_from(stored.attempt()),
        offsets: ascending_offsets_from(stored.offsets(), "offsets")?,
        touched: partitions_from(stored.touched())?,
        visible: MicrobatchId(stored.visible()),
    })
}
