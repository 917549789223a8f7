//! What is held, in memory: found at start, kept up by the committer.
//!
//! Invariants
//! - It says nothing that is not durable: the committer changes it after the sync.
//! - Totals are kept up with every change; nobody counts.
//! - Small: about a hundred octets for a message in one frame that was never tried.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::mark::{PathState, Paths, Stand};
use super::{Count, Damage, GateName, Lane, SpoolId, Summary, Totals};
use crate::id::TransactionId;

/// Where a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// Its segment.
    pub(super) segment: u32,
    /// The first octet of its header.
    pub(super) offset: u32,
    /// Octets with the header.
    pub(super) length: u32,
}

/// Where a message lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In one frame.
    Whole(Spot),
    /// In a `Begin`, any `Data` and an `End` frame, in this order; perhaps over segments.
    Parts(Box<[Spot]>),
}

impl Place {
    pub(super) fn spots(&self) -> &[Spot] {
        match self {
            Self::Whole(spot) => std::slice::from_ref(spot),
            Self::Parts(spots) => spots,
        }
    }

    /// The segment that promises the message and has its marks: that of its last frame.
    pub(super) fn home(&self) -> u32 {
        self.spots().last().map_or(0, |spot| spot.segment)
    }

    /// The segments it lies in, each once.
    pub(super) fn segments(&self) -> impl Iterator<Item = u32> + '_ {
        // Parts are written in order, so equal segments are neighbours.
        let spots = self.spots();
        spots
            .iter()
            .enumerate()
            .filter(|(index, spot)| *index == 0 || spots[index - 1].segment != spot.segment)
            .map(|(_, spot)| spot.segment)
    }
}

/// A held message.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) size: u64,
    pub(super) place: Place,
    pub(super) paths: Paths,
    pub(super) lane: Lane,
}

/// What lies in a segment.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    /// Messages (held, or being received) with frames here.
    pub(super) messages: u32,
    /// Something here is damaged.
    pub(super) damaged: bool,
    /// The committer may still write here.
    pub(super) open: bool,
}

struct Gate {
    name: GateName,
    messages: BTreeMap<u64, Entry>,
    counts: Counts,
}

/// What is counted of one gate.
#[derive(Default)]
struct Counts {
    stands: [Count; Stand::HELD.len()],
    open_paths: u64,
    /// Reports of ours that were never tried.
    fresh_reports: u64,
}

/// The index.
pub(super) struct Index {
    gates: Vec<Gate>,
    segments: BTreeMap<u32, Usage>,
    /// Segments in which the last message may be gone: looked at by the committer.
    emptied: BTreeSet<u32>,
    damaged: Vec<Damage>,
}

impl Index {
    pub(super) fn new(gates: &[GateName]) -> Self {
        let gates = gates
            .iter()
            .map(|name| Gate {
                name: Arc::clone(name),
                messages: BTreeMap::new(),
                counts: Counts::default(),
            })
            .collect();
        Self { gates, segments: BTreeMap::new(), emptied: BTreeSet::new(), damaged: Vec::new() }
    }

    /// Adds a promised message; false if the id is there already.
    pub(super) fn insert(&mut self, gate: u16, id: TransactionId, entry: Entry) -> bool {
        if self.contains(id) {
            return false;
        }
        let Some(gate) = self.gates.get_mut(usize::from(gate)) else {
            return false;
        };
        let MapEntry::Vacant(vacant) = gate.messages.entry(id.as_u64()) else {
            return false;
        };
        for segment in entry.place.segments() {
            self.segments.entry(segment).or_default().messages += 1;
        }
        gate.counts.count(&entry, Change::Add);
        vacant.insert(entry);
        true
    }

    pub(super) fn contains(&self, id: TransactionId) -> bool {
        self.gates.iter().any(|gate| gate.messages.contains_key(&id.as_u64()))
    }

    /// A message with the name of its gate.
    pub(super) fn entry(&self, id: SpoolId) -> Option<(&GateName, &Entry)> {
        self.gates
            .iter()
            .find_map(|gate| gate.messages.get(&id.as_u64()).map(|entry| (&gate.name, entry)))
    }

