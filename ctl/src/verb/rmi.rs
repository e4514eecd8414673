//! `rmi`: removes images.

use berth_proto::cri;

use super::{Context, bulk, inspect::find_image};
use crate::{
    failure::{Failure, Outcome},
    listing,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Images, by name or id
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// All images that are not pinned
    #[arg(short, long)]
    all: bool,
    /// Also images that have other names, with all of them
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
    bulk::each(&names, async |name| {
        let what = format!("cannot remove image {name}");
        let image = find_image(&connection, name, false)
            .await?
            .map_err(|miss| miss.into_failure("image", name))?;
        let by_id = image
            .id
            .trim_start_matches("sha256:")
            .starts_with(name.trim_start_matches("sha256:"));
        // CRI's call removes an image with all its names, which is not what
        // somebody means who removes one of them.
        if !by_id && !args.force && image.repo_tags.len() > 1 {
            return Err(Failure::new(
                what,
                format!(
                    "it has other names, which would go with it: {}",
                    image.repo_tags.join(", ")
                ),
            )
            .next("name it by its id, or use --force"));
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
        Ok(())
    })
    .await
}
