//! `held --offline DIR`: reads a spool that no daemon serves.
//!
//! DIR is a data folder or the spool folder in it. Without the key, ids, sizes and states are shown;
//! addresses and mail data are sealed.
//!
//! Not here: changing anything; that needs the daemon, which alone writes the spool.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use proxy::api::{self, HeldFilter, HeldPath, HeldState};
use proxy::config::Config;
use proxy::spool::offline::{Offline, open_readonly};
use proxy::spool::{
    HeldMessage, Kept, KeyError, KeySource, Lane, LoadError, Need, OpenError, PathState, SpoolId,
    Stand, Summary,
};

use super::held::{Held, List, NOT_HELD, Verb, detail, effective_limit, table};
use super::{Exit, Global};
use crate::render::{Format, Out, clean};

pub(super) fn run(held: Held, global: &Global, out: &mut Out) -> anyhow::Result<Exit> {
    let Some(folder) = held.offline().map(Path::to_owned) else {
        bail!("--offline names no folder")
    };
    let (list, show) = match held.verb {
        Verb::List(list) => (Some(list), None),
        Verb::Show { id, raw, .. } => (None, Some((id, raw))),
        _ => bail!("--offline only reads: list and show; start lockgate to change held mail"),
    };
    let spool = Spool::open(&folder, global, out)?;
    if let Some(list) = list {
        return spool.list(list, out);
    }
    match show {
        Some((id, true)) => spool.raw(&id, out),
        Some((id, false)) => spool.show(&id, out),
        None => Ok(Exit::Error),
    }
}

/// A spool without its daemon.
struct Spool {
    offline: Offline,
    sealed: bool,
}

impl Spool {
    fn open(folder: &Path, global: &Global, out: &mut Out) -> anyhow::Result<Self> {
        let places = Places::find(folder, global)?;
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let source = KeySource::find(&places.key, credentials.as_deref());
        let key = match source.load() {
            Ok(key) => Some(key),
            Err(KeyError::Missing { path }) => {
                let path = path.display();
                out.warn(&format!("no key at {path}: addresses and mail data stay sealed"))?;
                None
            }
            Err(error) => return Err(error.into()),
        };
        let mut sealed = key.is_none();
        if !places.spool.is_dir() {
            bail!("there is no spool in {}", folder.display());
        }
        let opened = match open_readonly(&places.spool, key) {
            Err(error @ OpenError::WrongKey { .. }) => {
                let text = format!("{error}; addresses and mail data stay sealed meanwhile");
                out.warn(&clean(&text))?;
                sealed = true;
                open_readonly(&places.spool, None)
            }
            opened => opened,
        };
        let offline = opened.context("the spool cannot be read")?;
        for damage in offline.damaged() {
            out.warn(&clean(&damage.to_string()))?;
        }
        Ok(Self { offline, sealed })
    }

    fn list(&self, list: List, out: &mut Out) -> anyhow::Result<Exit> {
        let filter = HeldFilter::from(list.filter);
        let limit = effective_limit(list.limit, out.format());
        let now = jiff::Timestamp::now();
        let mut rows = Vec::new();
        let mut shown = 0;
        for summary in self.offline.summaries() {
            let held = self.read(&summary)?;
            if !matches(&filter, &held, &summary, now) {
                continue;
            }
            if limit == Some(shown) {
                out.warn(&format!("only the first {shown}; all: --limit 0"))?;
                break;
            }
            shown += 1;
            match out.format() {
                Format::Json => out.json_line(&held)?,
                Format::Text => rows.push(held),
            }
        }
        if out.format() == Format::Text {
            out.list(&rows, table)?;
        }
        Ok(Exit::Yes)
    }

    fn show(&self, id: &str, out: &mut Out) -> anyhow::Result<Exit> {
        let id: SpoolId = id.parse().with_context(|| format!("`{}` is no spool id", clean(id)))?;
        let summaries = self.offline.summaries();
        let Some(summary) = summaries.iter().find(|summary| summary.id == id) else {
            bail!("message {id} is not held; {NOT_HELD}");
        };
        out.document(&self.read(summary)?, detail)?;
        Ok(Exit::Yes)
    }

