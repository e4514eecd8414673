//! Signals by name and number.

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

/// The kernel's SIGRTMIN; names count from libc's, which is two more.
const REALTIME_FIRST: i32 = 34;
const REALTIME_LAST: i32 = 64;

/// `SIGTERM`, `term`, `15`, `RTMIN+3`.
pub(crate) fn parse(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        if (0..=REALTIME_LAST).contains(&number) {
            return Ok(number);
        }
        bail!("unknown signal {text:?}: numbers are between 0 and {REALTIME_LAST}");
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| -> Option<i32> {
        match rest {
            "" => Some(0),
            rest => rest.parse().ok(),
        }
    };
    let realtime = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest).map(|by| REALTIME_FIRST + by)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest).map(|by| REALTIME_LAST + by)
    } else {
        None
    };
    if let Some(number) = realtime
        && (REALTIME_FIRST..=REALTIME_LAST).contains(&number)
    {
        return Ok(number);
    }
    match format!("SIG{name}").parse::<Signal>() {
        Ok(signal) => Ok(signal as i32),
        Err(_) => bail!("unknown signal {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("KILL", 9),
            ("9", 9),
            ("0", 0),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGRTMAX", 64),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in [
            "", "SIG", "65", "-1", "RTMIN+31", "RTMAX+1", "NOPE", "TERM ",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
