//! `images`: the list of images, one line per name.

use berth_proto::cri;
use serde_json::json;

use super::Context;
use crate::{
    cri_json,
    failure::Outcome,
    listing,
    output::{
        self, Format,
        table::Table,
        text::{decimal_bytes, shown_id},
    },
};

const NONE: &str = "<none>";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only images of this repository, or with this reference
    repository: Option<String>,
    /// Nothing is hidden anyhow; taken because people type it
    #[arg(short, long, hide = true)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// With the digests that the images were pulled by
    #[arg(long)]
    digests: bool,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let mut images = listing::images(&connection, None).await?;
    images.sort_by(|a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id)));
    if let Some(wanted) = args.repository.as_deref() {
        images.retain(|image| rows(image).iter().any(|row| fits(row, wanted)));
    }
    if args.quiet {
        for image in &images {
            output::line(&image.id)?;
        }
        return Ok(0);
    }
    if context.format != Format::Table {
        let list = cri::ListImagesResponse { images };
        let value = cri_json::to_value("runtime.v1.ListImagesResponse", &list);
        output::value(context.format, &json!({"images": value["images"]}))?;
        return Ok(0);
    }
    output::print(&table(context, args, &images))?;
    Ok(0)
}

/// One name of an image.
#[derive(Debug)]
struct Row {
    repository: String,
    tag: String,
    digest: String,
}

fn table(context: &Context, args: &Args, images: &[cri::Image]) -> String {
    let mut table = if args.digests {
        Table::new(&["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "SIZE"])
    } else {
        Table::new(&["REPOSITORY", "TAG", "IMAGE ID", "SIZE"])
    };
    for image in images {
        let id = shown_id(&image.id, context.no_trunc);
        let size = decimal_bytes(image.size);
        for row in rows(image) {
            if args
                .repository
                .as_deref()
                .is_some_and(|wanted| !fits(&row, wanted))
            {
                continue;
            }
            if args.digests {
                let digest = shown_digest(&row.digest, context.no_trunc);
                table.row([&row.repository, &row.tag, digest, id, &size]);
            } else {
                table.row([&row.repository, &row.tag, id, &size]);
            }
        }
    }
    table.render()
}

fn shown_digest(digest: &str, whole: bool) -> &str {
    if digest == NONE {
        digest
    } else {
        shown_id(digest, whole)
    }
}

/// A tag with the digest of its repository; a repository known by digest only
/// has a line without a tag, and so has an image without any name.
fn rows(image: &cri::Image) -> Vec<Row> {
    let digests: Vec<(&str, &str)> = image
        .repo_digests
        .iter()
        .filter_map(|name| name.split_once('@'))
        .collect();
    let mut rows: Vec<Row> = Vec::new();
    for name in &image.repo_tags {
        let (repository, tag) = split_tag(name);
        let digest = digests
            .iter()
            .find(|(of, _)| *of == repository)
            .map_or(NONE, |(_, digest)| digest);
        rows.push(Row {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            digest: digest.to_owned(),
        });
    }
    for (repository, digest) in digests {
        if !rows.iter().any(|row| row.repository == repository) {
            rows.push(Row {
                repository: repository.to_owned(),
                tag: NONE.to_owned(),
                digest: digest.to_owned(),
            });
        }
    }
    if rows.is_empty() {
        rows.push(Row {
            repository: NONE.to_owned(),
            tag: NONE.to_owned(),
            digest: NONE.to_owned(),
        });
    }
    rows
}

/// A colon before the last slash belongs to a port.
fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, NONE),
    }
}

/// Whether a person who writes `alpine` or `alpine:3` may mean this one:
/// registry and `library/` may be left out.
fn fits(row: &Row, wanted: &str) -> bool {
    let (repository, tag) = split_tag(wanted);
    let named = row.repository == repository
        || row
            .repository
            .strip_suffix(repository)
            .is_some_and(|before| before.ends_with('/'));
    named && (tag == NONE || row.tag == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tags: &[&str], digests: &[&str]) -> cri::Image {
        cri::Image {
            id: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
                .to_owned(),
            repo_tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            repo_digests: digests.iter().map(|&digest| digest.to_owned()).collect(),
            size: 13_256_000,
            ..Default::default()
        }
    }

    fn shown(args: &Args, images: &[cri::Image]) -> String {
        let context = Context {
            endpoint: None,
            timeout: None,
            format: Format::Table,
            no_trunc: false,
        };
        table(&context, args, images)
    }

    const ALL: Args = Args {
        repository: None,
        all: true,
        quiet: false,
        digests: false,
    };

    #[test]
    fn every_name_has_a_line() {
        let images = [
            image(
                &["127.0.0.1:5000/web:1", "127.0.0.1:5000/web:latest"],
                &["127.0.0.1:5000/web@sha256:ff"],
            ),
            image(&[], &["docker.io/library/alpine@sha256:ee"]),
            image(&[], &[]),
        ];
        assert_eq!(
            shown(&ALL, &images),
            "REPOSITORY                 TAG      IMAGE ID       SIZE\n\
             127.0.0.1:5000/web         1        0123456789ab   13.2MB\n\
             127.0.0.1:5000/web         latest   0123456789ab   13.2MB\n\
             docker.io/library/alpine   <none>   0123456789ab   13.2MB\n\
             <none>                     <none>   0123456789ab   13.2MB\n"
        );
    }

    #[test]
    fn a_short_name_finds_its_repository() {
        let image = image(&["docker.io/library/alpine:3"], &[]);
        let row = &rows(&image)[0];
        for wanted in [
            "alpine",
            "alpine:3",
            "library/alpine",
            "docker.io/library/alpine:3",
        ] {
            assert!(fits(row, wanted), "{wanted}");
        }
        for wanted in ["pine", "alpine:4", "alpine/x"] {
            assert!(!fits(row, wanted), "{wanted}");
        }
    }
}
