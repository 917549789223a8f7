//! The followed file and its history: what rotation left beside it, oldest first.
//!
//! History is what the name of the followed file and a number or a date name: `mail.log.1`,
//! `mail.log.2.gz`, `mail.log-20261124`, `mail-20261124.log.gz`; and `mail.log.old`. Other names
//! (`mail.log.offset`, `mail.log.my-copy`) are not: what a person left there must not be read as log.
//!
//! Invariants
//! - The list is of one moment: a folder that changed while it was read is [`Listing::Changing`].
//! - A file that stands there plain and packed is listed once, plain: it is being packed.
//!
//! Not here: what is in the files (`source`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::maillog::files::file::{FileId, Mark};
use crate::maillog::files::source::{Source, TailError, stat};

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
}

/// The files of one log.
#[derive(Debug)]
pub(crate) struct Files {
    /// Rotated files, oldest first, and the followed one last, if it is there.
    pub(crate) entries: Vec<Entry>,
    /// True if the followed file is there.
    pub(crate) followed: bool,
}

/// An answer to the question which files there are.
#[derive(Debug)]
pub(crate) enum Listing {
    Files(Files),
    /// Names changed in the meantime: ask again.
    Changing,
}

/// What is known of a file before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    name: String,
    id: FileId,
    age: Age,
    modified: Option<SystemTime>,
}

/// The age that a name tells.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Age {
    /// The higher, the older.
    Number(u32),
    /// The digits of a date (and a time).
    Date(String),
    /// `old`: no age.
    Old,
}

impl Files {
    /// Lists the log that is followed at `path`.
    pub(crate) fn list(path: &Path) -> Result<Listing, TailError> {
        // A link stands elsewhere; rotation works where the file is.
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let unreadable = |source| TailError::Unreadable { path: folder_of(&real).into(), source };
        let followed = stat(&real)?;
        let mut history = history(&real).map_err(unreadable)?;
        let again = self::history(&real).map_err(unreadable)?;
        let same = |one: &Vec<Found>, other: &Vec<Found>| {
            let names = |found: &Found| (found.name.clone(), found.id);
            one.iter().map(names).eq(other.iter().map(names))
        };
        if !same(&history, &again) || stat(&real)? != followed {
            return Ok(Listing::Changing);
        }
        oldest_first(&mut history);
        let folder = folder_of(&real);
        let mut entries: Vec<Entry> = history
            .into_iter()
            .map(|found| Entry { path: folder.join(found.name), id: found.id })
            .collect();
        entries.extend(followed.map(|id| Entry { path: real.clone(), id }));
        Ok(Listing::Files(Self { entries, followed: followed.is_some() }))
    }

    /// True if the entry is the followed file.
    pub(crate) const fn is_followed(&self, index: usize) -> bool {
        self.followed && index + 1 == self.entries.len()
    }

    /// The entries that are not the followed file.
    pub(crate) fn history(&self) -> &[Entry] {
        &self.entries[..self.entries.len() - usize::from(self.followed)]
    }
}

