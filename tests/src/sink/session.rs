//! One connection to a scripted next hop.
//!
//! Blocking, one thread; it ends when the client does, when a rule says so, or when the sink is
//! stopped (its socket is shut down from outside). Lenient in what it reads (a sink records, it
//! does not judge), with one exception: only CRLF ends a line, so that a stray CR or LF is seen.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::{ServerConnection, StreamOwned};

use super::rule::{Action, Seen, Stage};
use super::{Shared, Transaction};
use crate::wait;
use crate::wire::Stream;

/// No client is waited for longer than this: stories are short.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether the session goes on.
enum Flow {
    /// With the code that was sent, or 0 when nothing of the kind was.
    On(u16),
    /// The connection is to end.
    End,
}

struct Connection<'a> {
    shared: &'a Shared,
    id: usize,
    peer: SocketAddr,
    /// `None` only after a reset.
    stream: Option<Stream>,
    unread: Vec<u8>,
    server: String,
    helo: String,
    xforward: HashMap<String, String>,
    mail_line: String,
    rcpt_lines: Vec<String>,
}

pub(super) fn serve(shared: &Shared, id: usize, socket: TcpStream, peer: SocketAddr) {
    // Whatever goes wrong on a socket ends the session; the story sees it in the records.
    socket.set_nodelay(true).ok();
    let mut connection = Connection {
        shared,
        id,
        peer,
        stream: Some(Stream::Plain(socket)),
        unread: Vec::new(),
        server: String::new(),
        helo: String::new(),
        xforward: HashMap::new(),
        mail_line: String::new(),
        rcpt_lines: Vec::new(),
    };
    connection.run().ok();
}

