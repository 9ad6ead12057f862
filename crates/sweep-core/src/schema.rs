//! JSON Schema (draft 2020-12) of a sweep file, for editors. Made from the same tables as the checker.

use serde_json::{Map, Value, json};

use crate::budget::MAX_EPOCHS;
use crate::grammar::{Field, Kind, LONGEST_TEXT, Open, Presence, Variant, default_node};
use crate::quantity;
use crate::slurm;
use crate::tables::{BACKBONE, DATASET, EXECUTION, RUN};

/// Returns the schema.
pub fn json_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A sweep of robust fine-tuning runs",
        "type": "object",
        "required": ["name"],
        "additionalProperties": false,
        "properties": {
            "name": { "type": "string", "pattern": "^[A-Za-z0-9._-]{1,100}$", "description": "Name of the sweep." },
            "run": optional(&partial_run()),
            "matrix": optional(&matrix()),
            "exclude": optional(&json!({ "type": "array", "items": keyed(false) })),
            "include": optional(&json!({ "type": "array", "items": keyed(true) })),
            "overrides": optional(&json!({ "type": "array", "items": {
                "type": "object",
                "required": ["when", "set"],
                "additionalProperties": false,
                "properties": { "when": keyed(false), "set": keyed(true) },
            }})),
            "backbones": optional(&named(BACKBONE)),
            "datasets": optional(&named(DATASET)),
            "execution": optional(&object(EXECUTION)),
        },
    })
}

/// A section may be written without a value.
fn optional(schema: &Value) -> Value {
    json!({ "anyOf": [{ "type": "null" }, schema] })
}

fn named(fields: &[Field]) -> Value {
    json!({
        "type": "object",
        "propertyNames": { "pattern": NAME },
        "additionalProperties": object(fields),
    })
}

const NAME: &str = r"^(?!(.*/)?\.{0,2}(/|$))[A-Za-z0-9._/-]{1,200}$";
const DOTTED: &str = r"^[a-z_]+(\.[a-z_]+)+$";

fn properties(fields: &[Field], wrap: impl Fn(Value) -> Value) -> Map<String, Value> {
    let property = |field: &Field| {
        let mut schema = wrap(schema_of(&field.kind));
        schema["description"] = field.doc.into();
        if let Presence::Default(text) = field.presence {
            schema["default"] = Value::from(&default_node(text));
        }
        (field.name.to_owned(), schema)
    };
    fields.iter().map(property).collect()
}

fn partial_run() -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": properties(RUN, |schema| schema) })
}

/// Values of dotted keys are checked by the parser only.
fn matrix() -> Value {
    let list = |items: Value| json!({ "type": "array", "minItems": 1, "items": items });
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties(RUN, list),
        "patternProperties": { DOTTED: { "type": "array", "minItems": 1 } },
    })
}

/// A mapping from keys of a run; in a pattern a mapping may be a part of one.
fn keyed(complete: bool) -> Value {
    let wrap =
        |schema: Value| if complete { schema } else { json!({ "anyOf": [schema, { "type": "object" }] }) };
    json!({
        "type": "object",
        "minProperties": 1,
        "additionalProperties": false,
        "properties": properties(RUN, wrap),
        "patternProperties": { DOTTED: {} },
    })
}

fn object(fields: &[Field]) -> Value {
    let required = fields.iter().filter(|field| matches!(field.presence, Presence::Required));
    json!({
        "type": "object",
        "required": required.map(|field| field.name).collect::<Vec<_>>(),
        "additionalProperties": false,
        "properties": properties(fields, |schema| schema),
    })
}

fn tagged(variant: &Variant) -> Value {
    let mut schema = object(variant.fields);
    schema["description"] = variant.doc.into();
    schema["properties"]["kind"] = json!({ "const": variant.kind });
    if let Some(required) = schema["required"].as_array_mut() {
        required.push("kind".into());
    }
    schema
}

fn schema_of(kind: &Kind) -> Value {
    match kind {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Number { min, max, open } => {
            let lower = if matches!(open, Open::Min | Open::Both) { "exclusiveMinimum" } else { "minimum" };
            let upper = if matches!(open, Open::Max | Open::Both) { "exclusiveMaximum" } else { "maximum" };
            json!({ "type": "number", lower: min, upper: max })
        }
        Kind::Epsilon => json!({ "anyOf": [
            { "type": "string", "pattern": r"^\s*[0-9]+\s*(/\s*[0-9]+\s*|\.[0-9]{1,9}\s*)?$" },
            { "type": "number", "minimum": 0, "maximum": 1 },
        ]}),
        Kind::Epoch => json!({ "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": MAX_EPOCHS },
            { "type": "string", "pattern": r"^(0?[0-9]{1,2}(\.[0-9]{1,6})?|100(\.0{1,6})?)%$" },
        ]}),
        Kind::Duration => json!({ "type": "string", "pattern": quantity::DURATION_PATTERN }),
        Kind::Size => json!({ "type": "string", "pattern": quantity::SIZE_PATTERN }),
        Kind::Gpus => json!({ "anyOf": [
            { "type": "string", "pattern": slurm::GPUS_PATTERN },
            { "type": "integer", "minimum": 1, "maximum": slurm::MOST_GPUS },
        ]}),
        Kind::Memory => json!({ "type": "string", "pattern": slurm::MEMORY_PATTERN }),
        Kind::TimeLimit => json!({ "anyOf": [
            { "type": "string", "pattern": slurm::TIME_PATTERN },
            { "type": "integer", "minimum": 1, "maximum": 999_999 },
        ]}),
        Kind::SbatchFlag => json!({ "type": "string", "pattern": "^--[a-z_-]+(=.*)?$" }),
        Kind::Or { word, kind } => json!({ "anyOf": [{ "const": word }, schema_of(kind)] }),
        Kind::Text => json!({ "type": "string", "minLength": 1, "maxLength": LONGEST_TEXT }),
        Kind::Name => json!({ "type": "string", "pattern": NAME }),
        Kind::Choice(choices) => json!({ "enum": choices }),
        Kind::List { item, min, max } => {
            json!({ "type": "array", "items": schema_of(item), "minItems": min, "maxItems": max })
        }
        Kind::Object(fields) => object(fields),
        Kind::Tagged(variants) => json!({ "oneOf": variants.iter().map(tagged).collect::<Vec<_>>() }),
        Kind::PartialRun => partial_run(),
    }
}
