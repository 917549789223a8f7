//! Octets to a tree, within limits.
//!
//! Tags are counted before they are parsed: the parser compares every attribute with those before
//! it, so that a crafted element could keep it busy for hours.
//!
//! Not here: document types and entities, which are refused; encodings other than UTF-8 and UTF-16.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use roxmltree::{Document, Node, NodeType, ParsingOptions};

use super::{Content, Item, Name, Place, Tree};
use crate::origin::Origin;
use crate::places::Places;

/// How much of an export is read. An export of a policy has some thousand items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Octets.
    pub octets_max: usize,
    /// Elements, attributes and texts.
    pub items_max: u32,
    /// Elements within each other.
    pub depth_max: usize,
    /// Attributes of an element.
    pub attributes_max: usize,
    /// Prefixes of namespaces.
    pub prefixes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            octets_max: 64 << 20,
            items_max: 1_000_000,
            depth_max: 200,
            attributes_max: 1000,
            prefixes_max: 64,
        }
    }
}

/// Why an export cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// There is too much of something.
    #[error("there are more than {max} {of}")]
    Limit {
        /// Where.
        origin: Origin,
        /// Of what.
        of: &'static str,
        /// How many are read.
        max: usize,
    },
    /// It is in another encoding.
    #[error("the encoding {encoding} is not read")]
    Encoding {
        /// The file, or where it says so.
        origin: Origin,
        /// The encoding's name.
        encoding: String,
    },
    /// It is not in the encoding that it should be in.
    #[error("this is no {encoding}")]
    Octets {
        /// Where.
        origin: Origin,
        /// The encoding's name.
        encoding: &'static str,
    },
    /// It has a document type, and so could have entities.
    #[error("it has a document type (DTD)")]
    DocumentType {
        /// Where.
        origin: Origin,
    },
    /// It is no well-formed XML.
    #[error("this is no XML: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What is wrong, in the words of the parser.
        message: String,
    },
}

impl TreeError {
    /// Where it is wrong.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        match self {
            Self::Limit { origin, .. }
            | Self::Encoding { origin, .. }
            | Self::Octets { origin, .. }
            | Self::DocumentType { origin }
            | Self::Syntax { origin, .. } => origin,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn mend(&self) -> String {
        match self {
            Self::Limit { .. } => "is this the export of a mail policy?".to_owned(),
            Self::Encoding { encoding, .. } => format!(
                "convert it with iconv -f {encoding} -t UTF-8, and write encoding=\"UTF-8\" in its first line"
            ),
            Self::Octets { .. } => {
                "convert it to UTF-8 with iconv, and write encoding=\"UTF-8\" in its first line"
                    .to_owned()
            }
            Self::DocumentType { .. } => {
                "take <!DOCTYPE …> out: entities are not read, since they can name files and grow \
                 without end"
                    .to_owned()
            }
            Self::Syntax { .. } => "export it again; an editor may have broken it".to_owned(),
        }
    }
}

impl Tree {
    /// Reads an export.
    ///
    /// # Errors
    /// Where it is no XML, or beyond the limits.
    pub fn parse(octets: &[u8], file: &str, limits: &Limits) -> Result<Self, TreeError> {
        if octets.len() > limits.octets_max {
            let origin = Origin::of(file);
            return Err(TreeError::Limit { origin, of: "octets", max: limits.octets_max });
        }
        let text = decode(octets, file)?;
        let places = Places::new(file, &text);
        count_tags(&text, &places, limits)?;
        let options = ParsingOptions {
            allow_dtd: false,
            nodes_limit: limits.items_max,
            ..ParsingOptions::default()
        };
        let document = Document::parse_with_options(&text, options)
            .map_err(|error| refused(&error, &text, &places, limits))?;
        let mut builder =
            Builder { places: &places, limits, items: Vec::new(), names: HashSet::new() };
        builder.build(&document)?;
        let items = number(builder.items);
        Ok(Self { origin: places.file().clone(), items })
    }
}

