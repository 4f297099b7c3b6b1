//! Base images: listed, imported, built, removed.

use std::time::Duration;

use async_trait::async_trait;
use bollard::errors::Error as BollardError;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    BuildImageOptions, CreateImageOptions, ListImagesOptions, RemoveImageOptions, TagImageOptions,
};
use bollard::{body_full, body_try_stream};
use bytes::Bytes;
use forge_core::ownership::keys;
use forge_engine::images::{BuildOptions, ByteStream, ImageSummary, ImportOptions, ProgressLine};
use forge_engine::{EngineError, EngineErrorKind, ImageStore, Operation};
use futures::StreamExt;
use tokio_util::io::ReaderStream;

use crate::engine::DockerEngine;
use crate::failure::{During, engine_error, is_not_found};
use crate::names::{PROBE_IMAGE, PROBE_ROLE};
use crate::reference;
use crate::transport::Body;

const OPERATION: Operation = Operation::Images;
/// How long a registry may take to answer; one that cannot be reached must not hold anybody up.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes read from a stream at once.
const PIECE: usize = 256 * 1024;

impl DockerEngine {
    pub(crate) async fn import_probe_image(&self, archive: Bytes) -> Result<(), EngineError> {
        self.import_own_image(archive, PROBE_IMAGE, PROBE_ROLE)
            .await
    }

    /// Makes an image of an archive of its files, for swe-forge itself.
    pub(crate) async fn import_own_image(
        &self,
        archive: Bytes,
        tag: &str,
        role: &str,
    ) -> Result<(), EngineError> {
        let options = ImportOptions {
            tags: vec![tag.to_owned()],
            labels: [(keys::ROLE.to_owned(), role.to_owned())].into(),
            ..ImportOptions::default()
        };
        self.import(body_full(archive), &options).await.map(|_| ())
    }

    async fn import(
        &self,
        root: Body,
        options: &ImportOptions,
    ) -> Result<ImageSummary, EngineError> {
        let (first, more) = tags(&options.tags)?;
        let (name, tag) = reference::split(first);
        let request = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(name.to_owned()),
            tag: Some(tag.to_owned()),
            changes: changes(options).map_err(|message| rejected(first, message))?,
            ..CreateImageOptions::default()
        };
        let mut progress = self
            .client
            .patient
            .create_image(Some(request), Some(root), None);
        while let Some(line) = progress.next().await {
            line.during(OPERATION, first)?;
        }
        self.add_tags(first, more).await?;
        self.existing(first).await
    }

    async fn add_tags(&self, image: &str, tags: &[String]) -> Result<(), EngineError> {
        for reference in tags {
            let (name, tag) = reference::split(reference);
            let options = TagImageOptions {
                repo: Some(name.to_owned()),
                tag: Some(tag.to_owned()),
            };
            let tagged = self.client.docker.tag_image(image, Some(options)).await;
            tagged.during(OPERATION, reference)?;
        }
        Ok(())
    }

    async fn existing(&self, reference: &str) -> Result<ImageSummary, EngineError> {
        let image = self.client.docker.inspect_image(reference).await;
        Ok(summary(image.during(OPERATION, reference)?))
    }
}

fn rejected(subject: &str, message: String) -> EngineError {
    EngineError::new(EngineErrorKind::Rejected, OPERATION, subject, message)
}

/// The first tag and the others, all checked.
fn tags(tags: &[String]) -> Result<(&str, &[String]), EngineError> {
    for tag in tags {
        reference::check(tag, OPERATION)?;
    }
    match tags {
        [first, more @ ..] => Ok((first, more)),
        [] => Err(rejected("", "an image needs a tag".to_owned())),
    }
}

fn summary(image: ImageInspect) -> ImageSummary {
    let labels = image.config.and_then(|config| config.labels);
    ImageSummary {
        id: image.id.unwrap_or_default(),
        tags: image.repo_tags.unwrap_or_default(),
        labels: labels.unwrap_or_default().into_iter().collect(),
        size_bytes: image
            .size
            .and_then(|size| size.try_into().ok())
            .unwrap_or(0),
        created: image.created.unwrap_or_default(),
    }
}

/// The instructions of a Dockerfile that set what an imported image cannot carry itself.
fn changes(options: &ImportOptions) -> Result<Vec<String>, String> {
    let mut changes = Vec::new();
    for (name, value) in &options.env {
        changes.push(format!("ENV {}={}", word(name)?, quoted(value)?));
    }
    for (name, value) in &options.labels {
        changes.push(format!("LABEL {}={}", quoted(name)?, quoted(value)?));
    }
    if !options.working_directory.is_empty() {
        changes.push(format!("WORKDIR {}", plain(&options.working_directory)?));
    }
    Ok(changes)
}

fn word(name: &str) -> Result<&str, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !name.is_empty() && name.bytes().all(allowed) {
        return Ok(name);
    }
    Err(format!("{name:?} is not the name of a variable"))
}

/// A path that means itself in a Dockerfile.
fn plain(path: &str) -> Result<&str, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if path.starts_with('/') && path.bytes().all(allowed) {
        return Ok(path);
    }
    Err(format!("{path:?} is not a plain absolute path"))
}

