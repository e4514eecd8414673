//! The same for several objects: one failure does not stop the rest.

use crate::{
    failure::{EXIT_FAILED, Failure, Outcome},
    output,
};

/// Acts on each name, tells each that is done and each failure, and returns
/// the exit code for all.
pub(super) async fn each(
    names: &[String],
    mut act: impl AsyncFnMut(&str) -> Outcome<()>,
) -> Outcome<u8> {
    let mut exit = 0;
    for name in names {
        match act(name).await {
            Ok(()) => output::line(name)?,
            Err(failure) => {
                failure.print();
                exit = EXIT_FAILED;
            }
        }
    }
    Ok(exit)
}

/// The names that were given, or all; exactly one of the two.
pub(super) fn chosen(given: &[String], all: Option<Vec<String>>) -> Outcome<Vec<String>> {
    match all {
        Some(_) if !given.is_empty() => Err(Failure::usage(
            "cannot choose",
            "--all and names exclude each other",
        )),
        Some(all) => Ok(all),
        None if given.is_empty() => Err(Failure::usage(
            "nothing to do",
            "name something, or use --all",
        )),
        None => Ok(given.to_vec()),
    }
}
