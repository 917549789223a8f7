//! The certificate: a verdict of Drained as a document that can be checked again without us.
//!
//! Canonical JSON (members sorted, no blanks, whole numbers only), signed with Ed25519 (RFC 8032). The body names everything
//! that the verdict rests on; the files of the logs are named by a hash up to the octet that was read.
//!
//! Invariants
//! - What is signed is the canonical form of the body; a document that is formatted otherwise still verifies.
//! - It is made of a [`Proof`] only.
//!
//! Not here: whether a member is drained (`verdict`), where certificates are kept (`store`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::ledger::Sums;
use super::verdict::{Grade, Opening, Proof, Sentinel, Word};
use crate::moment::Moment;

/// Version of the body.
pub const VERSION: u32 = 1;

/// Octets of an Ed25519 public key and signature.
const KEY_OCTETS: usize = 32;
const SIGNATURE_OCTETS: usize = 64;

/// A file of a log, up to where it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// Its path, or the name under which it was handed in.
    pub path: String,
    /// Its inode; 0 where it was handed in.
    pub inode: u64,
    /// Octets that were read.
    pub offset: u64,
    /// SHA-256 chain over them, in hexadecimal: see docs/DRAIN.md.
    pub hash: String,
}

/// What a log told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFact {
    /// Name.
    pub log: String,
    /// `server`, or `next` for the host behind it.
    pub role: String,
    /// Files, as far as they were read.
    pub files: Vec<LogFile>,
    /// Lines read, and of these not understood, since the opening balance.
    pub lines: u64,
    /// See there.
    pub unparsed: u64,
    /// Notices that lines are missing, since the opening balance.
    pub missing: u64,
    /// When its last line was read.
    pub alive: Option<Moment>,
    /// The latest offer that it shows.
    pub shown_until: Option<Moment>,
    /// Bounds of the offset of its clock to ours, in milliseconds.
    pub skew_ms: Option<(i64, i64)>,
    /// Pairs on which they rest.
    pub skew_pairs: u64,
}

/// An order that fenced a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Gate.
    pub gate: String,
    /// Number of the order.
    pub order: u64,
    /// Epoch from which it was in force.
    pub epoch: u64,
    /// Nothing older was alive from then on.
    pub quiet: Moment,
}

/// Everything that is certified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// [`VERSION`].
    pub version: u32,
    /// Version of the program.
    pub program: String,
    /// Name of the host that issued it.
    pub issuer: String,
    /// The member that is empty.
    pub member: String,
    /// Its gates.
    pub gates: Vec<String>,
    /// When this was issued.
    pub issued: Moment,
    /// What it rests on, in a word and in words.
    pub grade: Grade,
    /// See there.
    pub grade_text: String,
    /// Orders that fence the member.
    pub fences: Vec<Fence>,
    /// When the mark was taken.
    pub mark: Moment,
    /// Place of the journal at the mark.
    pub journal: String,
    /// Place of each log at the mark.
    pub marked_logs: BTreeMap<String, Vec<LogFile>>,
    /// Quiet after the mark, in milliseconds.
    pub quiet_ms: i64,
    /// The balance that it began with.
    pub opening: Opening,
    /// Sentinels that came out.
    pub sentinels: Vec<Sentinel>,
    /// Sums since the opening balance, by gate.
    pub sums: BTreeMap<String, Sums>,
    /// Logs.
    pub logs: Vec<LogFact>,
    /// Mail that the server made itself, by log.
    pub own: BTreeMap<String, u64>,
    /// Doubts that a person answers for.
    pub waivers: BTreeMap<String, Word>,
    /// The server's queue page showed nothing, a person says.
    pub queue_empty: Option<Word>,
}

/// What is known beside the proof.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// Name of this host.
    pub issuer: String,
    /// The member.
    pub member: String,
    /// Its gates.
    pub gates: Vec<String>,
    /// When.
    pub issued: Moment,
    /// Orders.
    pub fences: Vec<Fence>,
    /// The mark.
    pub mark: Moment,
    /// The journal at the mark.
    pub journal: String,
    /// Place of each log at the mark.
    pub marked_logs: BTreeMap<String, Vec<LogFile>>,
    /// Quiet, in milliseconds.
    pub quiet_ms: i64,
    /// Opening balance.
    pub opening: Opening,
    /// Sentinels.
    pub sentinels: Vec<Sentinel>,
    /// Logs.
    pub logs: Vec<LogFact>,
    /// Attestation of the queue page.
    pub queue_empty: Option<Word>,
}

