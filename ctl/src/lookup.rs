//! From what a person typed (an id, the beginning of one, a name, or
//! `pod/container`) to the object that is meant. Never a guess: whatever fits
//! more than one object is an error that lists them.

use berth_proto::cri;

use crate::{
    connect::Connection,
    failure::{Failure, Outcome},
    listing,
    output::text::short_id,
};

/// How far a typing error may be from a name to be suggested.
const NEAR: usize = 3;

/// Something that can be named.
trait Named {
    fn id(&self) -> &str;
    fn name(&self) -> &str;
    /// What tells it from others of the same name.
    fn place(&self) -> String;
    /// Objects with one key are attempts of one thing, of which the newest is meant.
    fn key(&self) -> Option<(String, u32)>;
}

impl Named for cri::PodSandbox {
    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        self.metadata.as_ref().map_or("", |data| &data.name)
    }

    fn place(&self) -> String {
        self.metadata
            .as_ref()
            .map(|data| format!("namespace {}, attempt {}", data.namespace, data.attempt))
            .unwrap_or_default()
    }

    fn key(&self) -> Option<(String, u32)> {
        let data = self.metadata.as_ref()?;
        Some((format!("{}/{}", data.namespace, data.uid), data.attempt))
    }
}

impl Named for cri::Container {
    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        self.metadata.as_ref().map_or("", |data| &data.name)
    }

    fn place(&self) -> String {
        let attempt = self.metadata.as_ref().map_or(0, |data| data.attempt);
        format!("pod {}, attempt {attempt}", short_id(&self.pod_sandbox_id))
    }

    fn key(&self) -> Option<(String, u32)> {
        let attempt = self.metadata.as_ref()?.attempt;
        Some((self.pod_sandbox_id.clone(), attempt))
    }
}

/// Why there is no one answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// Nothing fits; perhaps this was meant.
    None { near: Option<String> },
    /// Several fit.
    Several(Vec<String>),
}

impl Miss {
    /// The sentence for a person.
    pub(crate) fn into_failure(self, kind: &str, given: &str) -> Failure {
        match self {
            Self::None { near } => {
                let failure = Failure::new(format!("no such {kind}: {given}"), "");
                match near {
                    Some(near) => failure.next(format!("did you mean {near}?")),
                    None => failure.next(match kind {
                        "pod" => "`berthctl pods` lists the pods",
                        "image" => "`berthctl images` lists the images",
                        _ => "`berthctl ps -a` lists the containers",
                    }),
                }
            }
            Self::Several(candidates) => Failure::new(
                format!("{given} could be any of these"),
                format!("\n  {}", candidates.join("\n  ")),
            )
            .next("use more of the id, or pod/container"),
        }
    }
}

/// Finds a container.
pub(crate) async fn container(connection: &Connection, given: &str) -> Outcome<cri::Container> {
    find_container(connection, given)
        .await?
        .map_err(|miss| miss.into_failure("container", given))
}

/// Finds a pod.
pub(crate) async fn pod(connection: &Connection, given: &str) -> Outcome<cri::PodSandbox> {
    let pods = listing::pods(connection, None).await?;
    choose(pods, given).map_err(|miss| miss.into_failure("pod", given))
}

/// Finds a container, telling apart "not there" from "could not ask".
pub(crate) async fn find_container(
    connection: &Connection,
    given: &str,
) -> Outcome<Result<cri::Container, Miss>> {
    let containers = listing::containers(connection, None).await?;
    let Some((pod, container)) = given.split_once('/') else {
        return Ok(choose(containers, given));
    };
    let pods = listing::pods(connection, None).await?;
    Ok(match choose(pods, pod) {
        Err(miss) => Err(miss),
        Ok(pod) => choose(
            containers
                .into_iter()
                .filter(|container| container.pod_sandbox_id == pod.id)
                .collect(),
            container,
        ),
    })
}

/// Finds a pod, telling apart "not there" from "could not ask".
pub(crate) async fn find_pod(
    connection: &Connection,
    given: &str,
) -> Outcome<Result<cri::PodSandbox, Miss>> {
    Ok(choose(listing::pods(connection, None).await?, given))
}

