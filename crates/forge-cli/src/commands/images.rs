//! `swe-forge images`: base images are made, listed and removed, with what was prepared from them.

use forge_engine::images::{ImageStore, ImageSummary};
use forge_engine::{Engine, EngineError, EngineErrorKind, Operation};
use forge_images::{
    BaseImage, BuildSettings, Ensured, ImageBuilder, ImageSource, ImageState, ImagesError,
    SourceChoice, labels,
};
use jiff::Timestamp;
use serde::Serialize;

use super::prepared::{self, Ground, Prepared};
use crate::arguments::{Format, ImageOrigin, ImagesArguments, ImagesCommand};
use crate::error::{CliError, ErrorDocument};
use crate::escape;
use crate::exit_status::ExitStatus;
use crate::printer::Printer;
use crate::provider::Need;
use crate::session::Session;
use crate::style::Style;
use crate::table::{Cell, Table};
use crate::units;

pub(super) async fn carry_out(
    session: &Session,
    arguments: ImagesArguments,
) -> Result<ExitStatus, CliError> {
    match arguments.command {
        ImagesCommand::Build {
            names,
            from,
            force,
            output,
        } => {
            let images = parse(&names)?;
            let settings = BuildSettings {
                source: source(from),
                force,
                ..BuildSettings::default()
            };
            build(session, &images, settings, output.format).await
        }
        ImagesCommand::Ls { output } => show(session, output.format).await,
        ImagesCommand::Rm { names } => remove(session, &parse(&names)?).await,
        ImagesCommand::Prune { output } => prune(session, output.format).await,
    }
}

fn parse(names: &[String]) -> Result<Vec<BaseImage>, CliError> {
    if names.is_empty() {
        return Ok(BaseImage::ALL.to_vec());
    }
    let mut images = Vec::new();
    for name in names {
        let image = name.parse::<BaseImage>();
        let image = image.map_err(|error| CliError::input(error.to_string()))?;
        if !images.contains(&image) {
            images.push(image);
        }
    }
    Ok(images)
}

const fn source(from: Option<ImageOrigin>) -> SourceChoice {
    match from {
        None => SourceChoice::Automatic,
        Some(ImageOrigin::Registry) => SourceChoice::Only(ImageSource::Registry),
        Some(ImageOrigin::Debian) => SourceChoice::Only(ImageSource::Debian),
    }
}

fn store(engine: &dyn Engine) -> Result<&dyn ImageStore, CliError> {
    engine.images().ok_or_else(|| {
        let message = "this engine has no images of its own";
        EngineError::new(EngineErrorKind::Unsupported, Operation::Images, "", message).into()
    })
}

/// What became of one image, as the JSON document has it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Built<'a> {
    Ensured(&'a Ensured),
    Failed {
        image: BaseImage,
        #[serde(flatten)]
        error: ErrorDocument<'a>,
    },
}

async fn build(
    session: &Session,
    images: &[BaseImage],
    settings: BuildSettings,
    format: Format,
) -> Result<ExitStatus, CliError> {
    let printer = &session.printer;
    let record = session.record().await?;
    let engine = session.engine(record.owner(), Need::Management).await?;
    let builder = ImageBuilder::new(store(&*engine)?, settings);
    let say = |image: BaseImage, line: &str| {
        let name = printer.err_paint().paint(Style::Bold, image.name());
        printer.progress(&format!("{name}: {}", escape::line(line)));
    };
    let results: Vec<(BaseImage, Result<Ensured, CliError>)> = builder
        .ensure_all(images, &say)
        .await
        .into_iter()
        .map(|(image, result)| (image, result.map_err(CliError::from)))
        .collect();
    match format {
        Format::Json => {
            let document: Vec<Built<'_>> = results
                .iter()
                .map(|(image, result)| match result {
                    Ok(ensured) => Built::Ensured(ensured),
                    Err(error) => Built::Failed {
                        image: *image,
                        error: error.document(),
                    },
                })
                .collect();
            printer.json(&document)?;
        }
        Format::Human => {
            let ensured = results
                .iter()
                .filter_map(|(_, result)| result.as_ref().ok());
            let table = built(ensured);
            if !table.is_empty() {
                printer.text(&table.render(printer.out_paint(), printer.out_width()))?;
            }
        }
    }
    let mut status = ExitStatus::Success;
    for (_, result) in results {
        if let Err(error) = result {
            printer.error_stream(&error.render(printer.err_paint()));
            status = ExitStatus::Infrastructure;
        }
    }
    Ok(status)
}

fn built<'a>(images: impl Iterator<Item = &'a Ensured>) -> Table {
    let mut table = Table::new(&["IMAGE", "", "FROM", ">SIZE", "CONTENT", "HOLDS"]);
    for ensured in images {
        table.row([
            Cell::from(&ensured.reference),
            Cell::styled(
                Style::Good,
                if ensured.built { "made" } else { "up to date" },
            ),
            Cell::from(ensured.source.as_str()),
            Cell::from(units::bytes(ensured.summary.size_bytes)),
            Cell::from(ensured.content.tag()),
            Cell::from(ensured.toolchain.replace(',', ", ")),
        ]);
    }
    table
}

