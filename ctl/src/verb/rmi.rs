//! `rmi`: takes names away from images, and removes those that lose their last.

use berth_proto::{berth::v1 as berth, cri};
use tonic::Code;

use super::{Context, bulk, inspect::find_image};
use crate::{
    connect::Connection,
    failure::{Failure, Outcome},
    listing::{self, is_missing},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A name, which is taken away; its image goes with its last one. Or an id, for all names
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// All images that are not pinned
    #[arg(short, long)]
    all: bool,
    /// Also images that containers were made from; their layers stay until those are gone
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let all = if args.all {
        let images = listing::images(&connection, None).await?;
        Some(
            images
                .into_iter()
                .filter(|image| !image.pinned)
                .map(|image| image.id)
                .collect(),
        )
    } else {
        None
    };
    let names = bulk::chosen(&args.images, all)?;
    bulk::each_telling(&names, async |name| {
        let image = find_image(&connection, name, false)
            .await?
            .map_err(|miss| miss.into_failure("image", name))?;
        let by_id = is_id(&image, name);
        let request = berth::UntagRequest {
            image: if by_id {
                image.id.clone()
            } else {
                name.to_owned()
            },
            remove: true,
            force: args.force,
        };
        let answer = connection.node().untag(connection.change(request)).await;
        match answer {
            Ok(answer) => Ok(told(&answer.into_inner())),
            Err(status) if is_missing(&status) => {
                remove_by_cri(&connection, name, image, by_id, args.force).await
            }
            Err(status) => {
                let failure = Failure::refused(format!("cannot remove image {name}"), &status);
                Err(match status.code() {
                    Code::FailedPrecondition => {
                        failure.next("`berthctl rmi --force` removes it all the same")
                    }
                    _ => failure,
                })
            }
        }
    })
    .await
}

/// Whether `name` is (the beginning of) the id of `image`.
pub(super) fn is_id(image: &cri::Image, name: &str) -> bool {
    let bare = |id: &str| id.trim_start_matches("sha256:").to_owned();
    bare(&image.id).starts_with(&bare(name))
}

fn told(answer: &berth::UntagResponse) -> Vec<String> {
    let untagged = answer
        .untagged
        .iter()
        .map(|name| format!("Untagged: {name}"));
    let removed = answer
        .removed
        .then(|| format!("Deleted: {}", answer.image_id));
    untagged.chain(removed).collect()
}

/// Any other CRI runtime. CRI's call removes an image with all its names, which
/// is not what somebody means who removes one of them.
async fn remove_by_cri(
    connection: &Connection,
    name: &str,
    image: cri::Image,
    by_id: bool,
    force: bool,
) -> Outcome<Vec<String>> {
    let what = format!("cannot remove image {name}");
    if !by_id && !force && image.repo_tags.len() > 1 {
        let why = format!(
            "it has other names, which this runtime would remove with it: {}",
            image.repo_tags.join(", ")
        );
        return Err(Failure::new(what, why).next("name it by its id, or use --force"));
    }
    let request = cri::RemoveImageRequest {
        image: Some(cri::ImageSpec {
            image: image.id,
            ..Default::default()
        }),
    };
    connection
        .images()
        .remove_image(connection.change(request))
        .await
        .map_err(|status| Failure::refused(what, &status))?;
    Ok(vec![name.to_owned()])
}
