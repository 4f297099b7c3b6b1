//! Prepared images: what sandboxes really run from, one made of each image, and which of them serve
//! nobody any more.

use std::collections::{BTreeMap, BTreeSet};

use forge_core::ownership::keys;
use forge_engine::images::{ImageStore, ImageSummary};
use forge_engine::{EngineError, EngineErrorKind};
use forge_images::labels::ROLE_BASE_IMAGE;
use forge_orchestrator::janitor::{PREPARED_OF as OF, PREPARED_ROLE as ROLE};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::style::Style;
use crate::table::{Cell, Table};
use crate::units;

/// An image without a tag may be about to get it; after so long it will not.
const BEING_MADE: SignedDuration = SignedDuration::from_mins(10);

/// Why an image serves nobody any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ground {
    /// The image it was made from is gone.
    BaseGone,
    /// A later one was made from the same image, with another forge-init.
    Superseded,
    /// Nothing names it.
    Untagged,
}

impl Ground {
    pub(super) const fn shown(self) -> &'static str {
        match self {
            Self::BaseGone => "its image is gone",
            Self::Superseded => "superseded",
            Self::Untagged => "without a name",
        }
    }
}

/// A prepared image, as the JSON documents have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Prepared {
    pub id: String,
    pub tags: Vec<String>,
    /// Identifier of the image it was made from.
    pub of: String,
    /// Names of that image; none when it is gone or has none.
    pub of_tags: Vec<String>,
    /// Bytes of both together.
    pub size_bytes: u64,
    /// Bytes it takes besides the image it was made from, where that is there.
    pub added_bytes: Option<u64>,
    pub created: String,
    /// Why `images prune` would remove it.
    pub superfluous: Option<Ground>,
}

/// The identifier of the image that `image` was made from, when it is a prepared one.
pub(super) fn made_from(image: &ImageSummary) -> Option<&str> {
    (role(image) == Some(ROLE)).then(|| image.labels.get(OF).map_or("", String::as_str))
}

fn role(image: &ImageSummary) -> Option<&str> {
    image.labels.get(keys::ROLE).map(String::as_str)
}

/// Whether it is a base image of ours that nothing names any more.
pub(super) fn is_nameless_base(image: &ImageSummary, now: Timestamp) -> bool {
    role(image) == Some(ROLE_BASE_IMAGE) && is_nameless(image, now)
}

fn is_nameless(image: &ImageSummary, now: Timestamp) -> bool {
    let age = image.created.parse::<Timestamp>().ok();
    let old = age.is_none_or(|created| now.duration_since(created) > BEING_MADE);
    image.tags.is_empty() && old
}

/// The prepared images among `found`, the images of ours on the engine.
pub(super) async fn list(
    store: &dyn ImageStore,
    found: &[ImageSummary],
    now: Timestamp,
) -> Result<Vec<Prepared>, EngineError> {
    let mut bases = BTreeMap::new();
    let ids: BTreeSet<&str> = found.iter().filter_map(made_from).collect();
    for id in ids.into_iter().filter(|id| !id.is_empty()) {
        // Asked one by one: most images that tasks name are not ours, and an engine hides those
        // without a name that others are made from.
        if let Some(base) = store.inspect_image(id).await? {
            bases.insert(id, base);
        }
    }
    Ok(judge(found, &bases, now))
}

fn judge(
    found: &[ImageSummary],
    bases: &BTreeMap<&str, ImageSummary>,
    now: Timestamp,
) -> Vec<Prepared> {
    let mut newest: BTreeMap<&str, &str> = BTreeMap::new();
    for image in found.iter().filter(|image| !image.tags.is_empty()) {
        if let Some(of) = made_from(image) {
            let latest = newest.entry(of).or_insert(&image.created);
            // Instants of one engine, all written in the same way, sort as text.
            *latest = image.created.as_str().max(latest);
        }
    }
    let mut prepared = Vec::new();
    for image in found {
        let Some(of) = made_from(image) else {
            continue;
        };
        // A base image of ours without a name was replaced, and no task can name it.
        let base = bases.get(of).filter(|base| !is_nameless_base(base, now));
        let superfluous = match base {
            _ if is_nameless(image, now) => Some(Ground::Untagged),
            // Being made right now.
            _ if image.tags.is_empty() => None,
            None => Some(Ground::BaseGone),
            Some(_)
                if newest
                    .get(of)
                    .is_some_and(|&latest| *image.created < *latest) =>
            {
                Some(Ground::Superseded)
            }
            Some(_) => None,
        };
        prepared.push(Prepared {
            id: image.id.clone(),
            tags: image.tags.clone(),
            of: of.to_owned(),
            of_tags: base.map(|base| base.tags.clone()).unwrap_or_default(),
            size_bytes: image.size_bytes,
            added_bytes: base.map(|base| image.size_bytes.saturating_sub(base.size_bytes)),
            created: image.created.clone(),
            superfluous,
        });
    }
    prepared
}

