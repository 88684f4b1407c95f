//! `tidemill inspect`: what is there?

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use tidemill::codec::{FieldTable, value};
use tidemill::journal::{Entry, JournalFile};
use tidemill::node::catalogue::{Begun, Numbered};
use tidemill::schema::Layout;
use tidemill::types::{DepotId, PStateId, PartitionId};
use tidemill::verify::{Detail, Files, PartitionFacts, Record, Report, describe, entries, records};

use crate::cli::Exit;
use crate::directory::Directory;
use crate::json;
use crate::verify::{grouped, look, verdict};

/// What to print.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The data directory.
    pub dir: PathBuf,
    /// Look even if a process has the directory open.
    #[arg(long)]
    pub force: bool,
    /// Print everything but entries, rows and records as JSON.
    #[arg(long, conflicts_with_all = ["entries", "rows", "records"])]
    pub json: bool,
    /// List the entries of all journals.
    #[arg(long)]
    pub entries: bool,
    /// List the rows of a `PState` that the folds hold: its name or number. Each with its partition, the
    /// keys that lead to it as a JSON array, and its value as JSON; what the catalogue does not know of is
    /// shown as it is stored.
    #[arg(long, value_name = "PSTATE")]
    pub rows: Option<String>,
    /// List the records of a depot that the segments hold: its name or number.
    #[arg(long, value_name = "DEPOT")]
    pub records: Option<String>,
    /// Only this partition's entries, rows or records.
    #[arg(long)]
    pub partition: Option<u32>,
    /// At most so many entries, rows or records.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    pub limit: u64,
}

/// Runs the command.
///
/// # Errors
/// Why nothing could be looked at, or printed.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let files = Directory::map(&arguments.dir, arguments.force)?;
    let report = look(&files);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut inspection = Inspection { arguments, files: &files, report: &report, out: &mut out };
    inspection.print()?;
    out.flush()?;
    Ok(if report.is_sound() { Exit::Sound } else { Exit::Damaged })
}

struct Inspection<'a> {
    arguments: &'a Arguments,
    files: &'a Directory,
    report: &'a Report,
    out: &'a mut dyn Write,
}

