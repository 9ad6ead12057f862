//! Parameters of an address: read with words for what is wrong, and written into links.

use std::str::FromStr;

use sweep_report::{Condition, Key};
use sweep_store::Metric;

use crate::error::Failure;

/// The parameters of an address, in order; a name may come several times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(pub(crate) Vec<(String, String)>);

/// Conditions that one page takes, at most.
const CONDITIONS: usize = 32;
/// Metrics that one page takes, at most.
const METRICS: usize = 9;

impl Query {
    /// Returns the first value of a name, if it is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Returns every value of a name that is not empty.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(key, value)| key == name && !value.trim().is_empty())
            .map(|(_, value)| value.trim())
    }

    /// Returns the same parameters with one value under a name; an empty one takes it away.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut pairs: Vec<_> = self.0.iter().filter(|(key, _)| key != name).cloned().collect();
        if !value.is_empty() {
            pairs.push((name.to_owned(), value.to_owned()));
        }
        Self(pairs)
    }

    /// Returns the same parameters with one more.
    pub(crate) fn and(&self, name: &str, value: &str) -> Self {
        let mut pairs = self.0.clone();
        pairs.push((name.to_owned(), value.to_owned()));
        Self(pairs)
    }

    /// Returns a link to `path` with these parameters.
    pub(crate) fn link(&self, path: &str) -> String {
        let mut address = path.to_owned();
        for (index, (name, value)) in self.0.iter().enumerate() {
            address.push(if index == 0 { '?' } else { '&' });
            address.push_str(&encoded(name));
            address.push('=');
            address.push_str(&encoded(value));
        }
        address
    }

    /// Returns one value, read as a `T`.
    pub(crate) fn one<T: FromStr<Err: ToString>>(&self, name: &str) -> Result<Option<T>, Failure> {
        let parse = |text: &str| text.parse().map_err(|error: T::Err| wrong(name, &error.to_string()));
        self.get(name).map(parse).transpose()
    }

    /// Returns the conditions of `where`.
    pub(crate) fn conditions(&self) -> Result<Vec<Condition>, Failure> {
        let found: Vec<&str> = self.all("where").collect();
        if found.len() > CONDITIONS {
            return Err(wrong("where", &format!("at most {CONDITIONS} conditions")));
        }
        let parse = |text: &&str| {
            text.parse().map_err(|error: <Condition as FromStr>::Err| wrong("where", &error.to_string()))
        };
        found.iter().map(parse).collect()
    }

    /// Returns the keys under a name, separated by commas; `none` for no key, `None` where nothing is said.
    pub(crate) fn keys(&self, name: &str) -> Option<Vec<Key>> {
        let text = self.get(name)?;
        if text == "none" {
            return Some(Vec::new());
        }
        Some(text.split(',').filter(|key| !key.trim().is_empty()).map(|key| Key::new(key.trim())).collect())
    }

    /// Returns the metrics of `metric`, separated by commas or each under its own.
    pub(crate) fn metrics(&self) -> Result<Vec<Metric>, Failure> {
        let mut metrics: Vec<Metric> = Vec::new();
        for text in self.all("metric").flat_map(|list| list.split(',')) {
            let metric = text
                .trim()
                .parse()
                .map_err(|error: <Metric as FromStr>::Err| wrong("metric", &error.to_string()))?;
            if !metrics.contains(&metric) {
                metrics.push(metric);
            }
        }
        if metrics.len() > METRICS { Err(wrong("metric", "too many of them")) } else { Ok(metrics) }
    }
}

fn wrong(name: &str, reason: &str) -> Failure {
    Failure::bad_request(format!("{name}: {reason}"))
}

/// Returns a text as an address holds it: letters, digits and `-._~` as they are, every other byte in hexadecimal.
pub(crate) fn encoded(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            written.push(char::from(byte));
        } else {
            written.push_str(&format!("%{byte:02X}"));
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_say_what_they_were_made_of() {
        let query =
            Query::default().with("where", "backbone=a b&c").and("where", "seed>=1").with("page", "2");
        let link = query.link("/sweep/1/runs");
        assert_eq!(link, "/sweep/1/runs?where=backbone%3Da%20b%26c&where=seed%3E%3D1&page=2");
        let read =
            axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&link.parse().unwrap()).unwrap();
        assert_eq!(Query(read.0), query);
        assert_eq!(query.with("page", "").link("/"), "/?where=backbone%3Da%20b%26c&where=seed%3E%3D1");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let of = |name: &str, value: &str| Query::default().with(name, value);
        assert!(of("where", "no condition").conditions().unwrap_err().message.contains("KEY=VALUE"));
        assert!(of("metric", "robst").metrics().unwrap_err().message.contains("expected_robustness"));
        assert!(of("page", "x").one::<usize>("page").unwrap_err().message.starts_with("page: "));
        assert_eq!(of("rows", "none").keys("rows"), Some(Vec::new()));
        assert_eq!(of("rows", " ").keys("rows"), None);
    }
}
