//! The entries of one object among all.

use std::collections::BTreeSet;

use super::Entry;

/// Fewer digits of an id fit too many objects.
const SHORTEST_PREFIX: usize = 3;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    /// The object: an id, or an image's reference.
    pub(crate) object: String,
    /// What concerns it, oldest first. For a pod that is what concerns its
    /// containers as well.
    pub(crate) entries: Vec<Entry>,
}

/// Why there is no one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// Nothing fits.
    None,
    /// These fit.
    Several(Vec<String>),
}

/// Finds the object that `given` stands for: an id, the beginning of one, the name
/// of a pod or container (of which the newest is meant), or an image's reference,
/// for which `image` is the id that it has now, if any.
pub(crate) fn select(
    entries: Vec<Entry>,
    given: &str,
    image: Option<&str>,
) -> Result<Selected, Miss> {
    let object = match (resolve(&entries, given), image) {
        (Err(Miss::None), Some(image)) => image.to_owned(),
        (found, _) => found?,
    };
    let mut ids = BTreeSet::from([object.clone()]);
    for entry in &entries {
        if is_of_image(entry) && entry.object == object {
            ids.extend(entry.ids.iter().cloned());
        }
        let in_pod = entry.what == "create-container" && first_part(entry) == object
            || entry.what == "run" && entry.ids.first() == Some(&object);
        if in_pod {
            ids.extend(entry.ids.iter().cloned());
        }
    }
    let mut entries = entries;
    entries.retain(|entry| {
        entry.object == object
            || ids.contains(first_part(entry))
            || entry.ids.iter().any(|id| ids.contains(id))
    });
    Ok(Selected { object, entries })
}

/// Operations put the id of their object before what else tells them apart.
fn first_part(entry: &Entry) -> &str {
    entry.object.split('/').next().unwrap_or_default()
}

fn resolve(entries: &[Entry], given: &str) -> Result<String, Miss> {
    let ids: BTreeSet<&str> = entries
        .iter()
        .flat_map(|entry| {
            // What made it may have left the ring already.
            let acted_on = Some(first_part(entry)).filter(|part| is_id(part));
            entry.ids.iter().map(String::as_str).chain(acted_on)
        })
        .collect();
    if ids.contains(given) {
        return Ok(given.to_owned());
    }
    // The newest object of that name; what made it says the name. A pod goes before
    // a container, since its timeline has that of its containers.
    for what in ["run-pod-sandbox", "create-container"] {
        let named = entries.iter().rev().find(|entry| {
            entry.what == what && !entry.ids.is_empty() && made_name(entry) == Some(given)
        });
        if let Some(id) = named.and_then(|entry| entry.ids.last()) {
            return Ok(id.clone());
        }
    }
    if given.len() >= SHORTEST_PREFIX {
        let fits: Vec<&str> = ids
            .iter()
            .copied()
            .filter(|id| {
                id.starts_with(given)
                    || id
                        .strip_prefix("sha256:")
                        .is_some_and(|digits| digits.starts_with(given))
            })
            .collect();
        match fits[..] {
            [] => {}
            [one] => return Ok(one.to_owned()),
            _ => return Err(Miss::Several(fits.into_iter().map(Into::into).collect())),
        }
    }
    // A reference, with Docker's defaults as operations on images name it.
    let same = |object: &str| {
        object == given
            || object.strip_prefix("docker.io/library/") == Some(given)
            || object
                .strip_prefix("docker.io/library/")
                .and_then(|short| short.strip_suffix(":latest"))
                == Some(given)
            || object.strip_suffix(":latest") == Some(given)
    };
    entries
        .iter()
        .rev()
        .find(|entry| is_of_image(entry) && same(&entry.object))
        .map(|entry| entry.object.clone())
        .ok_or(Miss::None)
}

fn is_id(text: &str) -> bool {
    text.parse::<crate::ids::ContainerId>().is_ok()
}

fn is_of_image(entry: &Entry) -> bool {
    matches!(
        entry.what.as_str(),
        "pull" | "push" | "tag" | "untag" | "import" | "export"
    )
}

/// The name of the object that an operation makes: the second part of
/// `namespace/name/uid/attempt` and of `pod/name/attempt`.
fn made_name(entry: &Entry) -> Option<&str> {
    entry.object.split('/').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "aaaa1111";
    const WEB: &str = "bbbb2222";
    const SIDE: &str = "bbcc3333";

    fn entry(at: i64, what: &str, object: &str, ids: &[&str]) -> Entry {
        Entry {
            what: what.to_owned(),
            object: object.to_owned(),
            ids: ids.iter().map(|&id| id.to_owned()).collect(),
            at,
            ..Entry::default()
        }
    }

    fn life() -> Vec<Entry> {
        vec![
            entry(
                1,
                "pull",
                "docker.io/library/nginx:latest",
                &["sha256:ffff"],
            ),
            entry(2, "run-pod-sandbox", "default/shop/u1/0", &[POD]),
            entry(3, "create-container", "aaaa1111/web/0", &[WEB]),
            entry(4, "create-container", "aaaa1111/side/0", &[SIDE]),
            entry(5, "start-container", WEB, &[]),
            entry(6, "exited", WEB, &[POD, WEB]),
            entry(7, "exited", SIDE, &[POD, SIDE]),
            entry(8, "stop-container", "bbcc3333/0", &[]),
            entry(9, "stop-pod-sandbox", POD, &[]),
        ]
    }

    fn times(given: &str) -> Vec<i64> {
        let selected = select(life(), given, None).unwrap();
        selected.entries.iter().map(|entry| entry.at).collect()
    }

    #[test]
    fn a_pod_has_what_happened_to_its_containers() {
        assert_eq!(times("shop"), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(times("aaaa"), times("shop"));
    }

    #[test]
    fn a_container_has_nothing_of_its_neighbour() {
        assert_eq!(times("web"), [3, 5, 6]);
        assert_eq!(times("bbcc"), [4, 7, 8]);
    }

    #[test]
    fn an_image_is_found_by_its_short_name() {
        assert_eq!(times("nginx"), [1]);
        assert_eq!(times("ffff"), [1]);
        let by_other_name = select(life(), "box:1", Some("sha256:ffff")).unwrap();
        assert_eq!(by_other_name.entries.len(), 1);
    }

    #[test]
    fn what_fits_several_or_nothing_is_said() {
        assert_eq!(
            select(life(), "bbb", None).unwrap().object,
            WEB,
            "three digits are enough"
        );
        assert!(matches!(select(life(), "nothing", None), Err(Miss::None)));
        let mut two = life();
        two.push(entry(10, "run-pod-sandbox", "default/x/u/0", &["aaaa9999"]));
        assert!(matches!(select(two, "aaaa", None), Err(Miss::Several(all)) if all.len() == 2));
    }
}
