//! What an engine that can hold base images offers for managing them.

use std::collections::BTreeMap;
use std::pin::Pin;

use async_trait::async_trait;
use serde::Serialize;
use tokio::io::AsyncRead;

use crate::error::EngineError;

/// A stream of bytes an engine reads from.
pub type ByteStream = Pin<Box<dyn AsyncRead + Send>>;

/// Receives a line of progress.
pub type ProgressLine<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// An image on the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageSummary {
    /// The engine's identifier, a digest.
    pub id: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Bytes.
    pub size_bytes: u64,
    /// When it was made, RFC 3339, as the engine says.
    pub created: String,
}

/// How an imported root file system becomes an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportOptions {
    /// Tags, at least one, as `name:tag`.
    pub tags: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub working_directory: String,
}

/// How a Dockerfile becomes an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildOptions {
    /// Tags, at least one, as `name:tag`.
    pub tags: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Management of base images.
#[async_trait]
pub trait ImageStore: Send + Sync {
    /// Images that carry a role label of swe-forge.
    async fn list_images(&self) -> Result<Vec<ImageSummary>, EngineError>;

    /// One image by reference; `None` when it is not there.
    async fn inspect_image(&self, reference: &str) -> Result<Option<ImageSummary>, EngineError>;

    /// Makes an image of an uncompressed tar stream of a root file system.
    async fn import_image(
        &self,
        root_filesystem: ByteStream,
        options: &ImportOptions,
    ) -> Result<ImageSummary, EngineError>;

    /// Builds an image from a tar stream of a build context with a `Dockerfile` at its root.
    async fn build_image(
        &self,
        context: ByteStream,
        options: &BuildOptions,
        progress: ProgressLine<'_>,
    ) -> Result<ImageSummary, EngineError>;

    /// Whether `reference` could be pulled from its registry now.
    async fn registry_has(&self, reference: &str) -> Result<bool, EngineError>;

    /// Removes a tag, and the image with its last tag; success when it is not there.
    async fn remove_image(&self, reference: &str) -> Result<(), EngineError>;
}
