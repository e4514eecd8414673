//! Reading one section key by key, so that one mistake does not hide the next.

use std::{collections::BTreeSet, ops::Range, path::Path};

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::Finding;

/// One file that is being read, and what is wrong with it.
#[derive(Debug)]
pub(super) struct File<'a> {
    path: &'a Path,
    text: &'a str,
    pub(super) findings: Vec<Finding>,
    /// Every key that was asked for, as `section.key`.
    pub(super) known: BTreeSet<String>,
}

impl<'a> File<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Self {
            path,
            text,
            findings: Vec::new(),
            known: BTreeSet::new(),
        }
    }

    pub(super) fn report(&mut self, span: Option<Range<usize>>, message: String) {
        let line = span.map(|span| {
            let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
            before.iter().filter(|byte| **byte == b'\n').count() + 1
        });
        self.findings.push(Finding {
            file: Some(self.path.to_owned()),
            line,
            message,
        });
    }
}

/// A section of which keys are taken one by one; what is left at the end is unknown.
#[derive(Debug)]
pub(super) struct Section<'i> {
    name: &'static str,
    table: DeTable<'i>,
    asked: Vec<&'static str>,
}

impl<'i> Section<'i> {
    pub(super) fn root(table: DeTable<'i>) -> Self {
        Self::new("", table)
    }

    fn new(name: &'static str, table: DeTable<'i>) -> Self {
        Self {
            name,
            table,
            asked: Vec::new(),
        }
    }

    fn full(&self, key: &str) -> String {
        match self.name {
            "" => key.to_owned(),
            name => format!("{name}.{key}"),
        }
    }

    fn take(&mut self, file: &mut File<'_>, key: &'static str) -> Option<Spanned<DeValue<'i>>> {
        self.asked.push(key);
        file.known.insert(self.full(key));
        self.table.remove(key)
    }

    /// The section `key`, empty if it is not there.
    pub(super) fn section(&mut self, file: &mut File<'_>, key: &'static str) -> Section<'i> {
        self.asked.push(key);
        let table = match self.table.remove(key) {
            None => DeTable::default(),
            Some(value) => {
                let span = value.span();
                match value.into_inner() {
                    DeValue::Table(table) => table,
                    other => {
                        let kind = other.type_str();
                        file.report(
                            Some(span),
                            format!("{key}: expected a section `[{key}]`, found {kind}"),
                        );
                        DeTable::default()
                    }
                }
            }
        };
        Section::new(key, table)
    }

    /// Every entry, whatever its name.
    pub(super) fn entries(self) -> impl Iterator<Item = (String, Spanned<DeValue<'i>>)> {
        self.table
            .into_iter()
            .map(|(key, value)| (key.into_inner().into_owned(), value))
    }

    /// Reads `key` as a `T`, has it checked, and stores it. `check` returns what
    /// the key means, or what is wrong and what is allowed.
    pub(super) fn read<T, U>(
        &mut self,
        file: &mut File<'_>,
        key: &'static str,
        target: &mut U,
        check: impl FnOnce(T) -> Result<U, String>,
    ) where
        T: DeserializeOwned,
    {
        let Some(value) = self.take(file, key) else {
            return;
        };
        let span = value.span();
        let name = self.full(key);
        match T::deserialize(ValueDeserializer::from(value)) {
            Err(error) => {
                let span = error.span().unwrap_or(span);
                file.report(Some(span), format!("{name}: {}", error.message()));
            }
            Ok(value) => match check(value) {
                Ok(value) => *target = value,
                Err(message) => file.report(Some(span), format!("{name}: {message}")),
            },
        }
    }

    /// Reports what nobody asked for.
    pub(super) fn finish(self, file: &mut File<'_>) {
        for (key, _) in &self.table {
            let span = key.span();
            let name = self.full(key.get_ref());
            let near = self
                .asked
                .iter()
                .map(|known| (distance(known, key.get_ref()), known))
                .min()
                .filter(|(distance, _)| *distance <= 3);
            let message = match near {
                Some((_, known)) => {
                    format!("{name}: unknown key; did you mean `{known}`?")
                }
                None => format!(
                    "{name}: unknown key; allowed here: {}",
                    self.asked.join(", ")
                ),
            };
            file.report(Some(span), message);
        }
    }
}

/// How many letters must be inserted, deleted or replaced.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_of_words_is_that_of_levenshtein() {
        assert_eq!(distance("brigde", "bridge"), 2);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("mtu", "mtu"), 0);
    }
}