/// Prepared images for people.
pub(super) fn table(prepared: &[Prepared]) -> Table {
    let mut table = Table::new(&["PREPARED", "STATE", ">ADDS", "MADE FROM"]);
    for image in prepared {
        let (state, style) = match image.superfluous {
            Some(ground) => (ground.shown(), Style::Warning),
            None => ("present", Style::Good),
        };
        table.row([
            Cell::from(name(&image.tags, &image.id)),
            Cell::styled(style, state),
            Cell::from(image.added_bytes.map(units::bytes).unwrap_or_default()),
            Cell::from(name(&image.of_tags, &image.of)),
        ]);
    }
    table
}

/// What people call an image.
pub(super) fn name<'a>(tags: &'a [String], id: &'a str) -> &'a str {
    let short = || id.get(..id.len().min(19)).unwrap_or(id);
    tags.first().map_or_else(short, String::as_str)
}

/// Removes an image with all its names. Says `false` when a container holds it, so that it stays.
pub(super) async fn remove(
    store: &dyn ImageStore,
    tags: &[String],
    id: &str,
) -> Result<bool, EngineError> {
    let by_id = [id.to_owned()];
    for reference in if tags.is_empty() { &by_id } else { tags } {
        match store.remove_image(reference).await {
            Ok(()) => {}
            Err(error) if error.kind == EngineErrorKind::Conflict => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn image(id: &str, tag: &str, labels: &[(&str, &str)], minutes_ago: i64) -> ImageSummary {
        let labels = labels.iter();
        ImageSummary {
            id: id.to_owned(),
            tags: Some(tag.to_owned())
                .filter(|tag| !tag.is_empty())
                .into_iter()
                .collect(),
            labels: labels
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            size_bytes: 10,
            created: (NOW - SignedDuration::from_mins(minutes_ago)).to_string(),
        }
    }

    fn prepared(id: &str, tag: &str, of: &str, minutes_ago: i64) -> ImageSummary {
        image(id, tag, &[(keys::ROLE, ROLE), (OF, of)], minutes_ago)
    }

    #[test]
    fn only_the_newest_of_an_image_that_is_there_serves_anybody() {
        let base = |tag| image("", tag, &[(keys::ROLE, ROLE_BASE_IMAGE)], 100);
        // An image that was pulled by its digest has no tag either, and is no base image of ours.
        let foreign = image("", "", &[], 100);
        let bases = [("a", base("a:latest")), ("b", base("")), ("d", foreign)];
        let found = [
            prepared("1", "p:1", "a", 60),
            prepared("2", "p:2", "a", 50),
            prepared("3", "", "a", 40),
            prepared("4", "", "a", 1),
            prepared("5", "p:5", "b", 60),
            prepared("6", "p:6", "c", 60),
            prepared("7", "p:7", "d", 60),
            base("a:latest"),
        ];
        let grounds: Vec<_> = judge(&found, &bases.into(), NOW)
            .into_iter()
            .map(|image| (image.id, image.superfluous))
            .collect();
        let expected = [
            ("1", Some(Ground::Superseded)),
            ("2", None),
            ("3", Some(Ground::Untagged)),
            ("4", None),
            ("5", Some(Ground::BaseGone)),
            ("6", Some(Ground::BaseGone)),
            ("7", None),
        ];
        assert_eq!(grounds, expected.map(|(id, why)| (id.to_owned(), why)));
    }

    #[test]
    fn an_image_is_called_by_its_tag_or_by_the_beginning_of_its_identifier() {
        let id = "sha256:0123456789abcdef0123";
        assert_eq!(name(&["a:b".to_owned()], id), "a:b");
        assert_eq!(name(&[], id), "sha256:0123456789ab");
        assert_eq!(name(&[], "x"), "x");
    }
}
