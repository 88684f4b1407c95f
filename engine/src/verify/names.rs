//! What the name of a file says.

use super::{Files, Survey};
use crate::backup::target;
use crate::journal::{self, JournalId};
use crate::manifest;
use crate::types::{DepotId, Offset, PartitionId};

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// `MANIFEST`.
    Manifest,
    /// `catalogue-<n>`.
    Catalogue,
    /// `journal/<id>-<slot>`.
    Journal,
    /// `p/<partition>/pages`.
    Pages,
    /// `p/<partition>/d<depot>-<base offset>`.
    Segment,
    /// Everything else.
    Other,
}

impl FileKind {
    /// Every kind, from the root of the directory down.
    pub const ALL: [Self; 6] =
        [Self::Manifest, Self::Catalogue, Self::Journal, Self::Pages, Self::Segment, Self::Other];

    /// The kind of the file at `path`.
    #[must_use]
    pub fn of(path: &str) -> Self {
        match parse(path) {
            Name::Manifest => Self::Manifest,
            Name::Catalogue(_) => Self::Catalogue,
            Name::Journal(..) => Self::Journal,
            Name::Pages(_) => Self::Pages,
            Name::Segment(..) => Self::Segment,
            Name::Other => Self::Other,
        }
    }
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Manifest => "manifest",
            Self::Catalogue => "catalogue",
            Self::Journal => "journal",
            Self::Pages => "pages",
            Self::Segment => "segment",
            Self::Other => "other",
        })
    }
}

/// A path, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Manifest,
    Catalogue(u64),
    Journal(JournalId, u32),
    Pages(PartitionId),
    Segment(PartitionId, DepotId, Offset),
    Other,
}

impl Name {
    /// The partition it belongs to.
    pub(super) fn partition(self) -> Option<PartitionId> {
        match self {
            Self::Pages(partition) | Self::Segment(partition, ..) => Some(partition),
            Self::Manifest | Self::Catalogue(_) | Self::Journal(..) | Self::Other => None,
        }
    }
}

/// Reads a path. Only the one way in which the engine writes a number counts.
pub(super) fn parse(path: &str) -> Name {
    let parsed = match path.split('/').collect::<Vec<_>>()[..] {
        [manifest::PATH] => Some(Name::Manifest),
        [name] => name.strip_prefix("catalogue-").and_then(number).map(Name::Catalogue),
        [journal::DIR, name] => journal::parse_slot(name)
            .filter(|&(id, slot)| path == journal::slot_path(id, slot))
            .map(|(id, slot)| Name::Journal(id, slot)),
        ["p", partition, name] => {
            number(partition).map(PartitionId).and_then(|partition| in_partition(partition, name))
        }
        _ => None,
    };
    parsed.unwrap_or(Name::Other)
}

fn in_partition(partition: PartitionId, name: &str) -> Option<Name> {
    if name == "pages" {
        return Some(Name::Pages(partition));
    }
    let (depot, base) = name.strip_prefix('d')?.split_once('-')?;
    Some(Name::Segment(partition, DepotId(number(depot)?), Offset(number(base)?)))
}

fn number<N: std::str::FromStr + ToString>(text: &str) -> Option<N> {
    let number: N = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Says of every file that was not looked at why that is.
pub(super) fn look<F: Files + ?Sized>(survey: &mut Survey<'_, F>) {
    let unread: Vec<(String, u64)> = survey
        .report
        .files
        .iter()
        .filter(|(path, _)| !survey.report.live.contains_key(*path))
        .map(|(path, bytes)| (path.clone(), *bytes))
        .collect();
    let journals = survey.journals();
    for (path, bytes) in unread {
        let why = match parse(&path) {
            Name::Catalogue(_) if survey.report.manifest.is_some() => {
                "a catalogue that MANIFEST does not name: left by a crash, or by a launch"
            }
            Name::Journal(id, _) if survey.report.manifest.is_some() && !journals.contains(&id) => {
                "of a journal that MANIFEST does not name: left by a crash"
            }
            Name::Segment(..) if survey.report.manifest.is_some() => {
                "a segment that no fold has recorded: left by a crash, or trimmed"
            }
            Name::Manifest
            | Name::Catalogue(_)
            | Name::Journal(..)
            | Name::Pages(_)
            | Name::Segment(..) => "not reached, because of damage above it",
            Name::Other => match &*path {
                "LOCK" => "says who has the directory open",
                target::MARK => "says that this is a backup",
                manifest::PATH_NEW => "space for the next MANIFEST",
                _ if is_reserve(&path) => "space for a bulk append",
                _ => "an unknown name",
            },
        };
        survey.report.skip(&path, 0..bytes, why);
    }
}

/// `p/<partition>/d<depot>-reserve-<n>`.
fn is_reserve(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    path.starts_with("p/") && name.starts_with('d') && name.contains("-reserve-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_the_one_way_they_are_written() {
        assert_eq!(parse("MANIFEST"), Name::Manifest);
        assert_eq!(parse("catalogue-12"), Name::Catalogue(12));
        assert_eq!(parse("journal/3-0"), Name::Journal(JournalId(3), 0));
        assert_eq!(parse("p/7/pages"), Name::Pages(PartitionId(7)));
        assert_eq!(parse("p/7/d2-100"), Name::Segment(PartitionId(7), DepotId(2), Offset(100)));
        for other in [
            "LOCK",
            "MANIFEST.new",
            "catalogue-012",
            "journal/3-00",
            "journal/x",
            "p/07/pages",
            "p/7/d2-reserve-1",
            "p/7/x",
            "p/7",
            "p/7/pages/x",
            "",
            "/",
            "q/7/pages",
        ] {
            assert_eq!(parse(other), Name::Other, "{other}");
        }
        assert!(is_reserve("p/7/d2-reserve-1"));
    }
}
