//! Making a base image from official images, by its Dockerfile.

use std::io::{self, Cursor};

use forge_engine::images::{BuildOptions, ImageSummary, ProgressLine};
use forge_engine::{EngineError, ImageStore};

use crate::error::ImagesError;
use crate::recipe::Recipe;

/// Builds the image of `recipe` on the engine.
///
/// # Errors
/// When the engine cannot build it.
pub async fn make(
    store: &dyn ImageStore,
    recipe: &Recipe,
    options: &BuildOptions,
    progress: ProgressLine<'_>,
) -> Result<ImageSummary, ImagesError> {
    let context = context(recipe.dockerfile).map_err(ImagesError::io(
        "pack the Dockerfile of",
        recipe.image.repository(),
    ))?;
    store
        .build_image(Box::pin(Cursor::new(context)), options, progress)
        .await
        .map_err(ImagesError::engine(recipe.image))
}

/// The first image that the Dockerfile starts from and that neither the engine nor its registry has.
///
/// # Errors
/// When the engine cannot answer.
pub async fn first_missing_base(
    store: &dyn ImageStore,
    recipe: &Recipe,
) -> Result<Option<String>, EngineError> {
    for base in base_references(recipe.dockerfile) {
        let at_hand = store.inspect_image(base).await?.is_some();
        if !at_hand && !store.registry_has(base).await? {
            return Ok(Some(base.to_owned()));
        }
    }
    Ok(None)
}

/// The images that a Dockerfile starts from, without its own stages.
#[must_use]
pub fn base_references(dockerfile: &str) -> Vec<&str> {
    let mut stages = Vec::new();
    let mut references = Vec::new();
    for line in dockerfile.lines() {
        let mut words = line.split_whitespace();
        if !words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("FROM"))
        {
            continue;
        }
        let mut words = words.skip_while(|word| word.starts_with("--"));
        let Some(reference) = words.next() else {
            continue;
        };
        if !stages.contains(&reference) && reference != "scratch" {
            references.push(reference);
        }
        if words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("AS"))
        {
            stages.extend(words.next());
        }
    }
    references
}

/// A build context with nothing but the Dockerfile: the same bytes every time.
fn context(dockerfile: &str) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_size(dockerfile.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "Dockerfile", dockerfile.as_bytes())?;
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::recipe::BaseImage;

    #[test]
    fn the_context_holds_the_dockerfile_alone() {
        let bytes = context("FROM scratch\n").unwrap();
        assert_eq!(bytes, context("FROM scratch\n").unwrap());
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("Dockerfile"));
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "FROM scratch\n");
        assert!(entries.next().is_none());
    }

    #[test]
    fn stages_of_the_file_are_not_asked_of_a_registry() {
        let dockerfile = "\
# FROM comment
FROM --platform=linux/amd64 node:20-slim AS node
from rust:1-slim as rust
RUN echo FROM nowhere
FROM rust AS again
FROM scratch
FROM ubuntu:22.04
";
        assert_eq!(
            base_references(dockerfile),
            ["node:20-slim", "rust:1-slim", "ubuntu:22.04"]
        );
    }

    #[test]
    fn the_images_start_from_official_ones() {
        let bases = |image: BaseImage| base_references(image.recipe().dockerfile);
        assert_eq!(bases(BaseImage::Python), ["python:3.11-slim"]);
        assert_eq!(bases(BaseImage::Node), ["node:20-slim"]);
        assert_eq!(bases(BaseImage::Rust), ["rust:1-slim"]);
        assert_eq!(
            bases(BaseImage::Multi),
            [
                "node:20-slim",
                "rust:1-slim",
                "golang:1-alpine",
                "ubuntu:22.04"
            ]
        );
    }
}
