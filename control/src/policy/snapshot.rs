//! Policies that are kept: by name, with hash and time, so that what was compared can be compared again.
//!
//! Invariant: a name is given once. What a name stands for does not change under a verdict that rests on it; remove it
//! first, to give it again.
//!
//! Not here: routes (`api`), what a policy says (`source`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::source::{Source, SourceError};
use crate::moment::Moment;
use crate::store::{Batch, Store, StoreError};

/// Snapshots that are kept.
const SNAPSHOTS_MAX: usize = 1000;

/// Length of a name.
const NAME_MAX: usize = 100;

/// Prefix of the keys under which they are kept, and that of what is said of them.
const CONTENT: &str = "policy/content/";
const FACTS: &str = "policy/facts/";

/// What is said of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Name of the file.
    pub file: String,
    /// Over everything that was handed in.
    pub sha256: String,
    /// When it was handed in (RFC 3339).
    pub taken_at: String,
    /// By whom.
    pub taken_by: String,
    /// The member that it is of, where it was said.
    pub member: Option<String>,
    /// It was read as a policy; else it is an export that is compared as it is.
    pub understood: bool,
}

/// A snapshot to keep.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Keep {
    /// Its name.
    pub name: String,
    /// By whom.
    pub taken_by: String,
    /// The member that it is of.
    pub member: Option<String>,
    /// What is kept.
    pub source: Source,
}

/// Why nothing was kept or found.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A name must be usable.
    #[error("a snapshot's name has 1 to {NAME_MAX} letters, digits, dots, dashes or underscores")]
    Name,
    /// The name is taken.
    #[error(
        "there is a snapshot {name:?} already, taken at {taken_at}: use another name, or remove it first"
    )]
    Taken {
        /// The name.
        name: String,
        /// When.
        taken_at: String,
    },
    /// There is none.
    #[error("there is no snapshot {name:?}: `lockgate policy list` shows them")]
    Unknown {
        /// The name.
        name: String,
    },
    /// There are too many.
    #[error("{SNAPSHOTS_MAX} snapshots are kept: remove some")]
    Many,
    /// It cannot be read as a policy.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All that are kept.
#[derive(Clone, Debug)]
pub struct Snapshots {
    store: Arc<Store>,
}

impl Snapshots {
    /// Those of this store.
    #[must_use]
    pub const fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// Keeps one.
    ///
    /// # Errors
    /// See [`SnapshotError`]; then nothing is kept.
    pub fn keep(&self, keep: &Keep, now: Moment) -> Result<Facts, SnapshotError> {
        let usable = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !(1..=NAME_MAX).contains(&keep.name.len()) || !keep.name.chars().all(usable) {
            return Err(SnapshotError::Name);
        }
        let all = self.list()?;
        if let Some(there) = all.iter().find(|facts| facts.name == keep.name) {
            let (name, taken_at) = (there.name.clone(), there.taken_at.clone());
            return Err(SnapshotError::Taken { name, taken_at });
        }
        if all.len() >= SNAPSHOTS_MAX {
            return Err(SnapshotError::Many);
        }
        let facts = Facts {
            name: keep.name.clone(),
            file: keep.source.file.clone(),
            sha256: keep.source.sha256(),
            taken_at: now.to_string(),
            taken_by: keep.taken_by.clone(),
            member: keep.member.clone(),
            understood: keep.source.load()?.set.is_some(),
        };
        let mut batch = Batch::default();
        batch.put(&format!("{FACTS}{}", keep.name), &facts);
        batch.put_packed(&format!("{CONTENT}{}", keep.name), &keep.source);
        self.store.write(batch)?;
        Ok(facts)
    }

    /// What is said of each, the oldest first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn list(&self) -> Result<Vec<Facts>, StoreError> {
        let mut all: Vec<Facts> = self.store.all(FACTS)?.into_values().collect();
        all.sort_by(|one, two| one.taken_at.cmp(&two.taken_at));
        Ok(all)
    }

    /// One, whole.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn get(&self, name: &str) -> Result<Source, SnapshotError> {
        let kept = self.store.get_packed(&format!("{CONTENT}{name}"))?;
        kept.ok_or_else(|| SnapshotError::Unknown { name: name.to_owned() })
    }

    /// Keeps one no more.
    ///
    /// # Errors
    /// When there is none, or the disk refuses.
    pub fn remove(&self, name: &str) -> Result<(), SnapshotError> {
        self.get(name)?;
        let mut batch = Batch::default();
        batch.remove(&format!("{FACTS}{name}"));
        batch.remove(&format!("{CONTENT}{name}"));
        Ok(self.store.write(batch)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn keep(name: &str, text: &str) -> Keep {
        let source = Source {
            file: "p.toml".into(),
            octets: text.as_bytes().to_vec(),
            mapping: None,
            lists: BTreeMap::new(),
        };
        Keep { name: name.into(), taken_by: "ops".into(), member: None, source }
    }

    #[test]
    fn a_snapshot_is_kept_over_a_restart_and_its_name_is_given_once() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Snapshots::new(Arc::new(Store::open(folder.path()).unwrap()));
        let snapshots = open();
        let facts = snapshots.keep(&keep("before", "[globals]\n"), Moment(1)).unwrap();
        assert!(facts.understood);
        let taken = snapshots.keep(&keep("before", "[globals]\n"), Moment(2)).unwrap_err();
        assert!(taken.to_string().contains("remove it first"), "{taken}");
        drop(snapshots);
        let snapshots = open();
        assert_eq!(snapshots.list().unwrap(), [facts]);
        assert_eq!(snapshots.get("before").unwrap().octets, b"[globals]\n");
        snapshots.remove("before").unwrap();
        assert!(snapshots.list().unwrap().is_empty());
        assert!(matches!(snapshots.get("before"), Err(SnapshotError::Unknown { .. })));
    }

    #[test]
    fn what_is_no_policy_or_has_no_name_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::new(Arc::new(Store::open(folder.path()).unwrap()));
        let wrong = snapshots.keep(&keep("before", "[global]\n"), Moment(1)).unwrap_err();
        assert!(wrong.to_string().contains("p.toml:1"), "{wrong}");
        for name in ["", "a/b", "a b", "ä"] {
            let error = snapshots.keep(&keep(name, "[globals]\n"), Moment(1)).unwrap_err();
            assert!(matches!(error, SnapshotError::Name), "{name}");
        }
        assert!(snapshots.list().unwrap().is_empty());
    }
}
