//! Limits as people write them.

use crate::failure::{Failure, Outcome};

/// The period that CPU limits are told in, in microseconds.
pub(super) const CPU_PERIOD: i64 = 100_000;
/// Less is not a process.
const MEMORY_LEAST: u64 = 512 * 1024;

/// The bytes that the value of the memory option `option` stands for.
pub(super) fn memory(option: &str, text: &str) -> Outcome<i64> {
    bytes(text)
        .filter(|&bytes| bytes >= MEMORY_LEAST)
        .and_then(|bytes| i64::try_from(bytes).ok())
        .ok_or_else(|| {
            Failure::usage(
                format!("cannot use {option} {text}"),
                "expected something like 64m or 2g, at least 512k",
            )
        })
}

/// A number of CPUs as microseconds per [`CPU_PERIOD`].
pub(super) fn cpu_quota(text: &str) -> Outcome<i64> {
    quota(text).ok_or_else(|| {
        Failure::usage(
            format!("cannot use --cpus {text}"),
            "expected a number of CPUs such as 2 or 0.5, at least 0.01",
        )
    })
}

/// Bytes in binary units, as Docker reads them: `64m` is 64 MiB.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches('b');
    let number = number.strip_suffix('i').unwrap_or(number);
    let (digits, shift) = match number.as_bytes().last()? {
        b'k' => (&number[..number.len() - 1], 10),
        b'm' => (&number[..number.len() - 1], 20),
        b'g' => (&number[..number.len() - 1], 30),
        b't' => (&number[..number.len() - 1], 40),
        _ => (number, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A decimal number of CPUs as time per period. Not by way of a float.
fn quota(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    if whole < 0 || part.len() > 9 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part: i64 = format!("{part:0<9}").parse().ok()?;
    let quota = whole
        .checked_mul(CPU_PERIOD)?
        .checked_add(part * CPU_PERIOD / 1_000_000_000)?;
    // The kernel's least quota is a millisecond.
    (quota >= 1000).then_some(quota)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_are_read_exactly() {
        for (text, expected) in [
            ("1048576", Some(1 << 20)),
            ("2gb", Some(2 << 30)),
            ("1KiB", Some(1 << 10)),
            ("", None),
            ("m", None),
            ("1.5g", None),
            ("-1", None),
            ("99999999999t", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        assert_eq!(quota("0.01"), Some(1000));
        assert_eq!(quota(".5"), Some(50_000));
        for text in ["0", "0.001", "-1", "x", "1e3", "1.-5", "9999999999999999"] {
            assert_eq!(quota(text), None, "{text}");
        }
    }
}
