//! Making a base image from Debian packages: bootstrap a root file system and import it.
//!
//! `mmdebstrap` installs the recipe's packages and packs the result into a tar stream, which goes to
//! the engine as it is made. The stream starts when everything is installed, so the installed
//! versions are known, and checked, before the engine sees the first byte; and it ends in an error
//! unless mmdebstrap ended well, so that no engine takes half a root file system for a whole one.

pub mod bootstrap;
pub mod failure;
pub mod host;
pub mod isolation;
pub mod mirrors;
mod output;
pub mod packages;
pub mod scratch;
pub mod sources;

use std::path::Path;

use forge_engine::images::{ImageSummary, ImportOptions, ProgressLine};
use forge_engine::{EngineError, ImageStore};

use crate::debian::bootstrap::Bootstrap;
use crate::debian::failure::FailureCause;
use crate::debian::host::HostApt;
use crate::debian::output::{RunningBootstrap, follow};
use crate::debian::packages::InstalledPackages;
use crate::error::ImagesError;
use crate::recipe::Recipe;

/// What dpkg leaves out of the image.
pub const DPKG_CONFIGURATION: &str = include_str!("../../../../images/debian/dpkg.cfg");
/// What runs in the root file system at last.
pub const FINISH_SCRIPT: &str = include_str!("../../../../images/debian/finish.sh");

/// What an image is made of, and where.
#[derive(Debug)]
pub struct Workshop<'a> {
    /// What goes into it.
    pub recipe: &'a Recipe,
    /// The machine's apt.
    pub apt: &'a HostApt,
    /// A directory for this image alone.
    pub directory: &'a Path,
    /// Where packages are kept between images.
    pub package_cache: &'a Path,
}

/// An image that was made, and what is in it.
#[derive(Debug)]
pub struct Imported {
    /// The image.
    pub summary: ImageSummary,
    /// The versions of its tools, as in the toolchain label.
    pub toolchain: String,
}

/// Makes the image of the recipe; `options` gets the installed versions and is then imported with.
///
/// # Errors
/// When mmdebstrap fails, a tool is not what is promised, or the engine refuses the import.
pub async fn make(
    store: &dyn ImageStore,
    workshop: &Workshop<'_>,
    options: impl FnOnce(&str) -> ImportOptions + Send,
    progress: ProgressLine<'_>,
) -> Result<Imported, ImagesError> {
    let recipe = workshop.recipe;
    let bootstrap = Bootstrap::prepare(workshop).await?;
    let mut running = RunningBootstrap::start(&bootstrap)?;
    let stderr = running.take_stderr();
    let ended = running.ending();
    let import = async {
        let Some(stream) = running.into_stream().await.map_err(ImagesError::io(
            "read the root file system made in",
            workshop.directory,
        ))?
        else {
            return Ok(None);
        };
        let toolchain = check_versions(recipe, &bootstrap.package_list).await?;
        let options = options(&toolchain);
        Ok(Some((
            store.import_image(stream, &options).await,
            toolchain,
        )))
    };
    let (lines, import) = tokio::join!(follow(stderr, progress), import);

    // An engine's error on a stream that broke off is only the echo of mmdebstrap's own.
    if let Some(status) = ended.failure() {
        return Err(ImagesError::ProgramFailed {
            program: bootstrap::PROGRAM,
            status,
            cause: FailureCause::of(lines.lines()),
            last_lines: lines.into_lines(),
        });
    }
    match import? {
        Some((summary, toolchain)) => Ok(Imported {
            summary: summary.map_err(ImagesError::engine(recipe.image))?,
            toolchain,
        }),
        None => Err(ImagesError::Engine {
            image: recipe.image,
            source: empty_output(recipe),
        }),
    }
}

async fn check_versions(recipe: &Recipe, package_list: &Path) -> Result<String, ImagesError> {
    let text = tokio::fs::read_to_string(package_list)
        .await
        .map_err(ImagesError::io("read", package_list))?;
    InstalledPackages::parse(&text).toolchain(recipe)
}

fn empty_output(recipe: &Recipe) -> EngineError {
    EngineError::new(
        forge_engine::EngineErrorKind::Corrupt,
        forge_engine::Operation::Images,
        recipe.image.repository(),
        "mmdebstrap ended well without a root file system",
    )
}
