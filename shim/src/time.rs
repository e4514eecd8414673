//! The two clocks: wall time for people, monotonic time for deadlines.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

/// Length of what [`rfc3339`] writes.
pub(crate) const RFC3339_LEN: usize = 30;

/// `2026-11-21T05:00:00.123456789Z`: UTC with nine digits, the width that every
/// reader of CRI logs takes.
pub(crate) fn rfc3339(since_1970: Duration) -> [u8; RFC3339_LEN] {
    let seconds = since_1970.as_secs();
    let (days, in_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut out = *b"0000-00-00T00:00:00.000000000Z";
    put(&mut out[0..4], year);
    put(&mut out[5..7], month);
    put(&mut out[8..10], day);
    put(&mut out[11..13], in_day / 3600);
    put(&mut out[14..16], in_day / 60 % 60);
    put(&mut out[17..19], in_day % 60);
    put(&mut out[20..29], u64::from(since_1970.subsec_nanos()));
    out
}

/// The present moment in that form.
pub(crate) fn stamp() -> [u8; RFC3339_LEN] {
    rfc3339(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

fn put(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Proleptic Gregorian date of a day counted from 1970-01-01. Years are counted
/// from March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_written_as_rfc_3339_wants_them() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000000001Z"),
            (1_709_251_199, 999_999_999, "2024-02-29T23:59:59.999999999Z"),
            (4_107_542_400, 5, "2100-03-01T00:00:00.000000005Z"),
        ] {
            let got = rfc3339(Duration::new(seconds, nanos));
            assert_eq!(std::str::from_utf8(&got).unwrap(), text);
        }
    }
}
