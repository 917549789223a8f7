//! The shape of an export, for the administrator who must write a mapping for it.
//!
//! Every path of names is one line: how often it is there, whether it repeats within one parent and
//! so is likely a list, some of its values, and which of them are names that servers are known to
//! have. All of it is advice: nothing is mapped by guessing.
//!
//! Not here: the draft of a mapping (`draft`).

mod draft;

use std::collections::HashMap;
use std::fmt;

use crate::tree::{Content, Name, Place, Tree};

/// Paths that are told; an export that has more is likely none of a policy.
const LINES_MAX: usize = 2000;

/// Different values of a path that are told.
const VALUES_MAX: usize = 12;

/// Values that are shown in the text.
const VALUES_SHOWN: usize = 4;

/// Characters of a value that are told.
const CHARACTERS_MAX: usize = 60;

/// What a name that servers are known to have is the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// A chain.
    Chain,
    /// A rule.
    Rule,
    /// A dictionary.
    Dictionary,
}

/// Names that were seen in logs or documents of servers.
const KNOWN: [(&str, Known); 11] = [
    ("Default", Known::Chain),
    ("Inbound", Known::Chain),
    ("Outbound", Known::Chain),
    ("Exception", Known::Chain),
    ("Inbound Mail", Known::Rule),
    ("Decrypt Message (SMTP)", Known::Rule),
    ("Excluded Signed", Known::Rule),
    ("Excluded Addresses: Sign", Known::Dictionary),
    ("Excluded Addresses: Do Not Sign", Known::Dictionary),
    ("Excluded Addresses: Pending", Known::Dictionary),
    ("Managed Domains", Known::Dictionary),
];

impl Known {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Chain => "chains",
            Self::Rule => "rules",
            Self::Dictionary => "dictionaries",
        }
    }
}

/// The shape of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The file.
    pub file: String,
    /// Paths, each behind the path around it.
    pub lines: Vec<Line>,
    /// Items whose paths are not told, since there are too many.
    pub left_out: usize,
}

/// One path of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The last step, as selectors have it: `chain`, `@name`, `text()`.
    pub step: String,
    /// The line of the path around it.
    pub around: Option<usize>,
    /// Number of paths around it.
    pub depth: usize,
    /// How often it is there.
    pub count: usize,
    /// How often within one parent, at most.
    pub within_one: u32,
    /// Some of its values, each once; cut off where they are long.
    pub values: Vec<String>,
    /// Known names among all of its values, each once.
    pub known: Vec<(&'static str, Known)>,
}

impl Line {
    /// Is it likely a list?
    #[must_use]
    pub const fn repeats(&self) -> bool {
        self.within_one > 1
    }

    /// Number of known names of a kind.
    fn known_of(&self, kind: Known) -> usize {
        self.known.iter().filter(|(_, known)| *known == kind).count()
    }

    fn is_element(&self) -> bool {
        !self.step.starts_with('@') && self.step != "text()"
    }

    fn see(&mut self, text: &str) {
        let found = KNOWN.iter().find(|(name, _)| *name == text);
        if let Some(found) = found.filter(|found| !self.known.contains(found)) {
            self.known.push(*found);
        }
        if self.values.len() < VALUES_MAX {
            let value = match text.char_indices().nth(CHARACTERS_MAX) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text.to_owned(),
            };
            if !self.values.contains(&value) {
                self.values.push(value);
            }
        }
    }
}

impl Shape {
    /// Looks at a tree.
    #[must_use]
    pub fn of(tree: &Tree) -> Self {
        let mut lines: Vec<Line> = Vec::new();
        let mut known: HashMap<(Option<usize>, String), usize> = HashMap::new();
        let mut line_of: HashMap<Place, usize> = HashMap::new();
        let mut left_out = 0;
        for place in tree.within(tree.root()) {
            let around = match tree.item(place).parent {
                None => None,
                Some(parent) => match line_of.get(&parent) {
                    None => {
                        left_out += 1;
                        continue;
                    }
                    line => line.copied(),
                },
            };
            let key = (around, step(tree, place));
            let line = match known.get(&key) {
                Some(line) => *line,
                None if lines.len() == LINES_MAX => {
                    left_out += 1;
                    continue;
                }
                None => {
                    lines.push(Line::new(&lines, &key));
                    known.insert(key, lines.len() - 1);
                    lines.len() - 1
                }
            };
            lines[line].count += 1;
            lines[line].within_one = lines[line].within_one.max(tree.nth(place));
            tree.text_of(place).into_iter().for_each(|text| lines[line].see(text));
            line_of.insert(place, line);
        }
        let mut shape = Self { file: tree.origin.file.to_string(), lines, left_out };
        shape.sort();
        shape
    }

