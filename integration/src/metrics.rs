//! Reading an agent's metrics as a scraper does.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

/// One line of an exposition: a name, its labels and a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// With any suffix such as `_bucket`.
    pub name: String,
    /// Label names and values.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// What a scrape returned.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    /// Kind (`counter`, `histogram`, ...) of each family.
    pub kinds: BTreeMap<String, String>,
    /// Help text of each family.
    pub help: BTreeMap<String, String>,
    /// Unit of each family that has one.
    pub units: BTreeMap<String, String>,
    /// All values.
    pub samples: Vec<Sample>,
}

impl Exposition {
    /// The sum of the values of `name` whose labels contain all of `labels`.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        };
        self.samples.iter().filter(fits).map(|s| s.value).sum()
    }
}

/// One GET over the unix socket at `socket`: status and body.
///
/// # Errors
/// If the socket cannot be reached or the answer is not HTTP.
pub fn get(socket: &Path, path: &str) -> Result<(u16, String)> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    // An agent that is up answers in milliseconds; this only ends a hanging test.
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of headers")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        unchunk(body)?
    } else {
        body.to_owned()
    };
    Ok((status, body))
}

fn unchunk(mut body: &str) -> Result<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").context("no size of a chunk")?;
        let size = usize::from_str_radix(size.trim(), 16)?;
        if size == 0 {
            return Ok(whole);
        }
        whole.push_str(rest.get(..size).context("a chunk is cut short")?);
        body = rest.get(size + 2..).context("a chunk has no end")?;
    }
}

/// Scrapes and parses `/metrics`.
///
/// # Errors
/// If the answer is not an exposition.
pub fn scrape(socket: &Path) -> Result<Exposition> {
    let (status, text) = get(socket, "/metrics")?;
    ensure!(status == 200, "/metrics: HTTP {status}");
    parse(&text)
}

/// Parses the text format of Prometheus and OpenMetrics.
///
/// # Errors
/// If a line is neither a comment nor a sample.
pub fn parse(text: &str) -> Result<Exposition> {
    let mut exposition = Exposition::default();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, family) = (words.next(), words.next().unwrap_or_default().to_owned());
            let rest = words.next().unwrap_or_default().to_owned();
            match word {
                Some("TYPE") => drop(exposition.kinds.insert(family, rest)),
                Some("HELP") => drop(exposition.help.insert(family, rest)),
                Some("UNIT") => drop(exposition.units.insert(family, rest)),
                _ => {}
            }
        } else {
            let sample = sample(line).with_context(|| format!("not a sample: {line:?}"))?;
            exposition.samples.push(sample);
        }
    }
    Ok(exposition)
}

fn sample(line: &str) -> Option<Sample> {
    // An exemplar follows after ` # `.
    let line = line.split(" # ").next()?;
    let (name, labels, value) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, value) = rest.rsplit_once('}')?;
            (name, labels, value)
        }
        None => {
            let (name, value) = line.split_once(' ')?;
            (name, "", value)
        }
    };
    let value = value.split_whitespace().next()?.parse().ok()?;
    let mut pairs = BTreeMap::new();
    let mut rest = labels;
    while let Some((key, after)) = rest.split_once("=\"") {
        // Values here hold no escaped quotes: they are names of calls and phases.
        let (value, after) = after.split_once('"')?;
        pairs.insert(key.trim_start_matches(',').to_owned(), value.to_owned());
        rest = after;
    }
    Some(Sample {
        name: name.to_owned(),
        labels: pairs,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exposition_is_read_with_labels_units_and_exemplars() {
        let text = "# HELP a_seconds Time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
                    a_seconds_bucket{rpc=\"X\",le=\"0.005\"} 3 # {trace_id=\"f\"} 0.1\n\
                    a_seconds_bucket{rpc=\"Y\",le=\"+Inf\"} 4\nup 1\n# EOF\n";
        let all = parse(text).unwrap();
        assert_eq!(all.kinds["a_seconds"], "histogram");
        assert_eq!(all.units["a_seconds"], "seconds");
        assert!((all.sum("a_seconds_bucket", &[("rpc", "X")]) - 3.0).abs() < 1e-9);
        assert!((all.sum("up", &[]) - 1.0).abs() < 1e-9);
        assert!(parse("what is this").is_err());
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(
            unchunk("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap(),
            "abcde"
        );
        assert!(unchunk("9\r\nabc\r\n").is_err());
    }
}
