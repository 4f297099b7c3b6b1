//! Prepared images that another one has taken the place of, and their removal.

use std::collections::HashMap;

use bollard::models::{ImageInspect, ImageSummary};
use bollard::query_parameters::{ListImagesOptions, RemoveImageOptions};
use forge_core::ownership::keys;

use crate::client::in_passing;
use crate::engine::DockerEngine;
use crate::names::{IMAGE_OF, PREPARED_AS, PREPARED_REPOSITORY, PREPARED_ROLE};

impl DockerEngine {
    /// Removes what the image that was just made for `tag` from image `base` replaces.
    pub(crate) async fn remove_superseded(&self, base: &str, tag: &str) {
        in_passing("untagged images", self.remove_untagged(tag)).await;
        in_passing("superseded images", self.remove_outdated(base, tag)).await;
    }

    /// Two processes that prepare the same image at once may both tag theirs, and the later tag
    /// wins. Whoever is done removes what the tag was taken from.
    async fn remove_untagged(&self, tag: &str) {
        let filters = HashMap::from([
            ("dangling".to_owned(), vec!["true".to_owned()]),
            ("label".to_owned(), vec![format!("{PREPARED_AS}={tag}")]),
        ]);
        for image in self.prepared_images(filters).await {
            match self.client.docker.inspect_image(&image.id).await {
                Ok(image) if has_lost_its_tag(&image) => {}
                // Still being made by somebody, or removed by somebody.
                _ => continue,
            }
            self.remove_prepared(&image.id).await;
        }
    }

    /// The same image with another `forge-init` in it is of use only to an older program. Should
    /// one still run here, it makes the image again.
    async fn remove_outdated(&self, base: &str, tag: &str) {
        let labels = vec![
            format!("{IMAGE_OF}={base}"),
            format!("{}={PREPARED_ROLE}", keys::ROLE),
        ];
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let found = self.prepared_images(filters).await;
        for name in outdated(&found, tag) {
            self.remove_prepared(&name).await;
        }
    }

    async fn prepared_images(&self, filters: HashMap<String, Vec<String>>) -> Vec<ImageSummary> {
        let options = ListImagesOptions {
            filters: Some(filters),
            ..ListImagesOptions::default()
        };
        match self.client.docker.list_images(Some(options)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "superseded images could not be listed");
                Vec::new()
            }
        }
    }

    /// Without force: the engine refuses while a container uses the image, and then it stays.
    async fn remove_prepared(&self, image: &str) {
        let options = None::<RemoveImageOptions>;
        let removed = self.client.docker.remove_image(image, options, None).await;
        if let Err(error) = removed {
            tracing::debug!(image, %error, "a superseded image could not be removed");
        }
    }
}

/// The names of those among prepared forms of one image that are older than the one named `tag`.
/// By name and not by identifier, so that a name somebody else gave the image is left alone.
fn outdated(prepared: &[ImageSummary], tag: &str) -> Vec<String> {
    let name = |tag: &str| format!("{PREPARED_REPOSITORY}:{tag}");
    let current = name(tag);
    let Some(newest) = prepared
        .iter()
        .find(|image| image.repo_tags.contains(&current))
    else {
        return Vec::new();
    };
    prepared
        .iter()
        .filter(|image| image.id != newest.id && image.created <= newest.created)
        .filter_map(|image| {
            let theirs = name(image.labels.get(PREPARED_AS)?);
            image.repo_tags.contains(&theirs).then_some(theirs)
        })
        .filter(|theirs| *theirs != current)
        .collect()
}

/// Whether an image had a tag and has none any more. One without a tag that never had one may be
/// about to get it, and removing an image by its identifier removes a tag that it got meanwhile.
fn has_lost_its_tag(image: &ImageInspect) -> bool {
    let tagged = image
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.last_tag_time.as_ref());
    let had_one = tagged.is_some_and(|time| !time.starts_with("0001-"));
    had_one && image.repo_tags.as_ref().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tag: &str, names: &[&str], created: i64) -> ImageSummary {
        ImageSummary {
            id: format!("{names:?}"),
            created,
            repo_tags: names.iter().map(|&name| name.to_owned()).collect(),
            labels: [(PREPARED_AS.to_owned(), tag.to_owned())].into(),
            ..ImageSummary::default()
        }
    }

    #[test]
    fn older_forms_go_by_our_name_for_them() {
        let found = [
            image("old", &["swe-forge/prepared:old", "kept:1"], 1),
            image("now", &["swe-forge/prepared:now"], 2),
            image("newer", &["swe-forge/prepared:newer"], 3),
            // Built from a prepared image, whose labels it has.
            image("old", &["theirs:1"], 1),
        ];
        assert_eq!(outdated(&found, "now"), ["swe-forge/prepared:old"]);
        assert!(outdated(&found, "absent").is_empty());
    }
}
