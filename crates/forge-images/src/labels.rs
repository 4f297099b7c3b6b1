//! The labels of a base image: what it is, what it was made of, what it holds.

use std::collections::BTreeMap;

use forge_core::ownership::keys;

use crate::content::{ContentHash, ImageSource};

/// The value of the role label of every base image.
pub const ROLE_BASE_IMAGE: &str = "base-image";
/// The hash over the inputs.
pub const CONTENT: &str = "swe-forge.image.content";
/// Where it comes from.
pub const SOURCE: &str = "swe-forge.image.source";
/// What it holds, as `name=version` with commas between.
pub const TOOLCHAIN: &str = "swe-forge.image.toolchain";

/// All labels of a base image.
#[must_use]
pub fn labels(
    content: &ContentHash,
    source: ImageSource,
    toolchain: &str,
) -> BTreeMap<String, String> {
    [
        (keys::ROLE, ROLE_BASE_IMAGE),
        (CONTENT, content.as_str()),
        (SOURCE, source.as_str()),
        (TOOLCHAIN, toolchain),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}
