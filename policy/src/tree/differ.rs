//! Where two trees differ, with no knowledge of what they say.
//!
//! Every item gets a class: items have the same class exactly when they are the same with all that
//! is in them. Elements whose classes differ are compared part by part; their children are aligned,
//! so that an inserted element does not make its later siblings differ.
//!
//! Invariants
//! - No difference is found exactly when the canonical texts are the same.
//! - The work is bounded: beyond it, the alignment is coarser, and the differences are more.
//!
//! Not here: what a difference means for mail (`program`).

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use super::{Content, Marks, Name, Place, Selector, Tree};
use crate::origin::Origin;

/// Differences that are told; more are cut off.
pub const DIFFERENCES_MAX: usize = 10_000;

/// Steps that the alignment of all children may take; it needs some octets for each.
const WORK_MAX: usize = 8_000_000;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The item, with numbers: as it was before, unless it is only after.
    pub path: String,
    /// How it differs.
    pub kind: Kind,
    /// Where it stands before; if it does not, the element that it is missing from.
    pub before: Origin,
    /// Where it stands after; if it does not, the element that it is missing from.
    pub after: Origin,
}

/// How two trees differ in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is gone.
    OnlyBefore,
    /// It is new.
    OnlyAfter,
    /// It is the same, and stands elsewhere among its siblings.
    Moved,
    /// A text is another one.
    Text {
        /// The text before.
        before: String,
        /// The text after.
        after: String,
    },
    /// An attribute has another value.
    Attribute {
        /// The value before.
        before: String,
        /// The value after.
        after: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, kind, before, after } = self;
        match kind {
            Kind::OnlyBefore => write!(f, "{path}: only before ({before}; missing in {after})"),
            Kind::OnlyAfter => write!(f, "{path}: only after ({after}; missing in {before})"),
            Kind::Moved => write!(f, "{path}: moved ({before}; {after})"),
            Kind::Text { before: was, after: is } | Kind::Attribute { before: was, after: is } => {
                write!(f, "{path}: {was:?} is now {is:?} ({before}; {after})")
            }
        }
    }
}

impl Tree {
    /// Where two trees differ, but for what `volatile` finds in them; in the order of the document
    /// before, at most [`DIFFERENCES_MAX`].
    #[must_use]
    pub fn differences(before: &Self, after: &Self, volatile: &[Selector]) -> Vec<Difference> {
        let mut classes = Classes::default();
        let before = classes.side(before, before.marks(volatile));
        let after = classes.side(after, after.marks(volatile));
        let mut differ = Differ { before, after, work: WORK_MAX };
        differ.run()
    }
}

/// What an item is, by the classes of what is in it.
#[derive(PartialEq, Eq, Hash)]
enum Form<'t> {
    Element(&'t Name, Vec<u32>),
    Attribute(&'t Name, &'t str),
    Text(&'t str),
}

#[derive(Default)]
struct Classes<'t> {
    known: HashMap<Form<'t>, u32>,
}

/// A tree with the classes of its items.
struct Side<'t> {
    tree: &'t Tree,
    volatile: Marks,
    classes: Vec<u32>,
}

impl<'t> Classes<'t> {
    fn side(&mut self, tree: &'t Tree, volatile: Marks) -> Side<'t> {
        let mut side = Side { tree, volatile, classes: vec![0; tree.len()] };
        // What is in an item stands behind it.
        for index in (0..tree.len()).rev() {
            let place = Place::new(index);
            let form = match &tree.item(place).content {
                Content::Element(name) => {
                    Form::Element(name, side.parts(place).map(|part| side.class(part)).collect())
                }
                Content::Attribute(name, value) => Form::Attribute(name, value),
                Content::Text(text) => Form::Text(text),
            };
            let next = u32::try_from(self.known.len()).expect("items are numbered by u32");
            side.classes[index] = *self.known.entry(form).or_insert(next);
        }
        side
    }
}

impl Side<'_> {
    fn class(&self, place: Place) -> u32 {
        self.classes[place.index()]
    }

