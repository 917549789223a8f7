//! `probe GATE --to ADDRESS`: does a server take mail, by the gate's own relay?
//!
//! Not here: what the server then does with the message; look for its Message-ID at `--to`.

use clap::Args;
use proxy::api::{ProbeAnswer, ProbeRequest, ProbeResult, path};

use super::{Desk, Exit};
use crate::client::{PROBE_DEADLINE, fill};
use crate::render::{Out, clean, word};

/// `probe GATE --to ADDRESS [--member M]`
#[derive(Debug, Args)]
pub struct Probe {
    /// Gate
    gate: String,
    /// Forward-path of the test message
    #[arg(long, value_name = "ADDRESS")]
    to: String,
    /// Reverse-path [default: the null reverse-path]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// One member only
    #[arg(long)]
    member: Option<String>,
}

pub(super) async fn run(desk: &Desk, probe: Probe, out: &mut Out) -> anyhow::Result<Exit> {
    let request =
        ProbeRequest { to: probe.to, from: probe.from, member: probe.member, message: None };
    let target = fill(path::PROBE, "gate", &probe.gate);
    let answer: ProbeAnswer = desk.client.post(&target, &request, PROBE_DEADLINE).await?;
    out.document(&answer, text)?;
    Ok(judge(&answer.members))
}

/// Accepted by all; refused by one; or no reply to judge by.
fn judge(members: &[ProbeResult]) -> Exit {
    let refused = |result: &&ProbeResult| !result.accepted && is_reply(&result.reply);
    if members.is_empty() {
        Exit::Inconclusive
    } else if members.iter().all(|result| result.accepted) {
        Exit::Yes
    } else if members.iter().any(|result| refused(&result)) {
        Exit::No
    } else {
        Exit::Inconclusive
    }
}

/// Is it a reply of a server, or an error of ours?
fn is_reply(text: &str) -> bool {
    let (code, rest) = text.as_bytes().split_at(text.len().min(3));
    matches!(code, [b'4' | b'5', b'0'..=b'9', b'0'..=b'9'])
        && matches!(rest.first(), None | Some(b' ' | b'-'))
}

fn text(answer: &ProbeAnswer) -> String {
    let mut lines = Vec::new();
    for result in &answer.members {
        let verdict = match (result.accepted, is_reply(&result.reply)) {
            (true, _) => "accepted",
            (false, true) => "refused",
            (false, false) => "no answer",
        };
        let stage = word(&result.stage);
        lines.push(clean(&format!("{}: {verdict} at {stage}: {}", result.member, result.reply)));
        let identity = result.identity.as_deref().unwrap_or("unknown");
        let changed = if result.identity_changed { ", CHANGED since it was last seen" } else { "" };
        lines.push(clean(&format!("  identity {identity}{changed}")));
        let tls = result.tls.as_deref().unwrap_or("in clear");
        let extensions = result.extensions.as_deref().unwrap_or("none seen");
        lines.push(clean(&format!("  {tls}; offers {extensions}")));
        if result.accepted {
            lines.push(clean(&format!("  look for Message-ID {}", result.message_id)));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(accepted: bool, reply: &str) -> ProbeResult {
        ProbeResult {
            member: "sems1".into(),
            accepted,
            stage: "end_of_data".into(),
            reply: reply.into(),
            identity: Some("keys.example.org".into()),
            identity_changed: !accepted,
            extensions: None,
            tls: None,
            message_id: "<probe@example.org>".into(),
            token: None,
        }
    }

    #[test]
    fn a_probe_is_accepted_refused_or_unanswered() {
        let yes = || result(true, "250 2.0.0 queued");
        let no = || result(false, "550 5.7.1 no");
        let silence = || result(false, "connection refused");
        assert_eq!(judge(&[yes(), yes()]), Exit::Yes);
        assert_eq!(judge(&[yes(), no(), silence()]), Exit::No);
        assert_eq!(judge(&[yes(), silence()]), Exit::Inconclusive);
        assert_eq!(judge(&[]), Exit::Inconclusive);
        assert_eq!(judge(&[result(false, "")]), Exit::Inconclusive);
        assert_eq!(judge(&[result(false, "421")]), Exit::No);
        assert_eq!(judge(&[result(false, "5000 octets lost")]), Exit::Inconclusive);
    }

    #[test]
    fn the_text_tells_a_changed_identity_and_what_to_look_for() {
        let members = vec![result(true, "250 ok"), result(false, "550 no")];
        let answer = ProbeAnswer { members, cursor: String::new() };
        let text = text(&answer);
        assert!(text.contains("look for Message-ID <probe@example.org>"), "{text}");
        assert!(text.contains("CHANGED since it was last seen"), "{text}");
    }
}
