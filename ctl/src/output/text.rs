//! Strings from images and containers made fit for a terminal, and numbers
//! made fit for people.

/// Escapes whatever could steer a terminal or turn text around: C0, DEL and C1
/// controls, line separators, and the bidirectional overrides. Labels, names,
/// reasons and image references are chosen by whoever wrote the image
/// (CVE-2021-25743 is the same mistake made elsewhere).
pub(crate) fn printable(text: &str) -> String {
    escape(text, false)
}

/// The same, but keeps line feeds and tabs: for messages of several lines.
pub(crate) fn printable_lines(text: &str) -> String {
    escape(text, true)
}

/// Whether a character is more than ink.
pub(crate) fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escape(text: &str, lines: bool) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' if lines => clean.push(c),
            '\n' => clean.push_str("\\n"),
            '\t' => clean.push_str("\\t"),
            '\r' => clean.push_str("\\r"),
            c if steers(c) => {
                let code = u32::from(c);
                clean.push_str(&if code < 0x100 {
                    format!("\\x{code:02x}")
                } else {
                    format!("\\u{{{code:x}}}")
                });
            }
            c => clean.push(c),
        }
    }
    clean
}

/// The first twelve characters of an id, without a digest's algorithm.
pub(crate) fn short_id(id: &str) -> &str {
    let bare = id.strip_prefix("sha256:").unwrap_or(id);
    bare.char_indices()
        .nth(12)
        .map_or(bare, |(end, _)| &bare[..end])
}

/// An id as a table shows it.
pub(crate) fn shown_id(id: &str, whole: bool) -> &str {
    if whole { id } else { short_id(id) }
}

/// Bytes in decimal units with three digits, as image sizes are told: `13.2MB`.
pub(crate) fn decimal_bytes(bytes: u64) -> String {
    scaled(bytes, 1000, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// Bytes in binary units, as memory is told: `12.5MiB`.
pub(crate) fn binary_bytes(bytes: u64) -> String {
    scaled(
        bytes,
        1024,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"],
    )
}

fn scaled(bytes: u64, base: u64, units: &[&str]) -> String {
    let mut unit = 0;
    let mut divisor = 1_u64;
    while unit + 1 < units.len() && bytes / divisor >= base {
        divisor = divisor.saturating_mul(base);
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes}{}", units[0]);
    }
    // Fixed point in 128 bits: exact for every u64.
    let hundredths = u128::from(bytes) * 100 / u128::from(divisor);
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match whole {
        0..10 => format!("{whole}.{rest:02}{}", units[unit]),
        10..100 => format!("{whole}.{}{}", rest / 10, units[unit]),
        _ => format!("{whole}{}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        let hostile = "a\x1b]0;owned\x07b\u{9b}31mc\u{202e}d\ne\tf\u{7f}g";
        let clean = printable(hostile);
        assert_eq!(
            clean,
            "a\\x1b]0;owned\\x07b\\x9b31mc\\u{202e}d\\ne\\tf\\x7fg"
        );
        assert!(!clean.chars().any(steers));
        assert_eq!(printable_lines("a\n\tb\x1b"), "a\n\tb\\x1b");
    }

    #[test]
    fn text_of_any_language_stays_as_it_is() {
        for text in ["größe", "日本語", "emoji 🚢"] {
            assert_eq!(printable(text), text);
        }
    }

    #[test]
    fn ids_are_shortened_to_twelve() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123"), "0123");
        assert_eq!(short_id("ééééééééééééé"), "éééééééééééé");
    }

    #[test]
    fn sizes_have_three_digits() {
        assert_eq!(decimal_bytes(999), "999B");
        assert_eq!(decimal_bytes(1_840), "1.84kB");
        assert_eq!(decimal_bytes(13_256_000), "13.2MB");
        assert_eq!(decimal_bytes(132_000_000), "132MB");
        assert_eq!(binary_bytes(1536), "1.50KiB");
        assert_eq!(binary_bytes(u64::MAX), "15.9EiB");
    }
}
