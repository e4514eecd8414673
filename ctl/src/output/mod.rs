//! How results are shown: tables for people, JSON and YAML for programs.

pub(crate) mod json;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod yaml;

use std::io::{self, Write as _};

use serde_json::Value;

use crate::failure::Outcome;

/// The form of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// The CRI messages in protobuf's JSON form.
    Json,
    /// The same as YAML.
    Yaml,
}

impl Format {
    /// Takes the names of formats, as strings.
    pub(crate) fn names() -> clap::builder::PossibleValuesParser {
        use clap::ValueEnum as _;
        let values = Self::value_variants().iter();
        values
            .filter_map(Self::to_possible_value)
            .collect::<Vec<_>>()
            .into()
    }
}

/// Writes text to standard output as it is.
pub(crate) fn print(text: &str) -> Outcome<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes one line to standard output, with everything unprintable escaped.
pub(crate) fn line(text: &str) -> Outcome<()> {
    print(&format!("{}\n", text::printable(text)))
}

/// Writes one line to standard error, with everything unprintable escaped.
/// A standard error that cannot be written to is no reason to fail.
pub(crate) fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{}", text::printable(text)));
}

/// Writes a value in a form for programs; people get JSON where there is no table.
pub(crate) fn value(format: Format, value: &Value) -> Outcome<()> {
    print(&match format {
        Format::Table | Format::Json => json::render(value),
        Format::Yaml => yaml::render(value),
    })
}
