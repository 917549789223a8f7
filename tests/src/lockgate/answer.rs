//! What a `lockgate` says: exit codes and output of its command line, its metrics.

use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// What a run of the command line gave.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Exit code: 0 yes, 1 error, 2 no, 3 inconclusive.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// Standard output as one JSON value.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.out) {
            Ok(value) => value,
            Err(error) => panic!("not JSON ({error}): {self:?}"),
        }
    }

    /// Standard output as JSON Lines.
    ///
    /// # Panics
    /// When a line is no JSON.
    #[must_use]
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let mut values = Vec::new();
        for line in self.out.lines() {
            match serde_json::from_str(line) {
                Ok(value) => values.push(value),
                Err(error) => panic!("not JSON ({error}): {line:?}"),
            }
        }
        values
    }

    /// The same answer, if the exit code is this one.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    #[expect(clippy::must_use_candidate, reason = "an assertion; the value is often not needed")]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code: {self:?}");
        self
    }

    /// Both outputs, for assertions about what a person is told.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// States of the forward-paths of a message as `held list -o json` shows it.
#[must_use]
pub fn states(message: &Value) -> Vec<String> {
    let paths = message["forward_paths"].as_array().cloned().unwrap_or_default();
    paths.iter().filter_map(|path| path["state"].as_str().map(str::to_owned)).collect()
}

/// A text member of a message as `held list -o json` shows it.
#[must_use]
#[track_caller]
pub fn text(message: &Value, name: &str) -> String {
    match message[name].as_str() {
        Some(text) => text.to_owned(),
        None => panic!("no text {name:?} in {message}"),
    }
}

/// A page of metrics in the Prometheus text format.
#[derive(Debug, Clone)]
pub struct Metrics(pub String);

impl Metrics {
    /// The value of the one sample that has this name and at least these labels.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.samples(name, labels).next()
    }

    /// The sum over all samples of this name with at least these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.samples(name, labels).sum()
    }

    fn samples<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = f64> + 'a {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (set, value) = rest.rsplit_once(' ')?;
            let known = set.is_empty() || set.starts_with('{');
            let has = |(label, value): &(&str, &str)| set.contains(&format!("{label}=\"{value}\""));
            (known && labels.iter().all(has)).then(|| value.parse().ok())?
        })
    }
}

/// A plain `GET` over HTTP/1.1: status code and body.
#[must_use]
pub fn http_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some((code, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_by_name_and_labels() {
        let page =
            Metrics("# HELP a x\na_total 3\na{gate=\"o\",mode=\"pass\"} 1\nab 7\n".to_owned());
        assert_eq!(page.value("a", &[("mode", "pass")]), Some(1.0));
        assert_eq!(page.value("a", &[("mode", "hold")]), None);
        assert_eq!(page.value("a_total", &[]), Some(3.0));
    }
}