/// What `images ls` writes as JSON.
#[derive(Debug, Serialize)]
struct Listing {
    images: Vec<Listed>,
    prepared: Vec<Prepared>,
}

async fn show(session: &Session, format: Format) -> Result<ExitStatus, CliError> {
    let printer = &session.printer;
    let record = session.record().await?;
    let engine = session.engine(record.owner(), Need::Management).await?;
    let store = store(&*engine)?;
    let images = list(store).await?;
    let found = store.list_images().await?;
    let prepared = prepared::list(store, &found, Timestamp::now()).await?;
    match format {
        Format::Json => printer.json(&Listing { images, prepared })?,
        Format::Human => {
            let (paint, width) = (printer.out_paint(), printer.out_width());
            printer.text(&table(&images).render(paint, width))?;
            if !prepared.is_empty() {
                let table = prepared::table(&prepared);
                printer.text(&format!("\n{}", table.render(paint, width)))?;
            }
        }
    }
    Ok(ExitStatus::Success)
}

/// A base image, there or not, as the JSON documents have it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Listed {
    pub image: BaseImage,
    pub reference: String,
    pub state: ListedState,
    /// Where it comes from.
    pub source: Option<String>,
    /// The tag that follows from what it was made of.
    pub content: Option<String>,
    /// What it holds, as `name=version` with commas between.
    pub toolchain: Option<String>,
    pub id: Option<String>,
    pub size_bytes: Option<u64>,
    pub created: Option<String>,
}

/// How a base image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ListedState {
    /// Not there.
    Missing,
    /// There, made of something else than this swe-forge would make it of.
    Outdated,
    /// There.
    Current,
}

impl ListedState {
    const fn shown(self) -> (&'static str, Style) {
        match self {
            Self::Missing => ("missing", Style::Warning),
            Self::Outdated => ("out of date", Style::Warning),
            Self::Current => ("present", Style::Good),
        }
    }
}

/// The four base images as they are on the engine.
pub(super) async fn list(store: &dyn ImageStore) -> Result<Vec<Listed>, ImagesError> {
    let builder = ImageBuilder::new(store, BuildSettings::default());
    let mut images = Vec::new();
    for image in BaseImage::ALL {
        images.push(match builder.state(image).await? {
            ImageState::Missing => listed(image, ListedState::Missing, None),
            ImageState::Outdated(summary) => listed(image, ListedState::Outdated, Some(summary)),
            ImageState::Current { summary, .. } => {
                listed(image, ListedState::Current, Some(summary))
            }
        });
    }
    Ok(images)
}

fn listed(image: BaseImage, state: ListedState, summary: Option<ImageSummary>) -> Listed {
    let label = |key: &str| summary.as_ref()?.labels.get(key).cloned();
    let shortened = |content: String| content.chars().take(12).collect();
    Listed {
        image,
        reference: image.latest(),
        state,
        source: label(labels::SOURCE),
        content: label(labels::CONTENT).map(shortened),
        toolchain: label(labels::TOOLCHAIN),
        id: summary.as_ref().map(|summary| summary.id.clone()),
        size_bytes: summary.as_ref().map(|summary| summary.size_bytes),
        created: summary.map(|summary| summary.created),
    }
}

/// The base images for people.
pub(super) fn table(images: &[Listed]) -> Table {
    let mut table = Table::new(&["IMAGE", "STATE", "FROM", ">SIZE", "CONTENT", "HOLDS"]);
    for listed in images {
        let (state, style) = listed.state.shown();
        let holds = listed.toolchain.as_deref().unwrap_or_default();
        table.row([
            Cell::from(&listed.reference),
            Cell::styled(style, state),
            Cell::from(listed.source.as_deref().unwrap_or_default()),
            Cell::from(listed.size_bytes.map(units::bytes).unwrap_or_default()),
            Cell::from(listed.content.as_deref().unwrap_or_default()),
            Cell::from(holds.replace(',', ", ")),
        ]);
    }
    table
}

/// Removes every tag of the images named, those of earlier contents as well, and what was prepared
/// from them.
async fn remove(session: &Session, images: &[BaseImage]) -> Result<ExitStatus, CliError> {
    let record = session.record().await?;
    let engine = session.engine(record.owner(), Need::Management).await?;
    let store = store(&*engine)?;
    let found = store.list_images().await?;
    for image in images {
        remove_prepared_from(*image, &found, store, &session.printer).await?;
        let tags: Vec<&String> = found
            .iter()
            .flat_map(|summary| &summary.tags)
            .filter(|tag| is_tag_of(tag, *image))
            .collect();
        for tag in &tags {
            store.remove_image(tag).await?;
            say_removed(&session.printer, tag);
        }
        if tags.is_empty() {
            let line = format!("{image} is not there");
            session.printer.progress(&line);
        }
    }
    Ok(ExitStatus::Success)
}

