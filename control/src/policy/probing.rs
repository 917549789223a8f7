//! Probes of a policy: what was sent, what should become of it, what came back.
//!
//! A record is a file of the operator's. It is made before the upgrade and again after it, from the same policy, and the two
//! are compared.
//!
//! Invariants
//! - A probe that came back in clear where the policy protects it is a leak, whatever else is known.
//! - A probe of which nothing was seen, or only a header, proves nothing.
//!
//! Not here: which probes there are (`policy::selection`), sending (`cli`), the API (`crate::probes`).

use policy::action::{Outcome, Protection};
use policy::protection::{Form, Known, see};
use serde::{Deserialize, Serialize};

use crate::probes::Found;
use crate::render::word;

/// Probes that were sent, and what came of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The policy that they were chosen by.
    pub policy: String,
    /// Its hash.
    pub sha256: String,
    /// The gate and the member that they went through.
    pub gate: String,
    /// The member; none: each.
    pub member: Option<String>,
    /// When they were sent (RFC 3339).
    pub sent_at: String,
    /// Each of them.
    pub probes: Vec<Sent>,
    /// Rules that no probe covers, and why.
    pub uncovered: Vec<String>,
}

/// One probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Reverse-path.
    pub from: String,
    /// Forward-path.
    pub to: String,
    /// What should become of it; several where it hangs on what only the server knows (is there a key?).
    pub ways: Vec<Way>,
    /// The member that took it; none: none did.
    pub member: Option<String>,
    /// How it is known again.
    pub token: Option<String>,
    /// The last reply.
    pub reply: String,
    /// What came back.
    pub seen: Vec<SeenAs>,
}

/// What should become of a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The rule that decides: chain and rule.
    pub rule: String,
    /// What should become of it.
    pub expected: String,
    /// What should be seen of it; none where nobody can tell.
    pub least: Option<Least>,
    /// What the server must know so that this becomes of it.
    pub beside: Vec<String>,
}

/// What should be seen of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Least {
    /// Nothing: it is not sent on.
    Nothing,
    /// It may be in clear.
    Clear,
    /// Signed.
    Signed,
    /// Kept from those on the way, at least in part.
    Partly,
    /// Kept from those on the way.
    Confidential,
}

/// How a probe was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenAs {
    /// Where: a return gate, or a file.
    pub at: String,
    /// Only its header was seen: nothing is known of its protection.
    pub header_only: bool,
    /// The form in words.
    pub form: String,
    /// The least protection in words.
    pub protection: String,
    /// In clear: anybody on the way can read it.
    pub clear: bool,
    /// Kept from those on the way.
    pub confidential: bool,
    /// Signed, as far as can be seen.
    pub signed: bool,
}

/// What a probe proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    /// It came out as the policy says.
    Good,
    /// Nobody knows.
    Open,
    /// It came out otherwise, not less protected.
    Other,
    /// It came out less protected than the policy says.
    Leak,
}

impl Proof {
    /// In a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Open => "nothing seen",
            Self::Other => "other",
            Self::Leak => "LEAK",
        }
    }
}

impl Least {
    /// What should be seen of mail with this outcome; none where nobody can tell.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Option<Self> {
        Some(match outcome.protection()? {
            Protection::NotSent => Self::Nothing,
            Protection::Clear => Self::Clear,
            Protection::Signed => Self::Signed,
            Protection::Partly => Self::Partly,
            Protection::Kept
            | Protection::Passphrase
            | Protection::Encrypted
            | Protection::EncryptedSigned => Self::Confidential,
        })
    }
}

impl Sent {
    /// What it proves.
    #[must_use]
    pub fn proof(&self) -> Proof {
        if self.token.is_none() {
            return Proof::Open;
        }
        // Each message that came out must be one that some way explains; that nothing comes out proves nothing, also where it
        // should be so: a wait that was too short looks the same.
        let seen = self.seen.iter().filter(|seen| !seen.header_only);
        seen.map(|seen| self.explained(seen)).max().unwrap_or(Proof::Open)
    }

    fn explained(&self, seen: &SeenAs) -> Proof {
        let way = |way: &Way| way.least.map_or(Proof::Open, |least| judge(least, seen));
        self.ways.iter().map(way).min().unwrap_or(Proof::Open)
    }

    /// The rules and outcomes that it is for, in words.
    #[must_use]
    pub fn words(&self) -> (String, String) {
        let join = |word: fn(&Way) -> &String| {
            let mut words: Vec<&str> = self.ways.iter().map(|way| word(way).as_str()).collect();
            words.dedup();
            words.join(", or ")
        };
        (join(|way| &way.rule), join(|way| &way.expected))
    }
}

fn judge(least: Least, seen: &SeenAs) -> Proof {
    let enough = match least {
        Least::Nothing => false,
        Least::Clear => true,
        Least::Signed => seen.signed || seen.confidential,
        Least::Partly => !seen.clear,
        Least::Confidential => seen.confidential,
    };
    match (enough, least) {
        (true, Least::Clear) if !seen.clear => Proof::Other,
        (true, _) => Proof::Good,
        (false, _) => Proof::Leak,
    }
}

impl SeenAs {
    /// Of what the API tells.
    #[must_use]
    pub fn of_found(at: &str, found: &Found) -> Self {
        Self {
            at: at.to_owned(),
            header_only: false,
            form: found.form.clone(),
            protection: found.protection.clone(),
            clear: found.protection == Protection::Clear.as_str(),
            confidential: found.confidential,
            signed: found.signed.as_deref().is_some_and(|signed| signed != "no"),
        }
    }

