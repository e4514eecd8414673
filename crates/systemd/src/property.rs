//! Properties of units, and those that people give as text.

use crate::{Error, wire::Writer};

/// A value that a property can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `s`
    Text(String),
    /// `i`
    I32(i32),
    /// `x`
    I64(i64),
    /// `u`
    U32(u32),
    /// `t`
    U64(u64),
    /// `as`
    Texts(Vec<String>),
    /// `au`
    Numbers(Vec<u32>),
    /// `ay`
    Bytes(Vec<u8>),
}

/// A property of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// As systemd calls it on the bus, such as `MemoryMax`.
    pub name: String,
    /// Its value.
    pub value: Value,
}

impl Property {
    /// A property.
    pub fn new(name: impl Into<String>, value: Value) -> Self {
        Self {
            name: name.into(),
            value,
        }
    }

    /// A property as annotations of containers have it: the value in GVariant's text
    /// form, such as `true`, `'text'`, `5`, `uint64 5` or `['a', 'b']`.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn parse(name: &str, text: &str) -> Result<Self, Error> {
        let letters = |byte: u8| byte.is_ascii_alphanumeric();
        if name.is_empty() || name.len() > 64 || !name.bytes().all(letters) {
            return Err(Error::Invalid {
                field: "systemd property",
                value: name.chars().take(80).collect(),
                reason: "expected letters and digits",
            });
        }
        let value = parse(text.trim()).ok_or_else(|| Error::Invalid {
            field: "value of a systemd property",
            value: text.chars().take(80).collect(),
            reason: "expected true, 'text', a number (int32, or with uint32, int64 or uint64 before it), or a list of texts",
        })?;
        Ok(Self::new(name, value))
    }
}

fn parse(text: &str) -> Option<Value> {
    match text {
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        _ => {}
    }
    if let Some(inner) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        let items = inner.split(',').map(str::trim);
        let items = items.filter(|item| !item.is_empty()).map(quoted);
        return items.collect::<Option<_>>().map(Value::Texts);
    }
    if let Some(text) = quoted(text) {
        return Some(Value::Text(text));
    }
    match text.split_once(' ') {
        None => text.parse().ok().map(Value::I32),
        Some(("int32", number)) => number.trim().parse().ok().map(Value::I32),
        Some(("uint32", number)) => number.trim().parse().ok().map(Value::U32),
        Some(("int64", number)) => number.trim().parse().ok().map(Value::I64),
        Some(("uint64", number)) => number.trim().parse().ok().map(Value::U64),
        _ => None,
    }
}

fn quoted(text: &str) -> Option<String> {
    let mark = text
        .chars()
        .next()
        .filter(|mark| matches!(mark, '\'' | '"'))?;
    let inner = text.strip_prefix(mark)?.strip_suffix(mark)?;
    let plain = !inner.contains([mark, '\\']) && !inner.chars().any(char::is_control);
    plain.then(|| inner.to_owned())
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Bool(_) => "b",
            Self::Text(_) => "s",
            Self::I32(_) => "i",
            Self::I64(_) => "x",
            Self::U32(_) => "u",
            Self::U64(_) => "t",
            Self::Texts(_) => "as",
            Self::Numbers(_) => "au",
            Self::Bytes(_) => "ay",
        }
    }

    /// As a variant.
    fn write(&self, writer: &mut Writer) {
        writer.signature(self.signature());
        match self {
            Self::Bool(value) => writer.u32(u32::from(*value)),
            Self::Text(text) => writer.string(text),
            Self::I32(number) => writer.u32(number.cast_unsigned()),
            Self::I64(number) => writer.u64(number.cast_unsigned()),
            Self::U32(number) => writer.u32(*number),
            Self::U64(number) => writer.u64(*number),
            Self::Texts(texts) => writer.array(4, |writer| {
                texts.iter().for_each(|text| writer.string(text));
            }),
            Self::Numbers(numbers) => writer.array(4, |writer| {
                numbers.iter().for_each(|number| writer.u32(*number));
            }),
            Self::Bytes(bytes) => writer.array(1, |writer| {
                bytes.iter().for_each(|byte| writer.byte(*byte));
            }),
        }
    }
}

/// `a(sv)`.
pub(crate) fn write_all(writer: &mut Writer, properties: &[Property]) {
    writer.array(8, |writer| {
        for property in properties {
            writer.align(8);
            writer.string(&property.name);
            property.value.write(writer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_other_runtimes_read_them() {
        for (text, value) in [
            ("true", Value::Bool(true)),
            (
                "'inactive-or-failed'",
                Value::Text("inactive-or-failed".to_owned()),
            ),
            ("\"x y\"", Value::Text("x y".to_owned())),
            ("123456", Value::I32(123_456)),
            ("uint64 987654321", Value::U64(987_654_321)),
            ("uint32 7", Value::U32(7)),
            ("int64 -7", Value::I64(-7)),
            (
                "['a', 'b']",
                Value::Texts(vec!["a".to_owned(), "b".to_owned()]),
            ),
        ] {
            assert_eq!(Property::parse("X", text).unwrap().value, value, "{text}");
        }
        for bad in [
            "",
            "x",
            "'a",
            "uint8 1",
            "uint64 -1",
            "[1]",
            "'a'b'",
            "99999999999",
            "'\n'",
        ] {
            assert!(Property::parse("X", bad).is_err(), "{bad}");
        }
        for bad in ["", "a.b", "Exec Start", "ä"] {
            assert!(Property::parse(bad, "true").is_err(), "{bad}");
        }
    }
}
