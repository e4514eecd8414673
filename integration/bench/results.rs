//! What was measured: by suite, measure and runtime, round by round.

use serde_json::{Value, json};

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Measure {
    pub(crate) suite: &'static str,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// Whether more is better.
    pub(crate) rising: bool,
    /// Name of the runtime and its values, a list for each round.
    pub(crate) values: Vec<(&'static str, Vec<Vec<f64>>)>,
}

/// All measures, in the order in which they first came.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) measures: Vec<Measure>,
}

impl Results {
    /// Adds the values of one round. A `unit` with `/s` is better when higher.
    pub(crate) fn add(
        &mut self,
        suite: &'static str,
        name: &str,
        unit: &'static str,
        runtime: &'static str,
        values: Vec<f64>,
    ) {
        let known = self
            .measures
            .iter()
            .position(|measure| measure.suite == suite && measure.name == name);
        let at = known.unwrap_or_else(|| {
            self.measures.push(Measure {
                suite,
                name: name.to_owned(),
                unit,
                rising: unit.ends_with("/s"),
                values: Vec::new(),
            });
            self.measures.len() - 1
        });
        let measure = &mut self.measures[at];
        match measure.values.iter_mut().find(|(name, _)| *name == runtime) {
            Some((_, rounds)) => rounds.push(values),
            None => measure.values.push((runtime, vec![values])),
        }
    }

    /// Everything, single values included.
    pub(crate) fn to_json(&self) -> Value {
        let measures: Vec<Value> = self
            .measures
            .iter()
            .map(|measure| {
                let runtimes: serde_json::Map<String, Value> = measure
                    .values
                    .iter()
                    .map(|(runtime, rounds)| {
                        let all = measure.all(runtime);
                        let value = json!({
                            "p50": quantile(&all, 0.5),
                            "p99": quantile(&all, 0.99),
                            "ratio": measure.ratio(runtime),
                            "rounds": rounds,
                        });
                        ((*runtime).to_owned(), value)
                    })
                    .collect();
                json!({
                    "suite": measure.suite, "name": measure.name, "unit": measure.unit,
                    "runtimes": runtimes,
                })
            })
            .collect();
        Value::from(measures)
    }
}

impl Measure {
    fn rounds(&self, runtime: &str) -> Option<&Vec<Vec<f64>>> {
        let found = self.values.iter().find(|(name, _)| *name == runtime);
        found.map(|(_, rounds)| rounds)
    }

    /// All values of a runtime.
    pub(crate) fn all(&self, runtime: &str) -> Vec<f64> {
        self.rounds(runtime)
            .map(|rounds| rounds.concat())
            .unwrap_or_default()
    }

    /// How many times better Berth is than `runtime`: the median of the rounds'
    /// own ratios, since what disturbs a round disturbs all runtimes in it.
    pub(crate) fn ratio(&self, runtime: &str) -> Option<f64> {
        let pairs = self.rounds(runtime)?.iter().zip(self.rounds("berth")?);
        let ratios: Vec<f64> = pairs
            .filter_map(|(other, berth)| {
                let (other, berth) = (quantile(other, 0.5)?, quantile(berth, 0.5)?);
                let ratio = if self.rising {
                    berth / other
                } else {
                    other / berth
                };
                ratio.is_finite().then_some(ratio)
            })
            .collect();
        quantile(&ratios, 0.5)
    }
}

/// The value below which `part` of the values are (the nearest rank).
pub(crate) fn quantile(values: &[f64], part: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few thousand values"
    )]
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(quantile(&values, 0.5), Some(3.0));
        assert_eq!(quantile(&values, 0.99), Some(5.0));
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_ratio_is_that_of_a_round_and_above_one_where_berth_is_better() {
        let mut results = Results::default();
        for (berth, other) in [(1.0, 4.0), (10.0, 30.0), (2.0, 4.0)] {
            results.add("s", "time", "ms", "berth", vec![berth]);
            results.add("s", "time", "ms", "other", vec![other]);
            results.add("s", "rate", "pods/s", "berth", vec![berth]);
            results.add("s", "rate", "pods/s", "other", vec![other]);
        }
        assert_eq!(results.measures[0].ratio("other"), Some(3.0));
        assert_eq!(results.measures[1].ratio("other"), Some(1.0 / 3.0));
        assert_eq!(results.measures[0].ratio("nobody"), None);
    }
}
