//! Lists of CPUs and memory nodes, such as `0-3,8`.

/// More CPUs or memory nodes than a kernel can be built for.
pub(crate) const MOST: u32 = 8192;
/// Longest list: every second of [`MOST`] CPUs.
const MAX_BYTES: usize = 24 * 1024;

/// The ranges of `list`, both ends included, or what is allowed instead. Nothing
/// is expanded: `0-4294967295` costs no more than `0`.
///
/// Source: cpuset(7), "List format", without the forms that no API promises.
pub(crate) fn parse(list: &str, bound: u32) -> Result<Vec<(u32, u32)>, String> {
    let allowed = || {
        let last = bound.saturating_sub(1);
        format!("numbers and ranges from 0 to {last}, joined by commas")
    };
    if list.len() > MAX_BYTES {
        return Err(allowed());
    }
    let number = |text: &str| -> Option<u32> {
        let digits =
            !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let range = |part: &str| -> Option<(u32, u32)> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        (first <= last && last < bound).then_some((first, last))
    };
    list.split(',')
        .map(|part| range(part).ok_or_else(allowed))
        .collect()
}

/// One more than the highest CPU that this machine can have.
pub(crate) fn possible_cpus() -> u32 {
    possible("/sys/devices/system/cpu/possible")
}

/// One more than the highest memory node that this machine can have.
pub(crate) fn possible_mems() -> u32 {
    possible("/sys/devices/system/node/possible")
}

fn possible(path: &str) -> u32 {
    let list = std::fs::read_to_string(path).ok();
    list.and_then(|list| parse(list.trim(), MOST).ok())
        .and_then(|ranges| ranges.iter().map(|range| range.1).max())
        .map_or(MOST, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_numbers_and_ranges() {
        assert_eq!(parse("0", 2), Ok(vec![(0, 0)]));
        assert_eq!(parse("0-1,3,5-7", 8), Ok(vec![(0, 1), (3, 3), (5, 7)]));
    }

    #[test]
    fn what_is_no_list_or_too_large_is_refused_without_expanding_it() {
        for bad in [
            "",
            ",",
            "0,,1",
            "0,",
            "1-0",
            "-1",
            "0-",
            "0--1",
            "a",
            "0-4294967295",
            "0-9999999",
            "99999999999999999999",
            " 0",
            "0\n",
            "+1",
            "0-10:2/4",
            "all",
            "8",
        ] {
            assert!(parse(bad, 8).is_err(), "{bad:?}");
        }
        let long = "0,".repeat(MAX_BYTES);
        assert!(parse(&long, 8).is_err());
    }
}
