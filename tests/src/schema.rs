//! Checks the JSON that reloader prints and stores against the schemas in `docs/reference`.
//!
//! It implements the keywords that those two schemas use and refuses every other one, so nothing in them goes unchecked. A general validator would add some
//! thirty-five crates to each build of the tests, the one for guests included.

use serde_json::{Map, Value};

const RECEIPT: &str = include_str!("../../docs/reference/receipt.schema.json");
const STATUS: &str = include_str!("../../docs/reference/status.schema.json");

/// Panics unless each receipt and each status in this value fits its schema. Other values are left alone: a receipt is known by its phases, a
/// status by its holds.
#[track_caller]
pub fn assert_fits(value: &Value) {
    let found = violations(value);
    assert!(found.is_empty(), "{}\nin {value}", found.join("\n"));
}

/// The same at the end of a test, unless that has failed already: a second panic would end the whole program.
pub fn assert_fits_at_the_end(value: &Value) {
    if !std::thread::panicking() {
        assert_fits(value);
    }
}

fn violations(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) => values.iter().flat_map(violations).collect(),
        Value::Object(fields) if fields.contains_key("phases-us") => Document::read(RECEIPT).check(value),
        Value::Object(fields) if fields.contains_key("holds") => Document::read(STATUS).check(value),
        _ => Vec::new(),
    }
}

/// A schema with the definitions that it refers to.
struct Document(Value);

impl Document {
    fn read(text: &str) -> Document {
        Document(serde_json::from_str(text).expect("a schema is JSON"))
    }

    fn check(&self, value: &Value) -> Vec<String> {
        let mut violations = Vec::new();
        self.check_part(&self.0, value, "", &mut violations);
        violations
    }

    fn check_part(&self, schema: &Value, value: &Value, path: &str, violations: &mut Vec<String>) {
        let keywords = schema.as_object().expect("a schema is an object");
        for (keyword, operand) in keywords {
            let fits = match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "required" | "properties" => true,
                "additionalProperties" => {
                    self.check_object(keywords, value, path, violations);
                    true
                }
                "items" => {
                    self.check_items(operand, value, path, violations);
                    true
                }
                "$ref" => {
                    self.check_reference(operand, value, path, violations);
                    true
                }
                "anyOf" => self.fits_any(operand, value),
                "type" => has_type(operand, value),
                "enum" => operand.as_array().is_some_and(|values| values.contains(value)),
                "minimum" => value.as_f64().is_none_or(|number| Some(number) >= operand.as_f64()),
                "format" => operand == "date-time" && value.as_str().is_none_or(is_utc),
                other => panic!("the keyword `{other}` of a schema is not known here"),
            };
            if !fits {
                violations.push(format!("{path}: {value} does not fit \"{keyword}\": {operand}"));
            }
        }
    }

    fn check_object(&self, schema: &Map<String, Value>, value: &Value, path: &str, violations: &mut Vec<String>) {
        let Some(fields) = value.as_object() else { return };
        for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            let name = required.as_str().expect("a key is text");
            if !fields.contains_key(name) {
                violations.push(format!("{path}: there is no `{name}`"));
            }
        }
        for (name, field) in fields {
            let path = format!("{path}/{name}");
            match (schema.get("properties").and_then(|known| known.get(name)), &schema["additionalProperties"]) {
                (Some(known), _) => self.check_part(known, field, &path, violations),
                (None, Value::Bool(false)) => violations.push(format!("{path}: the schema has no such key")),
                (None, others) => self.check_part(others, field, &path, violations),
            }
        }
    }

    fn check_items(&self, schema: &Value, value: &Value, path: &str, violations: &mut Vec<String>) {
        for (number, item) in value.as_array().into_iter().flatten().enumerate() {
            self.check_part(schema, item, &format!("{path}/{number}"), violations);
        }
    }

    fn check_reference(&self, reference: &Value, value: &Value, path: &str, violations: &mut Vec<String>) {
        match reference.as_str().expect("a reference is text") {
            "receipt.schema.json" => violations.extend(Document::read(RECEIPT).check(value)),
            local => {
                let found = self.0.pointer(local.trim_start_matches('#'));
                self.check_part(found.unwrap_or_else(|| panic!("{local} leads nowhere")), value, path, violations);
            }
        }
    }

    fn fits_any(&self, schemas: &Value, value: &Value) -> bool {
        schemas.as_array().expect("a list of schemas").iter().any(|schema| {
            let mut violations = Vec::new();
            self.check_part(schema, value, "", &mut violations);
            violations.is_empty()
        })
    }
}

fn has_type(names: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().expect("a type is text") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the type `{other}` of a schema is not known here"),
    };
    names.as_array().map_or_else(|| is(names), |names| names.iter().any(is))
}

/// `2026-11-22T08:04:16.893Z`, with or without a fraction.
fn is_utc(text: &str) -> bool {
    let shape: String = text.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect();
    let fraction = shape.strip_prefix("0000-00-00T00:00:00").and_then(|rest| rest.strip_suffix('Z'));
    fraction.is_some_and(|rest| rest.is_empty() || is_fraction(rest))
}

fn is_fraction(text: &str) -> bool {
    text.strip_prefix('.').is_some_and(|digits| !digits.is_empty() && digits.chars().all(|letter| letter == '0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The JSON examples of a page.
    fn examples(page: &str) -> Vec<Value> {
        let blocks = page.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
        blocks.map(|block| serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"))).collect()
    }

    fn receipt() -> Value {
        examples(include_str!("../../docs/reference/receipts.md")).remove(0)
    }

    #[test]
    fn every_example_fits_its_schema() {
        assert_fits(&receipt());
        for example in examples(include_str!("../../docs/reference/status.md")) {
            assert!(example.get("holds").is_some() || example.get("phases-us").is_some(), "{example}");
            assert_fits(&example);
        }
    }

    #[test]
    fn unknown_missing_and_mistyped_keys_are_named() {
        for (change, expected) in [
            (("/syns", "/seem", Value::from(1)), "/syns/seem: the schema has no such key"),
            (("", "/id", Value::from(7)), "/id: 7 does not fit \"type\""),
            (("", "/kind", Value::from("reloaded")), "/kind"),
            (("", "/at", Value::from("yesterday")), "/at"),
            (("/lost", "/cut", Value::from(-1)), "/lost/cut"),
            (("/listeners/0", "/rung", Value::from("lost")), "/listeners/0/rung"),
        ] {
            let (place, key, value) = change;
            let mut receipt = receipt();
            receipt.pointer_mut(place).unwrap()[&key[1..]] = value;
            let found = violations(&Value::Array(vec![receipt]));
            assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
        }
        let mut receipt = receipt();
        receipt.as_object_mut().unwrap().remove("old");
        assert_eq!(violations(&receipt), [": there is no `old`"]);
    }

    #[test]
    fn times_are_utc_with_or_without_a_fraction() {
        assert!(is_utc("2026-11-22T08:04:16Z") && is_utc("2026-11-22T08:04:16.893Z"));
        assert!(!is_utc("2026-11-22T08:04:16") && !is_utc("2026-11-22 08:04:16Z") && !is_utc("2026-11-22T08:04:16.Z"));
    }
}
