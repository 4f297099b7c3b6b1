//! Decides what to do for each image that is asked for, and does it.

use std::path::PathBuf;

use forge_engine::images::{BuildOptions, ImageSummary, ImportOptions};
use forge_engine::{EngineErrorKind, ImageStore};
use serde::Serialize;
use tokio::sync::OnceCell;

use crate::content::{ContentHash, ImageSource, content_hash};
use crate::debian::host::{self, HostApt};
use crate::debian::mirrors::{MirrorChoice, Mirrors};
use crate::debian::scratch::Scratch;
use crate::debian::{self, Imported, Workshop};
use crate::error::ImagesError;
use crate::labels::{self, labels};
use crate::recipe::BaseImage;
use crate::registry;

/// Receives lines of progress with the image they are about.
pub type ImageProgress<'a> = &'a (dyn Fn(BaseImage, &str) + Send + Sync);

/// Which route images take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceChoice {
    /// A registry when it offers what the image starts from, else Debian packages.
    #[default]
    Automatic,
    /// This one or none.
    Only(ImageSource),
}

impl SourceChoice {
    fn allows(self, source: ImageSource) -> bool {
        match self {
            Self::Automatic => true,
            Self::Only(only) => only == source,
        }
    }
}

/// How images are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSettings {
    /// Which route.
    pub source: SourceChoice,
    /// Whether images that are up to date are made again, for newer packages.
    pub force: bool,
    /// Where root file systems grow; about 3 GB, better not in memory.
    pub work_directory: PathBuf,
    /// Where downloaded packages stay for next time; forgotten with the builder when not set.
    pub package_cache: Option<PathBuf>,
    /// A mirror instead of those of this machine.
    pub mirror: Option<MirrorChoice>,
}

impl Default for BuildSettings {
    fn default() -> Self {
        Self {
            source: SourceChoice::Automatic,
            force: false,
            work_directory: "/var/tmp".into(),
            package_cache: None,
            mirror: None,
        }
    }
}

/// What the engine has of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageState {
    /// Nothing.
    Missing,
    /// One that was made of something else than the present inputs, or not by us.
    Outdated(ImageSummary),
    /// What the present inputs make.
    Current {
        /// The image.
        summary: ImageSummary,
        /// Where it comes from.
        source: ImageSource,
        /// The hash of its inputs.
        content: ContentHash,
    },
}

/// An image that is on the engine now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ensured {
    /// Which image.
    pub image: BaseImage,
    /// The reference that tasks use.
    pub reference: String,
    /// Where it comes from.
    pub source: ImageSource,
    /// The hash of its inputs.
    pub content: ContentHash,
    /// Whether it was made just now.
    pub built: bool,
    /// What it holds, as `name=version` with commas between.
    pub toolchain: String,
    /// What the engine says of it.
    pub summary: ImageSummary,
}

/// Makes base images on one engine; the packages of one image serve the next.
pub struct ImageBuilder<'a> {
    store: &'a dyn ImageStore,
    settings: BuildSettings,
    bench: OnceCell<Bench>,
}

/// What the Debian route needs for all images.
#[derive(Debug)]
struct Bench {
    apt: HostApt,
    scratch: Scratch,
}

impl<'a> ImageBuilder<'a> {
    /// A builder that has done nothing yet.
    #[must_use]
    pub fn new(store: &'a dyn ImageStore, settings: BuildSettings) -> Self {
        Self {
            store,
            settings,
            bench: OnceCell::new(),
        }
    }

    /// Compares what the engine has with what the present inputs make.
    ///
    /// # Errors
    /// When the engine cannot answer.
    pub async fn state(&self, image: BaseImage) -> Result<ImageState, ImagesError> {
        let found = self.store.inspect_image(&image.latest()).await;
        let Some(summary) = found.map_err(ImagesError::engine(image))? else {
            return Ok(ImageState::Missing);
        };
        Ok(self.judge(image, summary))
    }

    fn judge(&self, image: BaseImage, summary: ImageSummary) -> ImageState {
        let label = |key: &str| summary.labels.get(key).map(String::as_str);
        let source = ImageSource::ALL
            .into_iter()
            .filter(|source| self.settings.source.allows(*source))
            .find(|source| label(labels::SOURCE) == Some(source.as_str()));
        let Some(source) = source else {
            return ImageState::Outdated(summary);
        };
        let content = content_hash(image.recipe(), source);
        if label(labels::CONTENT) == Some(content.as_str()) {
            ImageState::Current {
                summary,
                source,
                content,
            }
        } else {
            ImageState::Outdated(summary)
        }
    }

