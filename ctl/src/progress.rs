//! How far the blobs of a transfer are. Goes to standard error: bars on a
//! terminal, a line for each change otherwise.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::output::{
    self,
    text::{decimal_bytes, printable, short_id},
};

/// What is being done with one blob.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    /// In a word or a few.
    pub(crate) word: &'a str,
    /// Bytes to be told beside the word where there are no bars.
    pub(crate) size: Option<u64>,
    /// Bytes that are done.
    pub(crate) position: u64,
    /// All bytes.
    pub(crate) total: u64,
    /// Whether there is anything to tell yet.
    pub(crate) begun: bool,
    /// Whether this is the last step.
    pub(crate) ended: bool,
}

/// The blobs of one transfer.
pub(crate) struct Blobs {
    style: Style,
    /// The last word told of each blob.
    told: HashMap<String, String>,
}

enum Style {
    Quiet,
    Lines,
    Bars {
        all: MultiProgress,
        bars: HashMap<String, ProgressBar>,
        style: ProgressStyle,
    },
}

impl Blobs {
    /// Begins with a title.
    pub(crate) fn new(title: &str, quiet: bool) -> Self {
        let style = if quiet {
            Style::Quiet
        } else {
            output::note(title);
            if io::stderr().is_terminal() {
                let template =
                    "{prefix:12}  {msg:10}  {bar:30}  {decimal_bytes}/{decimal_total_bytes}";
                Style::Bars {
                    all: MultiProgress::new(),
                    bars: HashMap::new(),
                    style: ProgressStyle::with_template(template)
                        .unwrap_or_else(|_invalid| ProgressStyle::default_bar())
                        .progress_chars("=> "),
                }
            } else {
                Style::Lines
            }
        };
        Self {
            style,
            told: HashMap::new(),
        }
    }

    /// Shows one blob.
    pub(crate) fn show(&mut self, digest: &str, step: &Step<'_>) {
        let name = printable(short_id(digest));
        let word = printable(step.word);
        match &mut self.style {
            Style::Quiet => {}
            Style::Lines => {
                let told = self.told.insert(digest.to_owned(), word.clone());
                if step.begun && told.as_ref() != Some(&word) {
                    let size = step.size.filter(|&size| size > 0);
                    let size = size.map(|size| format!(" {}", decimal_bytes(size)));
                    output::note(&format!("{name}: {word}{}", size.unwrap_or_default()));
                }
            }
            Style::Bars { all, bars, style } => {
                let bar = bars.entry(digest.to_owned()).or_insert_with(|| {
                    all.add(
                        ProgressBar::no_length()
                            .with_style(style.clone())
                            .with_prefix(name),
                    )
                });
                bar.set_length(step.total);
                bar.set_message(word);
                if step.ended {
                    bar.set_position(step.total);
                    bar.abandon();
                } else {
                    bar.set_position(step.position);
                }
            }
        }
    }

    /// Leaves what is shown as it is.
    pub(crate) fn end(&self) {
        if let Style::Bars { bars, .. } = &self.style {
            for bar in bars.values() {
                bar.abandon();
            }
        }
    }
}
