//! Asks the machine's apt for its sources and for the settings that reach them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::fs;
use tokio::process::Command;

use crate::debian::failure::{FailureCause, Tail};
use crate::debian::mirrors::{Mirrors, Origins, site};
use crate::debian::sources::{AptSource, parse_deb822, parse_one_line};
use crate::error::ImagesError;

/// Settings without which the machine's mirrors may not be reachable; all others are its own.
const CARRIED_SETTINGS: &[&str] = &[
    "Acquire::Check-Date",
    "Acquire::Check-Valid-Until",
    "Acquire::ForceIPv4",
    "Acquire::ForceIPv6",
    "Acquire::Retries",
    "Acquire::http::",
    "Acquire::https::",
];

/// What the machine's apt is set up with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostApt {
    /// The Debian archives.
    pub mirrors: Mirrors,
    /// Settings to reach them, as `name "value"`.
    pub settings: Vec<String>,
}

/// Reads the apt configuration of this machine.
///
/// # Errors
/// When there is no apt, or it names no Debian mirror.
pub async fn discover() -> Result<HostApt, ImagesError> {
    let sources = read_sources(&source_files().await?).await?;
    let mirrors = Mirrors::select(&sources, &origins().await?)?;
    Ok(HostApt {
        mirrors,
        settings: settings().await?,
    })
}

/// Settings of this machine's apt to reach mirrors with, as `name "value"`.
///
/// # Errors
/// When there is no apt.
pub async fn settings() -> Result<Vec<String>, ImagesError> {
    Ok(carried_settings(&output("apt-config", &["dump"]).await?))
}

async fn source_files() -> Result<Vec<PathBuf>, ImagesError> {
    let arguments = [
        "shell",
        "LIST",
        "Dir::Etc::sourcelist/f",
        "PARTS",
        "Dir::Etc::sourceparts/d",
    ];
    let answer = output("apt-config", &arguments).await?;
    let mut files: Vec<PathBuf> = shell_value(&answer, "LIST").into_iter().collect();
    if let Some(folder) = shell_value(&answer, "PARTS") {
        files.extend(source_parts(&folder).await?);
    }
    Ok(files)
}

/// Files of the folder that apt would read, in its order.
async fn source_parts(folder: &Path) -> Result<Vec<PathBuf>, ImagesError> {
    let failed = || ImagesError::io("list", folder);
    let mut entries = match fs::read_dir(folder).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed()(error)),
    };
    let mut files = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(failed())? {
        files.push(entry.path());
    }
    files.sort();
    Ok(files)
}

async fn read_sources(files: &[PathBuf]) -> Result<Vec<AptSource>, ImagesError> {
    let mut sources = Vec::new();
    for file in files {
        let parse = match file.extension().and_then(std::ffi::OsStr::to_str) {
            Some("list") => parse_one_line,
            Some("sources") => parse_deb822,
            _ => continue,
        };
        match fs::read(file).await {
            Ok(bytes) => sources.extend(parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ImagesError::io("read", file)(error)),
        }
    }
    Ok(sources)
}

/// What apt knows of the indices it has; nothing before its first update.
async fn origins() -> Result<Origins, ImagesError> {
    let format = "$(SITE)\t$(RELEASE)\t$(ORIGIN)";
    let arguments = ["indextargets", "--format", format, "Created-By: Packages"];
    Ok(parse_origins(&output("apt-get", &arguments).await?))
}

fn parse_origins(text: &str) -> Origins {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let key = (site(fields.next()?), fields.next()?.to_owned());
            let origin = fields.next()?;
            // A field that an index does not have is left as its name.
            (!origin.is_empty() && !origin.starts_with('$')).then(|| (key, origin.to_owned()))
        })
        .collect()
}

/// Lines of `apt-config dump` that are worth taking along.
fn carried_settings(dump: &str) -> Vec<String> {
    dump.lines()
        .filter_map(|line| {
            let setting = line.strip_suffix(';')?;
            let (name, value) = setting.split_once(' ')?;
            let carried = CARRIED_SETTINGS
                .iter()
                .any(|known| match known.strip_suffix("::") {
                    Some(_) => name.starts_with(known),
                    None => name == *known,
                });
            // An empty value only opens a scope, and `::` at the end is an element of a list.
            (carried && value != "\"\"" && !name.ends_with("::")).then(|| setting.to_owned())
        })
        .collect()
}

/// The value of a variable in the answer of `apt-config shell`.
fn shell_value(answer: &str, name: &str) -> Option<PathBuf> {
    answer
        .lines()
        .filter_map(|line| line.split_once('='))
        .find(|(variable, _)| *variable == name)
        .map(|(_, quoted)| PathBuf::from(quoted.trim_matches('\'').replace("'\\''", "'")))
}

/// What `program` prints; an error unless it ends well.
pub(super) async fn output(
    program: &'static str,
    arguments: &[&str],
) -> Result<String, ImagesError> {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(ImagesError::start(program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut tail = Tail::default();
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        tail.push(line.to_owned());
    }
    Err(ImagesError::ProgramFailed {
        program,
        status: output.status,
        cause: FailureCause::Unknown,
        last_lines: tail.into_lines(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_that_reach_a_mirror_are_taken_along() {
        let dump = "\
APT::Architecture \"amd64\";
Acquire \"\";
Acquire::Check-Valid-Until \"false\";
Acquire::http \"\";
Acquire::http::Proxy \"http://proxy.example:3128\";
Acquire::https::CaInfo \"/etc/ssl/site.pem\";
Acquire::http::Proxy-List:: \"element\";
Acquire::Languages:: \"none\";
DPkg::Post-Invoke:: \"rm -rf /\";
Acquire::Retries \"\";
";
        assert_eq!(
            carried_settings(dump),
            [
                "Acquire::Check-Valid-Until \"false\"",
                "Acquire::http::Proxy \"http://proxy.example:3128\"",
                "Acquire::https::CaInfo \"/etc/ssl/site.pem\"",
            ]
        );
    }

    #[test]
    fn the_answer_of_apt_config_is_unquoted() {
        let answer = "LIST='/etc/apt/sources.list'\nPARTS='/odd/it'\\''s/'\n";
        assert_eq!(
            shell_value(answer, "LIST"),
            Some("/etc/apt/sources.list".into())
        );
        assert_eq!(shell_value(answer, "PARTS"), Some("/odd/it's/".into()));
        assert_eq!(shell_value(answer, "NONE"), None);
    }

    #[test]
    fn indices_without_an_origin_say_nothing() {
        let text = "http://a.example/debian\tbookworm\tDebian\n\
                    http://b.example/apt/\tstable\t$(ORIGIN)\n\
                    broken line\n";
        let key = ("http://a.example/debian".to_owned(), "bookworm".to_owned());
        assert_eq!(
            parse_origins(text),
            Origins::from([(key, "Debian".to_owned())])
        );
    }
}