/// What the parser found wrong, with a place where it has none.
fn refused(
    error: &roxmltree::Error,
    text: &str,
    places: &Places<'_>,
    limits: &Limits,
) -> TreeError {
    use roxmltree::Error;
    let position = error.pos();
    let origin = match error {
        Error::DtdDetected => places.at(text.find("<!DOCTYPE").unwrap_or(0)),
        Error::NoRootNode | Error::UnclosedRootNode | Error::UnexpectedEndOfStream => {
            places.at(text.len())
        }
        _ => Origin { line: position.row, column: position.col, ..places.file().clone() },
    };
    match error {
        Error::DtdDetected => TreeError::DocumentType { origin },
        Error::NodesLimitReached
        | Error::AttributesLimitReached
        | Error::NamespacesLimitReached => {
            let origin = places.file().clone();
            TreeError::Limit { origin, of: "items", max: limits.items_max as usize }
        }
        other => {
            let message = other.to_string().replace(&format!(" at {position}"), "");
            TreeError::Syntax { origin, message }
        }
    }
}

// Encodings

/// The text of an export (XML 1.0 appendix F).
fn decode(octets: &[u8], file: &str) -> Result<String, TreeError> {
    let refused = |encoding: &str| {
        Err(TreeError::Encoding { origin: Origin::of(file), encoding: encoding.to_owned() })
    };
    match octets {
        [0xFF, 0xFE, 0, 0, ..]
        | [0, 0, 0xFE, 0xFF, ..]
        | [b'<', 0, 0, 0, ..]
        | [0, 0, 0, b'<', ..] => refused("UTF-32"),
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes, file),
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes, file),
        [b'<', 0, ..] => refused("UTF-16LE"),
        [0, b'<', ..] => refused("UTF-16BE"),
        [0x4C, 0x6F, 0xA7, 0x94, ..] => refused("EBCDIC"),
        [0xEF, 0xBB, 0xBF, rest @ ..] => utf8(rest, file),
        octets => utf8(octets, file),
    }
}

/// Names of UTF-8, and of what is the same in it.
const UTF8_NAMES: [&str; 4] = ["UTF-8", "UTF8", "US-ASCII", "ASCII"];

fn utf8(octets: &[u8], file: &str) -> Result<String, TreeError> {
    let valid = octets.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let ours = |encoding: &str| UTF8_NAMES.iter().any(|name| name.eq_ignore_ascii_case(encoding));
    if let Some((at, encoding)) = declared_encoding(valid).filter(|(_, name)| !ours(name)) {
        let encoding = encoding.to_owned();
        return Err(TreeError::Encoding { origin: Origin::of(file).at(valid, at), encoding });
    }
    if valid.len() < octets.len() {
        let origin = Origin::of(file).at(valid, valid.len());
        return Err(TreeError::Octets { origin, encoding: "UTF-8" });
    }
    Ok(valid.to_owned())
}

fn utf16(octets: &[u8], unit: fn([u8; 2]) -> u16, file: &str) -> Result<String, TreeError> {
    let (pairs, odd) = octets.as_chunks();
    let mut text = String::with_capacity(pairs.len());
    for character in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        match character {
            Ok(character) => text.push(character),
            Err(_) => return Err(no_utf16(&text, file)),
        }
    }
    if odd.is_empty() { Ok(text) } else { Err(no_utf16(&text, file)) }
}

fn no_utf16(before: &str, file: &str) -> TreeError {
    let origin = Origin::of(file).at(before, before.len());
    TreeError::Octets { origin, encoding: "UTF-16" }
}

/// The encoding that the first line names, and where.
fn declared_encoding(text: &str) -> Option<(usize, &str)> {
    let declaration = text.strip_prefix("<?xml")?.split_once("?>")?.0;
    let (before, rest) = declaration.split_once("encoding")?;
    let value = rest.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|quote| ['"', '\''].contains(quote))?;
    let (name, _) = value[1..].split_once(quote)?;
    Some(("<?xml".len() + before.len(), name))
}

