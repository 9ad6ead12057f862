//! Conditions on keys: `backbone=vit,swin`, `target_epsilon>=4/255`, `seed!=0`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::key::{Key, Value};
use crate::runs::{Column, listed};

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

/// Operators, the longer ones first.
const OPERATORS: [(&str, Operator); 6] = [
    ("!=", Operator::Unequal),
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

/// One condition: `KEY=VALUE[,VALUE]` for one of several values, `!=` for none of them, and for keys with an order `<`,
/// `<=`, `>`, `>=` and one value. Values are written as tables print them; `ramp` means every ramp, `ramp:12-37` one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    key: Key,
    operator: Operator,
    text: String,
}

/// A text that is no condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not KEY=VALUE[,VALUE], KEY!=VALUE, or KEY<VALUE with one of <, <=, >, >=")]
pub struct NotACondition(String);

impl FromStr for Condition {
    type Err = NotACondition;

    fn from_str(text: &str) -> Result<Self, NotACondition> {
        let wrong = || NotACondition(text.to_owned());
        let at = text.find(['=', '!', '<', '>']).ok_or_else(wrong)?;
        let (name, rest) = text.split_at(at);
        let found = OPERATORS.iter().find_map(|(sign, operator)| Some((rest.strip_prefix(sign)?, *operator)));
        let (value, operator) = found.ok_or_else(wrong)?;
        if name.trim().is_empty() || value.trim().is_empty() {
            return Err(wrong());
        }
        Ok(Self { key: Key::new(name.trim()), operator, text: value.trim().to_owned() })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign =
            OPERATORS.iter().find(|(_, operator)| *operator == self.operator).map_or("", |(sign, _)| sign);
        write!(formatter, "{}{sign}{}", self.key, self.text)
    }
}

impl Condition {
    /// Returns the key.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// Returns which of the values of a key fit.
    ///
    /// # Errors
    /// A value that no run has, and an order where there is none.
    pub(crate) fn fits(&self, column: &Column) -> Result<Vec<bool>> {
        match self.operator {
            Operator::Equal | Operator::Unequal => {
                let meant = self.meant(column)?;
                let is_wanted = self.operator == Operator::Equal;
                Ok((0..column.values.len() as u32).map(|place| meant.contains(&place) == is_wanted).collect())
            }
            _ => self.ordered(column),
        }
    }

    /// Returns the places of all values that are listed; the list may also be a single value with commas in it.
    fn meant(&self, column: &Column) -> Result<Vec<u32>> {
        let whole = column.meant(&self.text);
        if !whole.is_empty() {
            return Ok(whole);
        }
        let mut places = Vec::new();
        for text in self.text.split(',') {
            let found = column.meant(text);
            if found.is_empty() {
                return Err(unknown_value(column, text));
            }
            places.extend(found);
        }
        Ok(places)
    }

    fn ordered(&self, column: &Column) -> Result<Vec<bool>> {
        let wrong = |reason: String| Error::Condition { condition: self.to_string(), reason };
        if column.values.iter().all(|value| value.number().is_none()) {
            return Err(wrong(format!("the values of {} have no order; use = or !=", self.key)));
        }
        let is_radius = column.values.iter().any(|value| matches!(value, Value::Epsilon(_)));
        let bound = if is_radius {
            Value::Epsilon(self.text.parse().map_err(|error| wrong(format!("{error}")))?)
        } else {
            let value = self.text.parse().map_err(|_| wrong(format!("`{}` is no number", self.text)))?;
            Value::Number { value, digits: self.text.clone() }
        };
        let fits = |order: Ordering| match self.operator {
            Operator::Less => order.is_lt(),
            Operator::AtMost => order.is_le(),
            Operator::Greater => order.is_gt(),
            _ => order.is_ge(),
        };
        // An option that is off, or a name among numbers, is on neither side of a bound.
        Ok(column.values.iter().map(|value| value.number().is_some() && fits(value.order(&bound))).collect())
    }
}

/// Returns the error for a value that no run has.
pub(crate) fn unknown_value(column: &Column, text: &str) -> Error {
    Error::UnknownValue {
        key: column.key.clone(),
        value: text.trim().to_owned(),
        known: listed(&column.values),
    }
}
