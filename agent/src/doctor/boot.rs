//! What the kernel was told when it was started.

/// The value of `name` on the kernel's command line; empty for a bare word.
pub(super) fn parameter(name: &str) -> Option<String> {
    find(
        &std::fs::read_to_string("/proc/cmdline").unwrap_or_default(),
        name,
    )
}

fn find(line: &str, name: &str) -> Option<String> {
    line.split_whitespace()
        .rev()
        .find_map(|word| match word.split_once('=') {
            Some((key, value)) if key == name => Some(value.to_owned()),
            None if word == name => Some(String::new()),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts() {
        let line = "quiet psi=0 root=/dev/vda psi=1\n";
        assert_eq!(find(line, "psi"), Some("1".to_owned()));
        assert_eq!(find(line, "quiet"), Some(String::new()));
        assert_eq!(find(line, "swapaccount"), None);
    }
}
