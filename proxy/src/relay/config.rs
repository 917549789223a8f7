//! `[relay]`: timeouts and pool towards next hops.

use std::time::Duration;

use serde::Deserialize;

/// `[relay]`: timeouts (RFC 5321 §4.5.3.2) and idle connections towards next hops.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Seconds to open a TCP connection.
    pub connect_s: u64,
    /// Seconds to the greeting, to the reply to EHLO, and for a TLS handshake.
    pub greeting_s: u64,
    /// Seconds to the reply to MAIL.
    pub mail_s: u64,
    /// Seconds to the reply to RCPT.
    pub rcpt_s: u64,
    /// Seconds to the reply to DATA.
    pub data_s: u64,
    /// Seconds for each block of mail data to be taken.
    pub data_block_s: u64,
    /// Seconds to the reply to the end of mail data. Shorter than the ten minutes of RFC 5321
    /// §4.5.3.2.6, so that our client hears from us before it gives up.
    pub final_reply_s: u64,
    /// Idle connections kept per member of a gate; more are closed.
    pub pool_connections: usize,
    /// Seconds that an idle connection is kept.
    pub pool_idle_s: u64,
    /// Messages after which a connection is closed.
    pub pool_messages: u32,
    /// Give the next hop the client's identity (XFORWARD) when it offers that.
    pub xforward: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_s: 30,
            greeting_s: 300,
            mail_s: 300,
            rcpt_s: 300,
            data_s: 120,
            data_block_s: 180,
            final_reply_s: 570,
            pool_connections: 100,
            pool_idle_s: 30,
            pool_messages: 1000,
            xforward: true,
        }
    }
}

impl Config {
    /// Checks what a type cannot.
    ///
    /// # Errors
    /// What is wrong, and the mend.
    pub fn check(&self) -> Result<(), String> {
        let waits = [
            ("connect_s", self.connect_s),
            ("greeting_s", self.greeting_s),
            ("mail_s", self.mail_s),
            ("rcpt_s", self.rcpt_s),
            ("data_s", self.data_s),
            ("data_block_s", self.data_block_s),
            ("final_reply_s", self.final_reply_s),
            ("pool_idle_s", self.pool_idle_s),
        ];
        for (name, seconds) in waits {
            if !(1..=3600).contains(&seconds) {
                return Err(format!("[relay] {name} must be 1 to 3600 seconds, not {seconds}"));
            }
        }
        if self.pool_messages == 0 {
            return Err("[relay] pool_messages must be at least 1".into());
        }
        Ok(())
    }

    pub(super) const fn connect(&self) -> Duration {
        Duration::from_secs(self.connect_s)
    }

    pub(super) const fn greeting(&self) -> Duration {
        Duration::from_secs(self.greeting_s)
    }

    pub(super) const fn pool_idle(&self) -> Duration {
        Duration::from_secs(self.pool_idle_s)
    }
}
