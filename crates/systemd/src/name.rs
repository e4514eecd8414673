//! Names of units (systemd.unit(5), systemd.slice(5)).

use crate::Error;

/// UNIT_NAME_MAX.
const LONGEST: usize = 255;

/// Checks the name of a unit that ends with `suffix`, such as `.scope`.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_unit(name: &str, suffix: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let stem = name.strip_suffix(suffix).unwrap_or_default();
    if stem.is_empty() || name.len() > LONGEST || !name.bytes().all(allowed) {
        return Err(Error::Invalid {
            field: "unit",
            value: name.chars().take(80).collect(),
            reason: "expected at most 255 letters, digits and :-_.\\@ and the unit's suffix",
        });
    }
    Ok(())
}

/// Checks the name of a slice, in which dashes say what lies in what.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_slice(name: &str) -> Result<(), Error> {
    slice_path(name).map(drop)
}

/// Where a slice is: `a-b.slice` is `a.slice/a-b.slice`. The root slice, `-.slice`, is
/// the empty path.
///
/// # Errors
/// [`Error::Invalid`].
pub fn slice_path(name: &str) -> Result<String, Error> {
    check_unit(name, ".slice")?;
    if name == "-.slice" {
        return Ok(String::new());
    }
    let stem = name.strip_suffix(".slice").unwrap_or_default();
    if stem.split('-').any(str::is_empty) {
        return Err(Error::Invalid {
            field: "slice",
            value: name.to_owned(),
            reason: "dashes separate names, none of which is empty",
        });
    }
    let mut path = String::new();
    for (at, _) in stem.match_indices('-') {
        path.push_str(&stem[..at]);
        path.push_str(".slice/");
    }
    path.push_str(name);
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_lies_in_those_that_its_name_names() {
        for (name, path) in [
            ("system.slice", "system.slice"),
            ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
            ("-.slice", ""),
        ] {
            assert_eq!(slice_path(name).unwrap(), path);
        }
        for bad in [
            "",
            ".slice",
            "a",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a/b.slice",
            "../x.slice",
        ] {
            assert!(slice_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_unit_is_named_with_few_letters() {
        assert!(check_unit("libpod-0a.scope", ".scope").is_ok());
        let long = format!("{}.scope", "x".repeat(250));
        for bad in [
            "x",
            ".scope",
            "a/b.scope",
            "a b.scope",
            "ä.scope",
            "a\n.scope",
            &long,
        ] {
            assert!(check_unit(bad, ".scope").is_err(), "{bad}");
        }
    }
}
