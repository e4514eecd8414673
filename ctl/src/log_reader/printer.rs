//! Prints chosen lines: standard output to one writer, standard error to another.

use std::io::{self, Write};

use jiff::Timestamp;

use super::line::{self, Stream};

/// Which lines are printed, and how.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Only the last so many lines of what is there at first.
    pub(crate) tail: Option<u64>,
    /// Not what is older.
    pub(crate) since: Option<Timestamp>,
    /// Not what is newer.
    pub(crate) until: Option<Timestamp>,
    /// Each line begins with its time.
    pub(crate) timestamps: bool,
}

/// Writes lines.
#[derive(Debug)]
pub(crate) struct Printer<O, E> {
    out: O,
    err: E,
    selection: Selection,
    last: Stream,
    /// A partial line was printed last: what follows on its stream is glued to it.
    open: [bool; 2],
    unreadable: u64,
    past_until: bool,
}

impl<O: Write, E: Write> Printer<O, E> {
    /// Prints to `out` and `err`, which should buffer.
    pub(crate) fn new(out: O, err: E, selection: Selection) -> Self {
        Self {
            out,
            err,
            selection,
            last: Stream::Out,
            open: [false; 2],
            unreadable: 0,
            past_until: false,
        }
    }

    /// Prints a physical line, which has no line feed, if it is chosen.
    pub(crate) fn line(&mut self, physical: &[u8]) -> io::Result<()> {
        let Some(line) = line::parse(physical) else {
            self.unreadable += 1;
            return Ok(());
        };
        if self.selection.since.is_some_and(|since| line.time < since) {
            return Ok(());
        }
        if self.selection.until.is_some_and(|until| line.time > until) {
            self.past_until = true;
            return Ok(());
        }
        // On a terminal both are one: keep their order.
        if line.stream != self.last {
            self.flush()?;
            self.last = line.stream;
        }
        let open = &mut self.open[line.stream as usize];
        let glued = std::mem::replace(open, line.partial);
        let to: &mut dyn Write = match line.stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        if self.selection.timestamps && !glued {
            write!(to, "{:.9} ", line.time)?;
        }
        to.write_all(line.content)?;
        if !line.partial {
            to.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Hands everything on.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.err.flush()
    }

    /// How many lines were not in the CRI format.
    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Whether a line beyond `until` was seen: nothing more will be chosen.
    pub(crate) fn is_past_until(&self) -> bool {
        self.past_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(lines: &[&str], selection: Selection) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(&mut out, &mut err, selection);
        for line in lines {
            printer.line(line.as_bytes()).unwrap();
        }
        printer.flush().unwrap();
        (
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    }

    const LINES: [&str; 6] = [
        "2026-11-21T05:00:00Z stdout P one ",
        "2026-11-21T05:00:01Z stderr F oops",
        "2026-11-21T05:00:02Z stdout P and ",
        "2026-11-21T05:00:03Z stdout F two",
        "garbage",
        "2026-11-21T05:00:04.5Z stdout F three",
    ];

    #[test]
    fn partial_lines_are_joined_within_their_stream() {
        let (out, err) = print(&LINES, Selection::default());
        assert_eq!(out, "one and two\nthree\n");
        assert_eq!(err, "oops\n");
    }

    #[test]
    fn times_stand_at_the_beginning_of_whole_lines_with_nine_digits() {
        let (out, _) = print(
            &LINES,
            Selection {
                timestamps: true,
                ..Selection::default()
            },
        );
        assert_eq!(
            out,
            "2026-11-21T05:00:00.000000000Z one and two\n2026-11-21T05:00:04.500000000Z three\n"
        );
    }

    #[test]
    fn since_and_until_choose_by_time() {
        let (out, err) = print(
            &LINES,
            Selection {
                since: Some("2026-11-21T05:00:01Z".parse().unwrap()),
                until: Some("2026-11-21T05:00:03Z".parse().unwrap()),
                ..Selection::default()
            },
        );
        assert_eq!((out.as_str(), err.as_str()), ("and two\n", "oops\n"));
    }
}
