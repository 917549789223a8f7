//! A blocking dialogue with a server: for the few words that are not load.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};

use super::PATIENCE;

/// A connection that is spoken to line by line.
#[derive(Debug)]
pub(crate) struct Talk {
    stream: BufReader<TcpStream>,
}

impl Talk {
    /// Connects; the greeting is still to be read.
    ///
    /// # Errors
    /// When nobody listens there.
    pub(crate) fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)
            .with_context(|| format!("cannot connect to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::with_capacity(512, stream) })
    }

    /// Says something that ends with CRLF.
    ///
    /// # Errors
    /// When the connection broke.
    pub(crate) fn say(&mut self, command: &str) -> Result<()> {
        let context = || format!("cannot say {}", command.trim_end());
        self.stream.get_mut().write_all(command.as_bytes()).with_context(context)
    }

    /// Reads a reply with this code; the last line of it.
    ///
    /// # Errors
    /// When it has another code, or does not come.
    pub(crate) fn expect(&mut self, code: &str) -> Result<String> {
        loop {
            let mut line = String::new();
            let count = self
                .stream
                .read_line(&mut line)
                .with_context(|| format!("no reply where {code} was due"))?;
            ensure!(count > 0, "the connection was closed where {code} was due");
            ensure!(line.starts_with(code), "{} came where {code} was due", line.trim_end());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line);
            }
        }
    }
}