    /// Changes states of a message's forward-paths. With the last one done the message goes.
    pub(super) fn set(&mut self, id: SpoolId, states: Vec<(u32, PathState)>) {
        let key = id.as_u64();
        for gate in &mut self.gates {
            let Some(entry) = gate.messages.get_mut(&key) else {
                continue;
            };
            gate.counts.count(entry, Change::Remove);
            for (path, state) in states {
                entry.paths.set(path as usize, state);
            }
            if !entry.paths.all_done() {
                gate.counts.count(entry, Change::Add);
                return;
            }
            if let Some(entry) = gate.messages.remove(&key) {
                self.leave(&entry.place);
            }
            return;
        }
    }

    /// A message is no longer in its segments.
    fn leave(&mut self, place: &Place) {
        for segment in place.segments() {
            self.release(segment);
        }
    }

    /// Sets a damaged message aside: it is no longer held, its segments are kept.
    pub(super) fn set_aside(&mut self, id: SpoolId, damage: Damage) {
        let key = id.as_u64();
        for gate in &mut self.gates {
            let Some(entry) = gate.messages.remove(&key) else {
                continue;
            };
            gate.counts.count(&entry, Change::Remove);
            for segment in entry.place.segments() {
                self.segments.entry(segment).or_default().damaged = true;
            }
            self.leave(&entry.place);
            break;
        }
        self.damage(damage);
    }

    /// Names damage and keeps its segment.
    pub(super) fn damage(&mut self, damage: Damage) {
        self.segments.entry(damage.segment).or_default().damaged = true;
        self.emptied.insert(damage.segment);
        let known = self.damaged.iter().any(|known| {
            known.segment == damage.segment
                && known.offset == damage.offset
                && known.id == damage.id
        });
        if !known {
            self.damaged.push(damage);
        }
    }

    pub(super) fn damaged(&self) -> &[Damage] {
        &self.damaged
    }

    /// Notes that damage was seen by an operator.
    pub(super) fn acknowledge(&mut self, seen: &[Damage]) {
        for damage in &mut self.damaged {
            if seen.contains(damage) {
                damage.acknowledged = true;
                self.emptied.insert(damage.segment);
            }
        }
        // A message in several segments keeps all of them: look at all again.
        self.emptied
            .extend(self.segments.iter().filter(|(_, usage)| usage.damaged).map(|(n, _)| n));
    }

    /// True while damage waits for an operator.
    pub(super) fn alarmed(&self) -> bool {
        self.damaged.iter().any(|damage| !damage.acknowledged)
    }

    /// The committer writes to this segment.
    pub(super) fn open_segment(&mut self, segment: u32) {
        self.segments.entry(segment).or_default().open = true;
    }

    /// The committer never writes to this segment again.
    pub(super) fn close_segment(&mut self, segment: u32) {
        self.segments.entry(segment).or_default().open = false;
        self.emptied.insert(segment);
    }

    /// A message that is being received has its first frame in this segment.
    pub(super) fn retain(&mut self, segment: u32) {
        self.segments.entry(segment).or_default().messages += 1;
    }

    /// Undoes [`Index::retain`].
    pub(super) fn release(&mut self, segment: u32) {
        let usage = self.segments.entry(segment).or_default();
        usage.messages = usage.messages.saturating_sub(1);
        if usage.messages == 0 {
            self.emptied.insert(segment);
        }
    }

    pub(super) fn usage(&self, segment: u32) -> Option<&Usage> {
        self.segments.get(&segment)
    }

    /// Segments of which nothing is needed any more, and whether damage is all that is left.
    pub(super) fn take_emptied(&mut self) -> Vec<(u32, bool)> {
        if self.emptied.is_empty() {
            return Vec::new();
        }
        let alarmed = self.alarmed();
        let mut gone = Vec::new();
        for segment in std::mem::take(&mut self.emptied) {
            let Some(usage) = self.segments.get(&segment) else {
                continue;
            };
            // Damage that nobody has seen keeps its segment where it is.
            if usage.messages == 0 && !usage.open && !(usage.damaged && alarmed) {
                gone.push((segment, usage.damaged));
            }
        }
        gone
    }

