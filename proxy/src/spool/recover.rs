//! What a start finds, and what it makes of it: the state table of `docs/SPOOL.md` as code.
//!
//! [`scan`] only reads; [`recover`] repairs: tails are copied aside, marks cut or written anew,
//! segments of which nothing is needed removed.
//!
//! Invariants
//! - Every message before a commit record is promised; one of which a frame is missing or
//!   damaged is named, never dropped silently.
//! - A segment is never appended to again.
//! - Reads frame headers only, but for the last batch of a segment that was not closed: a crash
//!   may have torn it, and an earlier one was synced before it was followed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::log::End;
use disk::{Disk, Guard, is_temporary};

use super::ahead::is_prepared;
use super::format::{HeaderFault, SegmentHeader};
use super::index::{Entry, Index, Place};
use super::mark::Paths;
use super::marks::{self, Event};
use super::read::read_header;
use super::seal::Key;
use super::segment::{self, Name, aside, marks_path, segment_path, tail_path};
use super::walk::{Complete, Part, walk};
use super::{Damage, GateName, Lane, OpenError, PathState, SpoolId};
use crate::id::TransactionId;

/// What a start found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Messages held.
    pub messages: u64,
    /// Their forward-paths that are not discharged.
    pub paths: u64,
    /// Forward-paths that may have been offered and have no outcome.
    pub uncertain: u64,
    /// What could not be read. Kept, and an alarm until acknowledged.
    pub damaged: Vec<Damage>,
    /// Files made by this start for a person to look at: bytes after the last commit record of a
    /// segment, damaged segments and marks.
    pub set_aside: Vec<PathBuf>,
    /// Segments read.
    pub segments: u64,
    /// The highest id seen, so that new ones come after it.
    pub last_id: Option<TransactionId>,
}