/// A signed body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// What is certified.
    pub body: serde_json::Value,
    /// Public key, in hexadecimal.
    pub key: String,
    /// Ed25519 over the canonical body, in hexadecimal.
    pub signature: String,
}

/// Any JSON in which each member stands once.
#[derive(Clone, Copy)]
struct Once;

impl<'de> DeserializeSeed<'de> for Once {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(name) = members.next_key::<String>()? {
            members.next_value_seed(self)?;
            if let Some(name) = seen.replace(name) {
                return Err(A::Error::custom(format!("{name:?} stands there twice")));
            }
        }
        Ok(())
    }
}

/// Why a document is no certificate.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CertificateError {
    /// Not of its form.
    #[error("not a certificate: {0}")]
    Form(String),
    /// Another version.
    #[error("a certificate of version {0}; this program knows {VERSION}")]
    Version(u64),
    /// The signature does not fit.
    #[error("the signature does not fit: the document was changed, or another key signed it")]
    Signature,
    /// Another key than the one that is trusted.
    #[error("signed with the key {found}, not with {trusted}")]
    Key {
        /// Its key.
        found: String,
        /// The one asked for.
        trusted: String,
    },
    /// What it says contradicts itself.
    #[error("the certificate contradicts itself: {0}")]
    Contradiction(String),
}

/// The key that signs.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// A new key, as PKCS #8.
    ///
    /// # Errors
    /// When the system gives no random octets.
    pub fn generate() -> Result<Vec<u8>, CertificateError> {
        let made = Ed25519KeyPair::generate()
            .and_then(|pair| pair.to_pkcs8())
            .map_err(|_| CertificateError::Form("the system gives no random octets".into()))?;
        Ok(made.as_ref().to_vec())
    }

    /// A key from PKCS #8.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_pkcs8(octets: &[u8]) -> Result<Self, CertificateError> {
        Ed25519KeyPair::from_pkcs8(octets)
            .map(Self)
            .map_err(|error| CertificateError::Form(format!("no Ed25519 key in PKCS #8: {error}")))
    }

    /// Its public half, in hexadecimal.
    #[must_use]
    pub fn public(&self) -> String {
        hex(self.0.public_key().as_ref())
    }

    /// Signs what a proof and its circumstances say.
    ///
    /// # Errors
    /// Never for a body of ours; the form is total.
    pub fn certify(
        &self,
        proof: Proof,
        circumstances: Circumstances,
    ) -> Result<Certificate, CertificateError> {
        let Circumstances {
            issuer,
            member,
            gates,
            issued,
            fences,
            mark,
            journal,
            marked_logs,
            quiet_ms,
            opening,
            sentinels,
            logs,
            queue_empty,
        } = circumstances;
        let body = Body {
            version: VERSION,
            program: format!("lockgate {}", env!("CARGO_PKG_VERSION")),
            issuer,
            member,
            gates,
            issued,
            grade: proof.grade,
            grade_text: proof.grade.as_str().to_owned(),
            fences,
            mark,
            journal,
            marked_logs,
            quiet_ms,
            opening,
            sentinels,
            sums: proof.sums,
            logs,
            own: proof.own,
            waivers: proof.waivers,
            queue_empty,
        };
        let form = |error: serde_json::Error| CertificateError::Form(error.to_string());
        let body = serde_json::to_value(&body).map_err(form)?;
        let octets = canonical(&body)?;
        let signature = hex(self.0.sign(&octets).as_ref());
        Ok(Certificate { body, key: self.public(), signature })
    }
}

impl Certificate {
    /// Reads a document.
    ///
    /// # Errors
    /// When it has another form.
    pub fn parse(text: &str) -> Result<Self, CertificateError> {
        let form = |error: serde_json::Error| CertificateError::Form(error.to_string());
        // Of a member that stands there twice people might read the one, and programs the other.
        let mut members = serde_json::Deserializer::from_str(text);
        Once.deserialize(&mut members).map_err(form)?;
        serde_json::from_str(text).map_err(|error| CertificateError::Form(error.to_string()))
    }

    /// Its number: the beginning of the SHA-256 over the canonical body.
    ///
    /// # Errors
    /// When the body has no canonical form.
    pub fn number(&self) -> Result<String, CertificateError> {
        let hash = digest(&SHA256, &canonical(&self.body)?);
        Ok(hex(hash.as_ref()).chars().take(16).collect())
    }

