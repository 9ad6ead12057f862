//! A stored specification, taken apart into keys and values.
//!
//! A grid repeats a few dozen different members (one backbone, one optimizer, …) over thousands of runs. So the text of a
//! specification is only cut into its members, and each different member is read once.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use serde_json::value::RawValue;
use sweep_core::epsilon::Epsilon;
use sweep_core::schedule::EpsilonSchedule;
use sweep_core::spec::{EvaluationAttack, Norm, Objective};

use crate::key::Value;

/// What is written for keys that a specification leaves out because they are at their default.
const DEFAULTS: [(&str, &str); 3] =
    [("objective.kind", "adversarial"), ("optimizer.no_decay", "sibling"), ("precision", "f32")];

/// Members that a specification leaves out where the option is off; runs have their keys all the same.
pub(crate) const OPTIONAL: [&str; 4] = ["clip_norm", "ema", "objective", "precision"];

/// What a specification says besides what changes the result: names, places, and what fits a device.
const NO_IDENTITY: [&str; 7] = [
    "backbone.name",
    "backbone.weights.path",
    "backbone.weights.run",
    "dataset.name",
    "dataset.source.folder",
    "dataset.source.path",
    "micro_batch_size",
];

/// A member of a specification: its own value, and those of the keys within it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// What stands for all of it in a table.
    pub(crate) label: Value,
    /// Every key within it by its full name; the member's own name where it is a single value.
    pub(crate) leaves: BTreeMap<String, Value>,
}

/// Cuts a specification into its members, each a JSON text.
pub(crate) fn members(specification: &str) -> serde_json::Result<BTreeMap<&str, &RawValue>> {
    serde_json::from_str(specification)
}

/// Returns whether a key says something about the result.
pub(crate) fn is_identity(leaf: &str) -> bool {
    !NO_IDENTITY.contains(&leaf) && !leaf.starts_with("dataset.expected.")
}

impl Member {
    /// Reads a member; `None` where a specification does not have it.
    pub(crate) fn read(name: &str, text: Option<&str>) -> serde_json::Result<Self> {
        let json: Json = text.map_or(Ok(Json::Null), serde_json::from_str)?;
        let mut leaves = BTreeMap::new();
        flatten(name, &json, &mut leaves);
        for (key, default) in DEFAULTS {
            if key.split('.').next() == Some(name) {
                leaves.entry(key.to_owned()).or_insert_with(|| Value::Text(default.to_owned()));
            }
        }
        let label = label(name, &json, &leaves)?;
        Ok(Self { label, leaves })
    }

    /// Returns the member as a text that is equal for members of the same result; `without` chooses keys to leave out.
    pub(crate) fn identity(&self, without: impl Fn(&str) -> bool) -> String {
        let kept = self.leaves.iter().filter(|(key, _)| is_identity(key) && !without(key));
        kept.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("\n")
    }
}

/// Names are short: what lies in `definition` counts as lying in the member itself.
fn flatten(path: &str, json: &Json, leaves: &mut BTreeMap<String, Value>) {
    match json {
        Json::Null => {}
        Json::Object(members) => {
            for (name, member) in members {
                let is_definition = name == "definition" && member.is_object();
                let inner = if is_definition { path.to_owned() } else { format!("{path}.{name}") };
                flatten(&inner, member, leaves);
            }
        }
        other => {
            leaves.insert(path.to_owned(), scalar(path, other));
        }
    }
}

fn scalar(path: &str, json: &Json) -> Value {
    match json {
        Json::Bool(flag) => Value::Flag(*flag),
        Json::Number(number) => {
            Value::Number { value: number.as_f64().unwrap_or(f64::NAN), digits: number.to_string() }
        }
        Json::String(text) => match text.parse::<Epsilon>() {
            Ok(epsilon) if path.ends_with("epsilon") => Value::Epsilon(epsilon),
            _ => Value::Text(text.clone()),
        },
        other => Value::Text(other.to_string()),
    }
}

