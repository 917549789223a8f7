//! Exchange's message tracking and protocol logs: comma-separated rows under a `#Fields:` line.
//!
//! The fields differ by version, so that a row is read by the names in its file's heading; without
//! a heading (a file cut at the front) nothing is understood.
//!
//! The id of an event is `internal-message-id`, which each server counts for itself; where it is
//! missing, `network-message-id` or the Message-ID. No host is told: a file is of one server, and
//! the fields name that server in several ways.
//!
//! Not here: the handling of files and their headings across a restart (`checkpoint`).

use std::ops::Range;

use super::address::{bare, ip, quoted_length};
use super::reply::next_id;
use super::stamp::Clock;
use super::{Disposition, Line, Message, QueueId, Recipient, What};

/// The most fields of a row; Exchange has about thirty.
const FIELDS_MAX: usize = 256;

/// The columns that are read.
#[derive(Clone, Copy)]
enum Column {
    DateTime,
    ClientIp,
    ServerIp,
    ServerHostname,
    SourceContext,
    Source,
    EventId,
    InternalMessageId,
    MessageId,
    NetworkMessageId,
    RecipientAddress,
    RecipientStatus,
    TotalBytes,
    RecipientCount,
    SenderAddress,
    RemoteEndpoint,
    Event,
}

/// Their names, in the order of [`Column`].
const NAMES: [&str; 17] = [
    "date-time",
    "client-ip",
    "server-ip",
    "server-hostname",
    "source-context",
    "source",
    "event-id",
    "internal-message-id",
    "message-id",
    "network-message-id",
    "recipient-address",
    "recipient-status",
    "total-bytes",
    "recipient-count",
    "sender-address",
    "remote-endpoint",
    "event",
];

/// What heads a file: its kind and its fields. The only thing remembered between lines.
#[derive(Debug, Default)]
pub(super) struct Heading {
    /// `#Log-type: …`
    kind: Option<String>,
    /// `#Fields: …`
    fields: Option<String>,
    /// Where each of [`NAMES`] stands.
    columns: [Option<usize>; NAMES.len()],
    /// How many fields a row has.
    count: usize,
    /// Room for a row: its values, unquoted, one behind the other.
    values: String,
    /// Where they stand there.
    places: Vec<Range<usize>>,
}

impl Heading {
    /// The lines of the heading, as far as they were read.
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.kind.iter().chain(&self.fields).map(String::as_str)
    }

    /// Tells what a line says; `None` when it is not understood.
    pub(super) fn read(
        &mut self,
        line: &str,
        clock: &mut Clock,
        each: &mut impl FnMut(Line<'_>),
    ) -> Option<()> {
        if line.starts_with('#') {
            self.note(line);
            each(Line::Quiet(None));
            return Some(());
        }
        if !self.split(line) {
            return None;
        }
        let row = Row { heading: self };
        let at = clock.exchange(row.value(Column::DateTime)?)?.0;
        let message = Message { at, ..Message::bare(line) };
        if self.has(Column::EventId) {
            row.tracked(&message, each)
        } else if self.has(Column::Event) && self.has(Column::RemoteEndpoint) {
            each(row.connected(&message));
            Some(())
        } else {
            None
        }
    }

    /// A line of the heading.
    fn note(&mut self, line: &str) {
        if line.starts_with("#Log-type:") {
            self.kind = Some(line.to_owned());
        }
        let Some(names) = line.strip_prefix("#Fields:") else { return };
        self.fields = Some(line.to_owned());
        self.columns = [None; NAMES.len()];
        self.count = 0;
        for name in names.split(',') {
            let known = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name.trim()));
            if let Some(column) = known.and_then(|known| self.columns.get_mut(known)) {
                *column = Some(self.count);
            }
            self.count += 1;
        }
    }

    fn has(&self, column: Column) -> bool {
        self.columns.get(column as usize).is_some_and(Option::is_some)
    }

    /// Splits a row into its values; false when it is not one of this file: another count of
    /// fields, or a quote that does not close.
    fn split(&mut self, line: &str) -> bool {
        self.values.clear();
        self.places.clear();
        let mut rest = Some(line);
        while let Some(text) = rest {
            if self.places.len() >= FIELDS_MAX {
                return false;
            }
            let start = self.values.len();
            rest = match text.strip_prefix('"') {
                None => {
                    let (value, behind) = match text.split_once(',') {
                        Some((value, behind)) => (value, Some(behind)),
                        None => (text, None),
                    };
                    // A value with a quote is written in quotes: this row is damaged.
                    if value.contains('"') {
                        return false;
                    }
                    self.values.push_str(value);
                    behind
                }
                Some(quoted) => {
                    let Some(behind) = self.unquote(quoted) else { return false };
                    match behind.strip_prefix(',') {
                        None if !behind.is_empty() => return false,
                        behind => behind,
                    }
                }
            };
            self.places.push(start..self.values.len());
        }
        self.count > 0 && self.places.len() == self.count
    }

    /// Takes a quoted value, in which `""` is a quote; gives what stands behind it.
    fn unquote<'a>(&mut self, quoted: &'a str) -> Option<&'a str> {
        let mut rest = quoted;
        loop {
            let (value, behind) = rest.split_once('"')?;
            self.values.push_str(value);
            match behind.strip_prefix('"') {
                Some(more) => {
                    self.values.push('"');
                    rest = more;
                }
                None => return Some(behind),
            }
        }
    }
}

