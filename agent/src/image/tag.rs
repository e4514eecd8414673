//! Names of images: giving one, taking one away.

use std::sync::Arc;

use berth_phase::Phase;
use tokio::time::Instant;

use super::{collect, full_name, parse, save::target};
use crate::{
    error::{Error, Result},
    node::Node,
    operation::{Context, Fingerprint, Request, Value, Verb},
    store::ImageRecord,
};

/// How many containers a refusal names.
const USERS_SHOWN: usize = 5;

/// What giving a name resulted in.
#[derive(Debug)]
pub(crate) struct Tagged {
    pub(crate) image_id: String,
    /// With Docker's defaults filled in.
    pub(crate) name: String,
    /// Which image the name has left.
    pub(crate) previous: Option<String>,
}

/// Gives `image` the further name `name`, which leaves the image that had it.
///
/// # Errors
/// NotFound without such an image; InvalidArgument for what is no tag.
pub(crate) async fn tag(
    node: &Arc<Node>,
    image: &str,
    name: &str,
    deadline: Option<Instant>,
) -> Result<Tagged> {
    let reference = parse(name)?;
    if reference.digest().is_some() {
        return Err(Error::invalid(format!(
            "{name:?} has a digest, which the image decides and nobody gives"
        ))
        .with_remedy("give a name such as repository:tag"));
    }
    let full = full_name(&reference);
    let source = here(node, image)?;
    let id = source.id.clone();
    let known = parse(image).map(|reference| full_name(&reference)).ok();
    let known = known.filter(|name| source.names.contains(name));
    let target = target(&source, known.as_deref())?.map(|digest| digest.to_string());
    let previous = node
        .images
        .all()
        .into_iter()
        .find(|other| other.id != id && other.names.contains(&full))
        .map(|other| other.id.clone());
    let request = Request::new(Verb::Tag, full.clone())
        .fingerprint(Fingerprint::of(&[
            id.as_bytes(),
            target.as_deref().unwrap_or_default().as_bytes(),
        ]))
        .deadline(deadline);
    let (node_in, name, image_id) = (node.clone(), full.clone(), id.clone());
    node.operations
        .run(request, move |context| async move {
            context.enter(Phase::Record, "name")?;
            let _turn = node_in.images.turn.lock().await;
            let mut record = recorded_now(&node_in, &id)?;
            let same = record.targets.get(&full) == target.as_ref();
            if !record.names.contains(&full) || !same {
                if !record.names.contains(&full) {
                    record.names.push(full.clone());
                }
                match target {
                    Some(target) => drop(record.targets.insert(full, target)),
                    None => drop(record.targets.remove(&full)),
                }
                put(&node_in, record).await?;
            }
            Ok(Value::Done)
        })
        .await?;
    Ok(Tagged {
        image_id,
        name,
        previous,
    })
}

/// What is to be taken away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Untag {
    /// The image goes with its last tag.
    pub(crate) remove: bool,
    /// Even if a container was made from it.
    pub(crate) force: bool,
}

/// What taking names away resulted in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Untagged {
    pub(crate) image_id: String,
    pub(crate) names: Vec<String>,
    /// Whether the image is gone.
    pub(crate) removed: bool,
}

/// Takes `image`, a name, away from its image; given an id, all names of that image.
///
/// # Errors
/// NotFound without such an image; FailedPrecondition if the image would go and
/// a container was made from it.
pub(crate) async fn untag(
    node: &Arc<Node>,
    image: &str,
    how: Untag,
    deadline: Option<Instant>,
) -> Result<Untagged> {
    let record = here(node, image)?;
    // An id that was meant as one must not be taken for a name, nor the other way round.
    let name = image
        .parse()
        .ok()
        .map(|reference| full_name(&reference))
        .filter(|full| record.names.contains(full));
    let id = record.id.clone();
    let key = name.clone().unwrap_or_else(|| id.clone());
    let request = Request::new(Verb::Untag, key)
        .fingerprint(Fingerprint::of(&[&[how.remove.into(), how.force.into()]]))
        .deadline(deadline);
    let (node_in, image_id) = (node.clone(), id.clone());
    let value = node
        .operations
        .run(request, move |context| async move {
            let taken = take(&node_in, &context, &id, name.as_deref(), how).await?;
            // No name has a line feed.
            Ok(Value::Id(format!(
                "{}\n{}",
                taken.removed,
                taken.names.join("\n")
            )))
        })
        .await?
        .into_id()?;
    let mut lines = value.lines();
    Ok(Untagged {
        image_id,
        removed: lines.next() == Some("true"),
        names: lines.map(ToOwned::to_owned).collect(),
    })
}