/// True if there is anything in the spool that a new key would make unreadable.
pub fn segments_exist(disk: &dyn Disk, directory: &Path) -> io::Result<bool> {
    match disk.list(directory) {
        Ok(names) => Ok(names.iter().any(|name| Name::parse(name).is_some())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Locks the spool; a second process is told so.
pub(super) fn lock(disk: &dyn Disk, directory: &Path) -> Result<Box<dyn Guard>, OpenError> {
    let path = directory.join("lock");
    disk.lock(&path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { path: directory.to_owned() },
        _ => OpenError::Disk { path, source },
    })
}

/// What [`recover`] hands to the spool.
pub(super) struct Recovered {
    pub(super) guard: Box<dyn Guard>,
    pub(super) index: Index,
    pub(super) report: RecoveryReport,
    pub(super) next_segment: u32,
}

/// Locks, scans and repairs the spool.
pub(super) fn recover(
    disk: &dyn Disk,
    directory: &Path,
    key: &Key,
    gates: &[GateName],
) -> Result<Recovered, OpenError> {
    if gates.len() > usize::from(u16::MAX) || gates.iter().any(|gate| gate.len() > 255) {
        return Err(OpenError::Config("gates: at most 65535, with names of at most 255 octets"));
    }
    let failed = |source| OpenError::Disk { path: directory.to_owned(), source };
    disk.make_dir(directory).map_err(failed)?;
    disk.sync_dir(disk::folder_of(directory)).map_err(failed)?;
    let guard = lock(disk, directory)?;
    let scan = scan(disk, directory, Some(key), gates)?;
    check_gates(&scan, gates)?;
    let set_aside = repair(disk, directory, &scan)?;
    let next_segment = scan.highest_number + 1;
    let mut report = scan.report();
    report.set_aside = set_aside;
    let index = scan.into_index(gates);
    report.messages = index.messages();
    report.damaged = index.damaged().to_vec();
    count_paths(&index, &mut report);
    Ok(Recovered { guard, index, report, next_segment })
}

/// Counts forward-paths for a report.
pub(super) fn count_paths(index: &Index, report: &mut RecoveryReport) {
    for (_, entry) in index.entries() {
        report.paths += entry.paths.open() as u64;
        report.uncertain +=
            entry.paths.iter().filter(|state| matches!(state, PathState::Offered { .. })).count()
                as u64;
    }
}

fn check_gates(scan: &Scan, gates: &[GateName]) -> Result<(), OpenError> {
    let mut unknown: BTreeMap<&GateName, u64> = BTreeMap::new();
    for message in scan.messages.values().filter(|message| !gates.contains(&message.gate)) {
        *unknown.entry(&message.gate).or_default() += 1;
    }
    match unknown.into_iter().next() {
        Some((gate, messages)) => Err(OpenError::UnknownGate { gate: Arc::clone(gate), messages }),
        None => Ok(()),
    }
}

/// A message found.
struct Found {
    gate: GateName,
    lane: Lane,
    size: u64,
    place: Place,
    paths: Paths,
}

impl Found {
    fn new(complete: Complete, gate: GateName) -> Self {
        let Complete { lane, size, paths, place, .. } = complete;
        Self { gate, lane, size, place, paths: Paths::Fresh(paths) }
    }
}

/// What is to be done about a segment's marks file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MarksRepair {
    Nothing,
    /// Cut to so many octets: a crash tore the rest.
    Cut(u64),
    /// Written anew, with a doubt after so many octets.
    Rewrite(u64),
    /// As `Rewrite`, of a file that is not there.
    Make,
}

/// A segment found.
struct SegmentFound {
    number: u32,
    header: Option<SegmentHeader>,
    /// A close record is its last: everything before was synced.
    closed: bool,
    /// Bytes that were not promised.
    tail: Option<Range<u64>>,
    /// Never used: a crash cut it while it was made.
    unborn: bool,
    marks: MarksRepair,
}

/// All that is in a spool.
pub(super) struct Scan {
    segments: Vec<SegmentFound>,
    messages: BTreeMap<u64, Found>,
    damaged: Vec<Damage>,
    acknowledged: HashSet<(u32, u64, u64)>,
    highest_id: u64,
    highest_number: u32,
    /// Octets of the header of a segment made now.
    header_length: u64,
    /// Left behind by a crash, of no use.
    litter: Vec<PathBuf>,
}

/// Reads a spool and changes nothing.
pub(super) fn scan(
    disk: &dyn Disk,
    directory: &Path,
    key: Option<&Key>,
    gates: &[GateName],
) -> Result<Scan, OpenError> {
    let failed = |source| OpenError::Disk { path: directory.to_owned(), source };
    let names = disk.list(directory).map_err(failed)?;
    let mut segments = BTreeSet::new();
    let mut marks = BTreeSet::new();
    let mut scan = Scan {
        segments: Vec::new(),
        messages: BTreeMap::new(),
        damaged: Vec::new(),
        acknowledged: HashSet::new(),
        highest_id: 0,
        highest_number: 0,
        header_length: SegmentHeader::length_for(gates) as u64,
        litter: Vec::new(),
    };
    for name in &names {
        if is_prepared(name) {
            scan.litter.push(directory.join(name));
        }
        let Some(parsed) = Name::parse(name) else {
            continue;
        };
        scan.highest_number = scan.highest_number.max(parsed.number());
        match parsed {
            Name::Segment(number) => _ = segments.insert(number),
            Name::Marks(number) => _ = marks.insert(number),
            Name::Other(_) if is_temporary(name) => scan.litter.push(directory.join(name)),
            Name::Tail(_) | Name::Other(_) => {}
        }
    }
    scan.litter.extend(marks.difference(&segments).map(|number| marks_path(directory, *number)));
    let mut unfinished = HashMap::new();
    for number in segments {
        scan.segment(disk, directory, number, key, &mut unfinished)?;
    }
    scan.name_acknowledged();
    Ok(scan)
}

impl Scan {
    fn segment(
        &mut self,
        disk: &dyn Disk,
        directory: &Path,
        number: u32,
        key: Option<&Key>,
        unfinished: &mut HashMap<u64, Vec<Part>>,
    ) -> Result<(), OpenError> {
        let path = segment_path(directory, number);
        let failed = |source| OpenError::Disk { path: path.clone(), source };
        let file = disk.open_read_only(&path).map_err(failed)?;
        let header = match read_header(&*file) {
            Ok(Some(bytes)) => match SegmentHeader::decode(&bytes) {
                Ok(header) => Some((header, bytes.len() as u64)),
                Err(HeaderFault::Damaged) => None,
                Err(HeaderFault::Version(version)) => {
                    let path = directory.to_owned();
                    return Err(OpenError::Version { path, segment: number, version });
                }
            },
            Ok(None) | Err(_) => None,
        };
        let header = header.filter(|(header, _)| header.number == number);
        if let (Some((header, _)), Some(key)) = (&header, key)
            && header.key_id != key.key_id()
        {
            return Err(OpenError::WrongKey {
                path: directory.to_owned(),
                segment: number,
                expected: header.key_id,
                given: key.key_id(),
            });
        }
        let start = header.as_ref().map_or(0, |(_, length)| *length);
        let walked = walk(number, &*file, start, unfinished).map_err(failed)?;
        self.highest_id = self.highest_id.max(walked.highest_id);
        let mut found = SegmentFound {
            number,
            // Its header is synced before its first frame, so what is not longer has none.
            unborn: header.is_none() && walked.size <= self.header_length,
            header: header.map(|(header, _)| header),
            closed: walked.closed,
            tail: walked.tail,
            marks: MarksRepair::Nothing,
        };
        let mut messages = BTreeMap::new();
        let mut suspects = walked.damaged;
        for message in walked.complete {
            let gate = found
                .header
                .as_ref()
                .and_then(|header| header.gates.get(usize::from(message.gate)));
            match gate {
                Some(gate) => {
                    let gate = Arc::clone(gate);
                    messages.insert(message.id, Found::new(message, gate));
                }
                None => suspects.push(message.damage("the segment's header")),
            }
        }
        if found.header.is_none() && walked.promised && suspects.is_empty() {
            suspects.push(Damage {
                segment: number,
                offset: 0,
                id: None,
                what: "the segment's header",
                acknowledged: false,
            });
        }
        let retired = self.apply_marks(disk, directory, &mut found, key, &mut messages);
        // What was discharged before it was damaged is of no interest.
        suspects.retain(|damage| damage.id.is_none_or(|id| !retired.contains(&id.as_u64())));
        for (id, message) in messages {
            if let Some(known) = self.messages.get(&id) {
                suspects.push(Damage {
                    segment: number,
                    offset: message.place.spots().first().map_or(0, |spot| u64::from(spot.offset)),
                    id: None,
                    what: "a second message of one id",
                    acknowledged: false,
                });
                tracing::error!(id, segment = known.place.home(), "two messages of one id");
                continue;
            }
            self.messages.insert(id, message);
        }
        self.damaged.append(&mut suspects);
        self.segments.push(found);
        Ok(())
    }

    /// Applies the marks of a segment to its messages; returns the ids discharged as a whole.
    fn apply_marks(
        &mut self,
        disk: &dyn Disk,
        directory: &Path,
        found: &mut SegmentFound,
        key: Option<&Key>,
        messages: &mut BTreeMap<u64, Found>,
    ) -> HashSet<u64> {
        let mut retired = HashSet::new();
        let read = match disk.read(&marks_path(directory, found.number)) {
            Ok(bytes) => Some(marks::decode(&bytes, found.number, key)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                found.marks = MarksRepair::Make;
                None
            }
            Err(_) => {
                found.marks = MarksRepair::Rewrite(0);
                None
            }
        };
        let Some(read) = read else {
            messages.values_mut().for_each(|message| message.paths.doubt());
            return retired;
        };
        for event in read.events {
            match event {
                Event::Mark { id, path, mark } => {
                    if let Some(message) = messages.get_mut(&id)
                        && let Some(state) = message.paths.state(path as usize)
                    {
                        let after = state.after(&mark);
                        message.paths.set(path as usize, after);
                    }
                }
                Event::Retired { id } => {
                    messages.remove(&id);
                    retired.insert(id);
                }
                Event::Doubt => messages.values_mut().for_each(|message| message.paths.doubt()),
                Event::Acknowledged { id, offset } => {
                    self.acknowledged.insert((found.number, id, offset));
                }
            }
        }
        match read.end {
            End::Clean => {}
            // Made with its first record and synced before its segment: an empty one was damaged.
            End::Torn if read.valid > 0 => found.marks = MarksRepair::Cut(read.valid),
            End::Torn | End::Damaged => {
                found.marks = MarksRepair::Rewrite(read.valid);
                messages.values_mut().for_each(|message| message.paths.doubt());
            }
        }
        retired
    }

    /// Damage that an operator has seen is still named, but no alarm; a message whose damage
    /// showed only when it was read is set aside at once.
    fn name_acknowledged(&mut self) {
        for damage in &mut self.damaged {
            let id = damage.id.map_or(0, SpoolId::as_u64);
            damage.acknowledged = self.acknowledged.contains(&(damage.segment, id, damage.offset));
        }
        for (segment, id, offset) in &self.acknowledged {
            if self.messages.remove(id).is_some() {
                self.damaged.push(Damage {
                    segment: *segment,
                    offset: *offset,
                    id: Some(SpoolId::promised(TransactionId::from_u64(*id))),
                    what: "did not authenticate when it was read",
                    acknowledged: true,
                });
            }
        }
    }

    pub(super) fn report(&self) -> RecoveryReport {
        RecoveryReport {
            segments: self.segments.len() as u64,
            last_id: (self.highest_id > 0).then(|| TransactionId::from_u64(self.highest_id)),
            ..RecoveryReport::default()
        }
    }

    /// The gates that messages were found for.
    pub(super) fn gates(&self) -> Vec<GateName> {
        let names: BTreeSet<&GateName> =
            self.messages.values().map(|message| &message.gate).collect();
        names.into_iter().cloned().collect()
    }

    pub(super) fn into_index(self, gates: &[GateName]) -> Index {
        let mut index = Index::new(gates);
        for (id, found) in self.messages {
            let gate = gates.iter().position(|gate| *gate == found.gate);
            let Some(gate) = gate.and_then(|gate| u16::try_from(gate).ok()) else {
                continue;
            };
            let Found { lane, size, place, paths, .. } = found;
            index.insert(gate, TransactionId::from_u64(id), Entry { size, place, paths, lane });
        }
        for damage in self.damaged {
            index.damage(damage);
        }
        for segment in self.segments {
            // Looked at by the committer: those with nothing in them go.
            index.close_segment(segment.number);
        }
        index
    }
}

/// Puts right what can be put right, and returns the files set aside.
fn repair(disk: &dyn Disk, directory: &Path, scan: &Scan) -> Result<Vec<PathBuf>, OpenError> {
    let mut set_aside = Vec::new();
    let needed: HashSet<u32> = scan
        .messages
        .values()
        .flat_map(|message| message.place.segments().collect::<Vec<_>>())
        .chain(scan.damaged.iter().map(|damage| damage.segment))
        .collect();
    for path in &scan.litter {
        let failed = |source| OpenError::Disk { path: path.clone(), source };
        disk.remove(path).map_err(failed)?;
    }
    for segment in &scan.segments {
        let path = segment_path(directory, segment.number);
        let failed = |source| OpenError::Disk { path: path.clone(), source };
        if !needed.contains(&segment.number) {
            if segment.header.is_none() && !segment.unborn {
                // Nothing was promised in it, but it is not empty: for a person to look at.
                segment::set_aside(disk, directory, segment.number).map_err(failed)?;
                set_aside.push(aside(&path));
            }
            continue;
        }
        if let Some(range) = &segment.tail {
            let tail = tail_path(directory, segment.number);
            if !disk.exists(&tail).map_err(failed)? {
                disk.copy_aside(&path, range.clone(), &tail).map_err(failed)?;
                set_aside.push(tail);
            }
        }
        if !segment.closed {
            // The last run may have ended between its write and its sync. What is promised again
            // from here must be on disk.
            disk.open(&path).and_then(|mut file| file.sync()).map_err(failed)?;
        }
        repair_marks(disk, directory, segment, &mut set_aside)?;
    }
    disk.sync_dir(directory)
        .map_err(|source| OpenError::Disk { path: directory.to_owned(), source })?;
    Ok(set_aside)
}

fn repair_marks(
    disk: &dyn Disk,
    directory: &Path,
    segment: &SegmentFound,
    set_aside: &mut Vec<PathBuf>,
) -> Result<(), OpenError> {
    let path = marks_path(directory, segment.number);
    let failed = |source| OpenError::Disk { path: path.clone(), source };
    match segment.marks {
        MarksRepair::Nothing => disk.open(&path).and_then(|mut file| file.sync()).map_err(failed),
        MarksRepair::Cut(valid) => {
            let cut = || {
                let mut file = disk.open(&path)?;
                file.set_size(valid)?;
                file.sync()
            };
            cut().map_err(failed)
        }
        MarksRepair::Make => {
            let bytes = marks::doubtful(segment.number, &[]);
            disk.publish(&path, &bytes).map_err(failed)
        }
        MarksRepair::Rewrite(valid) => {
            let kept = aside(&path);
            let valid = usize::try_from(valid).unwrap_or(0);
            let prefix = disk.read(&path).unwrap_or_default();
            if !disk.exists(&kept).map_err(failed)?
                && disk.copy_aside(&path, 0..u64::MAX, &kept).is_ok()
            {
                set_aside.push(kept);
            }
            let prefix = prefix.get(..valid).unwrap_or_default();
            disk.publish(&path, &marks::doubtful(segment.number, prefix)).map_err(failed)
        }
    }
}
