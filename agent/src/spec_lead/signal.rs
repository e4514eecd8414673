//! Stop signals: CRI's enumeration, images' spellings, Linux's numbers.

use crate::error::{Error, Result};

/// In the order of CRI's enumeration, which begins with "default"; 36 to 50 are
/// SIGRTMIN+1 to +15, 51 to 64 SIGRTMAX-14 to -1.
const NAMED: [(&str, i32); 34] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
];

const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Linux number of what the request or else the image asks for; SIGTERM by default.
///
/// # Errors
/// InvalidArgument for what is no signal.
pub(super) fn stop_signal(cri: i32, image: &str) -> Result<i32> {
    match (cri, image) {
        (0, "") => Ok(15),
        (0, text) => parse(text)
            .ok_or_else(|| Error::invalid(format!("stop signal {text:?} of the image is none"))),
        (cri, _) => linux(cri).ok_or_else(|| Error::invalid(format!("stop_signal {cri} is none"))),
    }
}

fn linux(cri: i32) -> Option<i32> {
    match cri {
        1..=34 => Some(NAMED[usize::try_from(cri - 1).ok()?].1),
        35..=50 => Some(RTMIN + cri - 35),
        51..=65 => Some(RTMAX - 65 + cri),
        _ => None,
    }
}

/// CRI's number of a Linux signal, 0 for none.
pub(crate) fn cri_signal(signal: i32) -> i32 {
    (1..=65)
        .find(|&cri| linux(cri) == Some(signal))
        .unwrap_or(0)
}

fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| rest[1..].parse::<i32>().ok();
    let real_time = if let Some(rest) = name.strip_prefix("RTMIN") {
        match rest {
            "" => Some(RTMIN),
            _ if rest.starts_with('+') => offset(rest).map(|n| RTMIN.saturating_add(n)),
            _ => None,
        }
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        match rest {
            "" => Some(RTMAX),
            _ if rest.starts_with('-') => offset(rest).map(|n| RTMAX.saturating_sub(n)),
            _ => None,
        }
    } else {
        return NAMED
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, n)| *n);
    };
    real_time.filter(|signal| (RTMIN..=RTMAX).contains(signal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_found_by_every_spelling() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("SIGRTMAX", 64),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for bad in [
            "", "0", "65", "SIGNOPE", "RTMIN-1", "RTMIN+40", "RTMAX+", "-9",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn cri_counts_in_its_own_order() {
        for (cri, number) in [
            (1, 6),
            (23, 15),
            (13, 9),
            (35, 34),
            (36, 35),
            (50, 49),
            (51, 50),
            (64, 63),
            (65, 64),
        ] {
            assert_eq!(linux(cri), Some(number), "{cri}");
        }
        assert_eq!(cri_signal(15), 23);
        assert_eq!(cri_signal(0), 0);
    }
}
