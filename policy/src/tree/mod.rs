//! An export as it is: the canonical tree of XML whose schema nobody has told.
//!
//! Elements, attributes and texts are items in one list, in the order of the document, so that no
//! depth of nesting needs a stack. Attributes are sorted; comments and processing instructions are
//! dropped; texts are trimmed of white space, and what only comments divided is one text.
//!
//! Invariants
//! - Two trees without a difference have the same canonical text, and the other way round.
//! - An item's attributes come first, then its children; `end` is the first item behind them all.
//!
//! Not here: what an element means (`import`).

mod differ;
mod parse;
mod select;

use std::fmt;
use std::sync::Arc;

pub use differ::{DIFFERENCES_MAX, Difference, Kind};
pub use parse::{Limits, TreeError};
pub use select::{Selector, SelectorError};

use crate::origin::Origin;

/// A tree.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The file as a whole.
    pub origin: Origin,
    /// In the order of the document; the first is the root element.
    items: Vec<Item>,
}

/// The number of an item in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u32);

impl Place {
    fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("limits keep the number of items below"))
    }

    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The name of an element or attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Its namespace; empty: none.
    pub namespace: Arc<str>,
    /// Its name without prefix.
    pub local: Arc<str>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{{{}}}", self.namespace)?;
        }
        f.write_str(&self.local)
    }
}

/// What an item is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An element.
    Element(Name),
    /// An attribute and its value.
    Attribute(Name, String),
    /// A text that stands in an element.
    Text(String),
}

/// An element, attribute or text.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it is.
    pub content: Content,
    /// The element around it; none for the root.
    pub parent: Option<Place>,
    /// Where it stands.
    pub origin: Origin,
    /// The first item behind what is in it.
    end: Place,
    /// See [`Tree::nth`].
    nth: u32,
}

/// Some items of a tree, each with all that is in it.
#[derive(Clone, Debug)]
pub struct Marks(Vec<bool>);

impl Marks {
    /// Is this one of them?
    #[must_use]
    pub fn has(&self, place: Place) -> bool {
        self.0[place.index()]
    }

    /// Marks one.
    pub fn add(&mut self, place: Place) {
        self.0[place.index()] = true;
    }
}

impl Tree {
    /// The root element.
    #[must_use]
    pub const fn root(&self) -> Place {
        Place(0)
    }

    /// An item.
    #[must_use]
    pub fn item(&self, place: Place) -> &Item {
        &self.items[place.index()]
    }

    /// Number of items.
    const fn len(&self) -> usize {
        self.items.len()
    }

    /// Every item in an item, itself the first, in the order of the document.
    pub fn within(&self, place: Place) -> impl DoubleEndedIterator<Item = Place> + use<> {
        (place.0..self.item(place).end.0).map(Place)
    }

    /// Attributes of an element, then its elements and texts.
    pub fn parts(&self, place: Place) -> impl Iterator<Item = Place> + '_ {
        let end = self.item(place).end;
        let mut next = Place(place.0 + 1);
        std::iter::from_fn(move || {
            let part = Some(next).filter(|next| *next < end)?;
            next = self.item(part).end;
            Some(part)
        })
    }

    /// The how manieth an element or a text is among its siblings of that name, from 1; 0 for an
    /// attribute.
    #[must_use]
    pub fn nth(&self, place: Place) -> u32 {
        self.item(place).nth
    }

    /// The name of an element or attribute.
    #[must_use]
    pub fn name(&self, place: Place) -> Option<&Name> {
        match &self.item(place).content {
            Content::Element(name) | Content::Attribute(name, _) => Some(name),
            Content::Text(_) => None,
        }
    }

    /// No items, yet.
    #[must_use]
    pub fn no_marks(&self) -> Marks {
        Marks(vec![false; self.items.len()])
    }

    /// The items that selectors find, from the document on.
    #[must_use]
    pub fn marks(&self, selectors: &[Selector]) -> Marks {
        let mut marks = self.no_marks();
        for place in selectors.iter().flat_map(|selector| self.select(None, selector)) {
            marks.add(place);
        }
        marks
    }

    /// The names on the way to an item: `policy/chain/@name`.
    #[must_use]
    pub fn path(&self, place: Place) -> String {
        self.path_from(None, place, |_| String::new())
    }

    /// The same with numbers where an item is not the first of its name: `policy/chain[2]/@name`.
    #[must_use]
    pub fn numbered_path(&self, place: Place) -> String {
        self.numbered_path_from(None, place)
    }

    /// The same from an element around it on.
    #[must_use]
    pub fn numbered_path_from(&self, from: Option<Place>, place: Place) -> String {
        self.path_from(from, place, |item| match item.nth {
            0 | 1 => String::new(),
            nth => format!("[{nth}]"),
        })
    }

    fn path_from(
        &self,
        from: Option<Place>,
        place: Place,
        number: impl Fn(&Item) -> String,
    ) -> String {
        let way = std::iter::successors(Some(place), |place| self.item(*place).parent);
        let mut steps: Vec<String> = way
            .take_while(|place| Some(*place) != from)
            .map(|place| {
                let item = self.item(place);
                match &item.content {
                    Content::Element(name) => format!("{name}{}", number(item)),
                    Content::Attribute(name, _) => format!("@{name}"),
                    Content::Text(_) => format!("text(){}", number(item)),
                }
            })
            .collect();
        steps.reverse();
        steps.join("/")
    }

    /// The canonical text of an item without some others.
    #[must_use]
    pub fn canonical(&self, place: Place, without: &Marks) -> String {
        let mut text = String::new();
        let mut open: Vec<Place> = Vec::new();
        let mut next = place;
        while next < self.item(place).end {
            self.close(&mut open, next, &mut text);
            let item = self.item(next);
            if without.has(next) {
                next = item.end;
                continue;
            }
            match &item.content {
                Content::Element(name) => {
                    text.push_str(&format!("<{name}"));
                    let attributes = self.parts(next).filter(|part| !without.has(*part));
                    for part in attributes {
                        if let Content::Attribute(name, value) = &self.item(part).content {
                            text.push_str(&format!(" {name}=\"{}\"", escaped(value)));
                        }
                    }
                    text.push('>');
                    open.push(next);
                }
                Content::Attribute(name, value) if next == place => {
                    text.push_str(&format!("{name}=\"{}\"", escaped(value)));
                }
                // Written with its element.
                Content::Attribute(..) => {}
                Content::Text(value) => text.push_str(&escaped(value)),
            }
            next = Place(next.0 + 1);
        }
        self.close(&mut open, next, &mut text);
        text
    }

    /// Ends the elements that end before this item.
    fn close(&self, open: &mut Vec<Place>, next: Place, text: &mut String) {
        while let Some(last) = open.pop_if(|last| self.item(*last).end <= next) {
            if let Content::Element(name) = &self.item(last).content {
                text.push_str(&format!("</{name}>"));
            }
        }
    }
}

