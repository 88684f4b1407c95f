//! The result of a verification as JSON.

use serde_json::{Value, json};
use tidemill::journal::JournalFile;
use tidemill::verify::{
    DepotFacts, Finding, JournalFacts, PartitionFacts, Report, SegmentFacts, TopologyFacts,
};

/// Everything that was found.
#[must_use]
pub fn report(report: &Report) -> Value {
    let files = report.tallies().into_iter().map(|(kind, tally)| {
        let value = json!({
            "files": tally.files,
            "bytes": tally.bytes,
            "bytes_checked": tally.bytes_live,
            "findings": tally.findings,
        });
        (kind.to_string(), value)
    });
    let skipped = report.skipped.iter().map(|skipped| {
        json!({
            "path": skipped.path,
            "from": skipped.bytes.start,
            "to": skipped.bytes.end,
            "why": skipped.why,
        })
    });
    let partitions = report.partitions.iter().map(|(id, facts)| (id.to_string(), partition(facts)));
    json!({
        "sound": report.is_sound(),
        "clean": report.manifest.as_ref().is_some_and(|manifest| manifest.clean),
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "notes": report.notes.iter().map(finding).collect::<Vec<_>>(),
        "files": files.collect::<serde_json::Map<_, _>>(),
        "manifest": manifest(report),
        "catalogue": report.catalogue.as_ref().map(|it| {
            serde_json::from_slice::<Value>(&it.encode()).unwrap_or(Value::Null)
        }),
        "journals": report.journals.iter().map(journal).collect::<Vec<_>>(),
        "partitions": partitions.collect::<serde_json::Map<_, _>>(),
        "topologies": report.topologies.iter().map(topology).collect::<Vec<_>>(),
        "skipped": skipped.collect::<Vec<_>>(),
    })
}

fn finding(finding: &Finding) -> Value {
    json!({ "path": finding.path, "byte": finding.byte, "what": finding.what })
}

fn manifest(report: &Report) -> Value {
    let Some(manifest) = &report.manifest else { return Value::Null };
    json!({
        "data_id": format!("{:032x}", manifest.data_id),
        "format": tidemill::manifest::FORMAT,
        "partitions": manifest.partitions,
        "run": manifest.run.0,
        "clean": manifest.clean,
        "catalogue": manifest.catalogue.number,
    })
}

fn file(file: JournalFile) -> Value {
    json!({ "number": file.number.0, "slot": file.slot })
}

fn journal(facts: &JournalFacts) -> Value {
    let record = &facts.record;
    let kinds = facts.kinds.iter().map(|(kind, (entries, bytes))| {
        (format!("{kind:?}"), json!({ "entries": entries, "bytes": bytes }))
    });
    let walked = &facts.walked;
    json!({
        "id": record.id.0,
        "shard": record.shard.0,
        "first": file(record.first),
        "end": { "file": file(facts.end.0), "byte": facts.end.1 },
        "clean_end": record.clean_end.map(|end| {
            json!({ "file": file(end.file), "byte": end.byte, "sequence": end.sequence })
        }),
        "slots": facts.slots,
        "frames": walked.frames,
        "frame_bytes": walked.frame_bytes,
        "groups": walked.groups,
        "entries": walked.entries,
        "kinds": kinds.collect::<serde_json::Map<_, _>>(),
        "torn": walked.torn.map(|torn| json!({
            "file": file(torn.file),
            "byte": torn.byte,
            "frames_discarded": torn.frames_discarded,
            "group_discarded": torn.group_discarded,
        })),
        "frames_stale": walked.frames_stale,
    })
}

fn partition(facts: &PartitionFacts) -> Value {
    let trees = facts.trees.iter().map(|tree| {
        let value = json!({
            "entries": tree.entries,
            "depth": tree.depth,
            "pages": facts.pages.get(&tree.pstate),
        });
        (tree.pstate.to_string(), value)
    });
    let depots = facts.depots.iter().map(|(id, facts)| (id.to_string(), depot(facts)));
    let committed = facts.committed.iter().map(|(id, last)| (id.to_string(), last.0.into()));
    let in_doubt = facts.in_doubt.iter().map(
        |(topology, attempt)| json!({ "topology": topology.0, "attempt": attempt.to_string() }),
    );
    json!({
        "fold": facts.fold,
        "covers": facts.covers.0,
        "pending": facts.pending.iter().map(|index| index.0).collect::<Vec<_>>(),
        "pages_live": facts.pages_live,
        "trees": trees.collect::<serde_json::Map<_, _>>(),
        "depots": depots.collect::<serde_json::Map<_, _>>(),
        "entries_above": facts.entries,
        "committed": committed.collect::<serde_json::Map<_, Value>>(),
        "in_doubt": in_doubt.collect::<Vec<_>>(),
    })
}

fn depot(facts: &DepotFacts) -> Value {
    json!({
        "first": facts.first.0,
        "recorded": facts.recorded.0,
        "end": facts.end.0,
        "segments": facts.segments.iter().map(segment).collect::<Vec<_>>(),
    })
}

fn segment(facts: &SegmentFacts) -> Value {
    json!({
        "path": facts.path,
        "base": facts.state.base.0,
        "end": facts.state.end.0,
        "sealed": facts.state.sealed,
        "bytes": facts.state.bytes,
        "blocks": facts.blocks,
        "records": facts.records,
        "unproved_from": facts.unproved_from,
    })
}

fn topology(facts: &TopologyFacts) -> Value {
    let offsets = facts.offsets.iter().map(|(source, offset)| {
        json!({ "depot": source.depot.0, "partition": source.partition.0, "offset": offset.0 })
    });
    json!({
        "id": facts.id.0,
        "module": facts.module,
        "name": facts.name,
        "partition": facts.partition.0,
        "decided": facts.decided.0,
        "offsets": offsets.collect::<Vec<_>>(),
        "unapplied": facts.unapplied.iter().map(|id| id.0).collect::<Vec<_>>(),
        "begun": facts.begun.iter().map(|id| id.0).collect::<Vec<_>>(),
    })
}
