//! Times and durations as people write and read them.

use std::{
    num::ParseIntError,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};

/// Now, in nanoseconds since 1970, which is what CRI counts in.
pub(crate) fn now_nanos() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

/// `10s`, `1h30m`, `500ms`, or a plain number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let number: Result<u64, ParseIntError> = text.parse();
    if let Ok(seconds) = number {
        return Ok(Duration::from_secs(seconds));
    }
    let parsed: SignedDuration = text
        .parse()
        .map_err(|_error: jiff::Error| "expected something like 10s, 1h30m or 500ms".to_owned())?;
    Duration::try_from(parsed).map_err(|_negative| "a duration cannot be negative".to_owned())
}

/// A moment: RFC 3339, a local date or time, or how long ago (`10m`).
pub(crate) fn parse_moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let local = text
        .parse::<civil::DateTime>()
        .or_else(|_| text.parse::<civil::Date>().map(|date| date.at(0, 0, 0, 0)));
    if let Ok(local) = local {
        return local
            .to_zoned(TimeZone::system())
            .map(|zoned| zoned.timestamp())
            .map_err(|error| error.to_string());
    }
    let ago = parse_duration(text).map_err(|_not_a_duration| {
        "expected a time such as 2026-11-21T05:00:00Z, or how long ago, such as 10m".to_owned()
    })?;
    SignedDuration::try_from(ago)
        .and_then(|ago| Timestamp::now().checked_sub(ago))
        .map_err(|error| error.to_string())
}

/// A length of time in one unit: `8 seconds`, `About a minute`, `3 weeks`.
pub(crate) fn spoken(nanos: i64) -> String {
    let seconds = nanos.max(0) / 1_000_000_000;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if days < 14 => format!("{days} days"),
        () if days < 60 => format!("{} weeks", days / 7),
        () if days < 730 => format!("{} months", days / 30),
        () => format!("{} years", days / 365),
    }
}

/// How long ago a moment was; `-` for a moment that never was.
pub(crate) fn ago(now: i64, then: i64) -> String {
    if then <= 0 {
        return "-".to_owned();
    }
    format!("{} ago", spoken(now.saturating_sub(then)))
}

/// A short span with its unit: `1.234s`, `56ms`.
pub(crate) fn span(nanos: i64) -> String {
    let nanos = nanos.max(0);
    match nanos {
        0..1_000_000 => format!("{}µs", nanos / 1_000),
        1_000_000..1_000_000_000 => format!("{}ms", nanos / 1_000_000),
        1_000_000_000..60_000_000_000 => {
            let millis = nanos / 1_000_000;
            format!("{}.{}s", millis / 1000, millis % 1000 / 100)
        }
        _ => {
            let seconds = nanos / 1_000_000_000;
            format!("{}m{:02}s", seconds / 60, seconds % 60)
        }
    }
}

/// A moment in local time, to the millisecond: `11-21 05:00:00.123`.
pub(crate) fn clock(nanos: i64) -> String {
    Timestamp::from_nanosecond(nanos.into()).map_or_else(
        |_out_of_range| "-".to_owned(),
        |moment| {
            moment
                .to_zoned(TimeZone::system())
                .strftime("%m-%d %H:%M:%S.%3f")
                .to_string()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spoken_as_docker_speaks_them() {
        let second = 1_000_000_000;
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (8, "8 seconds"),
            (61, "About a minute"),
            (600, "10 minutes"),
            (3_700, "About an hour"),
            (7_300, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 21, "3 weeks"),
            (86_400 * 100, "3 months"),
            (86_400 * 800, "2 years"),
        ] {
            assert_eq!(spoken(seconds * second), expected);
        }
        assert_eq!(ago(second, 0), "-");
        assert_eq!(spoken(-5), "Less than a second");
    }

    #[test]
    fn durations_have_units_or_are_seconds() {
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(parse_duration("-3s").is_err());
        assert!(parse_duration("soon").is_err());
    }

    #[test]
    fn a_moment_is_a_time_or_an_age() {
        let exact = parse_moment("2026-11-21T05:00:00Z").unwrap();
        assert_eq!(exact.as_second(), 1_795_237_200);
        assert!(parse_moment("10m").unwrap() < Timestamp::now());
        assert!(parse_moment("2026-11-21").is_ok());
        assert!(parse_moment("yesterday").is_err());
    }
}
