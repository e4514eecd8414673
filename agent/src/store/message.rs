//! Protobuf messages inside JSON records: their bytes in hexadecimal, so that
//! fields which this version does not know are not misread but skipped.

use std::fmt::Write as _;

use prost::Message;
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// For `#[serde(with = ..)]`.
pub(super) fn serialize<M: Message, S: Serializer>(message: &M, to: S) -> Result<S::Ok, S::Error> {
    let bytes = message.encode_to_vec();
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").map_err(serde::ser::Error::custom)?;
    }
    to.serialize_str(&text)
}

/// For `#[serde(with = ..)]`.
pub(super) fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(
    from: D,
) -> Result<M, D::Error> {
    let text = String::deserialize(from)?;
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    let bytes: Vec<u8> = digits
        .filter(|digits| digits.len().is_multiple_of(2))
        .ok_or_else(|| D::Error::custom("not an even number of hex digits"))?
        .chunks_exact(2)
        .map(|pair| (pair[0] << 4) | pair[1])
        .collect();
    M::decode(bytes.as_slice()).map_err(D::Error::custom)
}