    fn parts(&self, place: Place) -> impl Iterator<Item = Place> + '_ {
        self.tree.parts(place).filter(|part| !self.volatile.has(*part))
    }

    /// Attributes, and what stands between the tags.
    fn divided(&self, place: Place) -> (Vec<Place>, Vec<Place>) {
        let is_attribute =
            |part: &Place| matches!(self.tree.item(*part).content, Content::Attribute(..));
        self.parts(place).partition(is_attribute)
    }

    fn origin(&self, place: Place) -> Origin {
        self.tree.item(place).origin.clone()
    }

    /// Classes of the parts, sorted.
    fn content(&self, place: Place) -> Vec<u32> {
        let mut classes: Vec<u32> = self.parts(place).map(|part| self.class(part)).collect();
        classes.sort_unstable();
        classes
    }
}

/// What is left to do; the last is done first.
enum Work {
    Pair(Place, Place),
    Tell(Difference),
}

struct Differ<'t> {
    before: Side<'t>,
    after: Side<'t>,
    work: usize,
}

impl Differ<'_> {
    fn run(&mut self) -> Vec<Difference> {
        let (before, after) = (self.before.tree.root(), self.after.tree.root());
        let mut left = match (self.before.volatile.has(before), self.after.volatile.has(after)) {
            (true, true) => Vec::new(),
            (false, false) if self.are_alike(before, after) => vec![Work::Pair(before, after)],
            (gone, new) => {
                let roots = (self.before.tree.origin.clone(), self.after.tree.origin.clone());
                let mut left = Vec::new();
                if !new {
                    left.push(Work::Tell(self.only_after(after, roots.0)));
                }
                if !gone {
                    left.push(Work::Tell(self.only_before(before, roots.1)));
                }
                left
            }
        };
        let mut found = Vec::new();
        while let Some(work) = left.pop() {
            if found.len() == DIFFERENCES_MAX {
                break;
            }
            match work {
                Work::Tell(difference) => found.push(difference),
                Work::Pair(before, after) => {
                    if self.before.class(before) != self.after.class(after) {
                        left.extend(self.pair(before, after).into_iter().rev());
                    }
                }
            }
        }
        found
    }

    /// What to do about two items of one name whose content differs.
    fn pair(&mut self, before: Place, after: Place) -> Vec<Work> {
        let texts = (self.before.tree.text_of(before), self.after.tree.text_of(after));
        if let (Some(was), Some(is)) = texts {
            let (was, is) = (was.clone(), is.clone());
            let kind = match self.before.tree.item(before).content {
                Content::Attribute(..) => Kind::Attribute { before: was, after: is },
                Content::Text(_) | Content::Element(_) => Kind::Text { before: was, after: is },
            };
            return vec![Work::Tell(self.difference(before, after, kind))];
        }
        let (attributes_before, children_before) = self.before.divided(before);
        let (attributes_after, children_after) = self.after.divided(after);
        let mut work = self.attributes(before, after, &attributes_before, &attributes_after);
        let pairs = self.align(&children_before, &children_after);
        let unpaired = Unpaired::new(&children_before, &children_after, &pairs);
        work.extend(self.children(before, after, &unpaired, pairs));
        work
    }

    /// Attributes are sorted by name on both sides.
    fn attributes(
        &self,
        before: Place,
        after: Place,
        left: &[Place],
        right: &[Place],
    ) -> Vec<Work> {
        let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
        let mut work = Vec::new();
        loop {
            let names = (
                left.peek().and_then(|place| self.before.tree.name(**place)),
                right.peek().and_then(|place| self.after.tree.name(**place)),
            );
            let order = match names {
                (None, None) => return work,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(was), Some(is)) => was.cmp(is),
            };
            let gone = left.next_if(|_| order.is_le());
            let new = right.next_if(|_| order.is_ge());
            match (gone, new) {
                (Some(was), Some(is)) => work.push(Work::Pair(*was, *is)),
                (Some(was), None) => {
                    work.push(Work::Tell(self.only_before(*was, self.after.origin(after))));
                }
                (None, Some(is)) => {
                    work.push(Work::Tell(self.only_after(*is, self.before.origin(before))));
                }
                (None, None) => return work,
            }
        }
    }

    /// What to do about children, in the order before; what is new comes in front of what it stands
    /// in front of.
    fn children(
        &self,
        before: Place,
        after: Place,
        unpaired: &Unpaired,
        pairs: Vec<(Place, Place)>,
    ) -> Vec<Work> {
        let moved = self.moved(unpaired);
        let came: BTreeSet<Place> = moved.values().copied().collect();
        let (mut gone, mut new) =
            (unpaired.before.iter().peekable(), unpaired.after.iter().peekable());
        let mut work = Vec::new();
        let mut between = |up_to: Option<(Place, Place)>, work: &mut Vec<Work>| {
            while let Some(was) = gone.next_if(|place| up_to.is_none_or(|pair| **place < pair.0)) {
                work.push(Work::Tell(match moved.get(was) {
                    Some(is) => self.difference(*was, *is, Kind::Moved),
                    None => self.only_before(*was, self.after.origin(after)),
                }));
            }
            while let Some(is) = new.next_if(|place| up_to.is_none_or(|pair| **place < pair.1)) {
                if !came.contains(is) {
                    work.push(Work::Tell(self.only_after(*is, self.before.origin(before))));
                }
            }
        };
        for pair in pairs {
            between(Some(pair), &mut work);
            work.push(Work::Pair(pair.0, pair.1));
        }
        between(None, &mut work);
        work
    }

    /// Children without a partner that have one of the same class elsewhere.
    fn moved(&self, unpaired: &Unpaired) -> HashMap<Place, Place> {
        let mut waiting: HashMap<u32, Vec<Place>> = HashMap::new();
        for place in unpaired.after.iter().rev() {
            waiting.entry(self.after.class(*place)).or_default().push(*place);
        }
        let mut moved = HashMap::new();
        for place in &unpaired.before {
            let partner = waiting.get_mut(&self.before.class(*place)).and_then(Vec::pop);
            moved.extend(partner.map(|partner| (*place, partner)));
        }
        moved
    }

    fn difference(&self, before: Place, after: Place, kind: Kind) -> Difference {
        Difference {
            path: self.before.tree.numbered_path(before),
            kind,
            before: self.before.origin(before),
            after: self.after.origin(after),
        }
    }

    fn only_before(&self, place: Place, after: Origin) -> Difference {
        let path = self.before.tree.numbered_path(place);
        Difference { path, kind: Kind::OnlyBefore, before: self.before.origin(place), after }
    }

    fn only_after(&self, place: Place, before: Origin) -> Difference {
        let path = self.after.tree.numbered_path(place);
        Difference { path, kind: Kind::OnlyAfter, before, after: self.after.origin(place) }
    }
}

