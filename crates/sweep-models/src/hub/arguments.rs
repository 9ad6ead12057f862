//! Reading the values of `model_args`.

use serde_json::Value;

use crate::{Error, Result};

/// An error about an entry of `config.json`.
pub(super) fn setting(key: &str, value: &Value, expected: &str) -> Error {
    Error::HubSetting { key: key.to_owned(), value: value.to_string(), expected: expected.to_owned() }
}

/// An argument that is not among the known ones.
pub(super) fn unknown(key: &str, value: &Value, known: &str) -> Error {
    setting(&format!("model_args.{key}"), value, known)
}

/// A whole number.
pub(super) fn number(key: &str, value: &Value) -> Result<usize> {
    whole(value).ok_or_else(|| setting(key, value, "a whole number"))
}

/// A number.
pub(super) fn float(key: &str, value: &Value) -> Result<f64> {
    value.as_f64().ok_or_else(|| setting(key, value, "a number"))
}

/// A list of whole numbers.
pub(super) fn numbers(key: &str, value: &Value) -> Result<Vec<usize>> {
    let list = value.as_array().and_then(|values| values.iter().map(whole).collect());
    list.ok_or_else(|| setting(key, value, "a list of whole numbers"))
}

/// A size given as one number or as several equal ones (height and width, or one for each stage).
pub(super) fn one_size(key: &str, value: &Value) -> Result<usize> {
    let size = match value {
        Value::Array(sizes) if sizes.windows(2).all(|pair| pair[0] == pair[1]) => {
            sizes.first().and_then(whole)
        }
        size => whole(size),
    };
    size.ok_or_else(|| setting(key, value, "a whole number, or several equal ones"))
}

/// Accepts nothing but `only`.
pub(super) fn exactly(key: &str, value: &Value, only: impl Into<Value>) -> Result<()> {
    let only = only.into();
    if *value == only { Ok(()) } else { Err(setting(&format!("model_args.{key}"), value, &only.to_string())) }
}

fn whole(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|value| usize::try_from(value).ok())
}