/// A text in which no mark-up can be mistaken.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Tree {
        Tree::parse(text.as_bytes(), "x.xml", &Limits::default()).unwrap()
    }

    fn canonical(text: &str) -> String {
        let tree = tree(text);
        tree.canonical(tree.root(), &tree.no_marks())
    }

    #[test]
    fn order_of_attributes_white_space_and_comments_mean_nothing() {
        let plain = "<a b=\"1\" c=\"2\"><d>x y</d><e/></a>";
        let other = "<?xml version=\"1.0\"?><!-- 1 -->\n<a  c='2'\n b='1' ><!-- 2 -->\n\t<d> x y\r\n\
                     </d><?pi?><e></e>\n</a>\n";
        assert_eq!(canonical(plain), "<a b=\"1\" c=\"2\"><d>x y</d><e></e></a>");
        assert_eq!(canonical(other), canonical(plain));
    }

    #[test]
    fn what_differs_has_another_canonical_text() {
        let texts = [
            "<a>x<b/>y</a>",
            "<a>xy<b/></a>",
            "<a>x y<b/></a>",
            "<a><b/>xy</a>",
            "<a>&lt;b/>xy</a>",
            "<a><b>xy</b></a>",
            "<a b=\"\">xy</a>",
            "<a b='\" c=\"'>xy</a>",
            "<a b='' c=''>xy</a>",
            "<a xmlns='u'>x</a>",
            "<a>x</a>",
            "<a>\u{a0}x</a>",
        ];
        let canonical: std::collections::BTreeSet<String> =
            texts.iter().map(|text| canonical(text)).collect();
        assert_eq!(canonical.len(), texts.len(), "{canonical:#?}");
    }

    #[test]
    fn a_text_is_one_whatever_divided_it() {
        assert_eq!(canonical("<a> x<!-- -->y<![CDATA[<z>]]>&#33; </a>"), "<a>xy&lt;z&gt;!</a>");
        assert_eq!(canonical("<a> <!-- --> </a>"), "<a></a>");
    }

    #[test]
    fn a_prefix_is_not_part_of_a_name() {
        let one = "<p:a xmlns:p='u' p:b='1' b='2'/>";
        let two = "<a xmlns='u' xmlns:q='u' b='2' q:b='1'/>";
        assert_eq!(canonical(one), canonical(two));
        assert_eq!(canonical(one), "<{u}a b=\"2\" {u}b=\"1\"></{u}a>");
    }

    #[test]
    fn items_know_their_path_and_their_place() {
        let tree = tree("<a>\n  <b/>\n  <b k='1'> x</b>\n</a>");
        let shown: Vec<String> = tree
            .within(tree.root())
            .map(|place| format!("{} {}", tree.item(place).origin, tree.numbered_path(place)))
            .collect();
        let expected = [
            "x.xml:1:1 a",
            "x.xml:2:3 a/b",
            "x.xml:3:3 a/b[2]",
            "x.xml:3:6 a/b[2]/@k",
            "x.xml:3:13 a/b[2]/text()",
        ];
        assert_eq!(shown, expected);
        assert_eq!(tree.path(Place(3)), "a/b/@k");
        assert_eq!(tree.numbered_path_from(Some(Place(2)), Place(3)), "@k");
    }

    #[test]
    fn what_is_left_out_is_not_in_the_canonical_text() {
        let tree = tree("<a id='1'><b id='2'>x</b><c>y<d/></c></a>");
        let without = ["**/@id", "a/c"].map(|text| Selector::parse(text).unwrap());
        assert_eq!(tree.canonical(tree.root(), &tree.marks(&without)), "<a><b>x</b></a>");
        let id = Selector::parse("a/b/@id").unwrap();
        let id = tree.select(None, &id)[0];
        assert_eq!(tree.canonical(id, &tree.no_marks()), "id=\"2\"");
    }
}