    fn raw(&self, id: &str, out: &mut Out) -> anyhow::Result<Exit> {
        if out.format() == Format::Json {
            bail!("--raw writes mail data, not JSON: leave out -o json");
        }
        let id: SpoolId = id.parse().with_context(|| format!("`{}` is no spool id", clean(id)))?;
        let mut message = self.offline.load(id)?;
        // Whole, before the first octet goes out: a damaged message must not look complete.
        let mut wire = Vec::new();
        while let Some(piece) = message.data.next()? {
            wire.extend_from_slice(&piece);
        }
        let mut text = Vec::with_capacity(wire.len());
        smtp::unstuff(&wire, &mut text);
        out.raw(&text)?;
        Ok(Exit::Yes)
    }

    /// A message with all that the key opens.
    fn read(&self, summary: &Summary) -> anyhow::Result<api::Held> {
        if self.sealed {
            return Ok(outline(summary, state(summary.stand())));
        }
        match self.offline.load(summary.id) {
            Ok(message) => Ok(full(summary, &message)),
            Err(LoadError::Damaged(_)) => Ok(outline(summary, HeldState::Damaged)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Where the parts of a data folder are.
struct Places {
    spool: PathBuf,
    key: PathBuf,
}

impl Places {
    /// `folder` is a data folder, or a spool folder in one; names come from the configuration.
    fn find(folder: &Path, global: &Global) -> anyhow::Result<Self> {
        let config = global.file()?.unwrap_or_else(|| Config::embedded(folder));
        let inner = folder.join(&config.spool.directory);
        let (spool, data) = if inner.is_dir() {
            (inner, folder.to_owned())
        } else {
            (folder.to_owned(), folder.join(".."))
        };
        Ok(Self { spool, key: data.join(&config.key_file) })
    }
}

fn outline(summary: &Summary, state: HeldState) -> api::Held {
    let paths = summary.paths.iter().map(|state| path(state, String::new()));
    api::Held {
        id: summary.id.to_string(),
        gate: summary.gate.to_string(),
        state,
        message_id: None,
        reverse_path: String::new(),
        forward_paths: paths.collect(),
        size: summary.size,
        held_at: time(summary.id.transaction().unix_ms()),
        client: String::new(),
        dsn: summary.lane == Lane::Dsn,
    }
}

fn full(summary: &Summary, message: &HeldMessage) -> api::Held {
    let addresses = message.envelope.recipients().iter();
    let paths = addresses.zip(&message.paths);
    let paths = paths.map(|(to, state)| path(state, to.path.address().to_owned()));
    api::Held {
        message_id: message.message_id.clone(),
        reverse_path: message.envelope.sender.path.address().to_owned(),
        forward_paths: paths.collect(),
        held_at: time(message.arrival.held_at_unix_ms),
        client: message.arrival.client.to_string(),
        ..outline(summary, state(summary.stand()))
    }
}

/// Nothing is alive offline: what was offered is uncertain.
fn state(stand: Stand) -> HeldState {
    match stand {
        Stand::Offered | Stand::Asked => HeldState::Uncertain,
        Stand::Fresh => HeldState::Held,
        Stand::Deferred => HeldState::Deferred,
        Stand::Refused => HeldState::Refused,
        Stand::Blocked => HeldState::Blocked,
        Stand::Done => HeldState::Done,
    }
}

fn path(path: &PathState, address: String) -> HeldPath {
    let mut held =
        HeldPath { address, state: HeldState::Held, attempts: 0, due_at: None, reply: None };
    let reply = match path {
        PathState::Due { at_unix_ms, attempts, reply, .. } => {
            held.attempts = *attempts;
            if *attempts > 0 {
                held.state = HeldState::Deferred;
                held.due_at = Some(time(*at_unix_ms));
            }
            reply.as_str()
        }
        PathState::Offered { attempts, .. } => {
            held.state = HeldState::Uncertain;
            held.attempts = *attempts;
            ""
        }
        PathState::Kept { why, reply } => {
            held.state = match why {
                Kept::Refused => HeldState::Refused,
                Kept::Blocked(_) => HeldState::Blocked,
                Kept::Asked => HeldState::Uncertain,
            };
            match why {
                Kept::Blocked(need) if reply.as_str().is_empty() => self::need(*need),
                _ => reply.as_str(),
            }
        }
        PathState::Done { reply, .. } => {
            held.state = HeldState::Done;
            reply.as_str()
        }
    };
    held.reply = (!reply.is_empty()).then(|| reply.to_owned());
    held
}

fn need(need: Need) -> &'static str {
    match need {
        Need::EightBitMime => "needs 8BITMIME, which the member does not offer",
        Need::SmtpUtf8 => "needs SMTPUTF8, which the member does not offer",
        Need::Size(_) => "larger than the member takes",
    }
}

fn time(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| "?".to_owned(), |time| time.to_string())
}

/// Every member of the filter narrows; addresses match in part and in any case.
fn matches(filter: &HeldFilter, held: &api::Held, summary: &Summary, now: jiff::Timestamp) -> bool {
    let part = |wanted: &Option<String>, text: &str| {
        let wanted = wanted.as_ref().map(|wanted| wanted.to_lowercase());
        wanted.is_none_or(|wanted| text.to_lowercase().contains(&wanted))
    };
    let now_ms = u64::try_from(now.as_millisecond()).unwrap_or(0);
    let age_s = now_ms.saturating_sub(summary.id.transaction().unix_ms()) / 1000;
    filter.gate.as_deref().is_none_or(|gate| gate == held.gate)
        && filter.state.is_none_or(|state| state == held.state)
        && filter.older_than_s.is_none_or(|older| age_s > older)
        && part(&filter.sender, &held.reverse_path)
        && part(&filter.message_id, held.message_id.as_deref().unwrap_or(""))
        && held.forward_paths.iter().any(|path| part(&filter.recipient, &path.address))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Mutex};

    use super::super::{Cli, Verb as CliVerb, parse};
    use super::*;

    #[test]
    fn a_data_folder_and_the_spool_in_it_lead_to_the_same_place() {
        let data = tempfile::tempdir().unwrap();
        let spool = data.path().join("spool");
        std::fs::create_dir(&spool).unwrap();
        let global = Global::default();
        let outer = Places::find(data.path(), &global).unwrap();
        let inner = Places::find(&spool, &global).unwrap();
        assert_eq!(outer.spool, spool);
        assert_eq!(inner.spool, spool);
        assert_eq!(outer.key, data.path().join("keys/spool.key"));
        assert_eq!(inner.key, spool.join("../keys/spool.key"));
    }

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../proxy/src/spool/golden");

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Buffer {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Buffer {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(octets)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// `held list` of a spool of two messages, sealed with the octet 7: what it wrote to standard
    /// output and to standard error.
    fn list(key: Option<u8>) -> (String, String) {
        let data = tempfile::tempdir().unwrap();
        let spool = data.path().join("spool");
        std::fs::create_dir(&spool).unwrap();
        for name in ["00000001.seg", "00000001.marks"] {
            std::fs::copy(Path::new(GOLDEN).join(name), spool.join(name)).unwrap();
        }
        if let Some(octet) = key {
            let file = Places::find(data.path(), &Global::default()).unwrap().key;
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, [octet; 32]).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let folder = data.path().to_str().unwrap();
        let cli = parse(["lockgate", "held", "list", "--offline", folder]).unwrap();
        let Cli { verb: CliVerb::Held(held), .. } = cli else { panic!("another verb") };
        let (stdout, stderr) = (Buffer::default(), Buffer::default());
        let mut out = Out::to(Format::Text, stdout.clone(), stderr.clone());
        assert_eq!(run(held, &Global::default(), &mut out).unwrap(), Exit::Yes);
        (stdout.text(), stderr.text())
    }

    #[test]
    fn without_a_key_and_with_a_wrong_one_addresses_are_called_sealed() {
        for (key, said) in [(None, "no key at"), (Some(8), "restore the right key")] {
            let (stdout, stderr) = list(key);
            assert_eq!(stdout.lines().count(), 3, "{stdout}");
            assert!(stdout.contains("sealed") && !stdout.contains("<>"), "{stdout}");
            assert!(stderr.contains(said), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "said once: {stderr}");
        }
    }

    #[test]
    fn with_the_right_key_nothing_is_sealed() {
        let (stdout, stderr) = list(Some(7));
        assert_eq!(stdout.lines().count(), 3, "{stdout}");
        assert!(!stdout.contains("sealed"), "{stdout}");
        assert_eq!(stderr, "");
    }

    #[test]
    fn times_are_written_as_on_the_wire() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), "?");
    }

    #[test]
    fn what_was_offered_is_uncertain_when_nothing_is_alive() {
        let offered = path(&PathState::Offered { attempts: 2, open_ms: 0 }, "b@example.net".into());
        assert_eq!((offered.state, offered.attempts), (HeldState::Uncertain, 2));
        assert_eq!(state(Stand::Offered), HeldState::Uncertain);
        let fresh = path(&PathState::FRESH, String::new());
        assert_eq!((fresh.state, fresh.due_at), (HeldState::Held, None));
    }
}