/// A text that means itself in a Dockerfile.
fn quoted(text: &str) -> Result<String, String> {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        if character.is_control() {
            return Err(format!("{text:?} holds a control character"));
        }
        if matches!(character, '"' | '\\' | '$') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    Ok(quoted)
}

fn body(stream: ByteStream) -> Body {
    body_try_stream(ReaderStream::with_capacity(stream, PIECE))
}

#[async_trait]
impl ImageStore for DockerEngine {
    async fn list_images(&self) -> Result<Vec<ImageSummary>, EngineError> {
        let options = ListImagesOptions {
            filters: Some([("label".to_owned(), vec![keys::ROLE.to_owned()])].into()),
            ..ListImagesOptions::default()
        };
        let images = self.client.docker.list_images(Some(options)).await;
        let images = images.during(OPERATION, "")?.into_iter();
        Ok(images
            .map(|image| ImageSummary {
                id: image.id,
                // What an engine says of an image without a name.
                tags: image
                    .repo_tags
                    .into_iter()
                    .filter(|tag| tag != "<none>:<none>")
                    .collect(),
                labels: image.labels.into_iter().collect(),
                size_bytes: image.size.try_into().unwrap_or(0),
                created: jiff::Timestamp::from_second(image.created)
                    .map(|time| time.to_string())
                    .unwrap_or_default(),
            })
            .collect())
    }

    async fn inspect_image(&self, reference: &str) -> Result<Option<ImageSummary>, EngineError> {
        reference::check(reference, OPERATION)?;
        match self.client.docker.inspect_image(reference).await {
            Ok(image) => Ok(Some(summary(image))),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(engine_error(OPERATION, reference, error)),
        }
    }

    async fn import_image(
        &self,
        root_filesystem: ByteStream,
        options: &ImportOptions,
    ) -> Result<ImageSummary, EngineError> {
        self.import(body(root_filesystem), options).await
    }

    async fn build_image(
        &self,
        context: ByteStream,
        options: &BuildOptions,
        progress: ProgressLine<'_>,
    ) -> Result<ImageSummary, EngineError> {
        let (first, more) = tags(&options.tags)?;
        let request = BuildImageOptions {
            dockerfile: "Dockerfile".to_owned(),
            t: Some(first.to_owned()),
            labels: Some(options.labels.clone().into_iter().collect()),
            rm: true,
            forcerm: true,
            ..BuildImageOptions::default()
        };
        let context = Some(body(context));
        let mut lines = self.client.patient.build_image(request, None, context);
        while let Some(line) = lines.next().await {
            let line = line.during(OPERATION, first)?;
            let text = line.stream.or(line.status).unwrap_or_default();
            for text in text.lines().filter(|text| !text.trim().is_empty()) {
                progress(text);
            }
        }
        self.add_tags(first, more).await?;
        self.existing(first).await
    }

    async fn registry_has(&self, reference: &str) -> Result<bool, EngineError> {
        reference::check(reference, OPERATION)?;
        let asking = self.client.docker.inspect_registry_image(reference, None);
        match tokio::time::timeout(REGISTRY_TIMEOUT, asking).await {
            Ok(Ok(_)) => Ok(true),
            // Whatever the registry's reason, the image could not be pulled now.
            Ok(Err(BollardError::DockerResponseServerError { .. })) | Err(_) => Ok(false),
            Ok(Err(error)) => Err(engine_error(OPERATION, reference, error)),
        }
    }

    async fn remove_image(&self, reference: &str) -> Result<(), EngineError> {
        reference::check(reference, OPERATION)?;
        let options = None::<RemoveImageOptions>;
        match self
            .client
            .docker
            .remove_image(reference, options, None)
            .await
        {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other.during(OPERATION, reference).map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_an_import_mean_themselves_whatever_they_hold() {
        let options = ImportOptions {
            tags: vec!["a:1".into()],
            env: [("A".into(), "x \"y\" $HOME \\".into())].into(),
            labels: [("swe-forge.role".into(), "base".into())].into(),
            working_directory: "/workspace".into(),
        };
        let expected = [
            r#"ENV A="x \"y\" \$HOME \\""#,
            r#"LABEL "swe-forge.role"="base""#,
            "WORKDIR /workspace",
        ];
        assert_eq!(changes(&options).unwrap(), expected);
        let mut broken = options.clone();
        broken.env.insert("B".into(), "a\nRUN x".into());
        assert!(changes(&broken).is_err());
        let mut broken = options.clone();
        broken.env.insert("a b".into(), String::new());
        assert!(changes(&broken).is_err());
        let mut broken = options;
        broken.working_directory = "/a b".into();
        assert!(changes(&broken).is_err());
    }

    #[test]
    fn an_image_without_a_tag_is_refused() {
        assert!(tags(&[]).is_err());
        assert!(tags(&["../x".into()]).is_err());
        assert_eq!(tags(&["a:1".into()]).unwrap().0, "a:1");
    }
}
