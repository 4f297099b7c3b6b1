//! The packages of a finished root file system, and the versions of the tools among them.

use std::collections::BTreeMap;

use crate::error::ImagesError;
use crate::recipe::Recipe;
use crate::version::upstream;

/// Every installed package with its Debian version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstalledPackages(BTreeMap<String, String>);

impl InstalledPackages {
    /// Reads the list that the finishing script writes: a name, a tab and a version per line.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let packages = text
            .lines()
            .filter_map(|line| line.split_once('\t'))
            // Packages that may be installed for several architectures carry one in their name.
            .map(|(name, version)| (name.split(':').next().unwrap_or(name), version))
            .map(|(name, version)| (name.to_owned(), version.to_owned()));
        Self(packages.collect())
    }

    /// The toolchain label of `recipe`: `python=3.11.2,pip=23.0.1`.
    ///
    /// # Errors
    /// [`ImagesError::WrongVersion`] for the first tool that is not what the recipe promises.
    pub fn toolchain(&self, recipe: &Recipe) -> Result<String, ImagesError> {
        let mut tools = Vec::new();
        for tool in recipe.tools {
            let found = self.0.get(tool.package).map(|version| upstream(version));
            match found {
                Some(version) if tool.requirement.admits(version) => {
                    tools.push(format!("{}={version}", tool.name));
                }
                _ => {
                    return Err(ImagesError::WrongVersion {
                        image: recipe.image,
                        tool: tool.name,
                        requirement: tool.requirement,
                        found: found.unwrap_or("nothing").to_owned(),
                    });
                }
            }
        }
        Ok(tools.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::BaseImage;

    const RUST: &str = "\
rustc\t1.85.1+dfsg1-1+deb13u1
cargo\t1.85.1+dfsg1-1+deb13u1
gcc\t4:14.2.0-1
libc6:amd64\t2.41-12
git\t1:2.47.3-0+deb13u1
";

    #[test]
    fn the_label_names_the_upstream_version_of_every_tool() {
        let label = InstalledPackages::parse(RUST)
            .toolchain(BaseImage::Rust.recipe())
            .unwrap();
        assert_eq!(label, "rustc=1.85.1,cargo=1.85.1,gcc=14.2.0,git=2.47.3");
    }

    #[test]
    fn a_tool_that_is_too_old_or_not_there_is_refused() {
        let old = RUST.replace("rustc\t1.85.1", "rustc\t1.63.0");
        let missing = RUST.replace("cargo\t", "cargo-doc\t");
        for (list, tool, expected) in [(old, "rustc", "1.63.0"), (missing, "cargo", "nothing")] {
            let error = InstalledPackages::parse(&list)
                .toolchain(BaseImage::Rust.recipe())
                .unwrap_err();
            let ImagesError::WrongVersion {
                tool: named, found, ..
            } = error
            else {
                panic!("unexpected {error}");
            };
            assert_eq!((named, found.as_str()), (tool, expected));
        }
    }

    #[test]
    fn the_architecture_is_not_part_of_a_package_name() {
        let packages = InstalledPackages::parse("libc6:amd64\t2.41-12\n\nno tab here\n");
        assert_eq!(packages.0.get("libc6").map(String::as_str), Some("2.41-12"));
        assert_eq!(packages.0.len(), 1);
    }
}