impl Inspection<'_> {
    fn print(&mut self) -> Result<()> {
        if self.arguments.json {
            serde_json::to_writer_pretty(&mut *self.out, &json::report(self.report))?;
            writeln!(self.out)?;
            return Ok(());
        }
        let Arguments { entries, rows, records, .. } = self.arguments;
        if !entries && rows.is_none() && records.is_none() {
            self.manifest()?;
            self.catalogue()?;
            self.journals()?;
            self.partitions()?;
            self.topologies()?;
        }
        if *entries {
            self.entries()?;
        }
        if let Some(name) = rows {
            self.rows(name)?;
        }
        if let Some(name) = records {
            self.records(name)?;
        }
        for note in &self.report.notes {
            writeln!(self.out, "note: {note}")?;
        }
        for finding in &self.report.findings {
            writeln!(self.out, "DAMAGE: {finding}")?;
        }
        writeln!(self.out, "{}", verdict(self.report))?;
        Ok(())
    }

    fn manifest(&mut self) -> Result<()> {
        let Some(manifest) = &self.report.manifest else { return Ok(()) };
        writeln!(self.out, "manifest")?;
        writeln!(self.out, "  data id     {:032x}", manifest.data_id)?;
        writeln!(self.out, "  format      {}", tidemill::manifest::FORMAT)?;
        writeln!(self.out, "  partitions  {}", manifest.partitions)?;
        writeln!(self.out, "  run         {}", manifest.run)?;
        writeln!(self.out, "  closed      {}", if manifest.clean { "cleanly" } else { "no" })?;
        let named = manifest.catalogue;
        match named.number {
            0 => writeln!(self.out, "  catalogue   none yet")?,
            number => writeln!(
                self.out,
                "  catalogue   {number}, {} bytes, crc {:08x}",
                named.bytes, named.crc
            )?,
        }
        Ok(())
    }

    fn catalogue(&mut self) -> Result<()> {
        let Some(catalogue) = &self.report.catalogue else { return Ok(()) };
        for module in &catalogue.modules {
            writeln!(self.out, "module {}, version {}", module.name, module.version)?;
            let kinds = [
                ("depot", module.depots.clone()),
                ("pstate", module.stored().collect()),
                ("topology", module.topologies.clone()),
            ];
            for (kind, all) in kinds {
                for it in all {
                    let Numbered { name, number, layout, placed, migrating, migrated, .. } = it;
                    let layout =
                        layout.map(|it| format!(": {}", placed.written(&it))).unwrap_or_default();
                    let running = migrating.map(|it| format!(", being migrated by {}", it.id));
                    let running = running.unwrap_or_default();
                    let done = match &migrated[..] {
                        [] => String::new(),
                        done => format!(", was migrated by {}", done.join(", ")),
                    };
                    let owner = it.owner.map(|it| format!(", written by {it}")).unwrap_or_default();
                    let since = match it.since {
                        0 => String::new(),
                        id => format!(", recomputed at microbatch {id}"),
                    };
                    writeln!(
                        self.out,
                        "  {kind:<9} {number:>4}  {name}{layout}{owner}{running}{done}{since}{}",
                        beginnings(&it.sources)
                    )?;
                }
            }
            for it in &module.recomputes {
                let numbers: Vec<_> =
                    it.pstates.iter().map(|it| format!("{} {}", it.number, it.name)).collect();
                writeln!(
                    self.out,
                    "  recompute of {}: topology {}, PStates {}",
                    it.topology,
                    it.number,
                    numbers.join(", ")
                )?;
            }
        }
        if !catalogue.leftovers.pstates.is_empty() {
            writeln!(self.out, "PStates to be dropped: {:?}", catalogue.leftovers.pstates)?;
        }
        for types in self.fields().types() {
            let names = types.names().iter().enumerate();
            let names: Vec<_> = names.map(|(number, name)| format!("{number} {name}")).collect();
            writeln!(self.out, "  fields of {}: {}", types.type_name(), names.join(", "))?;
        }
        Ok(())
    }

    fn journals(&mut self) -> Result<()> {
        for facts in &self.report.journals {
            let (record, walked) = (&facts.record, &facts.walked);
            writeln!(self.out, "journal {} of shard {}", record.id, record.shard)?;
            writeln!(
                self.out,
                "  files    {} slots, from {}",
                facts.slots.len(),
                at(record.first)
            )?;
            let (file, byte) = facts.end;
            let how = match (record.clean_end, walked.torn) {
                (Some(_), _) => "closed there",
                (None, Some(_)) => "torn there",
                (None, None) => "nothing behind it",
            };
            writeln!(self.out, "  end      {}, byte {byte}, {how}", at(file))?;
            let numbers = [walked.frames, walked.frame_bytes, walked.groups, walked.frames_stale];
            let [frames, bytes, groups, stale] = numbers.map(grouped);
            writeln!(
                self.out,
                "  frames   {frames} ({bytes} bytes), {groups} groups, {stale} stale"
            )?;
            for (kind, (entries, bytes)) in &facts.kinds {
                let (entries, bytes) = (grouped(*entries), grouped(*bytes));
                writeln!(
                    self.out,
                    "  {:<12} {entries:>12} entries {bytes:>16} bytes",
                    format!("{kind:?}")
                )?;
            }
        }
        Ok(())
    }

    fn partitions(&mut self) -> Result<()> {
        for (id, facts) in &self.report.partitions {
            writeln!(
                self.out,
                "partition {id}: fold {} covers entries to {}, {} entries above it, {} pages",
                facts.fold,
                facts.covers,
                grouped(facts.entries),
                grouped(facts.pages_live)
            )?;
            self.partition(facts)?;
        }
        Ok(())
    }

    fn partition(&mut self, facts: &PartitionFacts) -> Result<()> {
        for tree in &facts.trees {
            writeln!(
                self.out,
                "  pstate {:>3} {:<20} {:>12} keys, depth {}, {} pages",
                tree.pstate,
                self.name_of(Kind::PState, tree.pstate.0),
                grouped(tree.entries),
                tree.depth,
                grouped(facts.pages.get(&tree.pstate).copied().unwrap_or_default()),
            )?;
        }
        for (&id, depot) in &facts.depots {
            writeln!(
                self.out,
                "  depot  {:>3} {:<20} records {}..{}, in segments to {}",
                id,
                self.name_of(Kind::Depot, id.0),
                depot.first,
                depot.end,
                depot.recorded
            )?;
            for segment in &depot.segments {
                let state = segment.state;
                writeln!(
                    self.out,
                    "    {}: records {}..{} in {} blocks, {} bytes, {}",
                    segment.path,
                    state.base,
                    state.end,
                    grouped(segment.blocks),
                    grouped(state.bytes),
                    if state.sealed { "sealed" } else { "active" }
                )?;
            }
        }
        for (&topology, last) in &facts.committed {
            let name = self.name_of(Kind::Topology, topology.0);
            writeln!(self.out, "  {name}: committed to microbatch {last}")?;
        }
        for (topology, attempt) in &facts.in_doubt {
            let name = self.name_of(Kind::Topology, topology.0);
            writeln!(
                self.out,
                "  {name}: microbatch {attempt} is prepared, without an outcome here"
            )?;
        }
        for index in &facts.pending {
            writeln!(self.out, "  waits for the outcome of the prepare at entry {index}")?;
        }
        Ok(())
    }

    fn topologies(&mut self) -> Result<()> {
        for facts in &self.report.topologies {
            writeln!(
                self.out,
                "topology {} ({}.{}), coordinator in partition {}: decided to microbatch {}",
                facts.id, facts.module, facts.name, facts.partition, facts.decided
            )?;
            for (source, offset) in &facts.offsets {
                let depot = self.name_of(Kind::Depot, source.depot.0);
                writeln!(self.out, "  {depot}, partition {}: read to {offset}", source.partition)?;
            }
            for id in &facts.unapplied {
                writeln!(self.out, "  microbatch {id} is perhaps not applied everywhere")?;
            }
            for id in &facts.begun {
                writeln!(self.out, "  microbatch {id} began, and is not decided")?;
            }
        }
        Ok(())
    }

    fn entries(&mut self) -> Result<()> {
        let Some(manifest) = &self.report.manifest else { return Ok(()) };
        let mut left = self.arguments.limit;
        let mut result = Ok(());
        for record in &manifest.journals {
            writeln!(self.out, "journal {}", record.id)?;
            entries(self.files, manifest, record.id, &mut |frame| {
                for group in &frame.groups {
                    for entry in &group.entries {
                        let wanted = self.wants(entry.partition) && result.is_ok() && left > 0;
                        if wanted {
                            left -= 1;
                            result = self.entry(group.file, group.byte, entry);
                        }
                    }
                }
            });
            result?;
            result = Ok(());
        }
        Ok(())
    }

    fn entry(&mut self, file: JournalFile, byte: u64, entry: &Entry) -> Result<()> {
        let Entry { partition, term, index, kind, bytes } = entry;
        let said = match describe(entry) {
            Ok(detail) => self.said(&detail),
            Err(what) => format!("unreadable: {what}"),
        };
        let len = bytes.len();
        let file = file.number;
        writeln!(
            self.out,
            "  file {file} byte {byte}: partition {partition} entry {index} term {term} {kind:?}, \
             {len} bytes: {said}"
        )?;
        Ok(())
    }

    fn said(&self, detail: &Detail) -> String {
        let topology = |id: &tidemill::types::TopologyId| self.name_of(Kind::Topology, id.0);
        let depot = |id: &DepotId| self.name_of(Kind::Depot, id.0);
        match detail {
            Detail::Append { depot: id, offsets, bytes, .. } => {
                format!("{} {}..{} ({bytes} bytes)", depot(id), offsets.start, offsets.end)
            }
            Detail::Bulk { head, extent } => format!(
                "{} {}..{} in segment {} at byte {} ({} bytes)",
                depot(&head.depot),
                head.offsets.start,
                head.offsets.end,
                extent.base,
                extent.at,
                extent.bytes
            ),
            Detail::Prepare { topology: id, attempt, writes, appends } => {
                let appends: Vec<_> = appends
                    .iter()
                    .map(|(id, records)| format!(", {records} records for {}", depot(id)))
                    .collect();
                format!("{} {attempt}: {writes} writes{}", topology(id), appends.concat())
            }
            Detail::Committed { topology: id, attempt }
            | Detail::Aborted { topology: id, attempt } => {
                format!("{} {attempt}", topology(id))
            }
            Detail::Coordinator { topology: id, record: Record::Begin(begin) } => {
                format!(
                    "{} {}: {} ranges, {} exclusions",
                    topology(id),
                    begin.attempt,
                    begin.ranges.len(),
                    begin.exclusions.len()
                )
            }
            Detail::Coordinator { topology: id, record: Record::Decision(decision) } => {
                let touched: Vec<_> = decision.touched.iter().map(PartitionId::to_string).collect();
                format!(
                    "{} {}: on partitions {}, {} visible",
                    topology(id),
                    decision.attempt,
                    touched.join(" "),
                    decision.visible
                )
            }
            Detail::Coordinator { topology: id, record: Record::AllApplied(applied) } => {
                format!("{} {}", topology(id), applied.id)
            }
        }
    }

    fn rows(&mut self, name: &str) -> Result<()> {
        let pstate = PStateId(self.number_of(Kind::PState, name)?);
        let fields = self.fields();
        let layout = self.layout_of(pstate);
        let mut left = self.arguments.limit;
        let mut result = Ok(());
        for &partition in self.report.partitions.keys() {
            if !self.wants(partition) {
                continue;
            }
            let path = format!("p/{partition}/pages");
            let Some(bytes) = self.files.bytes(&path) else { continue };
            tidemill::pstate::verify_rows(bytes, Some(partition), &mut |row| {
                if row.pstate == pstate && left > 0 && result.is_ok() {
                    left -= 1;
                    let row = shown_row(&fields, layout.as_ref(), row.key, &row.value.concat());
                    result = writeln!(self.out, "{partition} {row}");
                }
            });
        }
        result?;
        Ok(())
    }

    fn records(&mut self, name: &str) -> Result<()> {
        let depot = DepotId(self.number_of(Kind::Depot, name)?);
        let fields = self.fields();
        let mut left = self.arguments.limit;
        let mut result = Ok(());
        for (&partition, facts) in &self.report.partitions {
            let Some(facts) = facts.depots.get(&depot).filter(|_| self.wants(partition)) else {
                continue;
            };
            records(self.files, facts, &mut |record| {
                if left > 0 && result.is_ok() {
                    left -= 1;
                    let value = shown(&fields, record.bytes);
                    let (offset, time) = (record.offset, record.append_time.0);
                    result = writeln!(self.out, "{partition} {offset} {time} {value}");
                }
            });
        }
        result?;
        Ok(())
    }

    fn wants(&self, partition: PartitionId) -> bool {
        self.arguments.partition.is_none_or(|wanted| wanted == partition.0)
    }

    /// The numbers of record fields; none if they cannot be read.
    fn fields(&self) -> FieldTable {
        let stored = self.report.catalogue.as_ref().map(|it| FieldTable::decode(&it.fields));
        stored.and_then(Result::ok).unwrap_or_default()
    }

    /// What the catalogue remembers of a `PState`.
    fn layout_of(&self, pstate: PStateId) -> Option<Layout> {
        let (_, found) = self.numbered(Kind::PState).find(|(_, it)| it.number == pstate.0)?;
        found.layout
    }

    fn numbered(&self, kind: Kind) -> impl Iterator<Item = (&str, Numbered)> {
        let modules = self.report.catalogue.iter().flat_map(|it| &it.modules);
        modules.flat_map(move |module| {
            let mut all = match kind {
                Kind::Depot => module.depots.clone(),
                Kind::PState => module.stored().collect(),
                Kind::Topology => module.topologies.clone(),
            };
            for recompute in &module.recomputes {
                let title = |name: &str| format!("{name} (recompute)");
                match kind {
                    Kind::Depot => {}
                    Kind::PState => all.extend(
                        recompute
                            .pstates
                            .iter()
                            .map(|it| Numbered { name: title(&it.name), ..it.clone() }),
                    ),
                    Kind::Topology => {
                        all.push(Numbered::new(&title(&recompute.topology), recompute.number));
                    }
                }
            }
            all.into_iter().map(|it| (&*module.name, it))
        })
    }

    fn name_of(&self, kind: Kind, number: u32) -> String {
        let found = self.numbered(kind).find(|(_, it)| it.number == number);
        match (found, kind, number) {
            (Some((_, it)), ..) => it.name,
            (None, Kind::PState, 0) => "(the engine's own)".to_owned(),
            (None, ..) => format!("{kind:?} {number}"),
        }
    }

    /// The number of what is called so: a number, `name`, or `module.name`.
    fn number_of(&self, kind: Kind, name: &str) -> Result<u32> {
        if let Ok(number) = name.parse() {
            return Ok(number);
        }
        let matches = self
            .numbered(kind)
            .filter(|(module, it)| it.name == name || name == format!("{module}.{}", it.name));
        let numbers: Vec<u32> = matches.map(|(_, it)| it.number).collect();
        match numbers[..] {
            [number] => Ok(number),
            [] => bail!(
                "the catalogue has no {kind:?} called {name}; `tidemill inspect DIR` lists all"
            ),
            _ => bail!("several modules have a {kind:?} called {name}: say MODULE.{name}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Depot,
    PState,
    Topology,
}

fn at(file: JournalFile) -> String {
    format!("file {} in slot {}", file.number, file.slot)
}

/// The keys that lead to a row and its value, as far as they can be understood.
fn shown_row(fields: &FieldTable, layout: Option<&Layout>, key: &[u8], value: &[u8]) -> String {
    let Some(Ok((keys, kind))) = layout.map(|layout| layout.row(key)) else {
        return format!("{} {}", hex(key), shown(fields, value));
    };
    let keys = serde_json::Value::from(keys);
    match kind {
        // The element of a set.
        None if value.is_empty() => keys.to_string(),
        None => format!("{keys} {}", shown(fields, value)),
        Some(kind) => {
            let value = value::to_json_of(fields, kind, value).unwrap_or_else(|_| hex(value));
            format!("{keys} {value}")
        }
    }
}

/// A value as JSON, or its bytes if it is no value.
fn shown(fields: &FieldTable, bytes: &[u8]) -> String {
    value::to_json(fields, None, bytes).unwrap_or_else(|_| hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
    "0x".chars().chain(digits).collect()
}

/// Where a topology began, if not with the first record of everything.
fn beginnings(sources: &[Begun]) -> String {
    let of = |it: &Begun| {
        let depot = it.depot;
        let one = |(partition, offset): (&u32, &u64)| {
            format!(", began in depot {depot} partition {partition} at {offset}")
        };
        it.starts.iter().map(one).collect::<String>()
    };
    sources.iter().map(of).collect()
}