/// What was taken away under the turn, so that others' changes are not among it.
struct Taken {
    names: Vec<String>,
    removed: bool,
}

async fn take(
    node: &Arc<Node>,
    context: &Context,
    id: &str,
    name: Option<&str>,
    how: Untag,
) -> Result<Taken> {
    context.enter(Phase::Record, "name")?;
    let mut names;
    {
        let _turn = node.images.turn.lock().await;
        let mut record = recorded_now(node, id)?;
        let left = match name {
            Some(name) => left_without(&record.names, name, how.remove),
            None => Vec::new(),
        };
        names = std::mem::replace(&mut record.names, left);
        names.retain(|name| !record.names.contains(name));
        if !how.remove || !record.names.is_empty() {
            put(node, record).await?;
            let removed = false;
            return Ok(Taken { names, removed });
        }
        if !how.force {
            unused(node, id)?;
        }
        node.images
            .garbage
            .store(true, std::sync::atomic::Ordering::Release);
        node.store.delete_image(id).await?;
        node.images.drop_image(id);
    }
    context.enter(Phase::Delete, "")?;
    collect(node).await?;
    let removed = true;
    Ok(Taken { names, removed })
}

/// The names that stay. A repository's digests were written down when it was
/// pulled or pushed; with its last tag they have nobody who asked for them.
fn left_without(names: &[String], name: &str, with_digests: bool) -> Vec<String> {
    let mut left: Vec<String> = names
        .iter()
        .filter(|other| *other != name)
        .cloned()
        .collect();
    if with_digests && !name.contains('@') {
        let repository = repository(name);
        let tagged = |name: &String| !name.contains('@') && self::repository(name) == repository;
        if !left.iter().any(tagged) {
            left.retain(|name| self::repository(name) != repository);
        }
    }
    left
}

/// Names in records are complete: a repository, then `:tag` or `@digest`.
fn repository(name: &str) -> &str {
    match name.split_once('@') {
        Some((repository, _)) => repository,
        None => name
            .rsplit_once(':')
            .map_or(name, |(repository, _)| repository),
    }
}

fn unused(node: &Node, id: &str) -> Result<()> {
    let users: Vec<String> = node
        .containers()
        .iter()
        .filter(|container| container.record().image_id == id)
        .map(|container| container.id.short().to_owned())
        .collect();
    if users.is_empty() {
        return Ok(());
    }
    let more = match users.len().saturating_sub(USERS_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown = users
        .get(..USERS_SHOWN.min(users.len()))
        .unwrap_or_default();
    Err(Error::precondition(format!(
        "the image would go with this name, but containers were made from it: {}{more}",
        shown.join(", ")
    ))
    .with_remedy("remove them first, or use force: their layers stay until they are gone"))
}

/// Writes a record; the caller has the turn.
///
/// # Errors
/// The store's.
pub(super) async fn put(node: &Node, mut record: ImageRecord) -> Result<()> {
    record.forget_targets();
    node.store.put_image(&record).await?;
    node.images.put(record);
    Ok(())
}

/// The image as it is now; the caller has the turn.
///
/// # Errors
/// NotFound if it was removed.
pub(super) fn recorded_now(node: &Node, id: &str) -> Result<ImageRecord> {
    let found = node.images.all().into_iter().find(|image| image.id == id);
    found
        .map(|image| ImageRecord::clone(&image))
        .ok_or_else(|| Error::not_found(format!("image {id} was removed meanwhile")))
}

/// The image that `name` stands for.
///
/// # Errors
/// NotFound without one.
pub(super) fn here(node: &Node, name: &str) -> Result<Arc<ImageRecord>> {
    node.images
        .find(name)?
        .ok_or_else(|| Error::not_found(format!("there is no image {name:?} here")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tag_of_a_repository_takes_its_digests_along() {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let all = names(&[
            "h:5000/a:1",
            "h:5000/a:2",
            "h:5000/a@sha256:x",
            "h:5000/b@sha256:x",
        ]);
        let left = left_without(&all, "h:5000/a:1", true);
        assert_eq!(
            left,
            names(&["h:5000/a:2", "h:5000/a@sha256:x", "h:5000/b@sha256:x"])
        );
        let left = left_without(&left, "h:5000/a:2", true);
        assert_eq!(left, names(&["h:5000/b@sha256:x"]));
        assert!(left_without(&left, "h:5000/b@sha256:x", true).is_empty());
    }

    #[test]
    fn taking_a_name_alone_leaves_all_others() {
        let names = vec!["a/b:1".to_owned(), "a/b@sha256:x".to_owned()];
        assert_eq!(left_without(&names, "a/b:1", false), ["a/b@sha256:x"]);
    }
}