    /// Checks the signature and what the body says; `trusted`: the key that must have signed it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, trusted: Option<&str>) -> Result<Body, CertificateError> {
        let version = self.body.get("version").and_then(serde_json::Value::as_u64);
        match version {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => return Err(CertificateError::Version(version)),
            None => return Err(CertificateError::Form("it has no version".into())),
        }
        let octets = canonical(&self.body)?;
        let key: [u8; KEY_OCTETS] = unhex(&self.key).ok_or(CertificateError::Signature)?;
        let signature: [u8; SIGNATURE_OCTETS] =
            unhex(&self.signature).ok_or(CertificateError::Signature)?;
        UnparsedPublicKey::new(&ED25519, &key)
            .verify(&octets, &signature)
            .map_err(|_| CertificateError::Signature)?;
        if let Some(trusted) = trusted
            && !trusted.eq_ignore_ascii_case(&self.key)
        {
            let (found, trusted) = (self.key.clone(), trusted.to_owned());
            return Err(CertificateError::Key { found, trusted });
        }
        let body: Body = serde_json::from_value(self.body.clone())
            .map_err(|error| CertificateError::Form(error.to_string()))?;
        body.check()?;
        Ok(body)
    }
}

impl Body {
    /// Does it hold together? The sums are added up again, and every step is in its order.
    fn check(&self) -> Result<(), CertificateError> {
        let wrong = |what: String| Err(CertificateError::Contradiction(what));
        for (gate, sums) in &self.sums {
            if !sums.balance() {
                return wrong(format!("the sums of gate {gate} do not add up"));
            }
            if sums.inside != 0 {
                return wrong(format!("{} items of gate {gate} are inside", sums.inside));
            }
        }
        if self.grade == Grade::Attested && self.queue_empty.is_none() {
            return wrong("it is attested, and nobody looked at the queue page".into());
        }
        let fenced = self.fences.iter().map(|fence| fence.quiet).max();
        if fenced.is_none_or(|fenced| fenced > self.mark) {
            return wrong("the mark was not taken after the fence".into());
        }
        if self.issued < self.mark.plus(self.quiet_ms) {
            return wrong("it was issued before the quiet period was over".into());
        }
        for gate in &self.gates {
            if !self.fences.iter().any(|fence| fence.gate == *gate) {
                return wrong(format!("gate {gate} was not fenced"));
            }
            let through = self.sentinels.iter().any(|one| one.gate == *gate && one.accepted);
            let waived = self.waivers.keys().any(|name| {
                *name == format!("no-sentinel:{gate}")
                    || *name == format!("sentinel-refused:{gate}")
            });
            if !through && !waived {
                return wrong(format!("no sentinel went through gate {gate}"));
            }
        }
        if self.opening.at > self.mark {
            return wrong("the opening balance is younger than the mark".into());
        }
        Ok(())
    }
}

/// The form that is signed. Maps of `serde_json` are sorted; numbers must be whole.
fn canonical(value: &serde_json::Value) -> Result<Vec<u8>, CertificateError> {
    fn whole(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Number(number) => number.is_i64() || number.is_u64(),
            serde_json::Value::Array(values) => values.iter().all(whole),
            serde_json::Value::Object(members) => members.values().all(whole),
            _ => true,
        }
    }
    if !whole(value) {
        return Err(CertificateError::Form("numbers are whole in a certificate".into()));
    }
    serde_json::to_vec(value).map_err(|error| CertificateError::Form(error.to_string()))
}