    /// Puts every line behind the one around it and what is in that already.
    fn sort(&mut self) {
        let mut inside: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
        for (number, line) in self.lines.iter().enumerate().rev() {
            inside.entry(line.around).or_default().push(number);
        }
        let (mut sorted, mut new_number) = (Vec::new(), HashMap::new());
        let mut next = inside.remove(&None).unwrap_or_default();
        while let Some(number) = next.pop() {
            let line = &self.lines[number];
            let around = line.around.and_then(|around| new_number.get(&around).copied());
            new_number.insert(number, sorted.len());
            sorted.push(Line { around, ..line.clone() });
            next.extend(inside.remove(&Some(number)).unwrap_or_default());
        }
        self.lines = sorted;
    }

    /// The steps from a line on, or from the document.
    fn path(&self, from: Option<usize>, line: usize) -> String {
        let way = std::iter::successors(Some(line), |line| self.lines[*line].around);
        let mut steps: Vec<&str> = way
            .take_while(|line| Some(*line) != from)
            .map(|line| self.lines[line].step.as_str())
            .collect();
        steps.reverse();
        steps.join("/")
    }

    /// The lines within a line.
    fn within(&self, line: usize) -> impl Iterator<Item = usize> + '_ {
        let depth = self.lines[line].depth;
        (line + 1..self.lines.len()).take_while(move |inner| self.lines[*inner].depth > depth)
    }
}

impl Line {
    fn new(lines: &[Self], (around, step): &(Option<usize>, String)) -> Self {
        Self {
            step: step.clone(),
            around: *around,
            depth: around.map_or(0, |around| lines[around].depth + 1),
            count: 0,
            within_one: 0,
            values: Vec::new(),
            known: Vec::new(),
        }
    }
}

/// The step to an item; a namespace is named where it is another than the root's.
fn step(tree: &Tree, place: Place) -> String {
    let root = tree.name(tree.root()).map(|name| &name.namespace);
    let shown = |name: &Name| {
        let usual = Some(&name.namespace) == root || name.namespace.is_empty();
        if usual { name.local.to_string() } else { name.to_string() }
    };
    match &tree.item(place).content {
        Content::Element(name) => shown(name),
        Content::Attribute(name, _) => format!("@{}", shown(name)),
        Content::Text(_) => "text()".to_owned(),
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:indent$}{}  {}", "", self.step, self.count, indent = 2 * self.depth)?;
        if self.repeats() {
            write!(f, ", a list (up to {} in one)", self.within_one)?;
        }
        for (place, value) in self.values.iter().take(VALUES_SHOWN).enumerate() {
            write!(f, "{}{value:?}", if place == 0 { ": " } else { ", " })?;
        }
        if self.values.len() > VALUES_SHOWN {
            f.write_str(", …")?;
        }
        for kind in [Known::Chain, Known::Rule, Known::Dictionary] {
            match self.known_of(kind) {
                0 => {}
                count => write!(f, "  <- {count} known names of {}", kind.as_str())?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: path, how often, values", self.file)?;
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        match self.left_out {
            0 => Ok(()),
            left_out => writeln!(f, "and {left_out} items on further paths"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{learn, tree};

    fn shape(xml: &str) -> Shape {
        learn(&tree(xml.as_bytes(), "x.xml").unwrap())
    }

    #[test]
    fn a_shape_tells_paths_lists_values_and_known_names() {
        let xml =
            "<p at='now'><c n='Inbound'><r>a</r><r>b</r></c><d/><c n='Outbound' x='&quot;'/></p>";
        let expected = "x.xml: path, how often, values\n\
                        p  1\n  \
                          @at  1: \"now\"\n  \
                          c  2, a list (up to 2 in one)\n    \
                            @n  2: \"Inbound\", \"Outbound\"  <- 2 known names of chains\n    \
                            r  2, a list (up to 2 in one)\n      \
                              text()  2: \"a\", \"b\"\n    \
                            @x  1: \"\\\"\"\n  \
                          d  1\n";
        assert_eq!(shape(xml).to_string(), expected);
    }

    #[test]
    fn a_namespace_is_told_where_it_is_not_the_usual() {
        let shape = shape("<a xmlns='u' xmlns:o='other' b='1' o:c='2'><d/><o:d/></a>");
        let steps: Vec<&str> = shape.lines.iter().map(|line| line.step.as_str()).collect();
        assert_eq!(steps, ["a", "@b", "@{other}c", "d", "{other}d"]);
    }

    #[test]
    fn a_shape_is_bounded() {
        let names = (0..LINES_MAX + 10).map(|name| format!("<n{name}>x</n{name}>"));
        let shape = shape(&format!("<a>{}</a>", names.collect::<String>()));
        assert_eq!(shape.lines.len(), LINES_MAX);
        assert_eq!(shape.left_out, 2 * (LINES_MAX + 10) + 1 - LINES_MAX);
        let long = format!("<a b='{}'/>", "ü".repeat(1000));
        assert!(self::shape(&long).to_string().len() < 300);
    }
}