/// Before the image itself, which an engine keeps as long as others are made from it.
async fn remove_prepared_from(
    image: BaseImage,
    found: &[ImageSummary],
    store: &dyn ImageStore,
    printer: &Printer,
) -> Result<(), CliError> {
    let is_base = |base: &&ImageSummary| base.tags.iter().any(|tag| is_tag_of(tag, image));
    let ids: Vec<&str> = found
        .iter()
        .filter(is_base)
        .map(|base| base.id.as_str())
        .collect();
    for derived in found {
        if !prepared::made_from(derived).is_some_and(|of| ids.contains(&of)) {
            continue;
        }
        let name = prepared::name(&derived.tags, &derived.id);
        if prepared::remove(store, &derived.tags, &derived.id).await? {
            say_removed(printer, name);
        } else {
            say_in_use(printer, name);
        }
    }
    Ok(())
}

/// What became of an image that serves nobody, as the JSON document has it.
#[derive(Debug, Serialize)]
struct Pruned {
    image: String,
    id: String,
    ground: Ground,
    /// Bytes that are free now, where that is known.
    freed_bytes: Option<u64>,
    /// `false`: a container holds it.
    removed: bool,
}

async fn prune(session: &Session, format: Format) -> Result<ExitStatus, CliError> {
    let printer = &session.printer;
    let record = session.record().await?;
    let engine = session.engine(record.owner(), Need::Management).await?;
    let pruned = remove_superfluous(store(&*engine)?, Timestamp::now()).await?;
    match format {
        Format::Json => printer.json(&pruned)?,
        Format::Human => {
            for each in &pruned {
                if each.removed {
                    let line = format!("{} ({})", each.image, each.ground.shown());
                    say_removed(printer, &line);
                } else {
                    say_in_use(printer, &each.image);
                }
            }
            if pruned.is_empty() {
                printer.progress("every image serves somebody");
            }
        }
    }
    Ok(ExitStatus::Success)
}

async fn remove_superfluous(
    store: &dyn ImageStore,
    now: Timestamp,
) -> Result<Vec<Pruned>, CliError> {
    let mut pruned = Vec::new();
    let found = store.list_images().await?;
    for image in prepared::list(store, &found, now).await? {
        let Some(ground) = image.superfluous else {
            continue;
        };
        let removed = prepared::remove(store, &image.tags, &image.id).await?;
        pruned.push(Pruned {
            image: prepared::name(&image.tags, &image.id).to_owned(),
            ground,
            freed_bytes: image.added_bytes.filter(|_| removed),
            removed,
            id: image.id,
        });
    }
    // Looked for only now: with the last image made from it, an engine removes it by itself, or
    // shows it for the first time.
    for image in store.list_images().await? {
        if prepared::is_nameless_base(&image, now) {
            let removed = prepared::remove(store, &[], &image.id).await?;
            pruned.push(Pruned {
                image: prepared::name(&[], &image.id).to_owned(),
                ground: Ground::Untagged,
                freed_bytes: Some(image.size_bytes).filter(|_| removed),
                removed,
                id: image.id,
            });
        }
    }
    Ok(pruned)
}

fn is_tag_of(tag: &str, image: BaseImage) -> bool {
    tag.rsplit_once(':')
        .is_some_and(|(repository, _)| repository == image.repository())
}

fn say_in_use(printer: &Printer, name: &str) {
    let line = format!(
        "{} is in use by a container and stays; `swe-forge images prune` removes it later",
        escape::line(name)
    );
    printer.remark(Style::Warning, "kept", &line);
}

fn say_removed(printer: &Printer, tag: &str) {
    printer.progress(&format!("removed {}", escape::line(tag)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_of_the_image_itself_are_its_tags() {
        assert!(is_tag_of("swe-forge/python-base:latest", BaseImage::Python));
        assert!(!is_tag_of(
            "swe-forge/python-base-2:latest",
            BaseImage::Python
        ));
        assert!(!is_tag_of(
            "other/swe-forge/python-base:x",
            BaseImage::Python
        ));
        assert!(!is_tag_of("swe-forge/node-base:latest", BaseImage::Python));
    }

    #[test]
    fn names_are_taken_once_and_none_means_all() {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            parse(&names).map_err(|error| error.exit_status())
        };
        assert_eq!(names(&[]), Ok(BaseImage::ALL.to_vec()));
        assert_eq!(names(&["node", "node"]), Ok(vec![BaseImage::Node]));
        assert_eq!(names(&["perl"]), Err(ExitStatus::BadInput));
    }
}