// Limits

/// Counts depth, attributes and prefixes as far as the text is well-formed; where it is not, the
/// parser stops too.
fn count_tags(text: &str, places: &Places<'_>, limits: &Limits) -> Result<(), TreeError> {
    let octets = text.as_bytes();
    let (mut at, mut depth, mut prefixes) = (0, 0_usize, HashSet::new());
    while let Some(start) = find(octets, at, b"<") {
        let rest = &octets[start..];
        let over = |of, max| Err(TreeError::Limit { origin: places.at(start), of, max });
        let skip = [(&b"<!--"[..], &b"-->"[..]), (b"<![CDATA[", b"]]>"), (b"<?", b"?>")];
        if let Some((open, close)) = skip.iter().find(|(open, _)| rest.starts_with(open)) {
            at = find(octets, start + open.len(), close)
                .map_or(octets.len(), |end| end + close.len());
            continue;
        }
        let tag = tag(rest);
        at = start + tag.octets;
        if rest.starts_with(b"</") {
            depth = depth.saturating_sub(1);
        } else if !tag.is_empty_element {
            depth += 1;
        }
        prefixes.extend(tag.prefixes);
        if depth > limits.depth_max {
            return over("elements within each other", limits.depth_max);
        }
        if tag.attributes > limits.attributes_max {
            return over("attributes of an element", limits.attributes_max);
        }
        if prefixes.len() > limits.prefixes_max {
            return over("prefixes of namespaces", limits.prefixes_max);
        }
    }
    Ok(())
}

fn find(octets: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let rest = octets.get(from..)?;
    rest.windows(what.len()).position(|window| window == what).map(|place| from + place)
}

/// What stands in `<…>`.
#[derive(Default)]
struct Tag<'t> {
    octets: usize,
    attributes: usize,
    prefixes: Vec<&'t [u8]>,
    is_empty_element: bool,
}

fn tag(octets: &[u8]) -> Tag<'_> {
    let mut tag = Tag::default();
    let (mut quote, mut word) = (None, 0);
    for (at, octet) in octets.iter().copied().enumerate() {
        tag.octets = at + 1;
        if let Some(open) = quote {
            quote = (octet != open).then_some(open);
            continue;
        }
        match octet {
            b'"' | b'\'' => quote = Some(octet),
            b'=' => {
                tag.attributes += 1;
                let name = octets[word..at].trim_ascii();
                tag.prefixes.extend(name.starts_with(b"xmlns").then_some(name));
            }
            b'>' => {
                tag.is_empty_element = octets[..at].ends_with(b"/");
                break;
            }
            b' ' | b'\t' | b'\r' | b'\n' => {
                // A name begins behind white space that does not stand before the sign of equality.
                let next = octets.get(at + 1).copied().unwrap_or(b'=');
                word = if next == b'=' || next.is_ascii_whitespace() { word } else { at + 1 };
            }
            _ => {}
        }
    }
    tag
}

// Items

struct Builder<'a> {
    places: &'a Places<'a>,
    limits: &'a Limits,
    items: Vec<Item>,
    names: HashSet<Arc<str>>,
}

/// An element whose end was not seen yet.
struct Open<'a, 'input> {
    node: Node<'a, 'input>,
    place: Place,
    /// Text that may go on behind a comment, and where it began.
    text: Option<(String, usize)>,
}

