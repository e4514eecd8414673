//! CRI messages from and to JSON, by their descriptors.
//!
//! Reading takes the configuration files that people have for crictl: field
//! names in snake_case or camelCase, enums by name or number, 64-bit numbers
//! also as strings. A field that does not exist is an error that names it,
//! since a limit with a typing error in its name is no limit. The value of an
//! environment variable is plain text here, although the wire has bytes.
//!
//! Writing is protobuf's JSON form: camelCase, enums by name, 64-bit numbers as
//! strings, bytes as base64, absent messages left out.

use std::{collections::HashMap, fmt, sync::LazyLock};

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value as Field,
};
use serde_json::{Map, Value};

use crate::lookup::nearest;

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(berth_proto::DESCRIPTORS).ok());

/// Why a JSON value is not the message that it should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Where in the value: `linux.resources.cpu_quota`.
    path: String,
    problem: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.problem)
        } else {
            write!(f, "{}: {}", self.path, self.problem)
        }
    }
}

impl Mismatch {
    fn here(problem: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            problem: problem.into(),
        }
    }

    fn below(mut self, name: &str) -> Self {
        self.path = match self.path.chars().next() {
            None => name.to_owned(),
            Some('[') => format!("{name}{}", self.path),
            Some(_) => format!("{name}.{}", self.path),
        };
        self
    }
}

/// Reads the message called `name` (`runtime.v1.PodSandboxConfig`) from JSON.
pub(crate) fn from_value<T: Message + Default>(name: &str, value: &Value) -> Result<T, Mismatch> {
    let message = read_message(&descriptor(name)?, value)?;
    message
        .transcode_to()
        .map_err(|error| Mismatch::here(error.to_string()))
}

/// The JSON form of the message called `name`.
pub(crate) fn to_value<T: Message>(name: &str, message: &T) -> Value {
    let dynamic = descriptor(name).ok().and_then(|descriptor| {
        DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok()
    });
    // The pool and the message types come from one schema; a test goes through it.
    dynamic.map_or(Value::Null, |message| write_message(&message))
}

fn descriptor(name: &str) -> Result<MessageDescriptor, Mismatch> {
    POOL.as_ref()
        .and_then(|pool| pool.get_message_by_name(name))
        .ok_or_else(|| Mismatch::here(format!("there is no message {name} in this build")))
}

fn read_message(of: &MessageDescriptor, value: &Value) -> Result<DynamicMessage, Mismatch> {
    let Value::Object(members) = value else {
        return Err(expected("an object", value));
    };
    let mut message = DynamicMessage::new(of.clone());
    for (key, member) in members {
        let field = of
            .fields()
            .find(|field| field.name() == key || field.json_name() == key)
            .ok_or_else(|| unknown(of, key))?;
        if member.is_null() {
            continue;
        }
        if message.has_field(&field) {
            return Err(Mismatch::here("given twice").below(key));
        }
        let read = read_field(&field, member).map_err(|mismatch| mismatch.below(key))?;
        message.set_field(&field, read);
    }
    Ok(message)
}

fn unknown(of: &MessageDescriptor, key: &str) -> Mismatch {
    let names: Vec<String> = of.fields().map(|field| field.name().to_owned()).collect();
    let hint = match nearest(key, names.iter().map(String::as_str)) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("{} has: {}", of.name(), names.join(", ")),
    };
    Mismatch::here(format!("there is no such field; {hint}")).below(key)
}

fn read_field(field: &FieldDescriptor, value: &Value) -> Result<Field, Mismatch> {
    if field.is_map() {
        return read_map(field, value);
    }
    if field.is_list() {
        let Value::Array(items) = value else {
            return Err(expected("a list", value));
        };
        let read = items.iter().enumerate().map(|(index, item)| {
            read_scalar(field, item).map_err(|mismatch| mismatch.below(&format!("[{index}]")))
        });
        return Ok(Field::List(read.collect::<Result<_, _>>()?));
    }
    read_scalar(field, value)
}

