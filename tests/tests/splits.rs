//! A conversation means the same however it is cut into packets: in pass and in hold, whole, octet by
//! octet, and cut in two at every octet.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tests::lockgate::Lockgate;
use tests::sink::Sink;

/// Two messages, pipelined, with dots at the start of lines, a refused command and an empty line; the
/// client says everything before it reads anything.
const CONVERSATION: &[u8] =
    b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@x.test>\r\n\
    RCPT TO:<c@x.test>\r\nDATA\r\nSubject: one\r\n\r\n..\r\n..dots\r\n.\r\nNONSENSE\r\n\
    MAIL FROM:<>\r\nRCPT TO:<d@x.test>\r\nDATA\r\n.\r\nNOOP\r\nQUIT\r\n";

/// Codes of every reply, in order.
fn codes(replies: &[u8]) -> Vec<u16> {
    String::from_utf8_lossy(replies)
        .lines()
        .filter(|line| line.as_bytes().get(3) != Some(&b'-'))
        .map(|line| line[..3].parse().unwrap())
        .collect()
}

/// Says the conversation in these pieces and reads to the end of the connection.
fn say(address: SocketAddr, pieces: &[&[u8]]) -> Vec<u16> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for piece in pieces {
        stream.write_all(piece).unwrap();
        // Lets the other side read this much, where it wants to; the outcome must not depend on it.
        std::thread::yield_now();
    }
    let mut replies = Vec::new();
    stream.read_to_end(&mut replies).unwrap();
    codes(&replies)
}

const EXPECTED: [u16; 13] = [220, 250, 250, 250, 250, 354, 250, 500, 250, 250, 354, 250, 250];

fn expected() -> Vec<u16> {
    EXPECTED.iter().copied().chain([221]).collect()
}

fn every_cut(address: SocketAddr) -> usize {
    let octets: Vec<&[u8]> = CONVERSATION.chunks(1).collect();
    assert_eq!(say(address, &[CONVERSATION]), expected(), "whole");
    assert_eq!(say(address, &octets), expected(), "octet by octet");
    for cut in 1..CONVERSATION.len() {
        let (first, second) = CONVERSATION.split_at(cut);
        assert_eq!(say(address, &[first, second]), expected(), "cut at {cut}");
    }
    CONVERSATION.len() + 1
}

#[test]
fn a_conversation_cut_at_every_octet_passes_alike() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    let said = every_cut(lockgate.outbound());
    let taken = sink.taken();
    assert_eq!(taken.len(), 2 * said);
    for transaction in taken {
        let data = transaction.data_without_trace();
        match transaction.rcpt_lines.len() {
            2 => assert_eq!(data, b"Subject: one\r\n\r\n..\r\n..dots\r\n"),
            _ => assert!(data.is_empty(), "{data:?}"),
        }
    }
}

#[test]
fn a_conversation_cut_at_every_octet_is_held_alike() {
    let sink = Sink::start("sink.test");
    let lockgate = Lockgate::before(&sink);
    lockgate.hold("outbound");
    let said = every_cut(lockgate.outbound());
    let held = lockgate.held();
    assert_eq!(held.len(), 2 * said);
    assert_eq!(sink.dots(), 0);
    let recipients: usize =
        held.iter().map(|message| message["forward_paths"].as_array().unwrap().len()).sum();
    assert_eq!(recipients, 3 * said);
}