impl Builder<'_> {
    fn build(&mut self, document: &Document<'_>) -> Result<(), TreeError> {
        let mut open: Vec<Open<'_, '_>> = Vec::new();
        for node in document.root_element().descendants() {
            let parent = node.parent();
            while let Some(ended) = open.pop_if(|last| Some(last.node) != parent) {
                self.end(ended)?;
            }
            match node.node_type() {
                NodeType::Element => {
                    let parent = open.last_mut();
                    let around = parent.as_ref().map(|parent| parent.place);
                    if let Some((text, at)) = parent.and_then(|parent| parent.text.take()) {
                        self.text(&text, at, around)?;
                    }
                    let place = self.element(node, around)?;
                    open.push(Open { node, place, text: None });
                }
                NodeType::Text => {
                    if let Some(parent) = open.last_mut() {
                        let text = node.text().unwrap_or_default();
                        let (before, _) =
                            parent.text.get_or_insert_with(|| (String::new(), node.range().start));
                        before.push_str(text);
                    }
                }
                NodeType::Root | NodeType::PI | NodeType::Comment => {}
            }
        }
        while let Some(ended) = open.pop() {
            self.end(ended)?;
        }
        Ok(())
    }

    fn end(&mut self, ended: Open<'_, '_>) -> Result<(), TreeError> {
        if let Some((text, at)) = ended.text {
            self.text(&text, at, Some(ended.place))?;
        }
        let end = Place::new(self.items.len());
        self.items[ended.place.index()].end = end;
        Ok(())
    }

    fn element(&mut self, node: Node<'_, '_>, parent: Option<Place>) -> Result<Place, TreeError> {
        let tag = node.tag_name();
        let name = self.name(tag.namespace(), tag.name());
        let place = self.item(Content::Element(name), parent, node.range().start)?;
        let mut attributes: Vec<(Name, &str, usize)> = Vec::new();
        for attribute in node.attributes() {
            let name = self.name(attribute.namespace(), attribute.name());
            attributes.push((name, attribute.value(), attribute.range().start));
        }
        attributes.sort_unstable();
        for (name, value, at) in attributes {
            let value = trimmed(value).to_owned();
            self.item(Content::Attribute(name, value), Some(place), at)?;
        }
        Ok(place)
    }

    fn text(&mut self, text: &str, at: usize, parent: Option<Place>) -> Result<(), TreeError> {
        let trimmed = trimmed(text);
        if trimmed.is_empty() {
            return Ok(());
        }
        let blank = text.len() - text.trim_start_matches(BLANK).len();
        self.item(Content::Text(trimmed.to_owned()), parent, at + blank).map(|_| ())
    }

    fn item(
        &mut self,
        content: Content,
        parent: Option<Place>,
        at: usize,
    ) -> Result<Place, TreeError> {
        let origin = self.places.at(at);
        if self.items.len() >= self.limits.items_max as usize {
            let max = self.limits.items_max as usize;
            return Err(TreeError::Limit { origin, of: "items", max });
        }
        let place = Place::new(self.items.len());
        let end = Place(place.0 + 1);
        self.items.push(Item { content, parent, origin, end, nth: 0 });
        Ok(place)
    }

    fn name(&mut self, namespace: Option<&str>, local: &str) -> Name {
        Name { namespace: self.shared(namespace.unwrap_or_default()), local: self.shared(local) }
    }

    /// The same text once: exports have few names and many elements.
    fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.names.insert(Arc::clone(&new));
        new
    }
}

/// White space of XML (XML 1.0 §2.3); others are characters like any.
const BLANK: [char; 4] = [' ', '\t', '\r', '\n'];

fn trimmed(text: &str) -> &str {
    text.trim_matches(BLANK)
}