    /// The segment is gone (or could not be removed and is left to the next start).
    pub(super) fn forget_segment(&mut self, segment: u32) {
        self.segments.remove(&segment);
    }

    pub(super) fn summary(&self, id: SpoolId) -> Option<Summary> {
        self.entry(id).map(|(gate, entry)| summary(gate, id, entry))
    }

    pub(super) fn summaries(
        &self,
        gate: Option<&GateName>,
        after: Option<SpoolId>,
        limit: usize,
    ) -> Vec<Summary> {
        let mut found: Vec<Summary> = self
            .gates
            .iter()
            .filter(|known| gate.is_none_or(|gate| known.name == *gate))
            .flat_map(|known| {
                range(known, after).take(limit).map(|(id, entry)| summary(&known.name, id, entry))
            })
            .collect();
        // Each gate gave its first `limit`; the first of all are among them.
        found.sort_unstable_by_key(|summary| summary.id);
        found.truncate(limit);
        found
    }

    pub(super) fn ids_of(
        &self,
        gate: &GateName,
        after: Option<SpoolId>,
        limit: usize,
    ) -> Vec<SpoolId> {
        self.gates
            .iter()
            .filter(|known| known.name == *gate)
            .flat_map(|known| range(known, after).take(limit).map(|(id, _)| id))
            .collect()
    }

    pub(super) fn totals(&self) -> Vec<Totals> {
        self.gates
            .iter()
            .map(|gate| Totals {
                gate: Arc::clone(&gate.name),
                stands: gate.counts.stands,
                fresh_reports: gate.counts.fresh_reports,
                open_paths: gate.counts.open_paths,
                oldest_unix_ms: gate
                    .messages
                    .first_key_value()
                    .map(|(id, _)| TransactionId::from_u64(*id).unix_ms()),
            })
            .collect()
    }

    pub(super) fn open_paths(&self) -> u64 {
        self.gates.iter().map(|gate| gate.counts.open_paths).sum()
    }

    pub(super) fn messages(&self) -> u64 {
        self.gates.iter().map(|gate| gate.messages.len() as u64).sum()
    }

    /// All messages, for the report of a start.
    pub(super) fn entries(&self) -> impl Iterator<Item = (SpoolId, &Entry)> {
        self.gates.iter().flat_map(|gate| range(gate, None))
    }
}

fn range(gate: &Gate, after: Option<SpoolId>) -> impl Iterator<Item = (SpoolId, &Entry)> {
    let start = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_u64()));
    gate.messages
        .range((start, Bound::Unbounded))
        .map(|(id, entry)| (SpoolId::promised(TransactionId::from_u64(*id)), entry))
}

fn summary(gate: &GateName, id: SpoolId, entry: &Entry) -> Summary {
    Summary {
        id,
        gate: Arc::clone(gate),
        lane: entry.lane,
        size: entry.size,
        paths: entry.paths.clone(),
    }
}

#[derive(Clone, Copy)]
enum Change {
    Add,
    Remove,
}

impl Counts {
    fn count(&mut self, entry: &Entry, change: Change) {
        let stand = entry.paths.stand();
        let open = entry.paths.open() as u64;
        let report = u64::from(entry.lane == Lane::Dsn && stand == Stand::Fresh);
        let place = Stand::HELD.iter().position(|held| *held == stand);
        let count = place.and_then(|place| self.stands.get_mut(place));
        match change {
            Change::Add => {
                self.open_paths += open;
                self.fresh_reports += report;
                if let Some(count) = count {
                    count.messages += 1;
                    count.bytes += entry.size;
                }
            }
            Change::Remove => {
                self.open_paths -= open;
                self.fresh_reports -= report;
                if let Some(count) = count {
                    count.messages -= 1;
                    count.bytes -= entry.size;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small_enough_for_a_million_messages() {
        // A B-tree filled in order is a little more than half full: 8 + 56 octets take 117.
        assert!(size_of::<Entry>() <= 56, "{}", size_of::<Entry>());
    }
}
