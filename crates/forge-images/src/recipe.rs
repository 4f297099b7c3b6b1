//! The four base images as data: packages, suite, environment and the versions they promise.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::version::Requirement;

/// A base image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseImage {
    /// Python 3.11.
    Python,
    /// Node 20.
    Node,
    /// Rust.
    Rust,
    /// Python, Node, Rust, Go and C.
    Multi,
}

impl BaseImage {
    /// All of them, in the order they are made in.
    pub const ALL: [Self; 4] = [Self::Python, Self::Node, Self::Rust, Self::Multi];

    /// The short name, as people type it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Rust => "rust",
            Self::Multi => "multi",
        }
    }

    /// The image's name without a tag.
    #[must_use]
    pub const fn repository(self) -> &'static str {
        match self {
            Self::Python => "swe-forge/python-base",
            Self::Node => "swe-forge/node-base",
            Self::Rust => "swe-forge/rust-base",
            Self::Multi => "swe-forge/multi-base",
        }
    }

    /// The reference that tasks use.
    #[must_use]
    pub fn latest(self) -> String {
        format!("{}:latest", self.repository())
    }

    /// What goes into it.
    #[must_use]
    pub const fn recipe(self) -> &'static Recipe {
        match self {
            Self::Python => &PYTHON,
            Self::Node => &NODE,
            Self::Rust => &RUST,
            Self::Multi => &MULTI,
        }
    }
}

impl fmt::Display for BaseImage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.repository())
    }
}

/// A name that is none of the four.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a base image: use python, node, rust or multi")]
pub struct UnknownImage(pub String);

impl FromStr for BaseImage {
    type Err = UnknownImage;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = |image: &Self| text == image.name() || text == image.repository();
        Self::ALL
            .into_iter()
            .find(known)
            .ok_or_else(|| UnknownImage(text.to_owned()))
    }
}

/// A tool an image promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// Its name in the toolchain label.
    pub name: &'static str,
    /// The Debian package whose version is the tool's.
    pub package: &'static str,
    /// Which versions will do.
    pub requirement: Requirement,
    /// The command that prints its version, to be run in a sandbox.
    pub version_command: &'static [&'static str],
}

/// What goes into a base image.
#[derive(Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Which image.
    pub image: BaseImage,
    /// The Debian suite the packages come from.
    pub suite: &'static str,
    /// Packages of the Debian route besides [`COMMON_PACKAGES`].
    pub packages: &'static [&'static str],
    /// Environment of the Debian route besides [`COMMON_ENVIRONMENT`].
    pub environment: &'static [(&'static str, &'static str)],
    /// What it promises.
    pub tools: &'static [Tool],
    /// The registry route.
    pub dockerfile: &'static str,
    /// The toolchain label of the registry route, as far as the tags of its images tell.
    pub registry_toolchain: &'static str,
}

impl Recipe {
    /// Every package of the Debian route, sorted.
    #[must_use]
    pub fn all_packages(&self) -> Vec<&'static str> {
        let mut packages = [COMMON_PACKAGES, self.packages].concat();
        packages.sort_unstable();
        packages
    }

    /// The whole environment of the Debian route.
    pub fn all_environment(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        COMMON_ENVIRONMENT.iter().chain(self.environment).copied()
    }
}

/// Packages of every image.
pub const COMMON_PACKAGES: &[&str] = &[
    "bash",
    "build-essential",
    "ca-certificates",
    "curl",
    "git",
    "less",
    "make",
    "nano",
    "netbase",
    "patch",
    "procps",
    "tzdata",
    "unzip",
    "vim-tiny",
    "wget",
    "xz-utils",
];

/// Environment of every image.
///
/// A numeric user has no entry in `/etc/passwd` and so no home; cargo, go, npm and pip would
/// otherwise try to write into the read-only root directory. An import sets no `PATH` by itself.
pub const COMMON_ENVIRONMENT: &[(&str, &str)] = &[
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("LANG", "C.UTF-8"),
    ("HOME", "/tmp"),
];

const GIT: Tool = Tool {
    name: "git",
    package: "git",
    requirement: Requirement::AtLeast("2.30"),
    version_command: &["git", "--version"],
};
const GCC: Tool = Tool {
    name: "gcc",
    package: "gcc",
    requirement: Requirement::AtLeast("10"),
    version_command: &["gcc", "--version"],
};
const PYTHON_3_11: Tool = Tool {
    name: "python",
    package: "python3",
    requirement: Requirement::Series("3.11"),
    version_command: &["python3", "--version"],
};
const PYTHON_3: Tool = Tool {
    requirement: Requirement::AtLeast("3.10"),
    ..PYTHON_3_11
};
const PIP: Tool = Tool {
    name: "pip",
    package: "python3-pip",
    requirement: Requirement::AtLeast("22"),
    version_command: &["pip", "--version"],
};
const PYTEST: Tool = Tool {
    name: "pytest",
    package: "python3-pytest",
    requirement: Requirement::AtLeast("6.2"),
    version_command: &["pytest", "--version"],
};
const NODE_20: Tool = Tool {
    name: "node",
    package: "nodejs",
    requirement: Requirement::Series("20"),
    version_command: &["node", "--version"],
};
const NPM: Tool = Tool {
    name: "npm",
    package: "npm",
    requirement: Requirement::AtLeast("9"),
    version_command: &["npm", "--version"],
};
const RUSTC: Tool = Tool {
    name: "rustc",
    package: "rustc",
    requirement: Requirement::AtLeast("1.75"),
    version_command: &["rustc", "--version"],
};
const CARGO: Tool = Tool {
    name: "cargo",
    package: "cargo",
    requirement: Requirement::AtLeast("1.75"),
    version_command: &["cargo", "--version"],
};
const GO: Tool = Tool {
    name: "go",
    package: "golang-go",
    requirement: Requirement::AtLeast("1.21"),
    version_command: &["go", "version"],
};

