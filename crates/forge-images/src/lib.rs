//! Base images: what is in them, and how they get onto an engine.
//!
//! * [`recipe`]: the four images as data.
//! * [`content`]: the hash that says whether an image on an engine is what its recipe makes.
//! * [`debian`]: making one from Debian packages, where no registry can be reached.
//! * [`registry`]: making one from official images by its Dockerfile.
//! * [`builder`]: what to do for each image that is asked for, and doing it.
//!
//! Nothing here knows an engine; images go through [`forge_engine::ImageStore`]. The tools that run
//! are those of the machine this process is on.

pub mod builder;
pub mod content;
pub mod debian;
pub mod error;
pub mod labels;
pub mod recipe;
pub mod registry;
pub mod version;

pub use builder::{BuildSettings, Ensured, ImageBuilder, ImageState, SourceChoice};
pub use content::{ContentHash, ImageSource};
pub use error::ImagesError;
pub use recipe::{BaseImage, Recipe};