/// Which of `entries` is known by `mark`: the one with its inode if the content agrees, else the
/// newest whose content does.
pub(crate) fn locate(mark: &Mark, entries: &[Entry]) -> Result<Option<usize>, TailError> {
    let mut order: Vec<usize> = (0..entries.len()).rev().collect();
    order.sort_by_key(|index| entries[*index].id != mark.file);
    for index in order {
        let Some(source) = Source::open(&entries[index].path)? else { continue };
        let is = source.is(mark);
        if is.map_err(|source| TailError::unreadable(&entries[index].path, source))? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// What rotation left of the file at `real`, in order of names.
fn history(real: &Path) -> io::Result<Vec<Found>> {
    // A name that is not UTF-8 has no history that could be ordered.
    let Some(followed) = real.file_name().and_then(|name| name.to_str()) else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(folder_of(real)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found: Vec<Found> = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Some(age) = age_of(unpacked_name(&name), followed) else { continue };
        // It may be gone in the meantime, which the second look finds.
        if let Ok(Some(id)) = stat(&entry.path()) {
            let modified = entry.metadata().and_then(|facts| facts.modified()).ok();
            found.push(Found { name, id, age, modified });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    let names: Vec<String> = found.iter().map(|found| found.name.clone()).collect();
    found.retain(|found| {
        let bare = unpacked_name(&found.name);
        bare == found.name || !names.iter().any(|name| name == bare)
    });
    Ok(found)
}

fn oldest_first(found: &mut [Found]) {
    let numbered = found.iter().all(|found| matches!(found.age, Age::Number(_)));
    let dated = found.iter().all(|found| matches!(found.age, Age::Date(_)));
    if numbered || dated {
        found.sort_by(|one, other| match (&one.age, &other.age) {
            (Age::Number(one), Age::Number(other)) => other.cmp(one),
            (Age::Date(one), Age::Date(other)) => one.cmp(other),
            _ => std::cmp::Ordering::Equal,
        });
    } else {
        found.sort_by_key(|found| found.modified);
    }
}

/// A name without what compression added to it.
fn unpacked_name(name: &str) -> &str {
    let endings = [".gz", ".xz", ".bz2", ".zst", ".Z"];
    endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

/// The age that `name` tells, if it is of the history of `followed`.
fn age_of(name: &str, followed: &str) -> Option<Age> {
    // `mail-20261124.log`: as logrotate names with `extension .log`.
    let inner = || {
        let (stem, ending) = followed.rsplit_once('.').filter(|(stem, _)| !stem.is_empty())?;
        name.strip_prefix(stem)?.strip_suffix(ending)?.strip_suffix('.')
    };
    let age = name.strip_prefix(followed).or_else(inner)?;
    let age = age.strip_prefix(['.', '-', '_'])?;
    if age == "old" {
        return Some(Age::Old);
    }
    let digits: String = age.chars().filter(char::is_ascii_digit).collect();
    let known = |c: char| c.is_ascii_digit() || matches!(c, '-' | '_' | '.' | ':' | 'T' | 'Z');
    if digits.is_empty() || !age.chars().all(known) {
        return None;
    }
    if digits.len() == age.len() && digits.len() < 6 {
        return digits.parse().ok().map(Age::Number);
    }
    Some(Age::Date(digits))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let Listing::Files(files) = Files::list(&folder.join("mail.log")).unwrap() else {
            panic!("nothing changes")
        };
        let name = |entry: &Entry| entry.path.file_name().unwrap().to_str().unwrap().to_owned();
        files.entries.iter().map(name).collect()
    }

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        folder
    }

    #[test]
    fn numbered_files_are_ordered_by_number() {
        let folder = folder(&["mail.log.2.gz", "mail.log", "mail.log.10.gz", "mail.log.1"]);
        assert_eq!(
            names(folder.path()),
            ["mail.log.10.gz", "mail.log.2.gz", "mail.log.1", "mail.log"]
        );
    }

    #[test]
    fn dated_files_are_ordered_by_date() {
        let folder = folder(&["mail.log-20261124", "mail.log-20261101.gz", "mail.log-20251231.gz"]);
        assert_eq!(
            names(folder.path()),
            ["mail.log-20251231.gz", "mail.log-20261101.gz", "mail.log-20261124"]
        );
        let inside = self::folder(&["mail.log", "mail-20261124.log", "mail-20261101.log.gz"]);
        assert_eq!(names(inside.path()), ["mail-20261101.log.gz", "mail-20261124.log", "mail.log"]);
    }

    #[test]
    fn names_of_both_kinds_are_ordered_by_time_of_change() {
        let names_by_age = ["mail.log.old", "mail.log.1", "mail.log-20261124", "mail.log.7.gz"];
        let folder = folder(&names_by_age);
        for (days, name) in names_by_age.iter().enumerate() {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * (days as u64 + 1));
            let file = fs::File::options().append(true).open(folder.path().join(name)).unwrap();
            file.set_modified(at).unwrap();
        }
        assert_eq!(names(folder.path()), names_by_age);
    }

    #[test]
    fn what_only_begins_with_the_name_is_not_history() {
        let folder = folder(&[
            "mail.log",
            "mail.log.offset",
            "mail.log.bak",
            "mail.log~",
            "mail.log2",
            "mail.logs-1",
            "mail.err.1",
            "mail.log.1.swp",
            "mail.log.gz",
        ]);
        fs::create_dir(folder.path().join("mail.log.2")).unwrap();
        assert_eq!(names(folder.path()), ["mail.log"]);
    }

    #[test]
    fn a_file_that_is_being_packed_is_listed_once() {
        let folder = folder(&["mail.log.1", "mail.log.1.gz", "mail.log.2.gz"]);
        assert_eq!(names(folder.path()), ["mail.log.2.gz", "mail.log.1"]);
    }
}