/// Children that have no partner.
struct Unpaired {
    before: Vec<Place>,
    after: Vec<Place>,
}

impl Unpaired {
    fn new(before: &[Place], after: &[Place], pairs: &[(Place, Place)]) -> Self {
        let (left, right): (BTreeSet<Place>, BTreeSet<Place>) = pairs.iter().copied().unzip();
        let without = |all: &[Place], paired: &BTreeSet<Place>| {
            all.iter().copied().filter(|place| !paired.contains(place)).collect()
        };
        Self { before: without(before, &left), after: without(after, &right) }
    }
}

// Alignment

impl Differ<'_> {
    /// Could one have become the other?
    fn are_alike(&self, before: Place, after: Place) -> bool {
        let both = (&self.before.tree.item(before).content, &self.after.tree.item(after).content);
        match both {
            (Content::Element(was), Content::Element(is)) => was == is,
            (Content::Text(_), Content::Text(_)) => true,
            _ => false,
        }
    }

    /// Pairs of children, in the order of both sides.
    fn align(&mut self, before: &[Place], after: &[Place]) -> Vec<(Place, Place)> {
        let mut pairs = Vec::new();
        let (mut left, mut right) = (before, after);
        while let (Some((was, rest_left)), Some((is, rest_right))) =
            (left.split_first(), right.split_first())
            && self.before.class(*was) == self.after.class(*is)
        {
            pairs.push((*was, *is));
            (left, right) = (rest_left, rest_right);
        }
        let mut behind = Vec::new();
        while let (Some((was, rest_left)), Some((is, rest_right))) =
            (left.split_last(), right.split_last())
            && self.before.class(*was) == self.after.class(*is)
        {
            behind.push((*was, *is));
            (left, right) = (rest_left, rest_right);
        }
        let (mut from_left, mut from_right) = (0, 0);
        for (at_left, at_right) in self.anchors(left, right) {
            pairs.extend(self.gap(&left[from_left..at_left], &right[from_right..at_right]));
            pairs.push((left[at_left], right[at_right]));
            (from_left, from_right) = (at_left + 1, at_right + 1);
        }
        pairs.extend(self.gap(&left[from_left..], &right[from_right..]));
        pairs.extend(behind.into_iter().rev());
        pairs
    }

    /// The longest row of children that are the same and each the only one of their class on either
    /// side, by their positions.
    fn anchors(&self, before: &[Place], after: &[Place]) -> Vec<(usize, usize)> {
        let left = only_ones(before.iter().map(|place| self.before.class(*place)));
        let right = only_ones(after.iter().map(|place| self.after.class(*place)));
        let mut both: Vec<(usize, usize)> = left
            .into_iter()
            .filter_map(|(class, at)| right.get(&class).map(|other| (at, *other)))
            .collect();
        both.sort_unstable();
        longest_rise(&both)
    }

    /// Pairs between two anchors: those that have most in common, as long as the work is not too
    /// much; else those that stand in the same position.
    fn gap(&mut self, before: &[Place], after: &[Place]) -> Vec<(Place, Place)> {
        let left: Vec<Vec<u32>> = before.iter().map(|place| self.before.content(*place)).collect();
        let right: Vec<Vec<u32>> = after.iter().map(|place| self.after.content(*place)).collect();
        let length = |sides: &[Vec<u32>]| sides.iter().map(|side| side.len() + 1).sum::<usize>();
        let work = length(&left)
            .saturating_mul(after.len())
            .saturating_add(length(&right).saturating_mul(before.len()));
        if work > self.work {
            let pairs = before.iter().copied().zip(after.iter().copied());
            return pairs.filter(|(was, is)| self.are_alike(*was, *is)).collect();
        }
        self.work -= work;
        let likeness = |at_left: usize, at_right: usize| -> u32 {
            let (was, is) = (before[at_left], after[at_right]);
            if self.before.class(was) == self.after.class(is) {
                return 4 * small(left[at_left].len()) + 6;
            }
            match self.are_alike(was, is) {
                true => 4 * in_common(&left[at_left], &right[at_right]) + 1,
                false => 0,
            }
        };
        let chosen = best_row(before.len(), after.len(), likeness);
        chosen.into_iter().map(|(was, is)| (before[was], after[is])).collect()
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX / 8)
}