/// Octets in hexadecimal.
#[must_use]
pub fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(octets.len() * 2), |mut text, octet| {
        // Writing to a String cannot fail.
        write!(text, "{octet:02x}").ok();
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut octets = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (place, octet) in octets.iter_mut().enumerate() {
        *octet = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::super::verdict::Known;
    use super::*;

    fn signer() -> Signer {
        Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap()
    }

    fn circumstances() -> Circumstances {
        let word = Word { by: "M. Muster".into(), reason: "fresh install".into(), at: Moment(1) };
        Circumstances {
            issuer: "gate.example.org".into(),
            marked_logs: BTreeMap::new(),
            member: "sems1".into(),
            gates: vec!["outbound".into()],
            issued: Moment(200_000),
            fences: vec![Fence {
                gate: "outbound".into(),
                order: 3,
                epoch: 7,
                quiet: Moment(90_000),
            }],
            mark: Moment(100_000),
            journal: "1.4096".into(),
            quiet_ms: 60_000,
            opening: Opening { at: Moment(1), known: Known::Attested(word), sums: BTreeMap::new() },
            sentinels: vec![Sentinel {
                gate: "outbound".into(),
                message_id: "s@x".into(),
                to: "op@example.org".into(),
                accepted: true,
                reply: "250 ok".into(),
            }],
            logs: Vec::new(),
            queue_empty: None,
        }
    }

    fn proof() -> Proof {
        let mut sums = Sums { handed: 3, ..Sums::default() };
        sums.settled.insert(super::super::item::Column::Returned, 3);
        Proof {
            grade: Grade::SeenBehind,
            sums: [("outbound".to_owned(), sums)].into(),
            waivers: BTreeMap::new(),
            own: BTreeMap::new(),
        }
    }

    #[test]
    fn a_member_that_stands_twice_makes_no_certificate() {
        let once = r#"{"body": {"a": [1, null, {"b": "x"}]}, "key": "", "signature": ""}"#;
        assert!(Certificate::parse(once).is_ok());
        let twice = once.replace(r#""b": "x""#, r#""b": "y", "b": "x""#);
        let error = Certificate::parse(&twice).unwrap_err().to_string();
        assert!(error.contains("\"b\" stands there twice"), "{error}");
    }

    #[test]
    fn a_certificate_verifies_without_us_however_it_is_formatted() {
        let signer = signer();
        let certificate = signer.certify(proof(), circumstances()).unwrap();
        let text = serde_json::to_string_pretty(&certificate).unwrap();
        let read = Certificate::parse(&text).unwrap();
        assert_eq!(read.verify(Some(&signer.public())).unwrap().member, "sems1");
        assert_eq!(read.number().unwrap(), certificate.number().unwrap());
        let body = read.verify(None).unwrap();
        assert_eq!(serde_json::to_value(&body).unwrap(), read.body, "nothing is lost in reading");
    }

    #[test]
    fn any_change_of_a_value_is_noticed() {
        let signer = signer();
        let certificate = signer.certify(proof(), circumstances()).unwrap();
        let mut changed = certificate.clone();
        changed.body["member"] = "sems2".into();
        assert_eq!(changed.verify(None), Err(CertificateError::Signature));
        let mut changed = certificate.clone();
        changed.body["extra"] = 1.into();
        assert_eq!(changed.verify(None), Err(CertificateError::Signature));
        let other = self::signer();
        let error = certificate.verify(Some(&other.public())).unwrap_err();
        assert!(matches!(error, CertificateError::Key { .. }), "{error}");
    }

    #[test]
    fn what_contradicts_itself_is_refused_although_it_is_signed() {
        let signer = signer();
        let fails = |proof: Proof, circumstances: Circumstances| {
            let certificate = signer.certify(proof, circumstances).unwrap();
            certificate.verify(None).unwrap_err().to_string()
        };
        let mut unbalanced = proof();
        unbalanced.sums.get_mut("outbound").unwrap().handed = 4;
        assert!(fails(unbalanced, circumstances()).contains("do not add up"));
        let mut inside = proof();
        let sums = inside.sums.get_mut("outbound").unwrap();
        (sums.handed, sums.inside) = (4, 1);
        assert!(fails(inside, circumstances()).contains("1 items"));
        let early = Circumstances { issued: Moment(110_000), ..circumstances() };
        assert!(fails(proof(), early).contains("quiet"));
        let unfenced = Circumstances { fences: Vec::new(), ..circumstances() };
        assert!(fails(proof(), unfenced).contains("after the fence"));
        let blind = Circumstances { sentinels: Vec::new(), ..circumstances() };
        assert!(fails(proof(), blind).contains("no sentinel"));
    }

    #[test]
    fn other_documents_are_no_certificates() {
        assert!(matches!(Certificate::parse("{}"), Err(CertificateError::Form(_))));
        let mut certificate = signer().certify(proof(), circumstances()).unwrap();
        certificate.body["version"] = 9.into();
        assert_eq!(certificate.verify(None), Err(CertificateError::Version(9)));
        certificate.body["version"] = 1.into();
        certificate.body["quiet_ms"] = 1.5.into();
        assert!(matches!(certificate.verify(None), Err(CertificateError::Form(_))));
    }
}
