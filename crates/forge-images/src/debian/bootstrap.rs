//! How mmdebstrap is called: its files, its hooks, its environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio::fs;

use crate::debian::host::output;
use crate::debian::isolation::Isolation;
use crate::debian::{DPKG_CONFIGURATION, FINISH_SCRIPT, Workshop};
use crate::error::ImagesError;

/// The program that makes root file systems.
pub const PROGRAM: &str = "mmdebstrap";

/// Variables the program may see; a token in any other would reach every maintainer script.
const CARRIED_VARIABLES: &[&str] = &[
    "ALL_PROXY",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LOGNAME",
    "NO_PROXY",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "USER",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// Where the finishing script and its inputs are in the root file system; emptied with `/tmp`.
const INSIDE: &str = "/tmp/swe-forge";

/// A call of mmdebstrap that is ready to be made.
#[derive(Debug)]
pub struct Bootstrap {
    /// Program and arguments.
    pub command_line: Vec<OsString>,
    /// Its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where the list of packages is when the root file system is finished.
    pub package_list: PathBuf,
}

impl Bootstrap {
    /// Writes the files that the call refers to.
    ///
    /// # Errors
    /// When mmdebstrap is not installed or a file cannot be written.
    pub async fn prepare(workshop: &Workshop<'_>) -> Result<Self, ImagesError> {
        let suite = workshop.recipe.suite;
        // A missing program would show as a failure of the one that is to start it.
        output(PROGRAM, &["--version"]).await?;
        let files = Files::in_directory(workshop.directory);
        let mirrors = &workshop.apt.mirrors;
        for (path, text) in [
            (&files.sources, mirrors.source_list(suite)),
            (&files.image_sources, mirrors.image_source_list(suite)),
            (&files.dpkg, DPKG_CONFIGURATION.to_owned()),
            (&files.finish, FINISH_SCRIPT.to_owned()),
        ] {
            fs::write(path, text)
                .await
                .map_err(ImagesError::io("write", path))?;
        }
        for path in [&files.root_parent, workshop.package_cache] {
            fs::create_dir_all(path)
                .await
                .map_err(ImagesError::io("make", path))?;
        }
        let isolation = Isolation::detect().await;
        if isolation == Isolation::UserNamespace {
            open_to_mapped_root(&files.root_parent).await?;
        }
        let mut command_line = isolation.command_line(PROGRAM);
        command_line.extend(arguments(workshop, &files, isolation));
        Ok(Self {
            command_line,
            environment: environment(&files.root_parent),
            package_list: files.package_list,
        })
    }
}

/// The files of one call.
struct Files {
    sources: PathBuf,
    image_sources: PathBuf,
    dpkg: PathBuf,
    finish: PathBuf,
    package_list: PathBuf,
    root_parent: PathBuf,
}

impl Files {
    fn in_directory(directory: &Path) -> Self {
        Self {
            sources: directory.join("host.sources"),
            image_sources: directory.join("image.sources"),
            dpkg: directory.join("dpkg.cfg"),
            finish: directory.join("finish.sh"),
            package_list: directory.join("packages.tsv"),
            root_parent: directory.join("root"),
        }
    }
}

/// Without root, mmdebstrap works as a user of the caller's sub-id range, who must get in.
async fn open_to_mapped_root(root_parent: &Path) -> Result<(), ImagesError> {
    use std::os::unix::fs::PermissionsExt;
    let directories = [(root_parent.parent(), 0o711), (Some(root_parent), 0o1777)];
    for (path, mode) in directories {
        let Some(path) = path else { continue };
        fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .await
            .map_err(ImagesError::io("set the mode of", path))?;
    }
    Ok(())
}

fn arguments(workshop: &Workshop<'_>, files: &Files, isolation: Isolation) -> Vec<OsString> {
    let recipe = workshop.recipe;
    let mut arguments: Vec<OsString> = vec![
        format!("--mode={}", isolation.mode()).into(),
        "--variant=minbase".into(),
        "--format=tar".into(),
        // Packages of the first stage would be missing from the cache otherwise.
        "--skip=essential/unlink".into(),
        format!("--include={}", recipe.all_packages().join(",")).into(),
        "--aptopt=APT::Install-Recommends \"0\"".into(),
    ];
    arguments.extend(
        workshop
            .apt
            .settings
            .iter()
            .map(|it| format!("--aptopt={it}").into()),
    );
    arguments.extend(hooks(workshop.package_cache, files));
    arguments.push(recipe.suite.into());
    arguments.push("-".into());
    arguments.push(files.sources.clone().into());
    arguments
}

/// What happens before packages are fetched and after they are installed, in this order.
///
/// The special hooks of mmdebstrap copy between the outside and the inside whichever user works
/// inside; a bind mount or a hard link would need root.
fn hooks(cache: &Path, files: &Files) -> Vec<OsString> {
    const ARCHIVES: &str = "/var/cache/apt/archives";
    let cache = quoted(cache);
    let upload = |file: &Path, to: &str| format!("upload {} {to}", quoted(file));
    let setup = [
        format!("mkdir -p \"$1/etc/dpkg/dpkg.cfg.d\" \"$1{ARCHIVES}/partial\""),
        upload(&files.dpkg, "/etc/dpkg/dpkg.cfg.d/01-swe-forge"),
        format!("sync-in {cache} {ARCHIVES}"),
    ];
    let customize = [
        // These belong to apt's own user inside and mean nothing to the next image.
        format!("rm -rf \"$1{ARCHIVES}/partial\" \"$1{ARCHIVES}/lock\""),
        format!("sync-out {ARCHIVES} {cache}"),
        format!("mkdir \"$1{INSIDE}\""),
        upload(&files.image_sources, &format!("{INSIDE}/image.sources")),
        upload(&files.finish, &format!("{INSIDE}/finish.sh")),
        format!("chroot \"$1\" sh {INSIDE}/finish.sh"),
        format!(
            "download {INSIDE}/packages.tsv {}",
            quoted(&files.package_list)
        ),
    ];
    let setup = setup
        .into_iter()
        .map(|hook| format!("--setup-hook={hook}").into());
    let customize = customize
        .into_iter()
        .map(|hook| format!("--customize-hook={hook}").into());
    setup.chain(customize).collect()
}

/// A path as mmdebstrap's own splitting into words reads it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

fn environment(root_parent: &Path) -> Vec<(OsString, OsString)> {
    let carried = CARRIED_VARIABLES
        .iter()
        .filter_map(|name| std::env::var_os(name).map(|value| (OsString::from(name), value)));
    // SOURCE_DATE_EPOCH is left out on purpose: it would set back the times of Python's sources
    // behind those in their byte code, and every start of Python would compile them again.
    let own = [
        ("LC_ALL".into(), "C.UTF-8".into()),
        ("TMPDIR".into(), root_parent.into()),
    ];
    carried.chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::host::HostApt;
    use crate::debian::mirrors::{MirrorChoice, Mirrors};
    use crate::recipe::BaseImage;

    fn call(isolation: Isolation) -> Vec<String> {
        let apt = HostApt {
            mirrors: Mirrors::chosen(&MirrorChoice {
                uri: "http://mirror.example/debian".to_owned(),
                security_uri: None,
                keyring: None,
            }),
            settings: vec!["Acquire::http::Proxy \"http://proxy.example\"".to_owned()],
        };
        let workshop = Workshop {
            recipe: BaseImage::Node.recipe(),
            apt: &apt,
            directory: Path::new("/work/it's here"),
            package_cache: Path::new("/cache"),
        };
        let files = Files::in_directory(workshop.directory);
        arguments(&workshop, &files, isolation)
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect()
    }

    #[test]
    fn suite_and_target_and_sources_come_last() {
        let call = call(Isolation::PrivateMounts);
        assert_eq!(call[0], "--mode=root");
        assert_eq!(
            call[call.len() - 3..],
            ["trixie", "-", "/work/it's here/host.sources"]
        );
    }

    #[test]
    fn without_root_a_user_namespace_is_asked_for() {
        assert_eq!(call(Isolation::UserNamespace)[0], "--mode=unshare");
    }

    #[test]
    fn settings_of_the_machine_are_handed_on() {
        let setting = "--aptopt=Acquire::http::Proxy \"http://proxy.example\"".to_owned();
        assert!(call(Isolation::PrivateMounts).contains(&setting));
    }

    #[test]
    fn packages_are_kept_before_anything_is_finished() {
        let call = call(Isolation::PrivateMounts);
        let position = |text: &str| call.iter().position(|it| it.contains(text)).unwrap();
        assert!(position("sync-in") < position("sync-out"));
        assert!(position("sync-out") < position("finish.sh"));
        assert!(position("chroot") < position("download"));
    }

    #[test]
    fn a_quote_in_a_path_does_not_end_it() {
        let upload = "upload '/work/it'\\''s here/finish.sh' /tmp/swe-forge/finish.sh";
        assert!(call(Isolation::PrivateMounts).contains(&format!("--customize-hook={upload}")));
    }

    #[test]
    fn the_environment_holds_nothing_that_was_not_chosen() {
        let names: Vec<OsString> = environment(Path::new("/t"))
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert!(names.iter().all(|name| {
            let name = name.to_str().unwrap();
            CARRIED_VARIABLES.contains(&name) || ["LC_ALL", "TMPDIR"].contains(&name)
        }));
    }
}