/// Positions of classes that occur once.
fn only_ones(classes: impl Iterator<Item = u32>) -> HashMap<u32, usize> {
    let mut seen: HashMap<u32, Option<usize>> = HashMap::new();
    for (at, class) in classes.enumerate() {
        seen.entry(class).and_modify(|at| *at = None).or_insert(Some(at));
    }
    seen.into_iter().filter_map(|(class, at)| Some((class, at?))).collect()
}

/// The longest selection of pairs, sorted by their first, whose seconds rise (patience sorting).
fn longest_rise(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut tops: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (at, (_, second)) in pairs.iter().enumerate() {
        let pile = tops.partition_point(|top| pairs[*top].1 < *second);
        before.push(pile.checked_sub(1).map(|pile| tops[pile]));
        match tops.get_mut(pile) {
            Some(top) => *top = at,
            None => tops.push(at),
        }
    }
    let mut row: Vec<_> =
        std::iter::successors(tops.last().copied(), |at| before[*at]).map(|at| pairs[at]).collect();
    row.reverse();
    row
}

/// Numbers that two sorted lists share.
fn in_common(left: &[u32], right: &[u32]) -> u32 {
    let (mut at_left, mut at_right, mut count) = (0, 0, 0);
    while let (Some(one), Some(other)) = (left.get(at_left), right.get(at_right)) {
        count += u32::from(one == other);
        at_left += usize::from(one <= other);
        at_right += usize::from(other <= one);
    }
    count
}

