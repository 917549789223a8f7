//! Next hops: where a member is, from which address we speak to it, and what we learned of it.
//!
//! The server takes the direction of mail from our source address: a [`NextHop`] always carries the
//! one of its gate, and pass, replay and probes use the same next hop.
//!
//! Invariants
//! - What was learned (EHLO keywords, identity) is on disk, so that a gate offers the same in hold.
//! - An identity, once learned, is replaced only by a person ([`Memory::accept_identity`]).
//!
//! Not here: connections (`connection`), orders that follow from a changed identity (`health`).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use disk::Disk;
use disk::snapshot::{self, Loaded};
use serde::{Deserialize, Serialize};
use smtp::{ClientName, Extensions};

use super::tls::Tls;

/// Name of the file of what was learned, in the state directory.
pub const FILE: &str = "members";

/// What the file begins with.
const MAGIC: &[u8; 8] = b"LGMEMBER";

/// Version of the layout inside the snapshot.
const VERSION: u32 = 1;

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPort {
    host: Box<str>,
    port: u16,
}

/// Not `host:port`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?} is not host:port, such as \"192.0.2.1:25\" or \"[2001:db8::1]:25\"")]
pub struct HostPortError(String);

impl HostPort {
    /// A host and a port.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// The host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The address, when the host is one.
    #[must_use]
    pub fn literal(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let error = || HostPortError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port: u16 = port.parse().map_err(|_| error())?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => inner,
            None if host.contains(':') => return Err(error()),
            None => host,
        };
        if host.is_empty() || port == 0 || host.contains(char::is_whitespace) {
            return Err(error());
        }
        Ok(Self::new(host, port))
    }
}

impl TryFrom<String> for HostPort {
    type Error = HostPortError;

    fn try_from(text: String) -> Result<Self, HostPortError> {
        text.parse()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One member of one gate as a next hop.
#[derive(Clone, Debug)]
pub struct NextHop {
    /// `gate/member`: the key of what was learned.
    pub key: String,
    /// Name of the member.
    pub member: String,
    /// Where it listens.
    pub address: HostPort,
    /// From where we speak to it.
    pub source: Option<IpAddr>,
    /// What we call ourselves.
    pub helo: ClientName,
    /// What TLS it needs.
    pub tls: Tls,
}

/// Who took a probe, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Its identity.
    pub identity: String,
    /// Milliseconds since the epoch.
    pub at_unix_ms: u64,
}

/// What the last attempt to reach a next hop found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Not tried since the start.
    Unknown,
    /// It answered.
    Up,
    /// It did not answer, or refused before MAIL.
    Down {
        /// Since when.
        since: Instant,
        /// Failures in a row.
        failures: u32,
        /// Before this nobody tries again.
        retry_at: Instant,
    },
}

/// What we know of one next hop.
#[derive(Clone, Debug)]
pub struct Known {
    /// What it offered last.
    pub extensions: Option<Extensions>,
    /// Who it is.
    pub identity: Option<String>,
    /// An identity that was found in its place, and is not accepted.
    pub stranger: Option<String>,
    /// Who took a probe last, and when: a person may accept it.
    pub probed: Option<Probed>,
    /// When it last answered, in milliseconds since the epoch.
    pub seen_unix_ms: Option<u64>,
    /// TLS of the last connection.
    pub tls: Option<String>,
    /// Can it be reached?
    pub reach: Reach,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            extensions: None,
            identity: None,
            stranger: None,
            probed: None,
            seen_unix_ms: None,
            tls: None,
            reach: Reach::Unknown,
        }
    }
}

/// What was learned of all next hops; on disk.
pub struct Memory {
    disk: Arc<dyn Disk>,
    /// Held while the file is replaced: the last to come writes last, and what is newest.
    writing: Mutex<()>,
    known: Mutex<BTreeMap<String, Known>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    members: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    extensions: Option<String>,
    identity: Option<String>,
    stranger: Option<String>,
    seen_unix_ms: Option<u64>,
}

