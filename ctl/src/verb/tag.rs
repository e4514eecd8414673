//! `tag`: a further name for an image.

use berth_proto::berth::v1::TagRequest;
use serde_json::json;

use super::{Context, inspect::find_image};
use crate::{
    failure::{Failure, Outcome},
    output::{self, Format, text::short_id},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image, by name or id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Its further name: [HOST[:PORT]/]REPOSITORY[:TAG]
    #[arg(value_name = "NAME")]
    name: String,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let image = find_image(&connection, &args.image, false)
        .await?
        .map_err(|miss| miss.into_failure("image", &args.image))?;
    // An image may have come through several manifests: a name says which of them is meant.
    let bare = |id: &str| id.strip_prefix("sha256:").unwrap_or(id).to_owned();
    let by_id = bare(&image.id).starts_with(&bare(&args.image));
    let request = TagRequest {
        image: if by_id { image.id } else { args.image.clone() },
        name: args.name.clone(),
    };
    let tagged = connection
        .node()
        .tag(connection.change(request))
        .await
        .map_err(|status| {
            Failure::refused(
                format!("cannot tag {} as {}", args.image, args.name),
                &status,
            )
        })?
        .into_inner();
    if context.format != Format::Table {
        let value = json!({
            "imageId": tagged.image_id,
            "name": tagged.name,
            "previousImageId": tagged.previous_image_id,
        });
        output::value(context.format, &value)?;
    } else if !tagged.previous_image_id.is_empty() {
        output::note(&format!(
            "{} named image {} until now",
            tagged.name,
            short_id(&tagged.previous_image_id)
        ));
    }
    Ok(0)
}
