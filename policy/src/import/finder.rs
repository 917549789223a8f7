//! What paths found in a tree, and what is left of it.
//!
//! Invariants
//! - What is found is used, and so is every element that was named on the way to it.
//! - What is left in a part is neither used nor ignored, and has nothing in it that is used: each
//!   item of the part is used, ignored, or within something left.
//!
//! Not here: what is looked for (`xml`).

use std::collections::HashSet;

use super::mapping::Paths;
use crate::tree::{Content, Marks, Place, Selector, Tree};

/// A tree, and what was found in it.
pub(super) struct Finder<'t> {
    pub(super) tree: &'t Tree,
    /// Items that are no part of the policy, with all that is in them.
    ignored: Marks,
    used: Marks,
}

/// A text that a path found.
pub(super) struct Value {
    pub(super) text: String,
    pub(super) place: Place,
}

impl<'t> Finder<'t> {
    /// Nothing was found yet; what `ignored` finds is not looked for.
    pub(super) fn new<'s>(tree: &'t Tree, ignored: impl Iterator<Item = &'s Selector>) -> Self {
        let mut marks = tree.no_marks();
        for place in ignored.flat_map(|selector| tree.select(None, selector)) {
            marks.add(place);
        }
        for place in tree.within(tree.root()) {
            if tree.item(place).parent.is_some_and(|parent| marks.has(parent)) {
                marks.add(place);
            }
        }
        Self { tree, ignored: marks, used: tree.no_marks() }
    }

    /// The first value that paths find from an element on, or from the document.
    pub(super) fn value(&mut self, from: Option<Place>, paths: &Paths) -> Option<Value> {
        paths.iter().find_map(|path| {
            let first = self.find(from, path).into_iter().next()?;
            Some(self.take(first, path))
        })
    }

    /// Every value that paths find, in the order of the document.
    pub(super) fn values(&mut self, from: Option<Place>, paths: &Paths) -> Vec<Value> {
        let mut values = Vec::new();
        for path in paths {
            let found = self.find(from, path);
            values.extend(found.into_iter().map(|place| self.take(place, path)));
        }
        values.sort_by_key(|value| value.place);
        values.dedup_by_key(|value| value.place);
        values
    }

    /// Every element that paths find, in the order of the document.
    pub(super) fn elements(&mut self, from: Option<Place>, paths: &Paths) -> Vec<Place> {
        let mut elements: Vec<Place> =
            paths.iter().flat_map(|path| self.find(from, path)).collect();
        elements.iter().for_each(|place| self.used.add(*place));
        elements.sort_unstable();
        elements.dedup();
        elements
    }

    fn find(&mut self, from: Option<Place>, path: &Selector) -> Vec<Place> {
        let found = self.tree.find(from, path);
        found.way.into_iter().for_each(|place| self.used.add(place));
        found.items
    }

    /// The text of an item; of an element its name or its text, whichever the path asks for.
    fn take(&mut self, place: Place, path: &Selector) -> Value {
        self.used.add(place);
        let tree = self.tree;
        let text = match &tree.item(place).content {
            Content::Attribute(_, text) | Content::Text(text) => text.clone(),
            Content::Element(name) if path.is_of_names() => name.local.to_string(),
            Content::Element(_) => {
                // A second text, behind an element, is left: nobody knows what it would mean.
                let text = tree.parts(place).find_map(|part| match &tree.item(part).content {
                    Content::Text(text) => Some((part, text.clone())),
                    Content::Element(_) | Content::Attribute(..) => None,
                });
                text.map_or_else(String::new, |(part, text)| {
                    self.used.add(part);
                    text
                })
            }
        };
        Value { text, place }
    }

    /// The greatest items of a part that were not found.
    pub(super) fn left(&self, part: Place) -> Vec<Place> {
        let mut known = HashSet::new();
        for place in self.tree.within(part).rev() {
            let used = self.used.has(place) || known.contains(&place);
            if used && !self.ignored.has(place) {
                known.insert(place);
                known.extend(self.tree.item(place).parent);
            }
        }
        let is_greatest = |place: &Place| {
            let parent = self.tree.item(*place).parent;
            *place == part || parent.is_some_and(|parent| known.contains(&parent))
        };
        self.tree
            .within(part)
            .filter(|place| !self.ignored.has(*place) && !known.contains(place))
            .filter(is_greatest)
            .collect()
    }

    /// Takes a part as a whole: nothing of it is left.
    pub(super) fn use_all(&mut self, part: Place) {
        self.tree.within(part).for_each(|place| self.used.add(place));
    }

    /// The texts of a part that are not ignored.
    pub(super) fn texts(&self, part: Place) -> impl Iterator<Item = &'t String> + '_ {
        let tree = self.tree;
        let seen = tree.within(part).filter(|place| !self.ignored.has(*place));
        seen.filter_map(move |place| tree.text_of(place))
    }

    /// The canonical text of a part without what is ignored.
    pub(super) fn canonical(&self, part: Place) -> String {
        self.tree.canonical(part, &self.ignored)
    }
}
