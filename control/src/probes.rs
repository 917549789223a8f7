//! What came back of probes through return gates: what the header said of it, and what a copy shows.
//!
//! Invariants
//! - Protection is told from a copy alone. What only the header says is a claim, and is called so.
//! - A time of which the journal may miss something is told along with what was found.
//!
//! Not here: how a probe is sent and noticed (`proxy`), how protection is seen (`policy::protection`), what
//! a policy should have done.

use std::collections::HashMap;

use policy::protection::{Form, Known, see};
use proxy::api::{self, JournalFilter, JournalLine, JournalProbe, JournalWhat, ProbeCopy};
use serde::{Deserialize, Serialize};

use crate::client::{Client, ClientError, DEADLINE, with_query};
use crate::render::word;

/// Paths of what control says of probes.
pub mod path {
    /// GET with [`super::Wanted`] as query → [`super::SeenAnswer`].
    pub const SEEN: &str = "/v1/probes/seen";
}

/// Most messages of one answer; [`SeenAnswer::cursor`] tells where the next begins.
const SEEN_MAX: u64 = 1000;

/// Most gaps that are told one by one.
const GAPS_MAX: usize = 100;

/// Which probes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Wanted {
    /// The probe with this token; none: each.
    pub token: Option<String>,
    /// Read on behind this place: that of an earlier answer, or of [`api::ProbeAnswer`]. Without it the whole journal is
    /// read.
    pub after: Option<String>,
    /// Came back at this moment or later.
    pub since_unix_ms: Option<u64>,
}

/// What was seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SeenAnswer {
    /// Messages, in the order in which their transactions ended.
    pub seen: Vec<Seen>,
    /// Where to read on. A message may be told again there: it is known by its id.
    pub cursor: String,
    /// Of what something may be missing, in words.
    pub gaps: Vec<String>,
}

/// A message that came back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Token of the probe.
    pub token: String,
    /// The process that saw it had given the token out, not long before. Else anybody may have written it.
    pub known: bool,
    /// Id of the transaction in which it came.
    pub id: String,
    /// When that ended (RFC 3339).
    pub at: String,
    /// The return gate.
    pub gate: String,
    /// Reverse-path, as written.
    pub from: String,
    /// Forward-paths, as written.
    pub to: Vec<String>,
    /// Message-ID field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// How the transaction ended.
    pub outcome: String,
    /// What the header said.
    pub header: JournalProbe,
    /// The form that the header claims, in the words of [`Form`]; none: it claims none that it alone could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
    /// No copy was kept: nobody looked into the message, and nothing is known of its protection.
    pub header_only: bool,
    /// What was found in the copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
}

/// What is in a message that came back ([`policy::protection::Seen`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// How it is wrapped, in the words of [`Form`].
    pub form: String,
    /// The least protection that it has.
    pub protection: String,
    /// Whether that keeps it from those on the way.
    pub confidential: bool,
    /// How much of it is signed: `no`, `part` or `all`; none where a signature may be in what is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<String>,
    /// How much of it is encrypted.
    pub encrypted: String,
    /// Servers that say to have processed it; the last one first.
    pub processed_by: Vec<String>,
    /// What led there, and what cannot be told.
    pub reasons: Vec<String>,
}

/// Asks the control API what was seen.
///
/// # Errors
/// See [`ClientError`].
pub async fn seen(client: &Client, wanted: &Wanted) -> Result<SeenAnswer, ClientError> {
    client.get(&with_query(path::SEEN, wanted)?, DEADLINE).await
}

/// Gathers what was seen from a data plane.
pub(crate) async fn gather(proxy: &Client, wanted: Wanted) -> Result<SeenAnswer, ClientError> {
    let mut answer = lines(proxy, &wanted).await?;
    if answer.seen.iter().any(|seen| seen.known) {
        let token = wanted.token.map(|token| HashMap::from([("token", token)]));
        let target = with_query(api::path::PROBE_COPIES, &token.unwrap_or_default())?;
        let copies: Vec<ProbeCopy> = proxy.get(&target, DEADLINE).await?;
        answer.seen = looked_into(answer.seen, copies).await;
    }
    Ok(answer)
}