/// One row, by names.
struct Row<'a> {
    heading: &'a Heading,
}

impl<'a> Row<'a> {
    fn value(&self, column: Column) -> Option<&'a str> {
        let place = (*self.heading.columns.get(column as usize)?)?;
        self.heading.values.get(self.heading.places.get(place)?.clone())
    }

    fn some(&self, column: Column) -> Option<&'a str> {
        self.value(column).filter(|value| !value.is_empty())
    }

    /// A row of a protocol log: `+` is an opened connection.
    fn connected(&self, message: &Message<'a>) -> Line<'a> {
        // In the log of sending the remote end is a server.
        let sending = self.heading.kind.as_ref().is_some_and(|kind| kind.contains("Send"));
        match self.some(Column::RemoteEndpoint) {
            Some(remote) if !sending && self.value(Column::Event) == Some("+") => {
                message.event(What::Connected { client: ip(remote) })
            }
            _ => message.quiet(),
        }
    }

    /// A row of the tracking log.
    fn tracked(&self, message: &Message<'a>, each: &mut impl FnMut(Line<'_>)) -> Option<()> {
        let source = self.value(Column::Source)?;
        let smtp = source.eq_ignore_ascii_case("SMTP");
        let disposition = match self.value(Column::EventId)? {
            "RECEIVE" => {
                each(message.event(self.received(smtp)?));
                return Some(());
            }
            "SEND" if smtp => Disposition::Relayed,
            "DELIVER" | "DUPLICATEDELIVER" => Disposition::Delivered,
            "DEFER" => Disposition::Deferred,
            // An agent (a transport rule) throws away without a report.
            "FAIL" if source.eq_ignore_ascii_case("AGENT") => Disposition::Deleted,
            "FAIL" => Disposition::Bounced,
            "DROP" => Disposition::Deleted,
            event if QUIET.contains(&event) => {
                each(message.quiet());
                return Some(());
            }
            // Also BADMAIL and POISONMESSAGE: still there, or gone? Nobody can tell from the row.
            _ => return None,
        };
        self.recipients(message, disposition, each)
    }

    fn id(&self) -> Option<QueueId<'a>> {
        self.some(Column::InternalMessageId)
            .filter(|id| *id != "0")
            .or_else(|| self.some(Column::NetworkMessageId))
            .or_else(|| self.some(Column::MessageId).map(bare))
            .map(QueueId)
    }

    fn received(&self, smtp: bool) -> Option<What<'a>> {
        Some(What::Queued {
            id: self.id()?,
            sender: match self.value(Column::SenderAddress)? {
                "<>" => "",
                sender => sender,
            },
            size: self.value(Column::TotalBytes).and_then(|octets| octets.parse().ok()),
            recipients: self.value(Column::RecipientCount).and_then(|count| count.parse().ok()),
            message_id: self.some(Column::MessageId).map(bare),
            // What comes from a mailbox has no SMTP client.
            client: self.value(Column::ClientIp).filter(|_| smtp).and_then(ip),
        })
    }

    /// One event for each recipient of the row, each with its own status.
    fn recipients(
        &self,
        message: &Message<'a>,
        disposition: Disposition,
        each: &mut impl FnMut(Line<'_>),
    ) -> Option<()> {
        let id = self.id()?;
        let list = self.value(Column::RecipientAddress)?;
        let mut statuses = self.value(Column::RecipientStatus).unwrap_or_default().split(';');
        if list.is_empty() {
            let text = statuses.next().unwrap_or_default();
            each(message.event(What::Rest { id, disposition, text }));
            return Some(());
        }
        let relayed = disposition == Disposition::Relayed;
        let mut rest = list;
        while !rest.is_empty() {
            let (recipient, behind) = first_recipient(rest);
            rest = behind;
            each(message.event(What::Recipient(Recipient {
                id,
                recipient: bare(recipient),
                original: None,
                message_id: self.some(Column::MessageId).map(bare),
                disposition,
                relay: self.value(Column::ServerIp).filter(|_| relayed).and_then(ip),
                relay_port: None,
                relay_name: self.some(Column::ServerHostname).filter(|_| relayed),
                through: None,
                text: statuses.next().unwrap_or_default(),
                // Newer versions write the reply to the final dot there.
                next_id: self.value(Column::SourceContext).filter(|_| relayed).and_then(next_id),
            })));
        }
        Some(())
    }
}

