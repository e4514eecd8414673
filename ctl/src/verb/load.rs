//! `load`: images from what `save` has written, with the names that they have there.

use std::path::{Path, PathBuf};

use berth_proto::berth::v1::ImportHeader;
use serde_json::json;

use super::{
    Context,
    import::{Given, Source, send},
};
use crate::{
    failure::{Failure, Outcome},
    output::{self, Format},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The archive to read: what `save` or `docker save` has written, or an OCI
    /// layout (tar, also gzip or zstd, or directory) [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The same
    #[arg(value_name = "FILE", conflicts_with = "input", hide = true)]
    file: Option<PathBuf>,
    /// Give names in the archive to its images even if they name others here
    #[arg(short, long)]
    force: bool,
    /// Take the images of this platform alone [default: the node's own, and beside it those
    /// of all platforms, if the archive has them]
    #[arg(long, value_name = "OS/ARCHITECTURE[/VARIANT]")]
    platform: Option<String>,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> Outcome<u8> {
    let path = args.input.or(args.file);
    let path = path.as_deref().unwrap_or(Path::new("-"));
    let what = match path == Path::new("-") {
        true => "cannot load from standard input".to_owned(),
        false => format!("cannot load {}", path.display()),
    };
    let source = Source::of(path).map_err(|error| {
        Failure::new(&what, error.to_string())
            .next("berthctl load -i FILE, or pipe an archive into it")
    })?;
    let header = ImportHeader {
        format: source.kind(Given::Auto).into(),
        replace: args.force,
        platform: args.platform.unwrap_or_default(),
        ..ImportHeader::default()
    };
    let loaded = send(context, &what, source, header, args.quiet).await?;
    if context.format != Format::Table {
        let images: Vec<_> = loaded
            .images
            .iter()
            .map(|image| json!({"imageId": image.image_id, "references": image.references}))
            .collect();
        output::value(context.format, &json!({"images": images}))?;
        return Ok(0);
    }
    for image in &loaded.images {
        for name in &image.references {
            output::line(&format!("Loaded image: {name}"))?;
        }
        if image.references.is_empty() {
            output::line(&format!("Loaded image ID: {}", image.image_id))?;
        }
    }
    Ok(0)
}
