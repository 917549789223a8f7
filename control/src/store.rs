//! What control keeps on disk: the books with the places up to which they were read, and what people said.
//!
//! One redb database, `control.redb` in the data folder. The books and the places of all sources are written in one
//! transaction, so that they always agree; a restart goes on where they stand.
//!
//! Invariants
//! - What a person said, an order of a drain and a certificate are synced before they are answered or acted upon.
//! - A database that cannot be read is an error that names it; it is never begun anew in silence.
//!
//! Not here: what any of it means (`drain`, `watch`).

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use redb::{Database, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Name of the database in the data folder.
pub const FILE: &str = "control.redb";

/// Octets of the database that stay in memory: it is written whole and seldom read.
const CACHE_OCTETS: usize = 4 << 20;

/// Version of the forms in it.
const VERSION: u32 = 1;

const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");

/// Why something cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database.
    #[error("cannot use {}: {source}", path.display())]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// A value has another form.
    #[error("{}: what is kept as {key:?} cannot be read ({why}); it was written by another version", path.display())]
    Form {
        /// Which database.
        path: PathBuf,
        /// Which value.
        key: String,
        /// Why.
        why: String,
    },
}

/// The database.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    database: Database,
}

/// Values to be written together.
#[derive(Debug, Default)]
pub struct Batch {
    values: Vec<(String, Option<Vec<u8>>)>,
    /// A value that could not be put into its form, and why: then nothing is written.
    wrong: Option<(String, String)>,
}

impl Batch {
    /// A value as JSON: people may look at it.
    pub fn put<T: Serialize>(&mut self, key: &str, value: &T) {
        self.formed(key, serde_json::to_vec(value).map_err(|error| error.to_string()));
    }

    fn formed(&mut self, key: &str, form: Result<Vec<u8>, String>) {
        match form {
            Ok(octets) => self.values.push((key.to_owned(), Some(octets))),
            Err(why) => self.wrong = Some((key.to_owned(), why)),
        }
    }

    /// A large value, in postcard.
    pub fn put_packed<T: Serialize>(&mut self, key: &str, value: &T) {
        self.formed(key, postcard::to_stdvec(value).map_err(|error| error.to_string()));
    }

    /// No value any more.
    pub fn remove(&mut self, key: &str) {
        self.values.push((key.to_owned(), None));
    }
}

impl Store {
    /// Opens it, and makes it where there is none.
    ///
    /// # Errors
    /// When it cannot be opened, or was written by another version.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(FILE);
        let failed = |source: redb::Error| StoreError::Database {
            path: path.clone(),
            source: Box::new(source),
        };
        // Names of senders and recipients stand in it: its owner's alone.
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| failed(redb::Error::Io(error)))?;
        let database = redb::Builder::new()
            .set_cache_size(CACHE_OCTETS)
            .create(&path)
            .map_err(|source| failed(source.into()))?;
        let store = Self { path, database };
        match store.get::<u32>("version")? {
            Some(VERSION) => {}
            Some(other) => {
                let why = format!("version {other}; this program knows {VERSION}");
                return Err(StoreError::Form { path: store.path, key: "version".into(), why });
            }
            None => {
                let mut batch = Batch::default();
                batch.put("version", &VERSION);
                store.write(batch)?;
            }
        }
        Ok(store)
    }

    fn failed(&self, source: impl Into<redb::Error>) -> StoreError {
        StoreError::Database { path: self.path.clone(), source: Box::new(source.into()) }
    }

    /// Writes values together, synced.
    ///
    /// # Errors
    /// When the disk refuses; then none of them is written.
    pub fn write(&self, batch: Batch) -> Result<(), StoreError> {
        if let Some((key, why)) = batch.wrong {
            return Err(StoreError::Form { path: self.path.clone(), key, why });
        }
        let write = self.database.begin_write().map_err(|error| self.failed(error))?;
        {
            let mut table = write.open_table(VALUES).map_err(|error| self.failed(error))?;
            for (key, value) in batch.values {
                let done = match value {
                    Some(octets) => table.insert(key.as_str(), octets.as_slice()).map(drop),
                    None => table.remove(key.as_str()).map(drop),
                };
                done.map_err(|error| self.failed(error))?;
            }
        }
        write.commit().map_err(|error| self.failed(error))
    }

    /// A value that was kept as JSON.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let form =
            |octets: &[u8]| serde_json::from_slice(octets).map_err(|error| error.to_string());
        self.read(key, form)
    }

    /// A value that was kept in postcard.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get_packed<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let form = |octets: &[u8]| postcard::from_bytes(octets).map_err(|error| error.to_string());
        self.read(key, form)
    }

    fn read<T>(
        &self,
        key: &str,
        form: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<Option<T>, StoreError> {
        let Some(table) = self.table()? else { return Ok(None) };
        let Some(value) = table.get(key).map_err(|error| self.failed(error))? else {
            return Ok(None);
        };
        let unreadable =
            |why| StoreError::Form { path: self.path.clone(), key: key.to_owned(), why };
        form(value.value()).map(Some).map_err(unreadable)
    }

    /// Every value whose key begins with `prefix`, by the rest of the key.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn all<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<BTreeMap<String, T>, StoreError> {
        let mut found = BTreeMap::new();
        let Some(table) = self.table()? else { return Ok(found) };
        for entry in table.range(prefix..).map_err(|error| self.failed(error))? {
            let (key, value) = entry.map_err(|error| self.failed(error))?;
            let Some(name) = key.value().strip_prefix(prefix) else { break };
            let value =
                serde_json::from_slice(value.value()).map_err(|error| StoreError::Form {
                    path: self.path.clone(),
                    key: key.value().to_owned(),
                    why: error.to_string(),
                })?;
            found.insert(name.to_owned(), value);
        }
        Ok(found)
    }

    fn table(
        &self,
    ) -> Result<Option<redb::ReadOnlyTable<&'static str, &'static [u8]>>, StoreError> {
        let read = redb::ReadableDatabase::begin_read(&self.database);
        let read = read.map_err(|error| self.failed(error))?;
        match read.open_table(VALUES) {
            Ok(table) => Ok(Some(table)),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_over_a_restart_and_found_by_prefix() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut batch = Batch::default();
        batch.put("opening/sems1", &"a");
        batch.put("opening/sems2", &"b");
        batch.put("openings", &"other");
        batch.put_packed("books", &(7_u32, "x"));
        store.write(batch).unwrap();
        drop(store);
        let mode = std::fs::metadata(folder.path().join(FILE)).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
        let store = Store::open(folder.path()).unwrap();
        let all: BTreeMap<String, String> = store.all("opening/").unwrap();
        assert_eq!(
            all.into_iter().collect::<Vec<_>>(),
            [("sems1".to_owned(), "a".to_owned()), ("sems2".to_owned(), "b".to_owned())]
        );
        assert_eq!(store.get_packed::<(u32, String)>("books").unwrap(), Some((7, "x".into())));
        let mut batch = Batch::default();
        batch.remove("opening/sems1");
        store.write(batch).unwrap();
        assert_eq!(store.get::<String>("opening/sems1").unwrap(), None);
    }

    #[test]
    fn what_another_version_wrote_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut batch = Batch::default();
        batch.put("version", &99);
        store.write(batch).unwrap();
        drop(store);
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("control.redb") && error.contains("version 99"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_database_is_an_error_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "notes").unwrap();
        assert!(Store::open(folder.path()).is_err());
        assert_eq!(std::fs::read(folder.path().join(FILE)).unwrap(), b"notes");
    }
}