    /// Makes every image that is not up to date, one after the other; a failure stops none of the
    /// others.
    pub async fn ensure_all(
        &self,
        images: &[BaseImage],
        progress: ImageProgress<'_>,
    ) -> Vec<(BaseImage, Result<Ensured, ImagesError>)> {
        let mut results = Vec::with_capacity(images.len());
        for &image in images {
            results.push((image, self.ensure(image, progress).await));
        }
        results
    }

    /// Makes `image` unless it is up to date.
    ///
    /// # Errors
    /// When it can neither be found nor made.
    pub async fn ensure(
        &self,
        image: BaseImage,
        progress: ImageProgress<'_>,
    ) -> Result<Ensured, ImagesError> {
        let say = |line: &str| progress(image, line);
        if let ImageState::Current {
            summary,
            source,
            content,
        } = self.state(image).await?
            && !self.settings.force
        {
            say("up to date");
            let toolchain = summary
                .labels
                .get(labels::TOOLCHAIN)
                .cloned()
                .unwrap_or_default();
            let reference = image.latest();
            return Ok(Ensured {
                image,
                reference,
                source,
                content,
                built: false,
                toolchain,
                summary,
            });
        }
        let source = self.choose(image, &say).await?;
        let content = content_hash(image.recipe(), source);
        let made = match source {
            ImageSource::Registry => self.build_from_registry(image, &content, &say).await?,
            ImageSource::Debian => self.build_from_debian(image, &content, &say).await?,
        };
        say("done");
        Ok(Ensured {
            image,
            reference: image.latest(),
            source,
            content,
            built: true,
            toolchain: made.toolchain,
            summary: made.summary,
        })
    }

