//! The hash over everything that goes into an image, by which builds are skipped.

use std::fmt;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::debian;
use crate::recipe::Recipe;

/// Raised when the way images are made changes in a manner that no other input shows.
const BUILDER_REVISION: &str = "1";

/// Where an image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageSource {
    /// Official images of a registry.
    Registry,
    /// Packages of a Debian mirror.
    Debian,
}

impl ImageSource {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Registry, Self::Debian];

    /// The value of the source label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Debian => "debian",
        }
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// SHA-256 over the inputs of an image, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct ContentHash(String);

impl ContentHash {
    /// All 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag an image carries besides `latest`.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The hash of what `recipe` makes from `source`: the same on every machine and at any time.
#[must_use]
pub fn content_hash(recipe: &Recipe, source: ImageSource) -> ContentHash {
    let mut inputs = Inputs(Sha256::new());
    inputs.add("revision", BUILDER_REVISION);
    inputs.add("image", recipe.image.repository());
    inputs.add("source", source.as_str());
    match source {
        ImageSource::Registry => {
            inputs.add("dockerfile", recipe.dockerfile);
            inputs.add("toolchain", recipe.registry_toolchain);
        }
        ImageSource::Debian => {
            inputs.add("suite", recipe.suite);
            for package in recipe.all_packages() {
                inputs.add("package", package);
            }
            for (name, value) in recipe.all_environment() {
                inputs.add("variable", name);
                inputs.add("value", value);
            }
            for tool in recipe.tools {
                inputs.add("tool", tool.name);
                inputs.add("requirement", &tool.requirement.to_string());
            }
            inputs.add("dpkg", debian::DPKG_CONFIGURATION);
            inputs.add("finish", debian::FINISH_SCRIPT);
        }
    }
    inputs.finish()
}

/// Fields with their lengths, so that no two lists of inputs run into the same bytes.
struct Inputs(Sha256);

impl Inputs {
    fn add(&mut self, name: &str, value: &str) {
        for part in [name, value] {
            self.0.update(part.len().to_string());
            self.0.update(":");
            self.0.update(part);
        }
    }

    fn finish(self) -> ContentHash {
        let digits = self
            .0
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        ContentHash(digits)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::recipe::BaseImage;

    #[test]
    fn every_image_and_source_has_a_hash_of_its_own() {
        let hashes: BTreeSet<String> = BaseImage::ALL
            .into_iter()
            .flat_map(|image| {
                ImageSource::ALL.map(|source| content_hash(image.recipe(), source).to_string())
            })
            .collect();
        assert_eq!(hashes.len(), 8);
        assert!(hashes.iter().all(|hash| hash.len() == 64));
    }

    #[test]
    fn the_hash_is_the_same_each_time_and_its_tag_is_its_beginning() {
        let recipe = BaseImage::Rust.recipe();
        let first = content_hash(recipe, ImageSource::Debian);
        assert_eq!(first, content_hash(recipe, ImageSource::Debian));
        assert_eq!(first.tag().len(), 12);
        assert!(first.as_str().starts_with(first.tag()));
    }

    #[test]
    fn one_more_package_changes_the_debian_hash_and_not_the_other() {
        let recipe = BaseImage::Node.recipe();
        let changed = Recipe {
            packages: &["nodejs", "npm", "jq"],
            ..copy(recipe)
        };
        let hash = |recipe, source| content_hash(recipe, source);
        assert_ne!(
            hash(recipe, ImageSource::Debian),
            hash(&changed, ImageSource::Debian)
        );
        assert_eq!(
            hash(recipe, ImageSource::Registry),
            hash(&changed, ImageSource::Registry)
        );
    }

    #[test]
    fn the_dockerfile_changes_the_registry_hash_and_not_the_other() {
        let recipe = BaseImage::Node.recipe();
        let changed = Recipe {
            dockerfile: "FROM scratch\n",
            ..copy(recipe)
        };
        let hash = |recipe, source| content_hash(recipe, source);
        assert_eq!(
            hash(recipe, ImageSource::Debian),
            hash(&changed, ImageSource::Debian)
        );
        assert_ne!(
            hash(recipe, ImageSource::Registry),
            hash(&changed, ImageSource::Registry)
        );
    }

    #[test]
    fn inputs_that_join_to_the_same_text_hash_apart() {
        let hash = |fields: &[(&str, &str)]| {
            let mut inputs = Inputs(Sha256::new());
            for (name, value) in fields {
                inputs.add(name, value);
            }
            inputs.finish()
        };
        assert_ne!(hash(&[("a", "bc")]), hash(&[("ab", "c")]));
        assert_ne!(hash(&[("a", "b"), ("c", "d")]), hash(&[("a", "bcd")]));
    }

    fn copy(recipe: &Recipe) -> Recipe {
        Recipe { ..*recipe }
    }
}
