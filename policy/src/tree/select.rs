//! Selectors: simple paths from an element, or from the document, to items.
//!
//! Steps are divided by `/`:
//!
//! | step | finds |
//! |---|---|
//! | `chain` | elements of this name, in any namespace |
//! | `{urn:x}chain` | elements of this name in this namespace |
//! | `*` | every element |
//! | `**` | every element below, at any depth, and the element itself |
//! | `rule[@kind=mail]` | those with this value of an attribute |
//! | `@name` | last: an attribute; `@*` every one |
//! | `text()` | last: the text of an element |
//! | `name()` | last: the element, for the sake of its name |
//! | `.` | alone: the element itself |
//!
//! Not here: what is found (`import`).

use std::fmt;

use super::{Content, Name, Place, Tree};

/// Steps of a selector.
const STEPS_MAX: usize = 64;

/// A path to items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    text: String,
    steps: Vec<Step>,
    last: Last,
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// A step says nothing.
    #[error("a path has an empty step")]
    Empty,
    /// A step that can only be the last is not.
    #[error("only the last step of a path can be {step}")]
    NotLast {
        /// The step.
        step: String,
    },
    /// A step has a character that names do not have, or a bracket that is not closed.
    #[error("a step of a path is not understood: {step}")]
    Step {
        /// The step.
        step: String,
    },
    /// It has too many steps.
    #[error("a path has more than {STEPS_MAX} steps")]
    Long,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Elements within an element.
    Element { name: NameTest, having: Option<(NameTest, String)> },
    /// An element and everything within it.
    Deep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Element,
    Text,
    Name,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Last {
    Part(Part),
    Attribute(NameTest),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct NameTest {
    /// None: any.
    namespace: Option<String>,
    /// None: any.
    local: Option<String>,
}

impl NameTest {
    fn parse(text: &str, step: &str) -> Result<Self, SelectorError> {
        let wrong = || SelectorError::Step { step: step.to_owned() };
        let (namespace, local) = match text.strip_prefix('{') {
            None => (None, text),
            Some(rest) => {
                let (namespace, local) = rest.split_once('}').ok_or_else(wrong)?;
                (Some(namespace.to_owned()), local)
            }
        };
        let strange = |c: char| c.is_whitespace() || "@[]{}()=*'\"<>".contains(c);
        match local {
            "*" => Ok(Self { namespace, local: None }),
            "" | "." | ".." => Err(wrong()),
            local if local.contains(strange) => Err(wrong()),
            local => Ok(Self { namespace, local: Some(local.to_owned()) }),
        }
    }

    fn is(&self, name: &Name) -> bool {
        let same =
            |test: &Option<String>, text: &str| test.as_deref().is_none_or(|test| test == text);
        same(&self.namespace, &name.namespace) && same(&self.local, &name.local)
    }
}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let text = text.trim();
        let mut steps = Vec::new();
        let mut last = Last::Part(Part::Element);
        let words = split(text);
        let count = words.len();
        if count > STEPS_MAX {
            return Err(SelectorError::Long);
        }
        for (place, word) in words.into_iter().enumerate() {
            let end = match word {
                "" => return Err(SelectorError::Empty),
                "." if count == 1 => continue,
                "**" => {
                    steps.push(Step::Deep);
                    continue;
                }
                "text()" => Last::Part(Part::Text),
                "name()" => Last::Part(Part::Name),
                word => match word.strip_prefix('@') {
                    Some(name) => Last::Attribute(NameTest::parse(name, word)?),
                    None => {
                        steps.push(element(word)?);
                        continue;
                    }
                },
            };
            if place + 1 < count {
                return Err(SelectorError::NotLast { step: word.to_owned() });
            }
            last = end;
        }
        Ok(Self { text: text.to_owned(), steps, last })
    }

    /// Does it find elements?
    #[must_use]
    pub fn is_of_elements(&self) -> bool {
        self.last == Last::Part(Part::Element)
    }

    /// Does it find elements for the sake of their names?
    #[must_use]
    pub fn is_of_names(&self) -> bool {
        self.last == Last::Part(Part::Name)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The steps of a path; a slash in a namespace or in brackets divides nothing.
fn split(text: &str) -> Vec<&str> {
    let (mut words, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (at, character) in text.char_indices() {
        match character {
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            '/' if depth == 0 => {
                words.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    words.push(&text[start..]);
    words
}

fn element(word: &str) -> Result<Step, SelectorError> {
    let wrong = || SelectorError::Step { step: word.to_owned() };
    let Some((name, test)) = word.split_once('[') else {
        return Ok(Step::Element { name: NameTest::parse(word, word)?, having: None });
    };
    let test = test.strip_suffix(']').and_then(|test| test.strip_prefix('@')).ok_or_else(wrong)?;
    let (attribute, value) = test.split_once('=').ok_or_else(wrong)?;
    let value = value.trim().trim_matches(['"', '\'']).to_owned();
    let having = Some((NameTest::parse(attribute.trim(), word)?, value));
    Ok(Step::Element { name: NameTest::parse(name, word)?, having })
}

/// What a selector finds, and what it went through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// The items.
    pub(crate) items: Vec<Place>,
    /// Elements that were named on the way, but for those of the last step, and attributes that were
    /// asked for a value.
    pub(crate) way: Vec<Place>,
}

impl Tree {
    /// The items that a selector finds from an element on, or from the document, in order.
    #[must_use]
    pub fn select(&self, from: Option<Place>, selector: &Selector) -> Vec<Place> {
        self.find(from, selector).items
    }

    /// The same with what was on the way.
    pub(crate) fn find(&self, from: Option<Place>, selector: &Selector) -> Found {
        let mut found = Found::default();
        // None is the document: it has no item of its own.
        let mut places = vec![from];
        for (index, step) in selector.steps.iter().enumerate() {
            let mut next = Vec::new();
            for place in places {
                self.step(place, step, &mut next, &mut found.way);
            }
            let is_last = index + 1 == selector.steps.len();
            if let Step::Element { name, .. } = step
                && name.local.is_some()
                && !is_last
            {
                found.way.extend(next.iter().flatten());
            }
            next.sort_unstable();
            next.dedup();
            places = next;
        }
        for place in places.into_iter().flatten() {
            match &selector.last {
                Last::Part(Part::Element | Part::Name) => found.items.push(place),
                Last::Part(Part::Text) => {
                    let texts = self.parts(place);
                    found.items.extend(
                        texts.filter(|part| matches!(self.item(*part).content, Content::Text(_))),
                    );
                }
                Last::Attribute(test) => found.items.extend(self.attributes(place, test)),
            }
        }
        found
    }

    fn step(
        &self,
        place: Option<Place>,
        step: &Step,
        next: &mut Vec<Option<Place>>,
        way: &mut Vec<Place>,
    ) {
        match step {
            Step::Deep => {
                next.push(place);
                let below = self.within(place.unwrap_or(self.root()));
                next.extend(below.filter(|below| self.is_element(*below)).map(Some));
            }
            Step::Element { name, having } => {
                let inside: Vec<Place> = match place {
                    None => vec![self.root()],
                    Some(place) => {
                        self.parts(place).filter(|part| self.is_element(*part)).collect()
                    }
                };
                for element in inside {
                    if !self.name(element).is_some_and(|found| name.is(found)) {
                        continue;
                    }
                    if let Some((attribute, value)) = having {
                        let has = |place: &Place| self.text_of(*place) == Some(value);
                        match self.attributes(element, attribute).find(has) {
                            Some(attribute) => way.push(attribute),
                            None => continue,
                        }
                    }
                    next.push(Some(element));
                }
            }
        }
    }

    /// Is this item an element?
    #[must_use]
    pub fn is_element(&self, place: Place) -> bool {
        matches!(self.item(place).content, Content::Element(_))
    }

    fn attributes<'a>(
        &'a self,
        place: Place,
        test: &'a NameTest,
    ) -> impl Iterator<Item = Place> + 'a {
        self.parts(place).filter(|part| match &self.item(*part).content {
            Content::Attribute(name, _) => test.is(name),
            Content::Element(_) | Content::Text(_) => false,
        })
    }

    /// The text of an attribute or a text.
    #[must_use]
    pub fn text_of(&self, place: Place) -> Option<&String> {
        match &self.item(place).content {
            Content::Attribute(_, text) | Content::Text(text) => Some(text),
            Content::Element(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Limits;
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let xml =
            "<a xmlns:n='urn:n/1'><b k='1'>x</b><b k='2'><c><b/></c></b><n:b>y</n:b><d k='1'/></a>";
        let tree = Tree::parse(xml.as_bytes(), "x.xml", &Limits::default()).unwrap();
        let places = tree.select(None, &Selector::parse(text).unwrap());
        places.into_iter().map(|place| tree.numbered_path(place)).collect()
    }

    #[test]
    fn steps_find_what_they_say() {
        assert_eq!(found("a"), ["a"]);
        assert_eq!(found("b"), [""; 0]);
        assert_eq!(found("a/b/@k"), ["a/b/@k", "a/b[2]/@k"]);
        assert_eq!(found("a/*/@*"), ["a/b/@k", "a/b[2]/@k", "a/d/@k"]);
        assert_eq!(found("**/b"), ["a/b", "a/b[2]", "a/b[2]/c/b", "a/{urn:n/1}b"]);
        assert_eq!(found("**/**/c"), ["a/b[2]/c"]);
        assert_eq!(found("a/{urn:n/1}b/text()"), ["a/{urn:n/1}b/text()"]);
        assert_eq!(found("a/{}b/text()"), ["a/b/text()"]);
        assert_eq!(found("a/b[@k=2]/*/name()"), ["a/b[2]/c"]);
        assert_eq!(found("a/*[@k='1']"), ["a/b", "a/d"]);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in [
            "", "a//b", "/a", "a/", "a/@b/c", "text()/a", "a/./b", "a[b", "a[@b]", "@", "a b", "{u",
        ] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
        assert_eq!(Selector::parse(&"a/".repeat(100)), Err(SelectorError::Long));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_selector_panic(text in "[a@*./(){}\\[\\]=€ ]{0,20}") {
            Selector::parse(&text).ok();
        }
    }
}
