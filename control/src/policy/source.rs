//! A policy as files: what was typed or exported, the mapping that reads an export, and text lists.
//!
//! Invariants
//! - The octets are kept as they were read; the hash is over them.
//! - An export without a mapping is compared as it is, and only so: nothing is known of what it does.
//!
//! Not here: how files become values (`policy::import`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use aws_lc_rs::digest::{SHA256, digest};
use policy::import::{self, ImportErrors, Mapping};
use policy::mirror::Criteria;
use policy::set::PolicySet;
use policy::tree::Tree;
use serde::{Deserialize, Serialize};

use crate::drain::certificate::hex;

/// Octets of one file.
pub const OCTETS_MAX: u64 = 64 << 20;

/// Text lists that one policy may name.
const LISTS_MAX: usize = 256;

/// A policy as it was handed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Name of the file.
    pub file: String,
    /// Its octets.
    pub octets: Vec<u8>,
    /// The mapping that reads it, where it is an export.
    pub mapping: Option<Text>,
    /// Text lists that it names, by their names.
    pub lists: BTreeMap<String, String>,
}

/// A file of text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// Its name.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// What a source says.
#[derive(Debug)]
pub struct Loaded {
    /// What it does; none for an export without a mapping.
    pub set: Option<PolicySet>,
    /// The export as it is; none for a policy that was typed.
    pub tree: Option<Tree>,
    /// The mapping that read it.
    pub mapping: Option<Mapping>,
}

/// Why a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is larger than a policy can be.
    #[error("{} is larger than {} MiB: that is no mail policy", path.display(), OCTETS_MAX >> 20)]
    Large {
        /// Which.
        path: PathBuf,
    },
    /// A file that must be text is none.
    #[error("{file} is not UTF-8: save it as UTF-8")]
    NotText {
        /// Which.
        file: String,
    },
    /// A mapping is for exports only.
    #[error("{file} is no XML export: leave --mapping out")]
    NoExport {
        /// Which.
        file: String,
    },
    /// What it says is wrong.
    #[error("{0}")]
    Import(#[from] ImportErrors),
}

impl Source {
    /// Reads a policy, the mapping for it, and the lists that it names: files beside it.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn read(path: &Path, mapping: Option<&Path>) -> Result<Self, SourceError> {
        let mut source = Self {
            file: name_of(path),
            octets: read(path)?,
            mapping: None,
            lists: BTreeMap::new(),
        };
        if let Some(mapping) = mapping {
            let name = name_of(mapping);
            let text = text(&name, read(mapping)?)?;
            source.mapping = Some(Text { name, text });
        }
        if !source.is_export() {
            source.lists = source.lists_beside(path.parent().unwrap_or_else(|| Path::new("")))?;
        }
        Ok(source)
    }

    /// The lists that a typed policy names. They lie in its folder and nowhere else.
    fn lists_beside(&self, folder: &Path) -> Result<BTreeMap<String, String>, SourceError> {
        let lists = Mutex::new(BTreeMap::new());
        let find = |name: &str| {
            let text = list_beside(folder, name)?;
            let Ok(mut lists) = lists.lock() else {
                return Err("it cannot be kept".to_owned());
            };
            if lists.len() == LISTS_MAX {
                return Err(format!("a policy has at most {LISTS_MAX} lists"));
            }
            lists.insert(name.to_owned(), text.clone());
            Ok(text)
        };
        let text = text(&self.file, self.octets.clone())?;
        import::from_toml(&text, &self.file, &find)?;
        Ok(lists.into_inner().unwrap_or_default())
    }

    /// Is it an export, and not typed? Such a file begins with a tag.
    #[must_use]
    pub fn is_export(&self) -> bool {
        let named =
            Path::new(&self.file).extension().is_some_and(|end| end.eq_ignore_ascii_case("xml"));
        // Whatever stands in front of it: marks of byte order, the zeros of UTF-16, blanks.
        let says = |octet: &&u8| octet.is_ascii_graphic();
        named || self.octets.iter().find(says) == Some(&b'<')
    }

    /// SHA-256 over its octets, its mapping and its lists, in hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> String {
        let mut all = digest(&SHA256, &self.octets).as_ref().to_vec();
        if self.mapping.is_none() && self.lists.is_empty() {
            return hex(&all);
        }
        let lists = self.lists.iter();
        let mapping = self.mapping.iter().map(|mapping| (&mapping.name, &mapping.text));
        for (name, text) in mapping.chain(lists) {
            all.extend(digest(&SHA256, name.as_bytes()).as_ref());
            all.extend(digest(&SHA256, text.as_bytes()).as_ref());
        }
        hex(digest(&SHA256, &all).as_ref())
    }

    /// Imports it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Loaded, SourceError> {
        if !self.is_export() {
            if self.mapping.is_some() {
                return Err(SourceError::NoExport { file: self.file.clone() });
            }
            let text = text(&self.file, self.octets.clone())?;
            let list = |name: &str| {
                self.lists.get(name).cloned().ok_or_else(|| "it was not handed in".to_owned())
            };
            let set = import::from_toml(&text, &self.file, &list)?;
            return Ok(Loaded { set: Some(set), tree: None, mapping: None });
        }
        let tree = import::tree(&self.octets, &self.file)?;
        let mapping = match &self.mapping {
            Some(mapping) => Some(Mapping::parse(&mapping.text, &mapping.name)?),
            None => None,
        };
        let set = match &mapping {
            Some(mapping) => Some(import::from_xml(&self.octets, &self.file, mapping)?),
            None => None,
        };
        Ok(Loaded { set, tree: Some(tree), mapping })
    }
}