/// What the journal says.
async fn lines(proxy: &Client, wanted: &Wanted) -> Result<SeenAnswer, ClientError> {
    let filter = JournalFilter {
        probe: Some(wanted.token.clone().unwrap_or_default()),
        after: wanted.after.clone(),
        since_unix_ms: wanted.since_unix_ms,
        limit: Some(SEEN_MAX),
        ..JournalFilter::default()
    };
    let mut pieces = proxy.stream(&with_query(api::path::JOURNAL, &filter)?).await?;
    let mut answer = SeenAnswer::default();
    while let Some(line) = pieces.next_line::<JournalLine>().await? {
        match line.what {
            JournalWhat::End => answer.cursor = line.cursor,
            JournalWhat::Gap | JournalWhat::Unreadable => answer.gaps.push(gap(&line)),
            JournalWhat::Ended | JournalWhat::Open => answer.seen.extend(of_line(line)),
        }
        answer.gaps.truncate(GAPS_MAX);
    }
    Ok(answer)
}

fn gap(line: &JournalLine) -> String {
    let why = line.why.as_deref().unwrap_or("not known why");
    match (&line.at, &line.until) {
        (Some(from), Some(until)) => format!("{from} to {until}: {why}"),
        _ => why.to_owned(),
    }
}

fn of_line(line: JournalLine) -> Option<Seen> {
    let header = line.probe?;
    Some(Seen {
        token: header.token.clone(),
        known: header.known,
        id: line.id.unwrap_or_default(),
        at: line.at.unwrap_or_default(),
        gate: line.gate.unwrap_or_default(),
        from: line.from.unwrap_or_default(),
        to: line.to,
        message_id: line.message_id,
        outcome: line.outcome.unwrap_or_default(),
        claimed: claimed(&header).map(|form| word(&form)),
        header,
        header_only: true,
        found: None,
    })
}

/// The form that a header claims. What stands in parts (PGP Partitioned, PDF, notices) it cannot tell.
fn claimed(header: &JournalProbe) -> Option<Form> {
    let lower = |text: &Option<String>| text.as_deref().unwrap_or_default().to_ascii_lowercase();
    let (media, protocol) = (lower(&header.media_type), lower(&header.protocol));
    let smime = lower(&header.smime_type);
    match (media.as_str(), protocol.as_str(), smime.as_str()) {
        ("multipart/encrypted", "application/pgp-encrypted", _) => Some(Form::PgpMimeEncrypted),
        ("multipart/signed", "application/pgp-signature", _) => Some(Form::PgpMimeSigned),
        (
            "multipart/signed",
            "application/pkcs7-signature" | "application/x-pkcs7-signature",
            _,
        ) => Some(Form::SmimeSigned),
        ("application/pkcs7-mime" | "application/x-pkcs7-mime", _, smime) => match smime {
            "enveloped-data" => Some(Form::SmimeEnveloped),
            "authenveloped-data" => Some(Form::SmimeAuthEnveloped),
            "signed-data" => Some(Form::SmimeOpaqueSigned),
            _ => None,
        },
        ("multipart/report", _, _) => Some(Form::DeliveryReport),
        _ => None,
    }
}

/// Looks into the copies that there are.
async fn looked_into(seen: Vec<Seen>, copies: Vec<ProbeCopy>) -> Vec<Seen> {
    let kept = seen.clone();
    let work = move || {
        let copies: HashMap<&str, &ProbeCopy> =
            copies.iter().map(|copy| (copy.id.as_str(), copy)).collect();
        let look = |mut seen: Seen| {
            let copy = copies.get(seen.id.as_str()).filter(|copy| copy.token == seen.token);
            seen.found = copy.map(|copy| found(&copy.message.0));
            seen.header_only = seen.found.is_none();
            seen
        };
        seen.into_iter().map(look).collect()
    };
    // Thousands of parts may be in them: not among requests.
    tokio::task::spawn_blocking(work).await.unwrap_or(kept)
}

