//! What is known of an unpacked layer beside its files.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::Digest;

/// The sidecar of a layer's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerMeta {
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: Digest,
    /// Bytes on disk, about.
    pub(crate) size: u64,
    /// Inodes on disk.
    pub(crate) inodes: u64,
    /// Nothing of the layers below is visible.
    #[serde(default)]
    pub(crate) root_opaque: bool,
    /// Directories that the archive implies without containing them, parents first.
    #[serde(default)]
    pub(crate) implied: Vec<PathText>,
    /// Directories that the archive contains only after entries that are in them: if such
    /// a directory is a link below, those entries went where it leads.
    #[serde(default)]
    pub(crate) late: Vec<PathText>,
    /// Hard links to what must lie below, in the archive's order.
    #[serde(default)]
    pub(crate) outside: Vec<OutsideLink>,
    /// Whiteouts that are in the directory.
    #[serde(default)]
    pub(crate) whiteouts: Vec<PathText>,
}

/// A hard link whose target is not in its own layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutsideLink {
    pub(crate) path: PathText,
    pub(crate) target: PathText,
}

/// A path's bytes, which JSON can hold only in a coded form: `%XX` for all but plain ASCII.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PathText(pub(crate) Vec<u8>);

impl Serialize for PathText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.0.len());
        for &byte in &self.0 {
            if byte.is_ascii_graphic() && byte != b'%' {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02x}"));
            }
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            if byte != b'%' {
                bytes.push(byte);
                continue;
            }
            let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
            let value = digit().zip(digit()).map(|(high, low)| high * 16 + low);
            match value.and_then(|value| u8::try_from(value).ok()) {
                Some(byte) => bytes.push(byte),
                None => return Err(serde::de::Error::custom("a path with a broken %XX")),
            }
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_path_survives_json(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let path = PathText(bytes);
            let text = serde_json::to_string(&path).unwrap();
            prop_assert_eq!(serde_json::from_str::<PathText>(&text).unwrap(), path);
        }
    }
}
