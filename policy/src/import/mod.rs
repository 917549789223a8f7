//! Policies from files: what an administrator types, or what a server exports; and what an MTA sends
//! where, as an administrator types it.
//!
//! Contents are handed in and values handed back. A file is refused with everything that is wrong
//! with it, each with its place and its mend; nothing is repaired by guessing.
//!
//! Invariants
//! - No input makes an import panic, run without end or take more than its limits allow.
//! - What is not understood is kept as opaque, never left out.
//!
//! Not here: what a policy does (`program`), an export as it is (`tree`).

mod criteria;
mod finder;
mod list;
mod mapping;
mod reader;
mod shape;
mod toml;
mod words;
mod xml;

use std::fmt;

pub use mapping::Mapping;
pub use shape::{Known, Line, Shape};

use crate::mirror::Criteria;
use crate::origin::Origin;
use crate::set::PolicySet;
use crate::tree::{Limits, Tree, TreeError};

/// Errors of one file that are told; who mends fifty reads it again anyway.
pub const ERRORS_MAX: usize = 50;

/// What is wrong in one place of a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {what}; {mend}")]
pub struct ImportError {
    /// Where.
    pub origin: Origin,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

/// Everything that is wrong with a file: at least one error, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportErrors {
    errors: Vec<ImportError>,
    left_out: usize,
}

impl ImportErrors {
    /// The errors, at most [`ERRORS_MAX`].
    #[must_use]
    pub fn errors(&self) -> &[ImportError] {
        &self.errors
    }

    /// Number of errors beyond those.
    #[must_use]
    pub const fn left_out(&self) -> usize {
        self.left_out
    }
}

impl From<ImportError> for ImportErrors {
    fn from(error: ImportError) -> Self {
        Self { errors: vec![error], left_out: 0 }
    }
}

impl fmt::Display for ImportErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, error) in self.errors.iter().enumerate() {
            let end = if place == 0 { "" } else { "\n" };
            write!(f, "{end}{error}")?;
        }
        match self.left_out {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for ImportErrors {}

/// Errors as they are found; those beyond the limit are only counted.
#[derive(Default)]
struct Faults {
    errors: Vec<ImportError>,
    left_out: usize,
}

impl Faults {
    fn add(&mut self, origin: Origin, what: impl Into<String>, mend: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(ImportError { origin, what: what.into(), mend: mend.into() });
        } else {
            self.left_out += 1;
        }
    }

    /// Adds what is wrong with another file.
    fn add_all(&mut self, other: ImportErrors) {
        for error in other.errors {
            self.add(error.origin, error.what, error.mend);
        }
        self.left_out += other.left_out;
    }

    /// The value, if nothing was found to be wrong.
    fn or<T>(mut self, value: T) -> Result<T, ImportErrors> {
        if self.errors.is_empty() {
            return Ok(value);
        }
        self.errors.sort_by_key(|error| (error.origin.line, error.origin.column));
        Err(ImportErrors { errors: self.errors, left_out: self.left_out })
    }
}

/// Reads a policy that was typed by hand. `lists` gives the content of a text list by its name, or
/// says why it has none.
///
/// # Errors
/// Everything that is wrong with the file and its lists.
pub fn from_toml(
    text: &str,
    file_name: &str,
    lists: &dyn Fn(&str) -> Result<String, String>,
) -> Result<PolicySet, ImportErrors> {
    toml::read(text, file_name, lists)
}

/// Reads where an MTA sends mail to, as it was typed by hand. `lists` as for [`from_toml`].
///
/// # Errors
/// Everything that is wrong with the file and its lists.
pub fn criteria(
    text: &str,
    file_name: &str,
    lists: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Criteria, ImportErrors> {
    criteria::read(text, file_name, lists)
}

/// Reads a policy that a server exported, as far as a mapping says what it stands for.
///
/// # Errors
/// What is wrong with the export, or with the mapping for it.
pub fn from_xml(
    octets: &[u8],
    file_name: &str,
    mapping: &Mapping,
) -> Result<PolicySet, ImportErrors> {
    xml::read(&tree(octets, file_name)?, mapping)
}

/// Reads an export as it is, within the usual limits.
///
/// # Errors
/// Why it cannot be read.
pub fn tree(octets: &[u8], file_name: &str) -> Result<Tree, ImportErrors> {
    Ok(Tree::parse(octets, file_name, &Limits::default())?)
}

impl From<TreeError> for ImportErrors {
    fn from(error: TreeError) -> Self {
        let (origin, mend) = (error.origin().clone(), error.mend());
        ImportError { origin, what: error.to_string(), mend }.into()
    }
}

/// The shape of an export, for the administrator who must write a mapping for it.
#[must_use]
pub fn learn(tree: &Tree) -> Shape {
    Shape::of(tree)
}
