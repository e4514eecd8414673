//! Whose trace the verb that is being carried out belongs to.
//!
//! The shim has no spans of its own; it hands the caller's on to hooks and names it
//! when it complains.

use std::cell::RefCell;

thread_local! {
    /// `NAME=value`. Kept after the verb: what it has begun goes on, in children too.
    static TRACE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Takes what came with a request. One without, such as the agent's own question after
/// the state, changes nothing.
pub(crate) fn is(trace: Vec<String>) {
    if !trace.is_empty() {
        TRACE.set(trace);
    }
}

/// Each variable for a program that is started on behalf of the verb.
pub(crate) fn for_each(mut each: impl FnMut(&str, &str)) {
    TRACE.with_borrow(|trace| {
        for (name, value) in trace.iter().filter_map(|pair| pair.split_once('=')) {
            each(name, value);
        }
    });
}

/// ` traceparent=...` for a line of the log, or nothing.
pub(crate) fn words() -> String {
    let mut words = String::new();
    for_each(|name, value| {
        if name == "TRACEPARENT" {
            words = format!(" traceparent={value}");
        }
    });
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_names_the_trace_of_the_last_verb_that_had_one() {
        assert_eq!(words(), "");
        is(vec![
            "TRACEPARENT=00-a-b-01".to_owned(),
            "BAGGAGE=x=y".to_owned(),
        ]);
        is(Vec::new());
        assert_eq!(words(), " traceparent=00-a-b-01");
        let mut pairs = Vec::new();
        for_each(|name, value| pairs.push(format!("{name} {value}")));
        assert_eq!(pairs, ["TRACEPARENT 00-a-b-01", "BAGGAGE x=y"]);
    }
}
