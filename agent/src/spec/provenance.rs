//! Who set which field of a specification, for people who wonder.

use std::{collections::BTreeMap, fmt};

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The image's configuration or files.
    Image,
    /// The request.
    Cri,
    /// The configuration of the runtime handler.
    Handler,
    /// What every container gets.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Cri => "cri",
            Self::Handler => "handler",
            Self::Default => "default",
        })
    }
}

/// Sources by field, spelled as in config.json; members of lists by their key, such
/// as `process.env[PATH]` and `mounts[/proc]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Provenance(BTreeMap<String, Source>);

impl Provenance {
    pub(super) fn set(&mut self, field: impl Into<String>, source: Source) {
        self.0.insert(field.into(), source);
    }

    #[cfg(test)]
    pub(crate) fn of(&self, field: &str) -> Option<Source> {
        self.0.get(field).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Source)> {
        self.0
            .iter()
            .map(|(field, source)| (field.as_str(), *source))
    }
}
