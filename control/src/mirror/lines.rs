//! Logical lines, as Postfix reads its files.
//!
//! Empty lines, and lines whose first character that is no blank is a `#`, are ignored wherever they
//! stand; a line that begins with a blank continues the one before (postconf(5), postmap(1)).
//!
//! Not here: what a line says (`parameters`, `services`, `table`).

use policy::origin::Origin;

/// A logical line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logical {
    /// What it says, without the ends of its lines.
    pub(super) text: String,
    /// Where it begins.
    pub(super) origin: Origin,
}

/// The logical lines of a file.
pub(super) fn logical(text: &str, file: &str) -> Vec<Logical> {
    let whole = Origin::of(file);
    let mut lines: Vec<Logical> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let inside = line.trim_start();
        if inside.is_empty() || inside.starts_with('#') {
            continue;
        }
        match lines.last_mut() {
            Some(before) if line.starts_with(char::is_whitespace) => before.text.push_str(line),
            // Blanks before the first line continue nothing.
            _ => {
                let origin = Origin { file: whole.file.clone(), line: number, column: 1 };
                lines.push(Logical { text: line.to_owned(), origin });
            }
        }
    }
    for line in &mut lines {
        line.text.truncate(line.text.trim_end().len());
    }
    lines
}

/// Parts of a list that are separated by commas or blanks; what stands in braces is one part.
pub(super) fn parts(list: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), None, 0_u32);
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let between = depth == 0 && (letter == ',' || letter.is_whitespace());
        match (start, between) {
            (None, false) => start = Some(at),
            (Some(begin), true) => {
                parts.push(&list[begin..at]);
                start = None;
            }
            _ => {}
        }
    }
    parts.extend(start.map(|begin| &list[begin..]));
    parts
}

/// What stands in the braces around a text; none where there are none around all of it.
pub(super) fn in_braces(text: &str) -> Option<&str> {
    let inside = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut depth = 0_i64;
    for letter in inside.chars() {
        depth += i64::from(letter == '{') - i64::from(letter == '}');
        if depth < 0 {
            return None;
        }
    }
    Some(inside.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_stand_anywhere_and_blanks_continue() {
        let text = "# a\nb = 1,\n# between\n   # also\n\n  2\nc = 3 \n";
        let lines = logical(text, "main.cf");
        let shown = lines.iter().map(|line| format!("{} {}", line.origin, line.text));
        assert_eq!(shown.collect::<Vec<_>>(), ["main.cf:2:1 b = 1,  2", "main.cf:7:1 c = 3"]);
        assert!(logical("", "x").is_empty());
        assert_eq!(logical("  a\n b", "x").len(), 1);
    }

    #[test]
    fn parts_in_braces_stay_together() {
        assert_eq!(parts(" a, b\tc,, {d, e} f{g h}"), ["a", "b", "c", "{d, e}", "f{g h}"]);
        assert!(parts(" , ").is_empty());
        assert_eq!(parts("}a {b"), ["}a", "{b"]);
        assert_eq!(in_braces(" { a } "), Some("a"));
        assert_eq!(in_braces("{a} {b}"), None);
        assert_eq!(in_braces("a"), None);
    }
}
