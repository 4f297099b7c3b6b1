//! The Debian route for real: slow, and in need of mmdebstrap and a mirror, so run by hand with
//! `cargo test -p forge-images -- --ignored`.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail like tests")]
#![expect(
    clippy::print_stdout,
    reason = "whoever runs this by hand waits for minutes"
)]

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Mutex;

use forge_engine::images::{BuildOptions, ByteStream, ImageSummary, ImportOptions, ProgressLine};
use forge_engine::{EngineError, EngineErrorKind, ImageStore, Operation};
use forge_images::debian::mirrors::MirrorChoice;
use forge_images::{
    BaseImage, BuildSettings, ImageBuilder, ImageSource, ImagesError, SourceChoice,
};

/// Keeps what is imported in a file.
struct FileStore {
    file: Mutex<std::fs::File>,
    imported: Mutex<Option<ImportOptions>>,
}

impl FileStore {
    fn new() -> Self {
        Self {
            file: Mutex::new(tempfile::tempfile().unwrap()),
            imported: Mutex::new(None),
        }
    }

    fn file(&self) -> std::fs::File {
        self.file.lock().unwrap().try_clone().unwrap()
    }
}

fn unsupported() -> EngineError {
    EngineError::new(
        EngineErrorKind::Unsupported,
        Operation::Images,
        "",
        "not in this test",
    )
}

#[async_trait::async_trait]
impl ImageStore for FileStore {
    async fn list_images(&self) -> Result<Vec<ImageSummary>, EngineError> {
        Ok(Vec::new())
    }

    async fn inspect_image(&self, _: &str) -> Result<Option<ImageSummary>, EngineError> {
        Ok(None)
    }

    async fn import_image(
        &self,
        mut stream: ByteStream,
        options: &ImportOptions,
    ) -> Result<ImageSummary, EngineError> {
        let mut file = tokio::fs::File::from_std(self.file());
        let size_bytes = tokio::io::copy(&mut stream, &mut file)
            .await
            .map_err(|error| {
                EngineError::new(
                    EngineErrorKind::Corrupt,
                    Operation::Images,
                    "",
                    error.to_string(),
                )
            })?;
        *self.imported.lock().unwrap() = Some(options.clone());
        Ok(ImageSummary {
            id: "sha256:1".to_owned(),
            tags: options.tags.clone(),
            labels: options.labels.clone(),
            size_bytes,
            created: String::new(),
        })
    }

    async fn build_image(
        &self,
        _: ByteStream,
        _: &BuildOptions,
        _: ProgressLine<'_>,
    ) -> Result<ImageSummary, EngineError> {
        Err(unsupported())
    }

    async fn registry_has(&self, _: &str) -> Result<bool, EngineError> {
        Err(unsupported())
    }

    async fn remove_image(&self, _: &str) -> Result<(), EngineError> {
        Err(unsupported())
    }
}

fn progress(image: BaseImage, line: &str) {
    println!("{image}: {line}");
}

/// Modes of what is in the archive, by path.
fn modes(mut file: std::fs::File) -> BTreeMap<String, u32> {
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut archive = tar::Archive::new(std::io::BufReader::new(file));
    let entries = archive.entries().unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let path = entry.path().unwrap().display().to_string();
            (path, entry.header().mode().unwrap())
        })
        .collect()
}

fn text_of(mut file: std::fs::File, path: &str) -> String {
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut archive = tar::Archive::new(std::io::BufReader::new(file));
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let mut entry = entries.find(|entry| entry.path().unwrap().display().to_string() == path);
    let mut text = String::new();
    entry.as_mut().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
#[ignore = "needs mmdebstrap and a Debian mirror, takes a minute"]
async fn a_root_file_system_of_packages_is_imported_with_its_versions() {
    let store = FileStore::new();
    let settings = BuildSettings {
        source: SourceChoice::Automatic,
        ..BuildSettings::default()
    };
    let builder = ImageBuilder::new(&store, settings);
    let ensured = builder.ensure(BaseImage::Python, &progress).await.unwrap();
    assert_eq!(ensured.source, ImageSource::Debian);
    assert!(
        ensured.toolchain.starts_with("python=3.11."),
        "{}",
        ensured.toolchain
    );

    let options = store.imported.lock().unwrap().take().unwrap();
    assert_eq!(options.working_directory, "/workspace");
    assert_eq!(
        options.labels["swe-forge.image.toolchain"],
        ensured.toolchain
    );
    assert!(options.env["PATH"].contains("/usr/bin"));

    let modes = modes(store.file());
    assert_eq!(modes["./workspace/"] & 0o7777, 0o777);
    assert!(modes.contains_key("./usr/bin/pytest"));
    let is_left_over = |path: &&String| {
        [
            "./usr/share/man/",
            "./var/lib/apt/lists/",
            "./var/cache/apt/",
            "./var/log/",
        ]
        .iter()
        .any(|prefix| path.starts_with(prefix))
            && !path.ends_with('/')
            && !path.ends_with("/lock")
    };
    let left_over: Vec<_> = modes.keys().filter(is_left_over).collect();
    assert!(left_over.is_empty(), "{left_over:?}");
    assert!(!modes.contains_key("./etc/resolv.conf"));
    assert!(!modes.contains_key("./etc/apt/apt.conf.d/99mmdebstrap"));
    let sources = text_of(store.file(), "./etc/apt/sources.list.d/debian.sources");
    assert!(sources.contains("Suites: bookworm"), "{sources}");
}

#[tokio::test]
#[ignore = "needs mmdebstrap"]
async fn a_mirror_that_does_not_answer_is_named_as_the_cause() {
    let store = FileStore::new();
    let settings = BuildSettings {
        source: SourceChoice::Only(ImageSource::Debian),
        mirror: Some(MirrorChoice {
            uri: "http://mirror.invalid/debian".to_owned(),
            security_uri: None,
            keyring: None,
        }),
        ..BuildSettings::default()
    };
    let builder = ImageBuilder::new(&store, settings);
    let error = builder
        .ensure(BaseImage::Python, &progress)
        .await
        .unwrap_err();
    assert!(
        matches!(error, ImagesError::ProgramFailed { .. }),
        "{error}"
    );
    assert!(error.hint().is_some(), "{error}");
    assert!(store.imported.lock().unwrap().is_none());
}
