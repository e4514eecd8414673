//! `untag`: takes names away; the images stay.

use berth_proto::berth::v1::UntagRequest;

use super::{Context, bulk, inspect::find_image, rmi::is_id};
use crate::failure::{Failure, Outcome};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names to take away; their images stay, nameless if need be
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    bulk::each(&args.names, async |name| {
        let what = format!("cannot untag {name}");
        let image = find_image(&connection, name, false)
            .await?
            .map_err(|miss| miss.into_failure("image", name))?;
        if is_id(&image, name) {
            return Err(
                Failure::usage(what, "this is an image's id, not one of its names")
                    .next(format!("its names: {}", image.repo_tags.join(", "))),
            );
        }
        let request = UntagRequest {
            image: name.to_owned(),
            remove: false,
            force: false,
        };
        connection
            .node()
            .untag(connection.change(request))
            .await
            .map_err(|status| Failure::refused(what, &status))?;
        Ok(())
    })
    .await
}