fn label(name: &str, json: &Json, leaves: &BTreeMap<String, Value>) -> serde_json::Result<Value> {
    Ok(match (name, json) {
        ("epsilon_schedule", schedule) => {
            Value::Text(serde_json::from_value::<EpsilonSchedule>(schedule.clone())?.label())
        }
        ("objective", objective) => Value::Text(objective_label(objective)?),
        ("attack", attack) => Value::Text(attack_label(attack)?),
        ("validation" | "evaluation", measured) => Value::Text(attack_label(&measured["attack"])?),
        (_, Json::Object(members)) => match members.get("kind").or_else(|| members.get("name")) {
            Some(Json::String(kind)) => Value::Text(kind.clone()),
            _ => Value::Text(leaves.values().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
        },
        (_, Json::Null) => Value::None,
        (_, other) => scalar(name, other),
    })
}

fn attack_label(json: &Json) -> serde_json::Result<String> {
    let attack: EvaluationAttack = serde_json::from_value(json.clone())?;
    Ok(match attack.norm() {
        Norm::Linf => attack.label(),
        Norm::L2 => format!("{} l2", attack.label()),
    })
}

fn objective_label(json: &Json) -> serde_json::Result<String> {
    if json.is_null() {
        return Ok("adversarial".to_owned());
    }
    Ok(match serde_json::from_value(json.clone())? {
        Objective::Adversarial => "adversarial".to_owned(),
        Objective::Trades { beta } => format!("trades {beta}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> (String, Vec<String>) {
        let member = Member::read(name, Some(text)).unwrap();
        (
            member.label.to_string(),
            member.leaves.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        )
    }

    #[test]
    fn members_and_their_keys() {
        let cases = [
            ("seed", "7", "7", vec!["seed=7"]),
            ("target_epsilon", "\"8/510\"", "4/255", vec!["target_epsilon=4/255"]),
            (
                "epsilon_schedule",
                r#"{"kind":"ramp","start":12,"end":37}"#,
                "ramp 12-37",
                vec!["epsilon_schedule.end=37", "epsilon_schedule.kind=ramp", "epsilon_schedule.start=12"],
            ),
            (
                "optimizer",
                r#"{"kind":"sgd","learning_rate":0.00012,"betas":[0.9,0.95],"no_decay":"usual"}"#,
                "sgd",
                vec![
                    "optimizer.betas=[0.9,0.95]",
                    "optimizer.kind=sgd",
                    "optimizer.learning_rate=0.00012",
                    "optimizer.no_decay=usual",
                ],
            ),
            ("ema", r#"{"decay":0.99}"#, "0.99", vec!["ema.decay=0.99"]),
            (
                "objective",
                r#"{"kind":"trades","beta":6.0}"#,
                "trades 6",
                vec!["objective.beta=6.0", "objective.kind=trades"],
            ),
            (
                "backbone",
                r#"{"name":"vit","definition":{"weights":{"kind":"random"}}}"#,
                "vit",
                vec!["backbone.name=vit", "backbone.weights.kind=random"],
            ),
        ];
        for (name, text, label, leaves) in cases {
            assert_eq!(
                read(name, text),
                (label.to_owned(), leaves.into_iter().map(str::to_owned).collect()),
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_left_out_is_none_or_the_default() {
        assert_eq!(
            Member::read("clip_norm", None).unwrap(),
            Member { label: Value::None, leaves: BTreeMap::new() }
        );
        let objective = Member::read("objective", None).unwrap();
        assert_eq!(objective.label, Value::Text("adversarial".to_owned()));
        assert_eq!(objective.leaves["objective.kind"], Value::Text("adversarial".to_owned()));
    }

    #[test]
    fn names_and_places_are_no_identity() {
        let of = |name: &str, path: &str, digest: &str| {
            let text = format!(
                r#"{{"name":"{name}","definition":{{"weights":{{"kind":"file","path":"{path}","digest":"{digest}"}}}}}}"#
            );
            Member::read("backbone", Some(&text)).unwrap().identity(|_| false)
        };
        assert_eq!(of("a", "here", "1"), of("b", "there", "1"));
        assert_ne!(of("a", "here", "1"), of("a", "here", "2"));
        let of = |folder: &str, revision: &str| {
            let source = format!(r#"{{"kind":"hub","revision":"{revision}","folder":"{folder}"}}"#);
            let text =
                format!(r#"{{"name":"d","definition":{{"source":{source},"expected":{{"test":9}}}}}}"#);
            Member::read("dataset", Some(&text)).unwrap().identity(|_| false)
        };
        assert_eq!(of("here", "1"), of("there", "1"));
        assert_ne!(of("here", "1"), of("here", "2"));
    }
}
