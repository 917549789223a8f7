//! `[session]`: limits and timeouts towards clients, and who may be one.

use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

/// Most threads that serve clients.
const WORKERS_MAX: usize = 256;

/// `[session]`: limits and timeouts towards clients.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Threads that serve clients, each with its own connections to next hops. One passes thousands of
    /// messages per second; more are for very many TLS handshakes.
    pub workers: usize,
    /// Client connections per gate; more get 421.
    pub connections_max: usize,
    /// Client connections per gate from one address; more get 421.
    pub connections_per_client_max: usize,
    /// Seconds that we wait for a command (RFC 5321 §4.5.3.2.7: at least five minutes).
    pub command_s: u64,
    /// Seconds that we wait for the next piece of mail data.
    pub data_block_s: u64,
    /// Seconds for a reply to be taken by the client.
    pub write_s: u64,
    /// Recipients of one transaction; more get 452 4.5.3 (RFC 5321 §4.5.3.1.8: at least 100).
    pub recipients_max: usize,
    /// Commands with an error reply after which a session is closed with 421.
    pub errors_max: u32,
    /// `Received:` fields after which a message is refused as looping (RFC 5321 §6.3).
    pub received_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 1,
            connections_max: 2000,
            connections_per_client_max: 1000,
            command_s: 300,
            data_block_s: 180,
            write_s: 60,
            recipients_max: 1000,
            errors_max: 100,
            received_max: 100,
        }
    }
}

impl Config {
    /// Checks what a type cannot.
    ///
    /// # Errors
    /// What is wrong, and the mend.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=WORKERS_MAX).contains(&self.workers) {
            return Err(format!(
                "[session] workers must be 1 to {WORKERS_MAX}, not {}",
                self.workers
            ));
        }
        if self.connections_max == 0 || self.connections_per_client_max == 0 {
            return Err("[session] connection limits must be at least 1".into());
        }
        if self.recipients_max < 100 {
            return Err(
                "[session] recipients_max must be at least 100 (RFC 5321 §4.5.3.1.8)".into()
            );
        }
        for (name, seconds) in [
            ("command_s", self.command_s),
            ("data_block_s", self.data_block_s),
            ("write_s", self.write_s),
        ] {
            if !(1..=3600).contains(&seconds) {
                return Err(format!("[session] {name} must be 1 to 3600 seconds, not {seconds}"));
            }
        }
        if self.received_max == 0 || self.errors_max == 0 {
            return Err("[session] received_max and errors_max must be at least 1".into());
        }
        Ok(())
    }
}

/// Addresses and networks of clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Networks(Vec<Network>);

/// One address or network, such as `192.0.2.7` or `2001:db8::/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Not an address or network.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no address or network, such as \"192.0.2.7\" or \"192.0.2.0/24\"")]
pub struct NetworkError(String);

impl Networks {
    /// This machine alone.
    #[must_use]
    pub fn loopback() -> Self {
        Self(vec![
            Network { address: IpAddr::from([127, 0, 0, 0]), prefix: 8 },
            Network { address: IpAddr::from(std::net::Ipv6Addr::LOCALHOST), prefix: 128 },
        ])
    }

    /// Nobody.
    #[must_use]
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Is this address among them?
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                same_prefix(network.to_bits().into(), address.to_bits().into(), self.prefix + 96)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                same_prefix(network.to_bits(), address.to_bits(), self.prefix)
            }
            _ => false,
        }
    }
}

const fn same_prefix(a: u128, b: u128, prefix: u8) -> bool {
    prefix == 0 || (a ^ b) >> (128 - prefix) == 0
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => {
                prefix.parse().ok().filter(|prefix| *prefix <= longest).ok_or_else(error)?
            }
            None => longest,
        };
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_addresses_and_no_others() {
        let network: Network = "192.0.2.128/25".parse().unwrap();
        assert!(network.contains("192.0.2.129".parse().unwrap()));
        assert!(!network.contains("192.0.2.1".parse().unwrap()));
        assert!(!network.contains("::1".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("203.0.113.9".parse().unwrap()));
        assert!(!all.contains("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn an_ipv4_client_on_an_ipv6_socket_is_the_same_client() {
        assert!(Networks::loopback().contains("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!Networks::loopback().contains("::ffff:192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "192.0.2.0/33", "host", "192.0.2.0/", "::/129", "192.0.2.1/-1"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