/// Pairs of positions that rise on both sides and are most alike in all; unlike ones never pair.
fn best_row(
    left: usize,
    right: usize,
    likeness: impl Fn(usize, usize) -> u32,
) -> Vec<(usize, usize)> {
    let width = right + 1;
    // What can be had from each pair of positions on, and the likeness of that pair itself.
    let mut best = vec![0_u64; (left + 1) * width];
    let mut alike = vec![0_u32; left * right];
    for one in (0..left).rev() {
        for other in (0..right).rev() {
            let here = likeness(one, other);
            alike[one * right + other] = here;
            let both = match here {
                0 => 0,
                here => u64::from(here) + best[(one + 1) * width + other + 1],
            };
            let skip = best[(one + 1) * width + other].max(best[one * width + other + 1]);
            best[one * width + other] = both.max(skip);
        }
    }
    let (mut one, mut other, mut row) = (0, 0, Vec::new());
    while one < left && other < right {
        let here = alike[one * right + other];
        let now = best[one * width + other];
        if here > 0 && now == u64::from(here) + best[(one + 1) * width + other + 1] {
            row.push((one, other));
            (one, other) = (one + 1, other + 1);
        } else if now == best[(one + 1) * width + other] {
            one += 1;
        } else {
            other += 1;
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Limits;
    use super::*;

    fn tree(text: &str, file: &str) -> Tree {
        Tree::parse(text.as_bytes(), file, &Limits::default()).unwrap()
    }

    fn told(before: &str, after: &str, volatile: &[&str]) -> Vec<String> {
        let volatile: Vec<_> = volatile.iter().map(|text| Selector::parse(text).unwrap()).collect();
        let differences = Tree::differences(&tree(before, "b"), &tree(after, "a"), &volatile);
        differences.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_written_otherwise_and_says_the_same_does_not_differ() {
        let before = "<a x='1' y='2'><b>t</b></a>";
        let after = "<!-- c --><a y='2'\n x='1'>\n <b> t </b></a>";
        assert_eq!(told(before, after, &[]), [""; 0]);
    }

    #[test]
    fn every_kind_of_difference_has_its_place() {
        let before = "<a>\n<r n='1'>t</r>\n<s>u</s>\n<g/>\n</a>";
        let after = "<a z='9'>\n<r n='2'>v</r>\n<h/>\n<s>u</s></a>";
        let expected = [
            "a/@z: only after (a:1:4; missing in b:1:1)",
            "a/r/@n: \"1\" is now \"2\" (b:2:4; a:2:4)",
            "a/r/text(): \"t\" is now \"v\" (b:2:10; a:2:10)",
            "a/h: only after (a:3:1; missing in b:1:1)",
            "a/g: only before (b:4:1; missing in a:1:1)",
        ];
        assert_eq!(told(before, after, &[]), expected);
        assert_eq!(
            told("<a/>", "<b/>", &[]),
            ["a: only before (b:1:1; missing in a)", "b: only after (a:1:1; missing in b)"]
        );
    }

    #[test]
    fn what_is_inserted_does_not_make_its_siblings_differ() {
        let rule = |name: &str, size: u32| {
            format!("<rule><name>{name}</name><size>{size}</size><on/></rule>")
        };
        let before = format!("<c>{}{}{}</c>", rule("A", 1), rule("B", 2), rule("C", 3));
        let after =
            format!("<c>{}{}{}{}</c>", rule("X", 9), rule("A", 1), rule("B", 5), rule("C", 3));
        let expected = [
            "c/rule: only after (a:1:4; missing in b:1:1)",
            "c/rule[2]/size/text(): \"2\" is now \"5\" (b:1:76; a:1:122)",
        ];
        assert_eq!(told(&before, &after, &[]), expected);
    }

    #[test]
    fn what_changed_is_found_beside_what_is_new() {
        let before = "<c><r><n>A</n><k>1</k></r></c>";
        let after = "<c><r><n>X</n><k>7</k></r><r><n>A</n><k>2</k></r></c>";
        let expected = [
            "c/r: only after (a:1:4; missing in b:1:1)",
            "c/r/k/text(): \"1\" is now \"2\" (b:1:18; a:1:41)",
        ];
        assert_eq!(told(before, after, &[]), expected);
    }

    #[test]
    fn what_only_moved_is_said_to_have_moved() {
        let before = "<c><r>1</r><r>2</r><r>3</r></c>";
        let after = "<c><r>3</r><r>1</r><r>2</r></c>";
        assert_eq!(told(before, after, &[]), ["c/r[3]: moved (b:1:20; a:1:4)"]);
    }

    #[test]
    fn what_is_volatile_does_not_differ() {
        let before = "<a id='1' at='now'><r id='2'>x</r><stamp>1</stamp></a>";
        let after = "<a id='3'><r>x</r></a>";
        assert_eq!(told(before, after, &["**/@id", "a/@at", "a/stamp"]), [""; 0]);
        assert_eq!(told(before, after, &["**/@id"]).len(), 2);
        assert_eq!(told("<a/>", "<b/>", &["*"]), [""; 0]);
        assert_eq!(told("<a/>", "<b/>", &["a"]), ["b: only after (a:1:1; missing in b)"]);
    }

    #[test]
    fn many_equal_and_many_changed_children_take_bounded_work() {
        let list = |from: u32, to: u32| {
            let items = (from..to).map(|number| format!("<e><n>{number}</n><k/></e>"));
            format!("<c>{}</c>", items.collect::<String>())
        };
        assert_eq!(told(&list(0, 20_000), &list(1, 20_001), &[]).len(), 2);
        let same = |count: usize| format!("<c>{}</c>", "<e/>".repeat(count));
        assert_eq!(told(&same(20_000), &same(19_000), &[]).len(), 1000);
        assert_eq!(told(&list(0, 12_000), &list(50_000, 62_000), &[]).len(), DIFFERENCES_MAX);
    }

    /// Elements, attributes and texts from few words, so that much is alike.
    fn documents() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec!["x", "y", "<e/>", "<f k='1'/>", "<f k='2'>x</f>"]);
        leaf.prop_map(str::to_owned).prop_recursive(4, 24, 4, |inner| {
            (prop::sample::select(vec!["e", "f"]), prop::collection::vec(inner, 0..4))
                .prop_map(|(name, inner)| format!("<{name}>{}</{name}>", inner.concat()))
        })
    }

    proptest! {
        /// Goal: trees are called the same exactly when they are.
        #[test]
        fn differences_are_found_exactly_where_canonical_texts_differ(
            before in documents(),
            after in documents(),
        ) {
            let trees =
                [before, after].map(|text| tree(&format!("<a>{text}</a>"), "x"));
            let canonical = trees.each_ref().map(|tree| tree.canonical(tree.root(), &tree.no_marks()));
            let found = Tree::differences(&trees[0], &trees[1], &[]);
            prop_assert_eq!(found.is_empty(), canonical[0] == canonical[1], "{:?}", canonical);
            prop_assert!(Tree::differences(&trees[0], &trees[0], &[]).is_empty());
        }
    }
}