/// Counts elements of one name, and texts, among their siblings.
fn number(mut items: Vec<Item>) -> Vec<Item> {
    let mut counts: HashMap<(Option<Place>, Option<Name>), u32> = HashMap::new();
    for item in &mut items {
        let name = match &item.content {
            Content::Element(name) => Some(name.clone()),
            Content::Text(_) => None,
            Content::Attribute(..) => continue,
        };
        let count = counts.entry((item.parent, name)).or_default();
        *count += 1;
        item.nth = *count;
    }
    items
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(octets: &[u8]) -> String {
        let error = Tree::parse(octets, "x.xml", &Limits::default()).unwrap_err();
        format!("{}: {error}; {}", error.origin(), error.mend())
    }

    fn in_utf16(text: &str, octets: fn(u16) -> [u8; 2]) -> Vec<u8> {
        "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(octets).collect()
    }

    #[test]
    fn utf8_and_utf16_are_the_same_tree() {
        let text = "<?xml version='1.0' encoding='UTF-16'?><a b='ü'>€𝄞</a>";
        let utf8 = text.replace("UTF-16", "utf-8").into_bytes();
        let marked = [&b"\xEF\xBB\xBF"[..], &utf8].concat();
        for octets in
            [utf8, marked, in_utf16(text, u16::to_le_bytes), in_utf16(text, u16::to_be_bytes)]
        {
            let tree = Tree::parse(&octets, "x.xml", &Limits::default()).unwrap();
            let canonical = tree.canonical(tree.root(), &tree.no_marks());
            assert_eq!(canonical, "<a b=\"ü\">€𝄞</a>");
            assert_eq!(tree.item(tree.root()).origin.line, 1);
        }
    }

    #[test]
    fn other_encodings_are_refused_by_name() {
        let latin = b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><a>\xFC</a>";
        assert!(
            told(latin).starts_with("x.xml:1:21: the encoding ISO-8859-1 is not read; convert")
        );
        assert!(told(latin).contains("iconv -f ISO-8859-1 -t UTF-8"));
        assert!(told(b"<a>\n\xFC</a>").starts_with("x.xml:2:1: this is no UTF-8"));
        assert!(told(b"<\0a\0/\0>\0").contains("UTF-16LE is not read"));
        assert!(told(b"\0<\0a").contains("UTF-16BE is not read"));
        assert!(told(b"\xFF\xFE\0\0<\0\0\0").contains("UTF-32 is not read"));
        assert!(told(b"\xFF\xFE<\0a").contains("no UTF-16"), "half a unit");
        assert!(told(b"\xFE\xFF\xD8\0\0a").contains("no UTF-16"), "half a pair");
        assert!(
            told(b"<?xml version='1.0' encoding='UTF-16'?><a/>").contains("UTF-16 is not read")
        );
    }

    #[test]
    fn entities_are_refused_whatever_they_would_do() {
        let bomb = "<?xml version='1.0'?>\n<!DOCTYPE a [<!ENTITY b 'bbbbbbbb'>\
                    <!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'>]><a>&c;</a>";
        assert!(told(bomb.as_bytes()).starts_with("x.xml:2:1: it has a document type (DTD); take"));
        let external = "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>";
        assert!(told(external.as_bytes()).contains("document type"));
        let outside = "<!DOCTYPE a SYSTEM 'http://192.0.2.1/a.dtd'><a/>";
        assert!(told(outside.as_bytes()).contains("document type"));
        assert!(told(b"<a>&b;</a>").starts_with("x.xml:1:4: this is no XML"));
    }

    #[test]
    fn what_is_no_xml_is_told_with_its_place() {
        assert!(told(b"<a>\n <b></a>").starts_with("x.xml:2:5: this is no XML: expected 'b' tag"));
        assert!(told(b"<a b='1'\nb='2'/>").starts_with("x.xml:2:1: this is no XML: attribute 'b'"));
        assert!(told(b"<a>\n<b>").starts_with("x.xml:2:4: this is no XML"));
        assert!(told(b"").starts_with("x.xml:1:1: this is no XML"));
        assert!(told(b"plain text").starts_with("x.xml:1:1: this is no XML"));
        assert!(told(b"<a/><b/>").contains("no XML"));
        assert!(told(b"<a>\0</a>").contains("no XML"));
    }

    #[test]
    fn size_depth_and_numbers_are_bounded() {
        let deep = |depth: usize| [b"<a>".repeat(depth), b"</a>".repeat(depth)].concat();
        assert!(Tree::parse(&deep(200), "x.xml", &Limits::default()).is_ok());
        assert!(
            told(&deep(201)).starts_with("x.xml:1:601: there are more than 200 elements within")
        );
        assert!(told(&deep(1_000_000)).contains("more than 200 elements within each other"));
        let wide = |names: usize| {
            let attributes = (0..names).map(|number| format!(" a{number} = '>'"));
            format!("<a{}/>", attributes.collect::<String>())
        };
        assert!(Tree::parse(wide(1000).as_bytes(), "x.xml", &Limits::default()).is_ok());
        assert!(told(wide(500_000).as_bytes()).contains("more than 1000 attributes of an element"));
        let named = |names: usize| {
            let spaces = (0..names).map(|number| format!("<b xmlns:p{number}='u'/>"));
            format!("<a>{}</a>", spaces.collect::<String>())
        };
        assert!(Tree::parse(named(64).as_bytes(), "x.xml", &Limits::default()).is_ok());
        assert!(told(named(65).as_bytes()).contains("more than 64 prefixes"));
        let few = Limits { items_max: 10, octets_max: 60, ..Limits::default() };
        let many = |items: usize| format!("<a>{}</a>", "<b/>".repeat(items));
        assert!(Tree::parse(many(8).as_bytes(), "x.xml", &few).is_ok());
        let told =
            |text: String| Tree::parse(text.as_bytes(), "x.xml", &few).unwrap_err().to_string();
        assert_eq!(told(many(11)), "there are more than 10 items");
        assert_eq!(told(many(20)), "there are more than 60 octets");
    }

    #[test]
    fn limits_that_are_set_high_do_not_overflow_the_stack() {
        let limits = Limits { depth_max: usize::MAX, ..Limits::default() };
        let deep = [b"<a>".repeat(100_000), b"x".to_vec(), b"</a>".repeat(100_000)].concat();
        let tree = Tree::parse(&deep, "x.xml", &limits).unwrap();
        let other = [b"<a>".repeat(100_000), b"y".to_vec(), b"</a>".repeat(100_000)].concat();
        let other = Tree::parse(&other, "x.xml", &limits).unwrap();
        assert_eq!(tree.canonical(tree.root(), &tree.no_marks()).len(), 700_001);
        assert_eq!(Tree::differences(&tree, &tree, &[]).len(), 0);
        assert_eq!(Tree::differences(&tree, &other, &[]).len(), 1);
    }

    #[test]
    fn marks_of_comments_and_data_are_no_tags() {
        let text = "<a><!-- <b> --><![CDATA[<c>]]><?d <e> ?></a>";
        let limits = Limits { depth_max: 1, ..Limits::default() };
        assert!(Tree::parse(text.as_bytes(), "x.xml", &limits).is_ok());
    }

    proptest! {
        #[test]
        fn no_octets_make_the_tree_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            Tree::parse(&octets, "x.xml", &Limits::default()).ok();
        }

        /// Method: mark-up in any order, so that much of it is nearly XML.
        #[test]
        fn no_mark_up_makes_the_tree_panic(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "<a>", "</a>", "<a", " b='1'", " xmlns='u'", " xmlns:p='u'", "<p:a>", "/>", ">",
                    "<!--", "-->", "<![CDATA[", "]]>", "<?xml ", "?>", "&lt;", "&#x41;", "&b;", "x",
                    "\u{a0}", "'", "\"", "<!DOCTYPE a>", "€", "\n", "=",
                ]),
                0..30,
            ),
        ) {
            let text = parts.concat();
            for octets in [text.clone().into_bytes(), in_utf16(&text, u16::to_le_bytes)] {
                if let Ok(tree) = Tree::parse(&octets, "x.xml", &Limits::default()) {
                    let canonical = tree.canonical(tree.root(), &tree.no_marks());
                    prop_assert!(Tree::differences(&tree, &tree, &[]).is_empty());
                    prop_assert!(!canonical.is_empty());
                }
            }
        }
    }
}
