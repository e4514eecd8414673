//! `inspect`: everything that is known of an object. Always a list, with one
//! element per argument.

use berth_proto::cri;
use serde_json::{Value, json};

use super::{Context, info::expand_info};
use crate::{
    connect::Connection,
    cri_json,
    failure::{EXIT_FAILED, Failure, Outcome},
    listing,
    lookup::{self, Miss, nearest},
    output,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    names: Names,
    /// What it is; without this, containers come first, then pods, then images
    #[arg(long = "type")]
    kind: Option<Type>,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Names {
    /// Containers, pods or images, by id, beginning of an id, or name
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Names {
    /// All of one type.
    pub(super) fn of(self, kind: Type) -> Args {
        Args {
            names: self,
            kind: Some(kind),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Type {
    /// A container
    Container,
    /// A pod
    Pod,
    /// An image
    Image,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let mut exit = 0;
    let mut found = Vec::new();
    for name in &args.names.names {
        match inspect(&connection, name, args.kind).await {
            Ok(value) => found.push(value),
            Err(failure) => {
                failure.print();
                exit = EXIT_FAILED;
            }
        }
    }
    output::value(context.format, &Value::Array(found))?;
    Ok(exit)
}

async fn inspect(connection: &Connection, name: &str, kind: Option<Type>) -> Outcome<Value> {
    let mut near = None;
    let mut missed = |miss: Miss, kind: &str| match miss {
        Miss::Several(_) => Err(miss.into_failure(kind, name)),
        Miss::None { near: this } => {
            near = near.take().or(this);
            Ok(())
        }
    };
    if kind.is_none_or(|kind| kind == Type::Container) {
        match lookup::find_container(connection, name).await? {
            Ok(container) => return inspect_container(connection, &container.id).await,
            Err(miss) => missed(miss, "container")?,
        }
    }
    if kind.is_none_or(|kind| kind == Type::Pod) {
        match lookup::find_pod(connection, name).await? {
            Ok(pod) => return inspect_pod(connection, &pod.id).await,
            Err(miss) => missed(miss, "pod")?,
        }
    }
    if kind.is_none_or(|kind| kind == Type::Image) {
        match find_image(connection, name, true).await? {
            Ok(image) => return inspect_image(connection, &image.id).await,
            Err(miss) => missed(miss, "image")?,
        }
    }
    let kind = match kind {
        None => "container, pod or image",
        Some(Type::Container) => "container",
        Some(Type::Pod) => "pod",
        Some(Type::Image) => "image",
    };
    Err(Miss::None { near }.into_failure(kind, name))
}

async fn inspect_container(connection: &Connection, id: &str) -> Outcome<Value> {
    let answer = listing::container_status(connection, id, true)
        .await
        .map_err(|status| Failure::refused(format!("cannot inspect container {id}"), &status))?;
    Ok(typed(
        "container",
        cri_json::to_value("runtime.v1.ContainerStatusResponse", &answer),
    ))
}

async fn inspect_pod(connection: &Connection, id: &str) -> Outcome<Value> {
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: id.to_owned(),
        verbose: true,
    };
    let answer = connection
        .runtime()
        .pod_sandbox_status(connection.read(request))
        .await
        .map_err(|status| Failure::refused(format!("cannot inspect pod {id}"), &status))?
        .into_inner();
    Ok(typed(
        "pod",
        cri_json::to_value("runtime.v1.PodSandboxStatusResponse", &answer),
    ))
}

async fn inspect_image(connection: &Connection, id: &str) -> Outcome<Value> {
    let answer = image_status(connection, id, true).await?;
    Ok(typed(
        "image",
        cri_json::to_value("runtime.v1.ImageStatusResponse", &answer),
    ))
}

fn typed(kind: &str, mut value: Value) -> Value {
    expand_info(&mut value);
    if let Value::Object(members) = &mut value {
        members.insert("type".to_owned(), json!(kind));
    }
    value
}

async fn image_status(
    connection: &Connection,
    image: &str,
    verbose: bool,
) -> Outcome<cri::ImageStatusResponse> {
    let request = cri::ImageStatusRequest {
        image: Some(cri::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        verbose,
    };
    Ok(connection
        .images()
        .image_status(connection.read(request))
        .await
        .map_err(|status| Failure::refused(format!("cannot ask for image {image}"), &status))?
        .into_inner())
}

/// Finds an image: as the runtime understands references, else by the
/// beginning of its id. With `lenient` a word that cannot be a reference is
/// merely not found.
pub(super) async fn find_image(
    connection: &Connection,
    given: &str,
    lenient: bool,
) -> Outcome<Result<cri::Image, Miss>> {
    match image_status(connection, given, false).await {
        Ok(answer) => {
            if let Some(image) = answer.image {
                return Ok(Ok(image));
            }
        }
        Err(_) if lenient => {}
        Err(failure) => {
            // An ambiguous beginning of an id is refused by some: list it here.
            if !given.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(failure);
            }
        }
    }
    let images = listing::images(connection, None).await?;
    let beginning = given.strip_prefix("sha256:").unwrap_or(given);
    let fits = |image: &&cri::Image| {
        let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
        !beginning.is_empty() && id.starts_with(beginning)
    };
    let found: Vec<&cri::Image> = images.iter().filter(fits).collect();
    Ok(match found.as_slice() {
        [image] => Ok((*image).clone()),
        [] => Err(Miss::None {
            near: nearest(
                given,
                images
                    .iter()
                    .flat_map(|image| &image.repo_tags)
                    .map(String::as_str),
            )
            .map(ToOwned::to_owned),
        }),
        several => Err(Miss::Several(
            several
                .iter()
                .map(|image| format!("{}  {}", image.id, image.repo_tags.join(", ")))
                .collect(),
        )),
    })
}