    /// The route of an image that must be made.
    async fn choose(
        &self,
        image: BaseImage,
        say: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<ImageSource, ImagesError> {
        let only = match self.settings.source {
            SourceChoice::Only(ImageSource::Debian) => return Ok(ImageSource::Debian),
            SourceChoice::Only(ImageSource::Registry) => true,
            SourceChoice::Automatic => false,
        };
        match registry::first_missing_base(self.store, image.recipe()).await {
            Ok(None) => Ok(ImageSource::Registry),
            Ok(Some(base)) if only => Err(ImagesError::BaseUnavailable { image, base }),
            Ok(Some(base)) => {
                say(&format!(
                    "no registry offers {base}: made from Debian packages"
                ));
                Ok(ImageSource::Debian)
            }
            // An engine that cannot be talked to will not take an import either.
            Err(error)
                if only
                    || matches!(
                        error.kind,
                        EngineErrorKind::Unavailable | EngineErrorKind::Denied
                    ) =>
            {
                Err(ImagesError::Engine {
                    image,
                    source: error,
                })
            }
            Err(error) => {
                say(&format!("{error}: made from Debian packages"));
                Ok(ImageSource::Debian)
            }
        }
    }

    async fn build_from_registry(
        &self,
        image: BaseImage,
        content: &ContentHash,
        say: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Imported, ImagesError> {
        let toolchain = image.recipe().registry_toolchain;
        let options = BuildOptions {
            tags: tags(image, content),
            labels: labels(content, ImageSource::Registry, toolchain),
        };
        let summary = registry::make(self.store, image.recipe(), &options, say).await?;
        Ok(Imported {
            summary,
            toolchain: toolchain.to_owned(),
        })
    }

    async fn build_from_debian(
        &self,
        image: BaseImage,
        content: &ContentHash,
        say: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Imported, ImagesError> {
        let recipe = image.recipe();
        let bench = self.bench.get_or_try_init(|| self.set_up()).await?;
        let cache = match &self.settings.package_cache {
            Some(cache) => cache.clone(),
            None => bench.scratch.path().join("packages"),
        };
        // Packages are told apart by name and version, which two suites may share.
        let package_cache = cache.join(recipe.suite);
        let directory = bench.scratch.path().join(image.name());
        tokio::fs::create_dir_all(&directory)
            .await
            .map_err(ImagesError::io("make", &directory))?;
        let workshop = Workshop {
            recipe,
            apt: &bench.apt,
            directory: &directory,
            package_cache: &package_cache,
        };
        let options = |toolchain: &str| ImportOptions {
            tags: tags(image, content),
            labels: labels(content, ImageSource::Debian, toolchain),
            env: recipe
                .all_environment()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            working_directory: "/workspace".to_owned(),
        };
        debian::make(self.store, &workshop, options, say).await
    }

    async fn set_up(&self) -> Result<Bench, ImagesError> {
        let apt = match &self.settings.mirror {
            Some(choice) => HostApt {
                mirrors: Mirrors::chosen(choice),
                settings: host::settings().await?,
            },
            None => host::discover().await?,
        };
        let parent = self.settings.work_directory.clone();
        // It may have to remove root file systems that were left there.
        let scratch = tokio::task::spawn_blocking(move || Scratch::new(&parent))
            .await
            .map_err(std::io::Error::from)
            .map_err(ImagesError::io(
                "make a directory in",
                &self.settings.work_directory,
            ))??;
        Ok(Bench { apt, scratch })
    }
}

fn tags(image: BaseImage, content: &ContentHash) -> Vec<String> {
    vec![
        image.latest(),
        format!("{}:{}", image.repository(), content.tag()),
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use forge_engine::images::{ByteStream, ProgressLine};
    use forge_engine::{EngineError, Operation};

    use super::*;
    use crate::registry::base_references;

    /// An engine with a registry behind it, and no way to import.
    #[derive(Default)]
    struct FakeStore {
        present: Vec<ImageSummary>,
        registry: Vec<&'static str>,
        broken: Option<EngineErrorKind>,
        built: Mutex<Vec<BuildOptions>>,
    }

    impl FakeStore {
        fn offering(image: BaseImage) -> Self {
            Self {
                registry: base_references(image.recipe().dockerfile),
                ..Self::default()
            }
        }

        fn holding(image: BaseImage, source: ImageSource, content: &str) -> Self {
            let content_label = (labels::CONTENT.to_owned(), content.to_owned());
            let source_label = (labels::SOURCE.to_owned(), source.to_string());
            let summary = ImageSummary {
                labels: [content_label, source_label].into(),
                ..summary(vec![image.latest()])
            };
            Self {
                present: vec![summary],
                ..Self::default()
            }
        }
    }

    fn summary(tags: Vec<String>) -> ImageSummary {
        ImageSummary {
            id: "sha256:1".to_owned(),
            tags,
            labels: std::collections::BTreeMap::new(),
            size_bytes: 1,
            created: "2026-01-01T00:00:00Z".to_owned(),
        }
    }

    #[async_trait::async_trait]
    impl ImageStore for FakeStore {
        async fn list_images(&self) -> Result<Vec<ImageSummary>, EngineError> {
            Ok(self.present.clone())
        }

        async fn inspect_image(&self, name: &str) -> Result<Option<ImageSummary>, EngineError> {
            let named = |image: &&ImageSummary| image.tags.iter().any(|tag| tag == name);
            Ok(self.present.iter().find(named).cloned())
        }

        async fn import_image(
            &self,
            _: ByteStream,
            options: &ImportOptions,
        ) -> Result<ImageSummary, EngineError> {
            let subject = options.tags.join(" ");
            Err(EngineError::new(
                EngineErrorKind::Unsupported,
                Operation::Images,
                subject,
                "fake",
            ))
        }

        async fn build_image(
            &self,
            _: ByteStream,
            options: &BuildOptions,
            progress: ProgressLine<'_>,
        ) -> Result<ImageSummary, EngineError> {
            progress("Step 1/1");
            self.built.lock().unwrap().push(options.clone());
            Ok(ImageSummary {
                labels: options.labels.clone(),
                ..summary(options.tags.clone())
            })
        }

        async fn registry_has(&self, reference: &str) -> Result<bool, EngineError> {
            match self.broken {
                Some(kind) => Err(EngineError::new(kind, Operation::Images, reference, "fake")),
                None => Ok(self.registry.contains(&reference)),
            }
        }

        async fn remove_image(&self, _: &str) -> Result<(), EngineError> {
            Ok(())
        }
    }

    fn settings(source: SourceChoice) -> BuildSettings {
        BuildSettings {
            source,
            ..BuildSettings::default()
        }
    }

    fn silent(_: BaseImage, _: &str) {}

    #[tokio::test]
    async fn an_image_whose_hash_is_that_of_the_inputs_is_left_alone() {
        for source in ImageSource::ALL {
            let content = content_hash(BaseImage::Rust.recipe(), source);
            let store = FakeStore::holding(BaseImage::Rust, source, content.as_str());
            let builder = ImageBuilder::new(&store, BuildSettings::default());
            let ensured = builder.ensure(BaseImage::Rust, &silent).await.unwrap();
            assert!(!ensured.built);
            assert_eq!((ensured.source, ensured.content), (source, content));
        }
    }

    #[tokio::test]
    async fn an_image_of_other_inputs_or_of_another_source_is_outdated() {
        let debian = content_hash(BaseImage::Node.recipe(), ImageSource::Debian);
        let cases = [
            ("0000", SourceChoice::Automatic),
            (debian.as_str(), SourceChoice::Only(ImageSource::Registry)),
        ];
        for (content, source) in cases {
            let store = FakeStore::holding(BaseImage::Node, ImageSource::Debian, content);
            let builder = ImageBuilder::new(&store, settings(source));
            let state = builder.state(BaseImage::Node).await.unwrap();
            assert!(matches!(state, ImageState::Outdated(_)), "{state:?}");
        }
    }

    #[tokio::test]
    async fn a_missing_image_is_built_from_the_registry_when_that_has_all_it_starts_from() {
        let store = FakeStore::offering(BaseImage::Multi);
        let builder = ImageBuilder::new(&store, BuildSettings::default());
        assert_eq!(
            builder.state(BaseImage::Multi).await.unwrap(),
            ImageState::Missing
        );
        let lines = Mutex::new(Vec::new());
        let progress = |image, line: &str| lines.lock().unwrap().push((image, line.to_owned()));
        let ensured = builder.ensure(BaseImage::Multi, &progress).await.unwrap();

        let hash = content_hash(BaseImage::Multi.recipe(), ImageSource::Registry);
        let options = store.built.lock().unwrap().remove(0);
        let content_tag = format!("swe-forge/multi-base:{}", hash.tag());
        assert_eq!(
            options.tags,
            ["swe-forge/multi-base:latest".to_owned(), content_tag]
        );
        assert_eq!(options.labels["swe-forge.role"], "base-image");
        assert_eq!(options.labels[labels::CONTENT], hash.as_str());
        assert_eq!(options.labels[labels::SOURCE], "registry");
        assert!(ensured.built);
        assert_eq!(ensured.toolchain, options.labels[labels::TOOLCHAIN]);
        let step = (BaseImage::Multi, "Step 1/1".to_owned());
        assert!(lines.lock().unwrap().contains(&step));
    }

    #[tokio::test]
    async fn a_build_can_be_forced() {
        let content = content_hash(BaseImage::Python.recipe(), ImageSource::Registry);
        let store = FakeStore {
            registry: vec!["python:3.11-slim"],
            ..FakeStore::holding(BaseImage::Python, ImageSource::Registry, content.as_str())
        };
        let forced = BuildSettings {
            force: true,
            ..BuildSettings::default()
        };
        let ensured = ImageBuilder::new(&store, forced)
            .ensure(BaseImage::Python, &silent)
            .await
            .unwrap();
        assert!(ensured.built);
        assert_eq!(store.built.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn the_registry_route_alone_names_what_it_cannot_get() {
        let store = FakeStore {
            registry: vec!["node:20-slim"],
            ..FakeStore::default()
        };
        let only = settings(SourceChoice::Only(ImageSource::Registry));
        let builder = ImageBuilder::new(&store, only);
        let error = builder.ensure(BaseImage::Multi, &silent).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "swe-forge/multi-base starts from rust:1-slim, which no registry offers"
        );
    }

    #[tokio::test]
    async fn the_debian_route_is_chosen_when_the_registry_does_not_have_an_image() {
        let store = FakeStore::default();
        let builder = ImageBuilder::new(&store, BuildSettings::default());
        let chosen = builder.choose(BaseImage::Rust, &|_| {}).await.unwrap();
        assert_eq!(chosen, ImageSource::Debian);
    }

    #[tokio::test]
    async fn an_engine_that_is_down_is_not_mistaken_for_one_without_a_registry() {
        let expectations = [
            (EngineErrorKind::Unsupported, true),
            (EngineErrorKind::Deadline, true),
            (EngineErrorKind::Unavailable, false),
            (EngineErrorKind::Denied, false),
        ];
        for (kind, falls_back) in expectations {
            let store = FakeStore {
                broken: Some(kind),
                ..FakeStore::default()
            };
            let builder = ImageBuilder::new(&store, BuildSettings::default());
            let chosen = builder.choose(BaseImage::Rust, &|_| {}).await;
            assert_eq!(chosen.is_ok(), falls_back, "{kind:?}");
        }
    }

    #[tokio::test]
    async fn one_failure_does_not_stop_the_other_images() {
        let store = FakeStore {
            registry: vec!["python:3.11-slim"],
            ..FakeStore::default()
        };
        let only = settings(SourceChoice::Only(ImageSource::Registry));
        let builder = ImageBuilder::new(&store, only);
        let results = builder
            .ensure_all(&[BaseImage::Rust, BaseImage::Python], &silent)
            .await;
        assert!(results[0].1.is_err());
        assert!(results[1].1.is_ok());
    }
}