impl Connection<'_> {
    fn run(&mut self) -> io::Result<()> {
        let (name, implicit) = {
            let state = self.shared.state.lock().unwrap();
            (state.name.clone(), state.implicit_tls)
        };
        self.server = name;
        self.stream.as_ref().unwrap().bound(PATIENCE);
        if implicit {
            self.start_tls();
        }
        let greeting = format!("220 {} ESMTP sink", self.server);
        if let Flow::End = self.answer(Stage::Banner, "", &greeting)? {
            return Ok(());
        }
        while let Some(line) = self.read_line()? {
            let text = String::from_utf8_lossy(&line).into_owned();
            self.shared.state.lock().unwrap().sessions[self.id - 1].lines.push(text.clone());
            if let Flow::End = self.command(&text)? {
                break;
            }
        }
        Ok(())
    }

    fn command(&mut self, line: &str) -> io::Result<Flow> {
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => self.ehlo(line),
            "HELO" => {
                self.greeted(line);
                let reply = format!("250 {}", self.server);
                self.answer(Stage::Helo, line, &reply)
            }
            "STARTTLS" => {
                let flow = self.answer(Stage::StartTls, line, "220 2.0.0 go ahead")?;
                if let Flow::On(220) = flow {
                    self.unread.clear();
                    self.start_tls();
                }
                Ok(flow)
            }
            "XFORWARD" => {
                let flow = self.answer(Stage::Xforward, line, "250 2.0.0 ok")?;
                if let Flow::On(250) = flow {
                    for attribute in line.split_ascii_whitespace().skip(1) {
                        let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
                        self.xforward.insert(name.to_ascii_uppercase(), value.to_owned());
                    }
                }
                Ok(flow)
            }
            "MAIL" => {
                let flow = self.answer(Stage::Mail, line, "250 2.1.0 sender ok")?;
                if let Flow::On(200..=299) = flow {
                    line.clone_into(&mut self.mail_line);
                }
                Ok(flow)
            }
            "RCPT" if self.mail_line.is_empty() => self.say("503 5.5.1 need MAIL first"),
            "RCPT" => {
                let flow = self.answer(Stage::Rcpt, line, "250 2.1.5 recipient ok")?;
                if let Flow::On(200..=299) = flow {
                    self.rcpt_lines.push(line.to_owned());
                }
                Ok(flow)
            }
            "DATA" => {
                let nobody = self.rcpt_lines.is_empty();
                let reply = if nobody { "554 5.5.1 no valid recipients" } else { "354 go ahead" };
                match self.answer(Stage::Data, line, reply)? {
                    Flow::On(354) => self.data(),
                    flow => Ok(flow),
                }
            }
            "RSET" => {
                self.forget_transaction();
                self.answer(Stage::Rset, line, "250 2.0.0 ok")
            }
            "NOOP" => self.answer(Stage::Noop, line, "250 2.0.0 ok"),
            "QUIT" => {
                self.answer(Stage::Quit, line, "221 2.0.0 bye")?;
                Ok(Flow::End)
            }
            _ => self.say("500 5.5.2 unknown command"),
        }
    }

    fn greeted(&mut self, line: &str) {
        self.forget_transaction();
        self.helo = line.split_once(' ').map_or("", |(_, name)| name).to_owned();
    }

    fn ehlo(&mut self, line: &str) -> io::Result<Flow> {
        self.greeted(line);
        let mut lines = vec![self.server.clone()];
        {
            let state = self.shared.state.lock().unwrap();
            lines.extend(state.offer.iter().cloned());
            if state.tls.is_some() && !self.stream.as_ref().is_some_and(Stream::is_tls) {
                lines.push("STARTTLS".to_owned());
            }
        }
        let last = lines.len() - 1;
        let lines: Vec<String> = (lines.iter().enumerate())
            .map(|(n, text)| format!("250{}{text}", if n == last { ' ' } else { '-' }))
            .collect();
        self.answer(Stage::Ehlo, line, &lines.join("\r\n"))
    }

    fn forget_transaction(&mut self) {
        self.mail_line.clear();
        self.rcpt_lines.clear();
    }

    fn data(&mut self) -> io::Result<Flow> {
        let mut data = Vec::new();
        let mut searched = 0;
        let mut first = true;
        let mut middle = true;
        loop {
            data.append(&mut self.unread);
            if first && !data.is_empty() {
                first = false;
                if let Some((action, _)) = self.rule(Stage::FirstOctets, "", &[])
                    && let Flow::End = self.act(action, "")?
                {
                    return Ok(self.abandon(&data));
                }
            }
            if let Some((end, after)) = final_dot(&data, searched) {
                self.unread = data.split_off(after);
                data.truncate(end);
                return self.end_of_data(data);
            }
            if middle && !data.is_empty() {
                middle = false;
                match self.rule(Stage::Middle, "", &[]) {
                    None => {}
                    Some((Action::Hold, _)) if self.hold_back() => {}
                    Some((Action::Close | Action::Hold, _)) => return Ok(self.abandon(&data)),
                    Some((Action::Reset, _)) => {
                        self.reset();
                        return Ok(self.abandon(&data));
                    }
                    Some((Action::Delay(span), _)) => wait::let_pass(span),
                    Some((action, _)) => {
                        // A reply out of turn; the octets go on to be read.
                        self.act(action, "")?;
                        self.shared.state.lock().unwrap().out_of_turn += 1;
                    }
                }
            }
            searched = data.len().saturating_sub(4);
            if !matches!(self.fill(), Ok(true)) {
                return Ok(self.abandon(&data));
            }
        }
    }

    fn abandon(&self, data: &[u8]) -> Flow {
        self.shared.state.lock().unwrap().sessions[self.id - 1].abandoned += data.len();
        Flow::End
    }

    fn end_of_data(&mut self, data: Vec<u8>) -> io::Result<Flow> {
        let rule = self.rule(Stage::End, ".", &data);
        let accepts = rule.as_ref().is_none_or(|(action, taking)| *taking || action.accepts());
        // A held-back reply takes the message only when it is let go.
        let late = matches!(rule, Some((Action::Hold | Action::Delay(_), false)));
        let number = {
            let mut state = self.shared.state.lock().unwrap();
            let transaction = Transaction {
                server: self.server.clone(),
                connection: self.id,
                peer: self.peer,
                helo: self.helo.clone(),
                tls: self.stream.as_ref().is_some_and(Stream::is_tls),
                xforward: self.xforward.clone(),
                mail_line: self.mail_line.clone(),
                rcpt_lines: self.rcpt_lines.clone(),
                data,
                at: Instant::now(),
                taken: accepts && !late,
            };
            state.transactions.push(transaction);
            state.transactions.len() - 1
        };
        self.shared.changed.notify_all();
        let usual = format!("250 2.0.0 queued as S{:06}", number + 1);
        self.forget_transaction();
        let flow = match rule {
            None => self.say(&usual)?,
            Some((action, _)) => self.act(action, &usual)?,
        };
        if let (true, Flow::On(250)) = (late, &flow) {
            let mut state = self.shared.state.lock().unwrap();
            if let Some(transaction) = state.transactions.get_mut(number) {
                transaction.taken = true;
            }
        }
        Ok(flow)
    }

    /// The first rule that applies here, counted as used.
    fn rule(&self, stage: Stage, line: &str, data: &[u8]) -> Option<(Action, bool)> {
        let mut state = self.shared.state.lock().unwrap();
        let seen = Seen { line, mail_line: &self.mail_line, rcpt_lines: &self.rcpt_lines, data };
        let rule = state
            .rules
            .iter_mut()
            .find(|rule| rule.stage == stage && rule.times > 0 && (rule.when)(seen))?;
        rule.times -= 1;
        Some((rule.action.clone(), rule.taking))
    }

    fn answer(&mut self, stage: Stage, line: &str, usual: &str) -> io::Result<Flow> {
        match self.rule(stage, line, &[]) {
            None => self.say(usual),
            Some((action, _)) => self.act(action, usual),
        }
    }

    fn act(&mut self, action: Action, usual: &str) -> io::Result<Flow> {
        match action {
            Action::Reply(lines) => self.say(&lines.join("\r\n")),
            Action::ReplyAndClose(line) => {
                self.say(&line)?;
                Ok(Flow::End)
            }
            Action::Raw(octets) => {
                self.write(&octets)?;
                Ok(Flow::On(0))
            }
            Action::Split => {
                for octet in format!("{usual}\r\n").as_bytes() {
                    self.write(&[*octet])?;
                    wait::let_pass(Duration::from_micros(300));
                }
                Ok(Flow::On(code(usual)))
            }
            Action::Delay(span) => {
                wait::let_pass(span);
                self.count_waiting()?;
                self.say(usual)
            }
            Action::Hold => {
                if self.hold_back() {
                    self.count_waiting()?;
                    self.say(usual)
                } else {
                    Ok(Flow::End)
                }
            }
            Action::Silence => {
                // Reads on, and says nothing, until the client gives up.
                while self.fill()? {}
                Ok(Flow::End)
            }
            Action::Close => Ok(Flow::End),
            Action::Reset => {
                self.reset();
                Ok(Flow::End)
            }
        }
    }

    /// False when the sink was stopped meanwhile.
    fn hold_back(&self) -> bool {
        let mut state = self.shared.state.lock().unwrap();
        let before = state.let_go;
        state.holding += 1;
        while state.let_go == before && !state.stopping {
            state = self.shared.changed.wait(state).unwrap();
        }
        state.holding -= 1;
        !state.stopping
    }

    fn reset(&mut self) {
        // The other handle kept for a stop would hold the socket open.
        self.shared.state.lock().unwrap().open.remove(&self.id);
        if let Some(stream) = self.stream.take() {
            stream.reset();
        }
    }

    /// Reads what has arrived without waiting, and notes how many command lines that makes.
    fn count_waiting(&mut self) -> io::Result<()> {
        if let Some(Stream::Plain(socket)) = &mut self.stream {
            socket.set_nonblocking(true)?;
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = socket.read(&mut buffer) {
                self.unread.extend_from_slice(&buffer[..n]);
            }
            socket.set_nonblocking(false)?;
        }
        // One is the command that is being answered.
        let waiting = 1 + memchr::memmem::find_iter(&self.unread, b"\r\n").count();
        let mut state = self.shared.state.lock().unwrap();
        let session = &mut state.sessions[self.id - 1];
        session.waiting = session.waiting.max(waiting);
        Ok(())
    }

    fn start_tls(&mut self) {
        let config = self.shared.state.lock().unwrap().tls.clone();
        let config = config.expect("TLS was configured");
        let Some(Stream::Plain(socket)) = self.stream.take() else {
            return;
        };
        let connection = ServerConnection::new(config).expect("the configuration is valid");
        self.stream = Some(Stream::Server(Box::new(StreamOwned::new(connection, socket))));
    }

    fn say(&mut self, reply: &str) -> io::Result<Flow> {
        self.write(format!("{reply}\r\n").as_bytes())?;
        let code = code(reply);
        Ok(if code == 421 { Flow::End } else { Flow::On(code) })
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        stream.write_all(octets)?;
        stream.flush()
    }

    /// Reads more; false at the end of the connection.
    fn fill(&mut self) -> io::Result<bool> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let mut buffer = vec![0; 64 * 1024];
        let n = stream.read(&mut buffer)?;
        self.unread.extend_from_slice(&buffer[..n]);
        Ok(n > 0)
    }

    fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.unread, b"\r\n") {
                let line = self.unread[..at].to_vec();
                self.unread.drain(..at + 2);
                return Ok(Some(line));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }
}

impl Action {
    /// Does the message count as accepted when this is the answer to its final dot?
    fn accepts(&self) -> bool {
        match self {
            Self::Split | Self::Delay(_) | Self::Hold => true,
            Self::Reply(lines) => lines.last().is_some_and(|line| line.starts_with('2')),
            Self::ReplyAndClose(line) => line.starts_with('2'),
            Self::Raw(_) | Self::Silence | Self::Close | Self::Reset => false,
        }
    }
}

fn code(reply: &str) -> u16 {
    reply.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Where mail data ends and what follows the final dot begins, looking from `from` on.
fn final_dot(data: &[u8], from: usize) -> Option<(usize, usize)> {
    if data.starts_with(b".\r\n") {
        return Some((0, 3));
    }
    let at = from + memchr::memmem::find(&data[from..], b"\r\n.\r\n")?;
    Some((at + 2, at + 5))
}
