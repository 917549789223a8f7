//! Services: the lines of master.cf, with what each says otherwise than main.cf.
//!
//! Not here: what the program of a service does (`routing`, `next_hop`).

use policy::origin::Origin;

use super::lines::{self, in_braces, parts};
use super::parameters::{Setting, Settings, Stray, is_name};

/// A line of master.cf.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// Its name: a transport's, or where it listens.
    pub(super) name: String,
    /// `inet`, `unix`, `fifo`, `pass`.
    pub(super) kind: String,
    /// The program.
    pub(super) command: String,
    /// What it says otherwise (`-o`).
    pub(super) settings: Settings,
    /// Where it stands.
    pub(super) origin: Origin,
}

/// Reads master.cf: of two lines with the same name and type, the last counts.
pub(super) fn read(text: &str, file: &str) -> (Vec<Service>, Vec<Stray>) {
    let (mut services, mut strays): (Vec<Service>, _) = (Vec::new(), Vec::new());
    for line in lines::logical(text, file) {
        match service(&line.text, &line.origin) {
            Some(service) => {
                let same = |one: &Service| one.name == service.name && one.kind == service.kind;
                services.retain(|one| !same(one));
                services.push(service);
            }
            None => strays.push(Stray { text: line.text, origin: line.origin }),
        }
    }
    (services, strays)
}

fn service(line: &str, origin: &Origin) -> Option<Service> {
    // Commas separate nothing here, but within braces.
    let words = split(line);
    let [name, kind, _, _, _, _, _, command, arguments @ ..] = words.as_slice() else {
        return None;
    };
    let kind_is_known = matches!(*kind, "inet" | "unix" | "unix-dgram" | "fifo" | "pass");
    let settings = settings(arguments, origin)?;
    kind_is_known.then(|| Service {
        name: (*name).to_owned(),
        kind: (*kind).to_owned(),
        command: (*command).to_owned(),
        settings,
        origin: origin.clone(),
    })
}

fn split(line: &str) -> Vec<&str> {
    let (mut words, mut start, mut depth) = (Vec::new(), None, 0_u32);
    for (at, letter) in line.char_indices() {
        // A brace protects blanks only where an argument begins with it.
        match (letter, start) {
            ('{', None) => depth = 1,
            ('{', _) if depth > 0 => depth += 1,
            ('}', _) => depth = depth.saturating_sub(1),
            _ => {}
        }
        match (start, depth == 0 && letter.is_whitespace()) {
            (None, false) => start = Some(at),
            (Some(begin), true) => {
                words.push(&line[begin..at]);
                start = None;
            }
            _ => {}
        }
    }
    words.extend(start.map(|begin| &line[begin..]));
    words
}

/// `-o name=value`, `-oname=value`, `-o { name = value }`; other arguments are the program's own.
fn settings(arguments: &[&str], origin: &Origin) -> Option<Settings> {
    let mut settings = Settings::new();
    let mut arguments = arguments.iter();
    // Options end where the first argument is none (`flags=… argv=…` of pipe).
    while let Some(argument) = arguments.next().filter(|argument| argument.starts_with('-')) {
        let Some(rest) = argument.strip_prefix("-o") else { continue };
        let text = if rest.is_empty() { arguments.next()? } else { rest };
        let (name, value) = in_braces(text).unwrap_or(text).split_once('=')?;
        if !is_name(name.trim()) {
            return None;
        }
        let (text, origin) = (value.trim().to_owned(), origin.clone());
        settings.insert(name.trim().to_owned(), Setting { text, origin });
    }
    Some(settings)
}

impl Service {
    /// Where a service of type `inet` listens: host, if one is said, and port.
    pub(super) fn listens(&self) -> (Option<&str>, &str) {
        match self.name.rsplit_once(':') {
            None => (None, &self.name),
            Some((host, port)) => (Some(host.trim_matches(['[', ']'])), port),
        }
    }

    /// Is something switched on here that is a list of words?
    pub(super) fn has_word(list: &str, word: &str) -> bool {
        parts(list).contains(&word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_programs_and_settings() {
        let text = "smtp inet n - y - - smtpd\n  -o content_filter=smtp:[a]:1\n  \
                    -o { smtpd_x = a, b } -v -oy=1\n[::1]:10026 inet n - n - 10 smtpd -o a=\n\
                    smtp inet n - n - - postscreen\nsmtp unix - - y - - smtp\nbad line\n\
                    f unix - n n - - pipe argv=/x -o y $z\nz strange - - - - - a\n";
        let (services, strays) = read(text, "master.cf");
        let names = services.iter().map(|one| format!("{} {} {}", one.name, one.kind, one.command));
        let names: Vec<String> = names.collect();
        let expected =
            ["[::1]:10026 inet smtpd", "smtp inet postscreen", "smtp unix smtp", "f unix pipe"];
        assert_eq!(names, expected, "the last of a name and type counts");
        assert_eq!(strays.len(), 2, "{strays:?}");
        assert_eq!(services[0].listens(), (Some("::1"), "10026"));
        assert_eq!(services[1].listens(), (None, "smtp"));
        let (services, _) = read(&text[..text.find("smtp inet n - n").unwrap()], "master.cf");
        let said = |name: &str| services[0].settings[name].text.as_str();
        assert_eq!(
            (said("content_filter"), said("smtpd_x"), said("y")),
            ("smtp:[a]:1", "a, b", "1")
        );
        assert_eq!(services[1].settings["a"].text, "");
    }
}
