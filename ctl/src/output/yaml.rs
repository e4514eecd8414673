//! YAML in block style. Strings that YAML could take for something else are
//! written in JSON's form, which is YAML too.

use serde_json::Value;

use super::json::quoted;

/// A YAML document, ending in a line feed.
pub(crate) fn render(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => block(value, 0, &mut text),
        scalar => {
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
    text
}

fn block(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                text.push_str(&indent);
                text.push_str(&plain(key));
                text.push(':');
                after_marker(member, depth + 1, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                text.push_str(&indent);
                text.push('-');
                // The first member of an object stands beside its dash.
                let mut nested = String::new();
                if is_empty(item) || !(item.is_object() || item.is_array()) {
                    text.push(' ');
                    text.push_str(&inline(item));
                    text.push('\n');
                } else {
                    block(item, depth + 1, &mut nested);
                    text.push(' ');
                    text.push_str(nested.trim_start_matches(' '));
                }
            }
        }
        scalar => text.push_str(&inline(scalar)),
    }
}

fn after_marker(value: &Value, depth: usize, text: &mut String) {
    if is_empty(value) || !(value.is_object() || value.is_array()) {
        text.push(' ');
        text.push_str(&inline(value));
        text.push('\n');
    } else {
        text.push('\n');
        block(value, depth, text);
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

/// A string without quotes only where nothing can mistake it.
fn plain(text: &str) -> String {
    let harmless = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "null" | "nan" | "inf"
        );
    if harmless {
        text.to_owned()
    } else {
        quoted(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yaml_parser_reads_back_what_was_written() {
        let value = serde_json::json!({
            "empty": {}, "none": null, "list": [1, [2, 3], {"a": "b", "c": []}, "x: y"],
            "text": {"yes": "no", "number": "012", "control": "\x1b\u{85}", "multi": "a\nb", "dash": "- a"},
        });
        let text = render(&value);
        let back: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, value, "{text}");
    }

    #[test]
    fn it_looks_as_people_write_it() {
        let value = serde_json::json!({"items": [{"id": "ab", "labels": {"a": "b"}}]});
        assert_eq!(
            render(&value),
            "items:\n  - id: ab\n    labels:\n      a: b\n"
        );
    }
}