/// What a connection found.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it offered.
    pub extensions: Extensions,
    /// Who it is.
    pub identity: String,
    /// TLS, when there was any.
    pub tls: Option<String>,
    /// When, in milliseconds since the epoch.
    pub at_unix_ms: u64,
}

/// Whoever answered may not be given mail before a person has looked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// Another server answered in the place of the one that was learned.
    #[error("{found} answered where {expected} is expected")]
    Changed {
        /// Who was learned.
        expected: String,
        /// Who answered.
        found: String,
    },
    /// It calls itself the same, but was away for long: it may have been installed anew.
    #[error("it was away for {seconds} s, longer than health_outage_max_s")]
    Away {
        /// How long.
        seconds: u64,
    },
}

const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

impl Memory {
    /// Writes an empty file; only the making of a new state directory calls this.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn create(disk: Arc<dyn Disk>) -> io::Result<()> {
        Self { disk, writing: Mutex::new(()), known: Mutex::default() }.save()
    }

    /// Reads what was learned. Where the file is missing or damaged the second value says why, and
    /// the caller must hold: who a member was is not known any more.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn load(disk: Arc<dyn Disk>) -> io::Result<(Self, Option<String>)> {
        let mut doubt = None;
        let mut known = BTreeMap::new();
        match snapshot::load(&*disk, &PathBuf::from(FILE), MAGIC)? {
            Loaded::Missing => doubt = Some("the file is missing".to_owned()),
            Loaded::Damaged(what) => doubt = Some(what.to_owned()),
            Loaded::Stored { version, .. } if version != VERSION => {
                doubt = Some(format!("it has version {version}"));
            }
            Loaded::Stored { payload, .. } => match serde_json::from_slice::<Contents>(&payload) {
                Ok(contents) => {
                    for (key, entry) in contents.members {
                        let extensions = entry.extensions.as_deref().map(Extensions::from_words);
                        let found = Known {
                            extensions,
                            identity: entry.identity,
                            stranger: entry.stranger,
                            seen_unix_ms: entry.seen_unix_ms,
                            ..Known::default()
                        };
                        known.insert(key, found);
                    }
                }
                Err(error) => doubt = Some(error.to_string()),
            },
        }
        Ok((Self { disk, writing: Mutex::new(()), known: Mutex::new(known) }, doubt))
    }

    /// What is known of a next hop.
    #[must_use]
    pub fn known(&self, key: &str) -> Known {
        self.lock().get(key).cloned().unwrap_or_default()
    }

    /// Notes that a next hop answered. `Ok(true)` when something changed that [`Memory::save`]
    /// should keep.
    ///
    /// With `outage_max`, one that was away for longer is a stranger too.
    ///
    /// # Errors
    /// [`Stranger`]: nothing may be given to it.
    pub fn saw(
        &self,
        key: &str,
        seen: &Seen,
        outage_max: Option<Duration>,
    ) -> Result<bool, Stranger> {
        let mut all = self.lock();
        let known = all.entry(key.to_owned()).or_default();
        if let (Reach::Down { since, .. }, Some(outage_max), Some(_)) =
            (known.reach, outage_max, &known.identity)
            && since.elapsed() > outage_max
        {
            // It stays down until a person accepts it: every connection is judged alike.
            return Err(Stranger::Away { seconds: since.elapsed().as_secs() });
        }
        known.reach = Reach::Up;
        if let Some(expected) = &known.identity
            && *expected != seen.identity
        {
            known.stranger = Some(seen.identity.clone());
            return Err(Stranger::Changed {
                expected: expected.clone(),
                found: seen.identity.clone(),
            });
        }
        let changed =
            known.identity.is_none() || known.extensions.as_ref() != Some(&seen.extensions);
        known.identity = Some(seen.identity.clone());
        known.stranger = None;
        known.extensions = Some(seen.extensions);
        known.seen_unix_ms = Some(seen.at_unix_ms);
        known.tls.clone_from(&seen.tls);
        Ok(changed)
    }

    /// Notes that a next hop answered whose identity does not matter.
    pub fn trust(&self, key: &str, seen: &Seen) {
        let mut all = self.lock();
        let known = all.entry(key.to_owned()).or_default();
        known.reach = Reach::Up;
        known.identity = Some(seen.identity.clone());
        known.extensions = Some(seen.extensions);
        known.seen_unix_ms = Some(seen.at_unix_ms);
        known.tls.clone_from(&seen.tls);
    }

    /// Notes that a next hop could not be reached, and when to try again.
    pub fn missed(&self, key: &str, now: Instant) {
        let mut all = self.lock();
        let known = all.entry(key.to_owned()).or_default();
        let (since, failures) = match known.reach {
            Reach::Down { since, failures, .. } => (since, failures.saturating_add(1)),
            Reach::Unknown | Reach::Up => (now, 1),
        };
        let pause = RETRY_MIN.saturating_mul(1 << failures.min(6)).min(RETRY_MAX);
        known.reach = Reach::Down { since, failures, retry_at: now + pause };
    }

    /// A probe was accepted by whoever answers now.
    pub fn probed(&self, key: &str, identity: &str, at_unix_ms: u64) {
        let probed = Probed { identity: identity.to_owned(), at_unix_ms };
        self.lock().entry(key.to_owned()).or_default().probed = Some(probed);
    }

    /// A person takes the stranger for the member from now on.
    pub fn accept_identity(&self, key: &str) {
        let mut all = self.lock();
        let known = all.entry(key.to_owned()).or_default();
        if let Some(stranger) = known.stranger.take() {
            known.identity = Some(stranger);
        }
        known.reach = Reach::Unknown;
        known.probed = None;
    }

    /// Is it worth a try now?
    #[must_use]
    pub fn worth_a_try(&self, key: &str, now: Instant) -> bool {
        match self.lock().get(key).map(|known| known.reach) {
            Some(Reach::Down { retry_at, .. }) => now >= retry_at,
            _ => true,
        }
    }

    /// Writes what was learned. Blocking: it syncs.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let members = self
            .lock()
            .iter()
            .map(|(key, known)| {
                let entry = Entry {
                    extensions: known.extensions.as_ref().map(Extensions::to_words),
                    identity: known.identity.clone(),
                    stranger: known.stranger.clone(),
                    seen_unix_ms: known.seen_unix_ms,
                };
                (key.clone(), entry)
            })
            .collect();
        let bytes = serde_json::to_vec(&Contents { members }).map_err(io::Error::other)?;
        snapshot::store(&*self.disk, &PathBuf::from(FILE), MAGIC, VERSION, &bytes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use disk::{Crash, FaultyDisk};

    const KEY: &str = "outbound/sems1";

    fn seen(identity: &str) -> Seen {
        let mut extensions = Extensions::none();
        extensions.insert(smtp::Extension::Pipelining);
        extensions.set_size(1000);
        Seen { extensions, identity: identity.into(), tls: None, at_unix_ms: 5 }
    }

    fn fresh() -> (FaultyDisk, Memory) {
        let disk = FaultyDisk::default();
        Memory::create(Arc::new(disk.clone())).unwrap();
        let (memory, doubt) = Memory::load(Arc::new(disk.clone())).unwrap();
        assert_eq!(doubt, None);
        (disk, memory)
    }

    #[test]
    fn hosts_and_ports_are_read_and_printed_alike() {
        for text in ["127.0.0.1:25", "mx.example.org:2525", "[2001:db8::1]:25"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in ["", "host", "host:", "host:0", ":25", "2001:db8::1:25", "a b:25", "h:65536"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn another_identity_is_a_stranger_until_a_person_accepts_it() {
        let (_disk, memory) = fresh();
        assert!(memory.saw(KEY, &seen("host old"), None).unwrap());
        assert!(!memory.saw(KEY, &seen("host old"), None).unwrap(), "nothing new");
        for _ in 0..2 {
            let stranger = memory.saw(KEY, &seen("host new"), None).unwrap_err();
            assert!(matches!(stranger, Stranger::Changed { .. }));
        }
        memory.accept_identity(KEY);
        memory.saw(KEY, &seen("host new"), None).unwrap();
        assert!(memory.saw(KEY, &seen("host old"), None).is_err(), "and the old one is a stranger");
    }

    #[test]
    fn the_old_server_is_no_stranger_because_another_answered_meanwhile() {
        let (_disk, memory) = fresh();
        memory.saw(KEY, &seen("host old"), None).unwrap();
        memory.saw(KEY, &seen("host new"), None).unwrap_err();
        memory.saw(KEY, &seen("host old"), None).unwrap();
        memory.accept_identity(KEY);
        assert_eq!(memory.known(KEY).identity.as_deref(), Some("host old"));
    }

    #[test]
    fn one_that_was_away_for_too_long_stays_down_until_accepted() {
        let (_disk, memory) = fresh();
        memory.saw(KEY, &seen("host same"), Some(Duration::ZERO)).unwrap();
        memory.missed(KEY, Instant::now() - Duration::from_secs(5));
        for _ in 0..2 {
            let stranger = memory.saw(KEY, &seen("host same"), Some(Duration::from_secs(2)));
            assert!(matches!(stranger, Err(Stranger::Away { seconds: 5.. })), "{stranger:?}");
        }
        assert!(matches!(memory.known(KEY).reach, Reach::Down { .. }));
        memory.accept_identity(KEY);
        memory.saw(KEY, &seen("host same"), Some(Duration::from_secs(2))).unwrap();
    }

    #[test]
    fn without_a_limit_an_absence_is_forgotten() {
        let (_disk, memory) = fresh();
        memory.saw(KEY, &seen("host same"), None).unwrap();
        memory.missed(KEY, Instant::now() - Duration::from_secs(5));
        memory.saw(KEY, &seen("host same"), None).unwrap();
    }

    #[test]
    fn a_dead_one_is_left_alone_for_longer_and_longer_up_to_a_bound() {
        let (_disk, memory) = fresh();
        let start = Instant::now();
        let mut now = start;
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            assert!(memory.worth_a_try(KEY, now));
            memory.missed(KEY, now);
            let Reach::Down { since, retry_at, .. } = memory.known(KEY).reach else {
                unreachable!("it was missed");
            };
            assert_eq!(since, start);
            assert!(!memory.worth_a_try(KEY, now));
            let pause = retry_at - now;
            assert!(pause >= last && pause <= RETRY_MAX);
            (last, now) = (pause, retry_at);
        }
        assert_eq!(last, RETRY_MAX);
    }

    #[test]
    fn what_was_learned_survives_a_crash_once_it_is_saved() {
        let (disk, memory) = fresh();
        memory.saw(KEY, &seen("host old"), None).unwrap();
        memory.save().unwrap();
        let after = disk.after_crash(Crash::Lost);
        let (again, doubt) = Memory::load(Arc::new(after)).unwrap();
        assert_eq!(doubt, None);
        assert_eq!(again.known(KEY).extensions, Some(seen("").extensions));
        assert!(again.saw(KEY, &seen("host new"), None).is_err());
    }

    #[test]
    fn a_missing_or_damaged_file_is_a_doubt() {
        let (_, doubt) = Memory::load(Arc::new(FaultyDisk::default())).unwrap();
        assert!(doubt.is_some());
        let (disk, memory) = fresh();
        memory.save().unwrap();
        disk.flip(std::path::Path::new(FILE), 18, 1);
        let (_, doubt) = Memory::load(Arc::new(disk)).unwrap();
        assert!(doubt.is_some());
    }
}