/// All maps of the CRI have strings for keys.
fn read_map(field: &FieldDescriptor, value: &Value) -> Result<Field, Mismatch> {
    let Value::Object(members) = value else {
        return Err(expected("an object", value));
    };
    let Kind::Message(entry) = field.kind() else {
        return Err(Mismatch::here("not a map in this build's schema"));
    };
    let mut map = HashMap::new();
    for (key, member) in members {
        let read = read_scalar(&entry.map_entry_value_field(), member)
            .map_err(|mismatch| mismatch.below(key))?;
        map.insert(MapKey::String(key.clone()), read);
    }
    Ok(Field::Map(map))
}

fn read_scalar(field: &FieldDescriptor, value: &Value) -> Result<Field, Mismatch> {
    let number = |what: &'static str| expected(what, value);
    Ok(match field.kind() {
        Kind::Message(of) => Field::Message(read_message(&of, value)?),
        Kind::String => match value {
            Value::String(text) => Field::String(text.clone()),
            other => return Err(expected("a string (put it in quotes)", other)),
        },
        Kind::Bytes => match value {
            Value::String(text) => Field::Bytes(text.clone().into_bytes().into()),
            other => return Err(expected("a string (put it in quotes)", other)),
        },
        Kind::Bool => Field::Bool(value.as_bool().ok_or_else(|| number("true or false"))?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Field::I32(
            integer(value)
                .and_then(|number| i32::try_from(number).ok())
                .ok_or_else(|| number("a 32-bit number"))?,
        ),
        Kind::Uint32 | Kind::Fixed32 => Field::U32(
            integer(value)
                .and_then(|number| u32::try_from(number).ok())
                .ok_or_else(|| number("a 32-bit number that is not negative"))?,
        ),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Field::I64(
            integer(value)
                .and_then(|number| i64::try_from(number).ok())
                .ok_or_else(|| number("a whole number"))?,
        ),
        Kind::Uint64 | Kind::Fixed64 => Field::U64(
            integer(value)
                .and_then(|number| u64::try_from(number).ok())
                .ok_or_else(|| number("a whole number that is not negative"))?,
        ),
        Kind::Double => Field::F64(value.as_f64().ok_or_else(|| number("a number"))?),
        Kind::Float => return Err(Mismatch::here("not a type of the CRI")),
        Kind::Enum(of) => {
            let known = match value {
                Value::String(name) => of.get_value_by_name(name),
                other => integer(other)
                    .and_then(|number| i32::try_from(number).ok())
                    .and_then(|number| of.get_value(number)),
            };
            let Some(known) = known else {
                let names: Vec<String> = of
                    .values()
                    .map(|value| format!("{} ({})", value.name(), value.number()))
                    .collect();
                return Err(expected(&format!("one of {}", names.join(", ")), value));
            };
            Field::EnumNumber(known.number())
        }
    })
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number
            .as_i64()
            .map(i128::from)
            .or_else(|| number.as_u64().map(i128::from)),
        _ => None,
    }
}

fn expected(what: &str, found: &Value) -> Mismatch {
    let found = match found {
        Value::Null => "nothing".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        scalar => scalar.to_string(),
    };
    Mismatch::here(format!("expected {what}, found {found}"))
}

fn write_message(message: &DynamicMessage) -> Value {
    let mut members = Map::new();
    for field in message.descriptor().fields() {
        if field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        let written = write_field(&field, &message.get_field(&field));
        members.insert(field.json_name().to_owned(), written);
    }
    Value::Object(members)
}