/// The first of a list with semicolons, and the rest.
fn first_recipient(list: &str) -> (&str, &str) {
    let from = quoted_length(list).unwrap_or(0);
    let end = list.get(from..).and_then(|rest| rest.find(';')).map(|end| from + end);
    match end {
        Some(end) => (list.get(..end).unwrap_or(list), list.get(end + 1..).unwrap_or("")),
        None => (list, ""),
    }
}

/// Events that say nothing of an end.
const QUIET: [&str; 27] = [
    "AGENTINFO",
    "DSN",
    "EXPAND",
    "HADISCARD",
    "HARECEIVE",
    "HAREDIRECT",
    "HAREDIRECTFAIL",
    "INITMESSAGECREATED",
    "JOURNALREPORT",
    "LOAD",
    "MODERATIONEXPIRE",
    "MODERATORAPPROVE",
    "MODERATORREJECT",
    "MODERATORSALLNDR",
    "NOTIFYMAPI",
    "NOTIFYSHADOW",
    "PROCESS",
    "REDIRECT",
    "RESOLVE",
    "RESUBMIT",
    "RESUBMITDEFER",
    "RESUBMITFAIL",
    "SEND",
    "SUBMIT",
    "SUBMITDEFER",
    "TRANSFER",
    "THROTTLE",
];

#[cfg(test)]
pub(super) mod tests {
    use super::super::shown::{says, tells};
    use super::super::{Dialect, Reader};

    /// The fields of version 15.01, of 2007, and of protocol logs as the reference lists them; one
    /// genuine row of each kind that has one; the others are derived.
    pub(in super::super) const LINES: &[&str] = &[
        "#Fields: date-time,client-ip,client-hostname,server-ip,server-hostname,source-context,connector-id,source,event-id,internal-message-id,message-id,network-message-id,recipient-address,recipient-status,total-bytes,recipient-count,related-recipient-address,reference,message-subject,sender-address,return-path,message-info,directionality,tenant-id,original-client-ip,original-server-ip,custom-data,transport-traffic-type,log-id,schema-version",
        "2022-09-19T15:02:29.450Z,fe80::1234:5678:4321:1010,SERVER-HOSTNAME.DOMAIN.TEST,1234:5678:4321:1010%3,SERVER-HOSTNAME,\"MDB:12345678-3232-2323-1111-12345679987, Mailbox:33345678-3232-2323-1111-08da9fd00918, Event:63779422, MessageClass:IPM.Note, CreationTime:2022-09-19T15:02:29.211Z, ClientType:MOMT, SubmissionAssistant:MailboxTransportSubmissionEmailAssistant, ServerMdbConnectionId:08DA9806C5B670C1\",,STOREDRIVER,RECEIVE,438,<XXX@domain.com>,6a638d20-1e63-493a-80a2-08da9a4ff8da,user.name4@gmail.com,To,3750222,1,,,MAIL SUBJECT,user.name1@domain.com,user.name1@domain.com,04I: ,Originating,,95.11.22.33,fe80::1234:4545:3214:1010e%3,S:MailboxDatabaseGuid=12345678-3232-2323-1111-12345679987;S:ItemEntryId=00-00-XXX-00;S:DeliveryPriority=Normal;S:AccountForest=DOMAIN.TEST,Email,12345678-3232-2323-1111-12345679987,15.01.2375.007",
        "2022-09-19T15:02:30.450Z,192.0.2.1,ex1,192.0.2.9,sems1,08DA;250 2.0.0 Ok: queued as 4Bn;ClientSubmitTime:,outbound,SMTP,SEND,438,<a@b>,6a,c@d;\"\"x;y\"\"@e,250 2.1.5 Ok;250 2.1.5 Fine,10,2,,,\"a \"\"b\"\", c\",s@b,s@b,,,,,,,,,",
        "2022-09-19T15:02:31Z,192.0.2.7,sems1,192.0.2.1,ex1,08DA,inbound,SMTP,RECEIVE,439,<a@b>,6a,c@d,,10,1,,,s,<>,<>,,,,,,,,,",
        "2022-09-19T15:02:31Z,,,,ex1,,,AGENT,FAIL,439,<a@b>,6a,c@d,x,10,1,,,s,s@b,<>,,,,,,,,,",
        "2022-09-19T15:02:31Z,,,,ex1,,,ROUTING,FAIL,439,<a@b>,6a,c@d,550 5.1.1 no,10,1,,,s,s@b,<>,,,,,,,,,",
        "2022-09-19T15:02:31Z,,,,ex1,,,QUEUE,DEFER,439,<a@b>,6a,,451 later,10,1,,,s,s@b,<>,,,,,,,,,",
        "2022-09-19T15:02:31Z,,,,ex1,,,STOREDRIVER,DELIVER,439,<a@b>,6a,c@d,,10,1,,,s,s@b,<>,,,,,,,,,",
        "2022-09-19T15:02:31Z,,,,ex1,,,ROUTING,EXPAND,439,<a@b>,6a,c@d,,10,1,,,s,s@b,<>,,,,,,,,,",
        "2022-09-19T15:02:31Z,,,,ex1,,,ROUTING,POISONMESSAGE,439,<a@b>,6a,c@d,,10,1,,,s,s@b,<>,,,,,,,,,",
    ];

