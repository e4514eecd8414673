//! Numbers in header fields: octal text or base-256.

/// The value of a header field; `None` if it is malformed or does not fit.
///
/// An empty field is 0, as old archives leave unused ones.
pub(super) fn parse(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

/// GNU's binary form: the top bit marks it, the next is the sign.
fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = i128::from(field[0] & 0x3f) - if negative { 0x40 } else { 0 };
    for &byte in &field[1..] {
        value = value.checked_mul(256)?.checked_add(i128::from(byte))?;
    }
    i64::try_from(value).ok()
}

/// Octal digits with spaces before, and a space or NUL and then only those behind.
fn octal(field: &[u8]) -> Option<i64> {
    let start = field.iter().position(|&b| b != b' ').unwrap_or(field.len());
    let rest = &field[start..];
    let digits = rest
        .iter()
        .position(|b| !(b'0'..=b'7').contains(b))
        .unwrap_or(rest.len());
    if !rest[digits..].iter().all(|&b| b == b' ' || b == 0) {
        return None;
    }
    rest[..digits].iter().try_fold(0i64, |value, &digit| {
        value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))
    })
}

/// Plain decimal digits, at least one.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, &digit| {
        digit.is_ascii_digit().then_some(())?;
        value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_are_read_and_garbage_is_not() {
        assert_eq!(parse(b"0000644\0"), Some(0o644));
        assert_eq!(parse(b"   644 \0"), Some(0o644));
        assert_eq!(parse(b"\0\0\0\0"), Some(0));
        assert_eq!(parse(b"77777777"), Some(0o7777_7777));
        assert_eq!(parse(b"0644\0x"), None);
        assert_eq!(parse(b"08"), None);
        assert_eq!(parse(b"-1"), None);
        assert_eq!(parse(&[0x80, 0, 0, 1, 0]), Some(256));
        assert_eq!(parse(&[0xff; 12]), Some(-1));
        assert_eq!(
            parse(&[0x80 | 0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            None
        );
        assert_eq!(decimal(b"18446744073709551616"), None);
        assert_eq!(decimal(b"+1"), None);
        assert_eq!(decimal(b"10"), Some(10));
    }
}