fn write_field(field: &FieldDescriptor, value: &Field) -> Value {
    match value {
        Field::Bool(truth) => Value::from(*truth),
        Field::I32(number) => Value::from(*number),
        Field::U32(number) => Value::from(*number),
        Field::I64(number) => Value::from(number.to_string()),
        Field::U64(number) => Value::from(number.to_string()),
        Field::F32(number) => Value::from(*number),
        Field::F64(number) => Value::from(*number),
        Field::String(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => Value::from(base64(bytes)),
        Field::EnumNumber(number) => match field.kind() {
            Kind::Enum(of) => of
                .get_value(*number)
                .map_or(Value::from(*number), |known| Value::from(known.name())),
            _ => Value::from(*number),
        },
        Field::Message(message) => write_message(message),
        Field::List(items) => items.iter().map(|item| write_field(field, item)).collect(),
        Field::Map(entries) => {
            let Kind::Message(entry) = field.kind() else {
                return Value::Null;
            };
            let of = entry.map_entry_value_field();
            let sorted: std::collections::BTreeMap<String, &Field> = entries
                .iter()
                .map(|(key, value)| (map_key(key), value))
                .collect();
            sorted
                .into_iter()
                .map(|(key, value)| (key, write_field(&of, value)))
                .collect()
        }
    }
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::String(text) => text.clone(),
        MapKey::Bool(truth) => truth.to_string(),
        MapKey::I32(number) => number.to_string(),
        MapKey::I64(number) => number.to_string(),
        MapKey::U32(number) => number.to_string(),
        MapKey::U64(number) => number.to_string(),
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .chain([&0, &0])
            .take(3)
            .fold(0_u32, |word, &byte| word << 8 | u32::from(byte));
        for place in 0..4 {
            if place > group.len() {
                text.push('=');
            } else {
                let six = (word >> (18 - 6 * place)) & 63;
                text.push(char::from(ALPHABET[six as usize]));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use berth_proto::cri;
    use serde_json::json;

    use super::*;

    const POD: &str = "runtime.v1.PodSandboxConfig";
    const CONTAINER: &str = "runtime.v1.ContainerConfig";

    #[test]
    fn both_spellings_of_a_field_are_read() {
        for value in [
            json!({"log_directory": "/l", "linux": {"security_context": {"namespace_options": {"network": 2}}}}),
            json!({"logDirectory": "/l", "linux": {"securityContext": {"namespaceOptions": {"network": "NODE"}}}}),
        ] {
            let pod: cri::PodSandboxConfig = from_value(POD, &value).unwrap();
            assert_eq!(pod.log_directory, "/l");
            let options = pod
                .linux
                .and_then(|linux| linux.security_context)
                .and_then(|context| context.namespace_options)
                .unwrap();
            assert_eq!(options.network(), cri::NamespaceMode::Node);
        }
    }

    #[test]
    fn an_environment_value_is_text() {
        let value = json!({"envs": [{"key": "A", "value": "b c"}], "labels": {"x": "y"}, "command": ["sh", "-c"]});
        let container: cri::ContainerConfig = from_value(CONTAINER, &value).unwrap();
        assert_eq!(container.envs[0].value, b"b c");
        assert_eq!(container.labels["x"], "y");
        assert_eq!(container.command, ["sh", "-c"]);
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let told = |value: Value| {
            from_value::<cri::ContainerConfig>(CONTAINER, &value)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            told(json!({"linux": {"resources": {"cpu_qouta": 1}}})),
            "linux.resources.cpu_qouta: there is no such field; did you mean cpu_quota?"
        );
        assert_eq!(
            told(json!({"args": ["a", 1]})),
            "args[1]: expected a string (put it in quotes), found 1"
        );
        assert!(
            told(json!({"mounts": [{"propagation": "shared"}]}))
                .starts_with("mounts[0].propagation: expected one of PROPAGATION_PRIVATE (0),")
        );
        assert_eq!(
            told(json!({"labels": {"a": 1}})),
            "labels.a: expected a string (put it in quotes), found 1"
        );
        assert_eq!(
            told(json!({"metadata": {"attempt": -1}})),
            "metadata.attempt: expected a 32-bit number that is not negative, found -1"
        );
        assert_eq!(told(json!([])), "expected an object, found a list");
        assert_eq!(
            told(json!({"logPath": "a", "log_path": "b"})),
            "log_path: given twice"
        );
    }

    #[test]
    fn sixty_four_bits_may_be_a_string_and_are_written_as_one() {
        let value = json!({"linux": {"resources": {"memory_limit_in_bytes": "9007199254740993"}}});
        let config: cri::ContainerConfig = from_value(CONTAINER, &value).unwrap();
        let written = to_value(CONTAINER, &config);
        assert_eq!(
            written["linux"]["resources"]["memoryLimitInBytes"],
            json!("9007199254740993")
        );
        assert_eq!(written["windows"], Value::Null);
        assert_eq!(written["tty"], json!(false));
    }

    #[test]
    fn enums_are_written_by_name_and_bytes_as_base64() {
        let container = cri::Container {
            state: cri::ContainerState::ContainerExited.into(),
            ..Default::default()
        };
        let written = to_value("runtime.v1.Container", &container);
        assert_eq!(written["state"], json!("CONTAINER_EXITED"));
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
