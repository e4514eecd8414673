//! The keys that leave a container alone.

use std::str::FromStr;

/// A sequence of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

impl FromStr for DetachKeys {
    type Err = String;

    /// `KEY,KEY,...`, each a character or `ctrl-X`; empty for none at all.
    fn from_str(text: &str) -> Result<Self, String> {
        let keys = text.split(',').filter(|_| !text.is_empty());
        keys.map(key).collect::<Result<_, _>>().map(Self)
    }
}

fn key(name: &str) -> Result<u8, String> {
    let control = name
        .split_at_checked(5)
        .filter(|(prefix, _)| prefix.eq_ignore_ascii_case("ctrl-"));
    match (control, name.as_bytes()) {
        (Some((_, rest)), _) => match rest.as_bytes() {
            [key @ (b'a'..=b'z' | b'A'..=b'Z' | b'@' | b'['..=b'_')] => Ok(key & 0x1f),
            _ => Err(format!(
                "{name}: allowed after ctrl- are a to z, @, [, \\, ], ^ and _"
            )),
        },
        (None, [key]) if key.is_ascii_graphic() => Ok(*key),
        _ => Err(format!("{name:?}: expected a character or ctrl-X")),
    }
}

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub(super) struct Watch {
    keys: Vec<u8>,
    /// How many of them were typed last; they are held back.
    matched: usize,
}

impl Watch {
    pub(super) fn new(keys: &DetachKeys) -> Self {
        Self {
            keys: keys.0.clone(),
            matched: 0,
        }
    }

    /// What of `typed` is for the container, and whether the keys were typed, after
    /// which nothing is.
    pub(super) fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut through = Vec::with_capacity(typed.len());
        for &byte in typed {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (through, true);
                }
                continue;
            }
            // Held back in vain. The keys differ from each other in any use, so that
            // only this byte can begin them anew.
            through.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(self.keys.first() == Some(&byte));
            if self.matched == 0 {
                through.push(byte);
            } else if self.keys.len() == 1 {
                return (through, true);
            }
        }
        (through, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(keys: &str, typed: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut watch = Watch::new(&keys.parse().unwrap());
        let mut through = Vec::new();
        for typed in typed {
            let (more, detached) = watch.pass(typed);
            through.extend(more);
            if detached {
                return (through, true);
            }
        }
        (through, false)
    }

    #[test]
    fn the_keys_leave_and_what_only_begins_like_them_is_typed() {
        let usual = "ctrl-p,ctrl-q";
        assert_eq!(
            pass(usual, &[b"ls\r\x10\x11rest"]),
            (b"ls\r".to_vec(), true)
        );
        assert_eq!(pass(usual, &[b"a\x10", b"\x11"]), (b"a".to_vec(), true));
        assert_eq!(pass(usual, &[b"\x10x"]), (b"\x10x".to_vec(), false));
        assert_eq!(pass(usual, &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(pass("q", &[b"abq"]), (b"ab".to_vec(), true));
        assert_eq!(pass("", &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }

    #[test]
    fn names_of_keys_that_do_not_exist_are_refused() {
        assert_eq!("ctrl-P,ctrl-Q".parse(), Ok(DetachKeys(vec![0x10, 0x11])));
        assert_eq!("ctrl-],x".parse(), Ok(DetachKeys(vec![0x1d, b'x'])));
        for wrong in ["ctrl-", "ctrl-1", "ab", "a,,b", "é"] {
            assert!(wrong.parse::<DetachKeys>().is_err(), "{wrong}");
        }
    }
}