static PYTHON: Recipe = Recipe {
    image: BaseImage::Python,
    // The last suite whose Python is 3.11.
    suite: "bookworm",
    packages: &[
        "python-is-python3",
        "python3",
        "python3-dev",
        "python3-pip",
        "python3-pytest",
        "python3-venv",
    ],
    environment: &[
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        ("PIP_ROOT_USER_ACTION", "ignore"),
    ],
    tools: &[PYTHON_3_11, PIP, PYTEST, GCC, GIT],
    dockerfile: include_str!("../../../images/python-base/Dockerfile"),
    registry_toolchain: "python=3.11,pytest=8.3.5",
};

static NODE: Recipe = Recipe {
    image: BaseImage::Node,
    // The suite whose Node is 20; the one before has 18.
    suite: "trixie",
    packages: &["nodejs", "npm"],
    environment: &[
        ("NPM_CONFIG_FUND", "false"),
        ("NPM_CONFIG_UPDATE_NOTIFIER", "false"),
    ],
    tools: &[NODE_20, NPM, GCC, GIT],
    dockerfile: include_str!("../../../images/node-base/Dockerfile"),
    registry_toolchain: "node=20",
};

static RUST: Recipe = Recipe {
    image: BaseImage::Rust,
    // The first suite whose plain rustc is new enough.
    suite: "trixie",
    packages: &["cargo", "libssl-dev", "pkg-config", "rustc"],
    environment: &[],
    tools: &[RUSTC, CARGO, GCC, GIT],
    dockerfile: include_str!("../../../images/rust-base/Dockerfile"),
    registry_toolchain: "rustc=1,cargo=1",
};

static MULTI: Recipe = Recipe {
    image: BaseImage::Multi,
    suite: "trixie",
    packages: &[
        "cargo",
        "golang-go",
        "libssl-dev",
        "nodejs",
        "npm",
        "pkg-config",
        "python-is-python3",
        "python3",
        "python3-dev",
        "python3-pip",
        "python3-pytest",
        "python3-venv",
        "rustc",
    ],
    environment: &[
        // Go would download the toolchain that a go.mod names.
        ("GOTOOLCHAIN", "local"),
        ("NPM_CONFIG_FUND", "false"),
        ("NPM_CONFIG_UPDATE_NOTIFIER", "false"),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        ("PIP_ROOT_USER_ACTION", "ignore"),
    ],
    tools: &[
        PYTHON_3, PIP, PYTEST, NODE_20, NPM, RUSTC, CARGO, GO, GCC, GIT,
    ],
    dockerfile: include_str!("../../../images/multi-base/Dockerfile"),
    registry_toolchain: "python=3.10,node=20,rustc=1,cargo=1,go=1",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_repositories_are_both_understood() {
        for image in BaseImage::ALL {
            assert_eq!(image.name().parse(), Ok(image));
            assert_eq!(image.repository().parse(), Ok(image));
            assert_eq!(image.recipe().image, image);
        }
        assert_eq!(
            "perl".parse::<BaseImage>(),
            Err(UnknownImage("perl".to_owned()))
        );
    }

    #[test]
    fn every_language_of_a_task_has_its_image_here() {
        use forge_core::Language::{C, Cpp, Go, Javascript, Multi, Python, Rust, Shell};
        let ours = BaseImage::ALL.map(BaseImage::latest);
        for language in [Python, Javascript, Rust, Go, C, Cpp, Shell, Multi] {
            assert!(
                ours.iter().any(|image| image == language.base_image()),
                "{language:?}"
            );
        }
    }

    #[test]
    fn every_dockerfile_installs_the_common_packages() {
        for image in BaseImage::ALL {
            let dockerfile = image.recipe().dockerfile;
            for package in COMMON_PACKAGES {
                let line = format!("        {package} \\\n");
                assert!(dockerfile.contains(&line), "{image} lacks {package}");
            }
        }
    }

    #[test]
    fn every_dockerfile_sets_the_environment_of_the_debian_route() {
        for image in BaseImage::ALL {
            let recipe = image.recipe();
            for (name, value) in recipe.all_environment().filter(|(name, _)| *name != "PATH") {
                let setting = format!("{name}={value}");
                assert!(
                    recipe.dockerfile.contains(&setting),
                    "{image} lacks {setting}"
                );
            }
        }
    }

    #[test]
    fn every_dockerfile_ends_in_an_open_workspace_with_a_shell() {
        for image in BaseImage::ALL {
            let dockerfile = image.recipe().dockerfile;
            assert!(dockerfile.contains("chmod 0777 /workspace"), "{image}");
            assert!(
                dockerfile.contains("LABEL swe-forge.role=\"base-image\""),
                "{image}"
            );
            assert!(
                dockerfile.ends_with("WORKDIR /workspace\nENTRYPOINT []\nCMD [\"bash\"]\n"),
                "{image}"
            );
        }
    }

    #[test]
    fn every_promised_tool_is_a_package_of_the_recipe() {
        for image in BaseImage::ALL {
            let packages = image.recipe().all_packages();
            for tool in image.recipe().tools {
                let installed = packages.contains(&tool.package) || tool.package == "gcc";
                assert!(
                    installed,
                    "{image} promises {} without its package",
                    tool.name
                );
            }
        }
    }
}
