//! Which parameters share a learning rate and a weight decay.

use sweep_core::spec::NoDecay;
use sweep_kernels::ParameterGroup;
use sweep_models::Model;

/// The rates of an optimizer: of the backbone and of the head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) learning: [f64; 2],
    pub(crate) decay: [f64; 2],
    pub(crate) no_decay: NoDecay,
}

/// Returns the four groups of the co-author's code (paper, C): backbone and head with rates of their own, each split into
/// parameters that decay and parameters that do not.
pub(crate) fn groups(model: &Model, rates: Rates) -> Vec<ParameterGroup> {
    let of = |head: bool, decays: bool| {
        let chosen = model.parameters().trainable().filter(|(_, name, tensor)| {
            in_head(name) == head && decays_by(rates.no_decay, name, tensor.rank()) == decays
        });
        ParameterGroup {
            parameters: chosen.map(|(id, ..)| id).collect(),
            learning_rate: rates.learning[usize::from(head)],
            weight_decay: if decays { rates.decay[usize::from(head)] } else { 0.0 },
        }
    };
    [(false, true), (false, false), (true, true), (true, false)].map(|(head, decays)| of(head, decays)).into()
}

/// Whether a parameter belongs to the module that timm calls the head. ConvNeXt's has a norm before the classifier,
/// which is pretrained and yet learns at the head's rate, as in the co-author's code.
fn in_head(name: &str) -> bool {
    name.starts_with("head.") || name.starts_with("fc.")
}

/// Parameters of any dimension that timm's transformers name in `no_weight_decay`.
const TABLES: [&str; 4] = ["pos_embed", "cls_token", "reg_token", "dist_token"];

fn decays_by(rule: NoDecay, name: &str, rank: usize) -> bool {
    let is_exempt = match rule {
        NoDecay::Sibling => ["bias", "norm", "bn"].iter().any(|part| name.contains(part)),
        NoDecay::Usual => {
            rank <= 1
                || name.rsplit_once('.').is_some_and(|(_, last)| last == "bias")
                || TABLES.contains(&name)
                || name.contains("relative_position_bias_table")
        }
    };
    !is_exempt
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    /// Names and shapes of the trained parameters, by timm.
    fn parameters(architecture: &str) -> Vec<(String, Vec<u64>)> {
        let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sweep-models/tests/data/keys");
        let table = fs::read_to_string(keys.join(format!("{architecture}.tsv"))).unwrap();
        let rows = table.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
        let shape = |text: &str| text.split('x').map(|size| size.parse().unwrap()).collect();
        rows.filter(|row| row[3] == "param").map(|row| (row[0].to_owned(), shape(row[1]))).collect()
    }

    /// Counts of tensors and scalars by group, made with the co-author's rule and with timm's own function.
    fn expected() -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/decay_groups.json");
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn groups_are_those_of_the_references() {
        for (architecture, expected) in expected().as_object().unwrap() {
            let parameters = parameters(architecture);
            let count = |rule, head: Option<bool>, decays| {
                let members = parameters.iter().filter(|(name, shape)| {
                    head.is_none_or(|head| head == in_head(name))
                        && decays_by(rule, name, shape.len()) == decays
                });
                members.fold((0, 0), |(tensors, scalars), (_, shape)| {
                    (tensors + 1, scalars + shape.iter().product::<u64>())
                })
            };
            for (group, head, decays) in [
                ("backbone_decay", false, true),
                ("backbone_no_decay", false, false),
                ("head_decay", true, true),
                ("head_no_decay", true, false),
            ] {
                let expected = &expected["sibling"][group];
                let expected =
                    [&expected["tensors"], &expected["params"]].map(|count| count.as_u64().unwrap());
                assert_eq!(
                    count(NoDecay::Sibling, Some(head), decays),
                    expected.into(),
                    "{architecture}, {group}"
                );
            }
            for (key, decays) in [("timm_decay", true), ("timm_no_decay", false)] {
                let (tensors, _) = count(NoDecay::Usual, None, decays);
                assert_eq!(Some(tensors), expected[key].as_u64(), "{architecture}, {key}");
            }
        }
    }
}
