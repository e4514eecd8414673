//! JSON that a terminal can show: what steers it is written as `\uXXXX`, which
//! means the same to a program.

use serde_json::Value;

use super::text::steers;

/// Indented JSON, ending in a line feed.
pub(crate) fn render(value: &Value) -> String {
    let mut text = escape(&format!("{value:#}"));
    text.push('\n');
    text
}

/// One string as JSON.
pub(super) fn quoted(text: &str) -> String {
    escape(&Value::from(text).to_string())
}

/// Outside of strings JSON has only line feeds and blanks; inside, a character
/// that serde_json left as it is may be written as its escape.
fn escape(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && steers(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unprintable_characters_are_escaped_and_mean_the_same() {
        let value = serde_json::json!({"k\u{9b}": "a\x1b\n\u{7f}\u{202e}ü"});
        let text = render(&value);
        assert!(!text.chars().any(|c| c != '\n' && steers(c)), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