/// Reads which mail an MTA sends to the server, as it was typed.
///
/// # Errors
/// Everything that is wrong with it.
pub fn criteria(path: &Path) -> Result<Criteria, SourceError> {
    let name = name_of(path);
    let text = text(&name, read(path)?)?;
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    Ok(import::criteria(&text, &name, &|list| list_beside(folder, list))?)
}

/// A list that lies in this folder, and nowhere else.
fn list_beside(folder: &Path, name: &str) -> Result<String, String> {
    if Path::new(name).file_name().is_none_or(|file| file != name) {
        return Err("a list lies beside the policy: name the file alone".to_owned());
    }
    let octets = read(&folder.join(name)).map_err(|error| error.to_string())?;
    text(name, octets).map_err(|error| error.to_string())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn read(path: &Path) -> Result<Vec<u8>, SourceError> {
    let failed = |source| SourceError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut octets = Vec::new();
    file.take(OCTETS_MAX + 1).read_to_end(&mut octets).map_err(failed)?;
    if octets.len() as u64 > OCTETS_MAX {
        return Err(SourceError::Large { path: path.to_owned() });
    }
    Ok(octets)
}

fn text(file: &str, octets: Vec<u8>) -> Result<String, SourceError> {
    String::from_utf8(octets).map_err(|_| SourceError::NotText { file: file.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPED: &str =
        "[globals]\nlearn_mode = false\n[[dictionary]]\nname = \"news\"\nlist = \"news.txt\"\n";

    #[test]
    fn lists_are_read_from_the_folder_of_the_policy_and_kept_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("before.toml");
        std::fs::write(&path, TYPED).unwrap();
        let error = Source::read(&path, None).unwrap_err().to_string();
        assert!(error.contains("before.toml:5") && error.contains("news.txt"), "{error}");
        std::fs::write(folder.path().join("news.txt"), "a@example.org\n").unwrap();
        let source = Source::read(&path, None).unwrap();
        assert_eq!(source.lists["news.txt"], "a@example.org\n");
        let set = source.load().unwrap().set.unwrap();
        assert_eq!(set.dictionary("news").unwrap().entries[0].text, "a@example.org");
        let mut other = source.clone();
        other.lists.insert("news.txt".into(), "b@example.org\n".into());
        assert_ne!(source.sha256(), other.sha256());
    }

    #[test]
    fn a_list_is_never_read_from_another_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("before.toml");
        for outside in ["../news.txt", "/etc/hostname", "sub/news.txt", ".."] {
            std::fs::write(&path, TYPED.replace("news.txt", outside)).unwrap();
            let error = Source::read(&path, None).unwrap_err().to_string();
            assert!(error.contains("beside the policy"), "{outside}: {error}");
        }
    }

    #[test]
    fn an_export_without_a_mapping_is_a_tree_and_nothing_more() {
        let source = Source {
            file: "policy".into(),
            octets: b"<a><b/></a>".to_vec(),
            mapping: None,
            lists: BTreeMap::new(),
        };
        let loaded = source.load().unwrap();
        assert!(loaded.set.is_none() && loaded.tree.is_some());
        let typed = Source {
            file: "a.toml".into(),
            octets: Vec::new(),
            mapping: Some(Text { name: "m".into(), text: String::new() }),
            lists: BTreeMap::new(),
        };
        assert!(typed.load().unwrap_err().to_string().contains("--mapping"));
    }
}
