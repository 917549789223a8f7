//! Finds keys that do not exist, with their line and the nearest key that does.
//!
//! The known keys are asked of the `Deserialize` implementations themselves, so that there is one
//! list of them. serde would name an unknown key too, but only in the words of a message.

use std::path::Path;

use serde::de::{DeserializeOwned, Deserializer, Visitor, value::Error};
use toml::de::{DeTable, DeValue};

use super::{Config, ConfigError, Gate, Log, Member, line_of};
use crate::{journal, metrics, relay, replay, session, spool};

/// Checks every table of `text`.
pub(super) fn check(text: &str, path: &Path) -> Result<(), ConfigError> {
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    let root = document.get_ref();
    let place = Place { text, path };
    place.table(root, "the top level", &fields::<Config>())?;
    place.section(root, "log", &fields::<Log>())?;
    place.section(root, "metrics", &fields::<metrics::Config>())?;
    place.section(root, "session", &fields::<session::Config>())?;
    place.section(root, "relay", &fields::<relay::Config>())?;
    place.section(root, "spool", &fields::<spool::Config>())?;
    place.section(root, "journal", &fields::<journal::Config>())?;
    place.section(root, "replay", &fields::<replay::Config>())?;
    for gate in tables(root, "gate") {
        place.table(gate, "[[gate]]", &fields::<Gate>())?;
        place.section(gate, "tls", &fields::<session::tls::Config>())?;
        for member in tables(gate, "member") {
            place.table(member, "[[gate.member]]", &fields::<Member>())?;
        }
    }
    Ok(())
}

struct Place<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Place<'_> {
    fn section(
        &self,
        table: &DeTable<'_>,
        name: &str,
        known: &[&'static str],
    ) -> Result<(), ConfigError> {
        match table.get(name).map(toml::Spanned::get_ref) {
            Some(DeValue::Table(section)) => self.table(section, &format!("[{name}]"), known),
            _ => Ok(()),
        }
    }

    fn table(
        &self,
        table: &DeTable<'_>,
        section: &str,
        known: &[&'static str],
    ) -> Result<(), ConfigError> {
        for (key, _) in table {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let nearest = known
                .iter()
                .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
                .min()
                .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 3)
                .map(|(_, candidate)| (*candidate).to_owned());
            return Err(ConfigError::UnknownKey {
                path: self.path.to_owned(),
                line: line_of(self.text, key.span().start),
                key: name.to_owned(),
                section: section.to_owned(),
                nearest,
            });
        }
        Ok(())
    }
}

fn tables<'a, 'i>(table: &'a DeTable<'i>, name: &str) -> Vec<&'a DeTable<'i>> {
    let Some(DeValue::Array(array)) = table.get(name).map(toml::Spanned::get_ref) else {
        return Vec::new();
    };
    array
        .iter()
        .filter_map(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => None,
        })
        .collect()
}

/// The keys that a section's type reads.
fn fields<T: DeserializeOwned>() -> Vec<&'static str> {
    let mut fields: &'static [&'static str] = &[];
    // The capture always ends in an error; it is made only to see the names go by.
    T::deserialize(Capture(&mut fields)).err();
    fields.to_vec()
}

/// A deserializer that reads nothing and notes which fields a struct asks for.
struct Capture<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Capture<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("only structs have keys"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(serde::de::Error::custom("captured"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