fn found(message: &[u8]) -> Found {
    let seen = see(message, &Known::default());
    Found {
        form: word(&seen.form),
        protection: seen.protection.as_str().to_owned(),
        confidential: seen.protection.is_confidential(),
        signed: seen.signed.map(|part| part.as_str().to_owned()),
        encrypted: seen.encrypted.as_str().to_owned(),
        processed_by: seen.processed_by.into_iter().map(|processed| processed.by).collect(),
        reasons: seen.reasons,
    }
}

#[cfg(test)]
mod tests {
    use proxy::api::Octets;

    use super::*;

    fn header(media: &str, protocol: &str, smime: &str) -> JournalProbe {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        JournalProbe {
            token: "t".into(),
            known: true,
            media_type: some(media),
            protocol: some(protocol),
            smime_type: some(smime),
            ..JournalProbe::default()
        }
    }

    #[test]
    fn a_header_claims_the_forms_that_it_alone_can_tell() {
        for (media, protocol, smime, form) in [
            ("Multipart/Encrypted", "application/PGP-encrypted", "", Some(Form::PgpMimeEncrypted)),
            ("multipart/signed", "application/pgp-signature", "", Some(Form::PgpMimeSigned)),
            ("multipart/signed", "application/x-pkcs7-signature", "", Some(Form::SmimeSigned)),
            ("application/pkcs7-mime", "", "enveloped-data", Some(Form::SmimeEnveloped)),
            ("application/x-pkcs7-mime", "", "authEnveloped-data", Some(Form::SmimeAuthEnveloped)),
            ("application/pkcs7-mime", "", "signed-data", Some(Form::SmimeOpaqueSigned)),
            ("application/pkcs7-mime", "", "", None),
            ("multipart/report", "", "", Some(Form::DeliveryReport)),
            ("multipart/encrypted", "", "", None),
            ("text/plain", "", "", None),
            ("", "", "", None),
        ] {
            assert_eq!(
                claimed(&header(media, protocol, smime)),
                form,
                "{media} {protocol} {smime}"
            );
        }
    }

    #[tokio::test]
    async fn protection_is_told_from_a_copy_alone() {
        let line = |id: &str| JournalLine {
            what: JournalWhat::Ended,
            id: Some(id.to_owned()),
            probe: Some(header("multipart/encrypted", "application/pgp-encrypted", "")),
            ..JournalLine::default()
        };
        let seen = [line("1"), line("2")].into_iter().filter_map(of_line).collect();
        let message = b"Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\"\r\n\r\nclear\r\n";
        let copy = |id: &str, token: &str| ProbeCopy {
            id: id.into(),
            token: token.into(),
            message: Octets(message.to_vec()),
        };
        let seen = looked_into(seen, vec![copy("2", "t"), copy("1", "another")]).await;
        assert!(seen[0].header_only && seen[0].found.is_none());
        assert_eq!(seen[0].claimed.as_deref(), Some("pgp-mime-encrypted"));
        assert!(!seen[1].header_only);
        let found = seen[1].found.clone().unwrap_or_default();
        assert_eq!((found.confidential, found.form.as_str()), (false, "claimed"), "{found:?}");
    }

    #[test]
    fn what_the_journal_may_miss_is_told() {
        let gap_of = |at: Option<&str>| {
            let text = |text: &str| Some(text.to_owned());
            let (at, until) = (at.map(str::to_owned), text("11:00"));
            gap(&JournalLine { at, until, why: text("killed"), ..JournalLine::default() })
        };
        assert_eq!(gap_of(Some("10:00")), "10:00 to 11:00: killed");
        assert_eq!(gap_of(None), "killed");
    }
}