    #[test]
    fn tracking_rows_are_read_by_their_heading() {
        let mut reader = Reader::new(Dialect::Exchange);
        // The row with quotes within a list is quoted as a whole, as CSV demands.
        let send = LINES[2].replace("c@d;\"\"x;y\"\"@e", "\"c@d;\"\"x;y\"\"@e\"");
        let said: Vec<String> = LINES
            .iter()
            .map(|line| if *line == LINES[2] { send.as_str() } else { line })
            .map(|line| tells(&mut reader, line))
            .collect();
        assert_eq!(
            said,
            [
                "quiet",
                "438 queued from <user.name1@domain.com> size=3750222 recipients=1 message-id=XXX@domain.com",
                "438 Relayed <c@d> message-id=a@b by sems1 at 192.0.2.9 next 4Bn: 250 2.1.5 Ok\n\
                 438 Relayed <\"x;y\"@e> message-id=a@b by sems1 at 192.0.2.9 next 4Bn: 250 2.1.5 Fine",
                "439 queued from <> size=10 recipients=1 message-id=a@b client=192.0.2.7",
                "439 Deleted <c@d> message-id=a@b: x",
                "439 Bounced <c@d> message-id=a@b: 550 5.1.1 no",
                "439 rest Deferred",
                "439 Delivered <c@d> message-id=a@b: ",
                "quiet",
                "unparsed",
            ]
        );
        assert_eq!(tells(&mut reader, LINES[2]), "unparsed", "quotes in the middle of a field");
    }

    #[test]
    fn other_versions_have_other_fields_and_a_mark_of_order_before_them() {
        let mut reader = Reader::new(Dialect::Exchange);
        let fields = "\u{feff}#Fields: date-time,client-ip,client-hostname,server-ip,server-hostname,source-context,connector-id,source,event-id,internal-message-id,message-id,recipient-address,recipient-status,total-bytes,recipient-count,related-recipient-address,reference,message-subject,sender-address,return-path,message-info\r\n";
        assert_eq!(tells(&mut reader, fields), "quiet");
        let row = "2008-01-02T03:04:05.006Z,192.0.2.1,ex1,192.0.2.9,sems1,,out,SMTP,SEND,7,<a@b>,c@d,250 Ok,9,1,,,s,s@b,s@b,\r\n";
        assert_eq!(
            tells(&mut reader, row),
            "7 Relayed <c@d> message-id=a@b by sems1 at 192.0.2.9: 250 Ok"
        );
        assert_eq!(tells(&mut reader, "2008-01-02T03:04:05.006Z,192.0.2.1,ex1"), "unparsed");
        assert_eq!(reader.heading().count(), 1);
    }

    #[test]
    fn rows_without_heading_are_not_understood() {
        assert_eq!(says(Dialect::Exchange, LINES[1]), "unparsed");
    }

    #[test]
    fn protocol_logs_tell_who_connected() {
        let genuine = "2023-01-11T15:59:53.909Z,SERVER-HOSTNAME\\Default Frontend SERVER-HOSTNAME,123453EC62278461,2,10.10.10.10:25,95.10.20.33:56026,<,EHLO [95.10.20.33],";
        let fields = "#Fields: date-time,connector-id,session-id,sequence-number,local-endpoint,remote-endpoint,event,data,context";
        let opened = genuine.replace(",<,EHLO [95.10.20.33],", ",+,,");
        let mut reader = Reader::new(Dialect::Exchange);
        tells(&mut reader, "#Log-type: SMTP Receive Protocol Log");
        tells(&mut reader, fields);
        assert_eq!(tells(&mut reader, genuine), "quiet");
        assert_eq!(tells(&mut reader, &opened), "connected client=95.10.20.33");
        tells(&mut reader, "#Log-type: SMTP Send Protocol Log");
        assert_eq!(tells(&mut reader, &opened), "quiet", "a server, not a client");
        assert_eq!(reader.heading().count(), 2);
    }
}