/// The whole id, else the name, else the beginning of the id.
fn choose<T: Named>(items: Vec<T>, given: &str) -> Result<T, Miss> {
    let fits: [&dyn Fn(&T) -> bool; 3] = [
        &|item| item.id() == given,
        &|item| !given.is_empty() && item.name() == given,
        &|item| !given.is_empty() && item.id().starts_with(given),
    ];
    let Some(fit) = fits.iter().find(|&fit| items.iter().any(fit)) else {
        let near = nearest(given, items.iter().map(Named::name)).map(ToOwned::to_owned);
        return Err(Miss::None { near });
    };
    let mut found: Vec<T> = items.into_iter().filter(|item| fit(item)).collect();
    // Attempts share pod and name; ids say which attempt is meant.
    let first = found.first().and_then(Named::key);
    let named = found.iter().all(|item| item.name() == given);
    if named
        && found
            .iter()
            .all(|item| item.key().map(|key| key.0) == first.as_ref().map(|key| key.0.clone()))
    {
        let newest = found.iter().filter_map(Named::key).map(|key| key.1).max();
        found.retain(|item| item.key().map(|key| key.1) == newest);
    }
    if found.len() > 1 {
        return Err(Miss::Several(
            found
                .iter()
                .map(|item| {
                    format!(
                        "{}  {}  ({})",
                        short_id(item.id()),
                        item.name(),
                        item.place()
                    )
                })
                .collect(),
        ));
    }
    found.pop().ok_or(Miss::None { near: None })
}

/// The name that is nearest to a misspelt one, if any is near.
pub(crate) fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody mistypes something this long, and the table grows with it.
    const LONGEST: usize = 256;
    names
        .filter(|name| !name.is_empty() && name.len() <= LONGEST && given.len() <= LONGEST)
        .map(|name| (distance(given, name), name))
        .filter(|&(distance, name)| distance <= NEAR && distance * 2 <= name.chars().count())
        .min()
        .map(|(_, name)| name)
}

/// How many letters were left out, added, changed, or swapped with a neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let swapped = if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    rows[i - 2][j - 2] + 1
                } else {
                    usize::MAX
                };
                changed
                    .min(swapped)
                    .min(rows[i - 1][j] + 1)
                    .min(rows[i][j - 1] + 1)
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, name: &str, attempt: u32, pod: &str) -> cri::Container {
        cri::Container {
            id: id.to_owned(),
            pod_sandbox_id: pod.to_owned(),
            metadata: Some(cri::ContainerMetadata {
                name: name.to_owned(),
                attempt,
            }),
            ..Default::default()
        }
    }

    fn some() -> Vec<cri::Container> {
        vec![
            container("aa11", "web", 0, "p1"),
            container("aa22", "web", 1, "p1"),
            container("ab33", "db", 0, "p1"),
            container("db44", "cache", 0, "p2"),
            container("ee55", "db", 0, "p2"),
        ]
    }

    #[test]
    fn a_unique_prefix_is_enough() {
        assert_eq!(choose(some(), "ab").unwrap().id, "ab33");
        assert_eq!(choose(some(), "e").unwrap().id, "ee55");
    }

    #[test]
    fn a_name_means_the_newest_attempt() {
        assert_eq!(choose(some(), "web").unwrap().id, "aa22");
    }

    #[test]
    fn a_name_in_two_pods_is_ambiguous_even_if_an_id_begins_with_it() {
        let Err(Miss::Several(candidates)) = choose(some(), "db") else {
            panic!("not ambiguous");
        };
        assert_eq!(candidates.len(), 2);
        assert!(candidates[0].contains("ab33"), "{candidates:?}");
    }

    #[test]
    fn an_ambiguous_prefix_lists_its_candidates() {
        let miss = choose(some(), "a").unwrap_err();
        assert!(
            matches!(&miss, Miss::Several(all) if all.len() == 3),
            "{miss:?}"
        );
    }

    #[test]
    fn a_misspelt_name_finds_its_neighbour() {
        let miss = choose(some(), "cahce").unwrap_err();
        assert_eq!(
            miss,
            Miss::None {
                near: Some("cache".to_owned())
            }
        );
        assert_eq!(choose(some(), "").unwrap_err(), Miss::None { near: None });
    }
}
