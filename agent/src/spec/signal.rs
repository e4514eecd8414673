//! Stop signals: CRI's enumeration, the images' spellings, Linux's numbers.

use super::{
    error::{Result, SpecError},
    provenance::{Provenance, Source},
};

/// CRI's numbers 1 to 34: names in alphabetical order, with Linux's numbers, which
/// are those of x86 and ARM (signal(7)).
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

const TERM: i32 = 15;
/// The first that libc leaves to programs; the kernel's own first is 32.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// What the request asks for, else the image, else SIGTERM; Linux's number.
pub(super) fn stop_signal(cri: i32, image: &str, provenance: &mut Provenance) -> Result<i32> {
    let (signal, source) = if cri != 0 {
        let number = from_cri(cri).ok_or_else(|| {
            SpecError::invalid(format!(
                "stop_signal {cri} is not in CRI's list, which ends at 65"
            ))
        })?;
        (number, Source::Cri)
    } else if image.is_empty() {
        (TERM, Source::Default)
    } else {
        let number = parse(image).ok_or_else(|| {
            SpecError::invalid(format!("the image's StopSignal {image:?} is no signal"))
                .with_remedy("set stop_signal in the request")
        })?;
        (number, Source::Image)
    };
    provenance.set("stopSignal", source);
    Ok(signal)
}

fn from_cri(cri: i32) -> Option<i32> {
    match cri {
        1..=34 => {
            let place = usize::try_from(cri - 1).ok()?;
            NAMED.get(place).map(|(_, number)| *number)
        }
        // RTMIN to RTMIN+15, then RTMAX-14 to RTMAX.
        35..=50 => Some(RTMIN + (cri - 35)),
        51..=65 => Some(RTMAX - (65 - cri)),
        _ => None,
    }
}

/// CRI's number for a Linux signal, the first where it has two names; 0 for none.
pub(crate) fn cri_signal(signal: i32) -> i32 {
    (1..=65)
        .find(|&cri| from_cri(cri) == Some(signal))
        .unwrap_or(0)
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
fn parse(text: &str) -> Option<i32> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text
            .parse()
            .ok()
            .filter(|number| (1..=RTMAX).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMED.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let (base, sign, distance) = if let Some(rest) = name.strip_prefix("RTMIN") {
        (RTMIN, '+', rest)
    } else {
        (RTMAX, '-', name.strip_prefix("RTMAX")?)
    };
    if distance.is_empty() {
        return Some(base);
    }
    let digits = distance.strip_prefix(sign)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let distance: i32 = digits.parse().ok()?;
    let number = if sign == '+' {
        base.checked_add(distance)?
    } else {
        base.checked_sub(distance)?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_signal_is_read_in_every_spelling() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("15", 15),
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("RTMAX-1", 63),
            ("SIGRTMAX", 64),
            ("64", 64),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for bad in [
            "",
            "0",
            "65",
            "-1",
            "+9",
            "SIG",
            "SIGSIGTERM",
            "RTMIN-1",
            "RTMIN+31",
            "RTMAX+1",
            "RTMIN+",
            "RTMIN++1",
            "99999999999999999999",
            "RTMIN+99999999999",
            "TERM\n",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn cris_numbers_are_not_linuxs() {
        for (cri, number) in [
            (8, 1),
            (13, 9),
            (23, 15),
            (34, 25),
            (35, 34),
            (36, 35),
            (50, 49),
            (51, 50),
            (64, 63),
            (65, 64),
        ] {
            assert_eq!(from_cri(cri), Some(number), "{cri}");
            assert_eq!(from_cri(cri_signal(number)), Some(number));
        }
        for cri in [-1, 0, 66, i32::MIN, i32::MAX] {
            assert_eq!(from_cri(cri), None);
        }
        assert_eq!(cri_signal(32), 0);
    }

    #[test]
    fn the_request_wins_over_the_image_and_the_image_over_the_default() {
        let mut provenance = Provenance::default();
        assert_eq!(stop_signal(13, "SIGINT", &mut provenance).unwrap(), 9);
        assert_eq!(stop_signal(0, "SIGINT", &mut provenance).unwrap(), 2);
        assert_eq!(provenance.of("stopSignal"), Some(Source::Image));
        assert_eq!(stop_signal(0, "", &mut provenance).unwrap(), 15);
        assert!(stop_signal(66, "", &mut provenance).is_err());
        assert!(stop_signal(0, "SIGNOPE", &mut provenance).is_err());
    }
}
