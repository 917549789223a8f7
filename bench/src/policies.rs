//! How long it takes to compare two mail policies, with a message for each class of differing mail.
//!
//! Sets of the given size are made up: rules that ask for domains, addresses, subjects, fields, sizes
//! and dictionaries, spread over the chains of a server, and dictionaries of literals with some
//! patterns. The set after the upgrade differs by rules that are moved, disabled, weakened, and by
//! entries that are missing. Making both ready is part of the time; reading files is not.
//!
//! Not here: what a comparison means (`policy::parity`).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use policy::assume::Assumptions;
use policy::parity::{Limits, compare};
use policy::set::PolicySet;

/// `policies`
#[derive(Args, Debug)]
pub(crate) struct Policies {
    /// Rules of each set, one size after the other.
    #[arg(long, value_delimiter = ',', default_value = "100,1000")]
    rules: Vec<usize>,
    /// Entries of all dictionaries of a set.
    #[arg(long, default_value_t = 10_000)]
    entries: usize,
    /// Rounds for each size.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

impl Policies {
    /// Prints the times.
    ///
    /// # Errors
    /// When a set that was made up is not read, or no difference is found.
    pub(crate) fn run(&self) -> Result<()> {
        for rules in &self.rules {
            let entries = self.entries.min(rules * 10);
            let before = made_up(*rules, entries, false)?;
            let after = made_up(*rules, entries, true)?;
            for (name, other) in [("alike", &before), ("differing", &after)] {
                let mut times = Vec::new();
                let (mut verdict, mut classes) = (String::new(), 0);
                for _ in 0..self.rounds.max(1) {
                    let begin = Instant::now();
                    let parity =
                        compare(&before, other, &Assumptions::default(), Limits::default());
                    times.push(begin.elapsed());
                    ensure!(parity.doubts.is_empty(), "doubts: {:?}", parity.doubts);
                    (verdict, classes) = (parity.verdict.to_string(), parity.divergences.len());
                }
                times.sort_unstable();
                let middle = times[times.len() / 2];
                let ms = |time: Duration| time.as_secs_f64() * 1000.0;
                println!(
                    "{rules} rules, {entries} entries, {name}: {verdict}, {classes} classes of mail; ms min {:.1} median {:.1} max {:.1}",
                    ms(times[0]),
                    ms(middle),
                    ms(times[times.len() - 1]),
                );
            }
        }
        Ok(())
    }
}

/// A set of this size; `changed` as the upgrade left it.
fn made_up(rules: usize, entries: usize, changed: bool) -> Result<PolicySet> {
    let mut text = String::from(
        "[globals]\nlearn_mode = false\nunmanaged_domains = \"bounce\"\nmanaged_domains = [\"example.com\"]\n",
    );
    const DICTIONARIES: usize = 10;
    for number in 0..DICTIONARIES {
        writeln!(text, "\n[[dictionary]]\nname = \"list {number}\"\nliterals = [").ok();
        for entry in (number..entries).step_by(DICTIONARIES) {
            if changed && entry % 5000 == 17 {
                continue;
            }
            let (name, site) = (entry.wrapping_mul(2_654_435_761) % 1_000_003, entry % 97);
            writeln!(text, "  \"person{name}@site{site}.example.org\",").ok();
        }
        writeln!(text, "]\npatterns = [\"r{number}.*@site[0-{number}]\\\\.example\\\\.net\"]").ok();
    }
    text.push_str(concat!(
        "\n[[chain]]\nname = \"Default\"\n",
        "[[chain.rule]]\nname = \"Inbound Mail\"\n",
        "conditions = [{ subject = \"recipient domain\", is_in_dictionary = \"Managed Domains\" }]\n",
        "actions = [{ action = \"go to chain\", chain = \"Inbound\" }]\n",
        "[[chain.rule]]\nname = \"Outbound Mail\"\n",
        "actions = [{ action = \"go to chain\", chain = \"Outbound\" }]\n",
        "\n[[chain]]\nname = \"Inbound\"\n",
        "[[chain.rule]]\nname = \"Decrypt Message (SMTP)\"\n",
        "actions = [{ action = \"decrypt and verify\" }]\n",
        "\n[[chain]]\nname = \"Exception\"\n",
        "[[chain.rule]]\nname = \"Bounce\"\nactions = [{ action = \"bounce\" }]\n",
        "\n[[chain]]\nname = \"Outbound\"\n",
    ));
    let mut order: Vec<usize> = (0..rules).collect();
    if changed {
        for place in (0..rules.saturating_sub(1)).step_by(rules / 4 + 1) {
            order.swap(place, place + 1);
        }
    }
    for number in order {
        rule(&mut text, number, changed && number % (rules / 5 + 1) == 11 % (rules / 5 + 1));
    }
    text.push_str("[[chain.rule]]\nname = \"Else\"\nactions = [{ action = \"send (encrypted/signed)\", sign = true, key_not_found = \"bounce\" }]\n");
    policy::import::from_toml(&text, "made up", &|name| Err(format!("no list {name}")))
        .map_err(|errors| anyhow!("{errors}"))
}

fn rule(text: &mut String, number: usize, weakened: bool) {
    let condition = match number % 10 {
        0 | 1 => format!("{{ subject = \"recipient domain\", is = \"partner{number}.example\" }}"),
        2 => format!(
            "{{ subject = \"recipient address\", is = \"boss{number}@partner{}.example\" }}",
            number - 1
        ),
        3 => format!(
            "{{ subject = \"recipient domain\", is_subdomain_of = \"group{number}.example\" }}"
        ),
        4 => format!(
            "{{ subject = \"recipient address\", is_in_dictionary = \"list {}\" }}, {{ subject = \"message size\", is_greater_than = {} }}",
            number / 10 % 10,
            1000 * number
        ),
        5 => format!(
            "{{ subject = \"message header\", argument = \"X-Class\", is = \"class{}\" }}, {{ subject = \"recipient domain\", ends_with = \".org\" }}",
            number % 40
        ),
        6 => format!("{{ subject = \"sender address\", is = \"robot{number}@example.com\" }}"),
        7 => format!("{{ subject = \"message subject\", contains = \"[tag{}]\" }}", number % 30),
        8 => format!("{{ subject = \"recipient address\", begins_with = \"role{number}-\" }}"),
        _ => format!(
            "{{ subject = \"recipient address\", matches_pattern = \"(sales|shop){number}.*@market\\\\.example\" }}"
        ),
    };
    let action = match (weakened, number % 4) {
        (true, _) => "{ action = \"send clear (unsigned)\" }",
        (false, 0) => "{ action = \"sign and send\" }",
        (false, 1) => {
            "{ action = \"send (encrypted/signed)\", sign = true, key_not_found = \"bounce\" }"
        }
        (false, 2) => {
            "{ action = \"send (encrypted/signed)\", sign = false, encoding = \"S/MIME\", key_not_found = \"PDF Messenger (Encrypt All)\" }"
        }
        (false, _) => "{ action = \"Web Messenger\" }",
    };
    write!(
        text,
        "[[chain.rule]]\nname = \"rule {number}\"\nconditions = [{condition}]\nactions = [{action}]\n"
    )
    .ok();
}
