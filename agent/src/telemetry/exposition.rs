//! OpenMetrics as the older text format 0.0.4.
//!
//! They differ in what concerns us only so far: in 0.0.4 the family of a
//! counter has the `_total` of its sample in its own name, there are no
//! exemplars and no end mark, and `# UNIT` is a mere comment.

use std::collections::HashSet;

/// Translates the text of an OpenMetrics exposition.
pub(super) fn text_format(openmetrics: &str) -> String {
    let counters: HashSet<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        if line == "# EOF" {
            continue;
        }
        match line
            .strip_prefix("# ")
            .and_then(|rest| rest.split_once(' '))
        {
            Some((keyword, rest)) => {
                let (family, tail) = rest.split_once(' ').unwrap_or((rest, ""));
                let suffix = if counters.contains(family) {
                    "_total"
                } else {
                    ""
                };
                for part in ["# ", keyword, " ", family, suffix, " ", tail] {
                    text.push_str(part);
                }
            }
            // No label of ours has ` # {` in its value.
            None => text.push_str(line.split(" # {").next().unwrap_or(line)),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_their_suffix_and_exemplars_go() {
        let openmetrics = "# HELP a_bytes Bytes.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\n\
             a_bytes_total 3\n# HELP b_seconds Time.\n# TYPE b_seconds histogram\n\
             b_seconds_bucket{le=\"1.0\"} 1 # {trace_id=\"f\"} 0.5\nb_seconds_count 1\n# EOF\n";
        assert_eq!(
            text_format(openmetrics),
            "# HELP a_bytes_total Bytes.\n# TYPE a_bytes_total counter\n\
             # UNIT a_bytes_total bytes\na_bytes_total 3\n# HELP b_seconds Time.\n\
             # TYPE b_seconds histogram\nb_seconds_bucket{le=\"1.0\"} 1\nb_seconds_count 1\n"
        );
    }
}