    /// Of a message that was handed in; none where it is a report on a message, and not one.
    #[must_use]
    pub fn of_message(at: &str, octets: &[u8]) -> Option<Self> {
        let seen = see(octets, &Known::default());
        (seen.form != Form::DeliveryReport).then(|| Self {
            at: at.to_owned(),
            header_only: false,
            form: word(&seen.form),
            protection: seen.protection.as_str().to_owned(),
            clear: seen.protection == Protection::Clear,
            confidential: seen.protection.is_confidential(),
            signed: seen.protection >= Protection::Signed,
        })
    }
}

/// A probe of both records that came out otherwise, or the same.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// The rule that decides.
    pub rule: String,
    /// What should become of it.
    pub expected: String,
    /// What was seen before.
    pub before: String,
    /// What was seen after.
    pub after: String,
    /// What the probe after proves, beside the one before.
    pub proof: Proof,
}

/// Compares what came of the same probes before and after.
#[must_use]
pub fn compare(before: &Record, after: &Record) -> Vec<Compared> {
    let same =
        |one: &Sent, two: &Sent| (&one.from, &one.to, &one.ways) == (&two.from, &two.to, &two.ways);
    let mut left: Vec<&Sent> = after.probes.iter().collect();
    let compared = before.probes.iter().map(|one| {
        let place = left.iter().position(|two| same(one, two));
        let two = place.map(|place| left.remove(place));
        let words = |sent: &Sent| match sent.seen.first() {
            Some(seen) if seen.header_only => "a header alone".to_owned(),
            Some(seen) => seen.form.clone(),
            None => "nothing".to_owned(),
        };
        let (rule, expected) = one.words();
        Compared {
            rule,
            expected,
            before: words(one),
            after: two.map_or_else(|| "not sent".to_owned(), words),
            proof: two.map_or(Proof::Open, |two| beside(one, two)),
        }
    });
    compared.collect()
}

/// What a probe proves beside the same one before.
fn beside(before: &Sent, after: &Sent) -> Proof {
    let form = |sent: &Sent| {
        let seen = sent.seen.iter().find(|seen| !seen.header_only);
        seen.map(|seen| (seen.form.clone(), seen.confidential))
    };
    match (form(before), form(after)) {
        // What was protected before and is not any more: whatever the policy says.
        (Some((_, true)), Some((_, false))) => Proof::Leak,
        (Some((one, _)), Some((two, _))) if one != two => after.proof().max(Proof::Other),
        _ => after.proof(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(least: Least, seen: &[(&str, bool)]) -> Sent {
        let seen = seen.iter().map(|(form, confidential)| SeenAs {
            form: (*form).to_owned(),
            confidential: *confidential,
            clear: !confidential,
            ..SeenAs::default()
        });
        Sent {
            ways: vec![Way { least: Some(least), ..Way::default() }],
            token: Some("t".into()),
            seen: seen.collect(),
            ..Sent::default()
        }
    }

    #[test]
    fn a_probe_in_clear_where_the_policy_protects_is_a_leak() {
        assert_eq!(sent(Least::Confidential, &[("in clear", false)]).proof(), Proof::Leak);
        assert_eq!(sent(Least::Confidential, &[("PGP/MIME", true)]).proof(), Proof::Good);
        assert_eq!(sent(Least::Signed, &[("in clear", false)]).proof(), Proof::Leak);
        assert_eq!(sent(Least::Nothing, &[("PGP/MIME", true)]).proof(), Proof::Leak, "it was sent");
        let twice = sent(Least::Confidential, &[("PGP/MIME", true), ("in clear", false)]);
        assert_eq!(twice.proof(), Proof::Leak, "one copy in clear is enough");
    }

    #[test]
    fn what_only_the_server_knows_may_explain_what_came_out() {
        let mut probe = sent(Least::Nothing, &[("PGP/MIME", true)]);
        probe.ways.push(Way { least: Some(Least::Confidential), ..Way::default() });
        assert_eq!(probe.proof(), Proof::Good, "there is a key");
        probe.seen[0] = SeenAs { clear: true, ..SeenAs::default() };
        assert_eq!(probe.proof(), Proof::Leak, "neither a key nor none explains clear text");
    }

    #[test]
    fn what_was_not_seen_proves_nothing() {
        assert_eq!(sent(Least::Confidential, &[]).proof(), Proof::Open);
        assert_eq!(
            sent(Least::Nothing, &[]).proof(),
            Proof::Open,
            "the wait may have been too short"
        );
        let mut header = sent(Least::Confidential, &[("PGP/MIME", true)]);
        header.seen[0].header_only = true;
        assert_eq!(header.proof(), Proof::Open);
    }

    #[test]
    fn protection_that_was_there_before_is_missed_whatever_the_policy_says() {
        let record = |probe: Sent| Record { probes: vec![probe], ..Record::default() };
        let before = record(sent(Least::Clear, &[("PGP/MIME", true)]));
        let after = record(sent(Least::Clear, &[("in clear", false)]));
        assert_eq!(compare(&before, &after)[0].proof, Proof::Leak);
        assert_eq!(compare(&after, &before)[0].proof, Proof::Other);
        assert_eq!(compare(&before, &before)[0].proof, Proof::Other, "more than the policy asks");
        assert_eq!(compare(&before, &Record::default())[0].proof, Proof::Open);
    }
}
