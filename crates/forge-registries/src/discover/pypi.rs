//! Python packages: pip says where the index is, a project's page which hosts have the files.

use std::collections::BTreeMap;

use forge_config::Group;
use serde::Deserialize;
use url::Url;

use super::{
    DiscoverError, Hosts, Index, ask, first_page, hop_sites, is_same_place, no_index, parse_index,
    shown, sites,
};
use crate::clients::{Clients, Output};
use crate::fetch::Fetch;

const CLIENT: &str = "pip";
/// Projects that any index of Python packages has.
const PROJECTS: [&str; 3] = ["pip/", "setuptools/", "six/"];
const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, \
                      application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";
/// Asks pip for what it falls back to.
const DEFAULT: &str = "from pip._internal.models.index import PyPI; print(PyPI.simple_url, end='')";

/// Settings of pip that hold for `pip install`.
#[derive(Debug, Default)]
pub(crate) struct PipSettings(BTreeMap<String, String>);

impl PipSettings {
    /// A setting.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Reads `pip config list`: `section.name='value'`. A later section goes before an earlier one.
    fn parse(text: &str) -> Self {
        let mut settings = BTreeMap::new();
        for section in ["global.", "install.", ":env:."] {
            for line in text.lines() {
                let setting = line.strip_prefix(section).and_then(|rest| {
                    let (name, value) = rest.split_once('=')?;
                    Some((name.trim(), value.trim()))
                });
                if let Some((name, value)) = setting {
                    settings.insert(name.to_owned(), unquoted(value));
                }
            }
        }
        Self(settings)
    }
}

/// The text in a literal of Python's.
fn unquoted(literal: &str) -> String {
    let quoted = ['\'', '"'].into_iter().find_map(|quote| {
        let inner = literal.strip_prefix(quote)?.strip_suffix(quote)?;
        Some(inner.to_owned())
    });
    let inner = quoted.unwrap_or_else(|| literal.to_owned());
    inner
        .replace("\\n", "\n")
        .replace("\\'", "'")
        .replace("\\\\", "\\")
}

/// Runs pip, as a module of python3 or by its own name.
async fn pip(clients: &dyn Clients, arguments: &[&str]) -> Result<Output, DiscoverError> {
    let module = [&["python3", "-m", "pip"], arguments].concat();
    match ask(clients, CLIENT, &module).await {
        Ok(output) if output.success => Ok(output),
        // A python3 without pip, or none at all.
        Ok(_) | Err(DiscoverError::NoClient { .. }) => {
            ask(clients, CLIENT, &[&["pip"], arguments].concat()).await
        }
        Err(error) => Err(error),
    }
}

/// What pip is set to, by its files and its variables.
pub(crate) async fn settings(clients: &dyn Clients) -> Result<PipSettings, DiscoverError> {
    let output = pip(clients, &["config", "list"]).await?;
    match output.success {
        true => Ok(PipSettings::parse(&output.stdout)),
        false => Err(no_index(CLIENT, &output)),
    }
}

pub(super) async fn index(clients: &dyn Clients) -> Result<Index, DiscoverError> {
    let settings = settings(clients).await?;
    let truthy = |value: &str| !["", "0", "false", "no", "off"].contains(&value);
    if settings.get("no-index").is_some_and(truthy) {
        return Err(DiscoverError::NoIndex {
            client: CLIENT,
            said: "it is set to use none (no-index)".to_owned(),
        });
    }
    let default = default(clients).await;
    let set = settings.get("index-url").map(parse_index).transpose()?;
    let extra = settings.get("extra-index-url").unwrap_or_default();
    let extra = extra
        .split_whitespace()
        .map(parse_index)
        .collect::<Result<Vec<Url>, _>>()?;
    let (url, builtin, how) = match (set, default) {
        (None, default) => (default?, true, "pip's built-in index"),
        // When pip does not say what it falls back to, it is set for sandboxes too.
        (Some(set), default) => {
            let builtin = default.is_ok_and(|default| is_same_place(&default, &set));
            (set, builtin, "index of pip's configuration")
        }
    };
    Ok(Index {
        builtin: builtin && extra.is_empty(),
        url,
        extra,
        how: how.to_owned(),
    })
}

/// The index that pip has without any setting: as its own code has it, else as its help says.
pub(super) async fn default(clients: &dyn Clients) -> Result<Url, DiscoverError> {
    if let Ok(output) = ask(clients, CLIENT, &["python3", "-c", DEFAULT]).await
        && output.success
        && let Ok(url) = parse_index(&output.stdout)
    {
        return Ok(url);
    }
    let help = pip(clients, &["install", "--help"]).await?;
    let words: Vec<&str> = help.stdout.split_whitespace().collect();
    let told = words.windows(2).find_map(|pair| {
        let url = pair[1].strip_suffix(").").or(pair[1].strip_suffix(')'))?;
        (pair[0] == "(default").then(|| parse_index(url).ok())?
    });
    told.ok_or_else(|| no_index(CLIENT, &help))
}

pub(super) async fn hosts(fetch: &dyn Fetch, index: &Url) -> Result<Hosts, DiscoverError> {
    let Some(page) = first_page(fetch, index, &PROJECTS, ACCEPT).await? else {
        return Ok(Hosts {
            hosts: vec![super::site(index)?],
            how: "the index has none of the usual projects, so only its own host is known"
                .to_owned(),
        });
    };
    let at = page.hops.last().unwrap_or(index);
    let links = match page.content_type.ends_with("json") {
        true => json_links(&page.body, at)?,
        false => sites::links(&page.body, at),
    };
    let files = sites::of_packages(&links);
    if files.is_empty() {
        return Err(DiscoverError::Nonsense {
            url: shown(at),
            group: Group::Pypi,
            problem: "no link leads to a package".to_owned(),
        });
    }
    let mut hosts = hop_sites(&page)?;
    hosts.extend(files);
    let page = at
        .path_segments()
        .and_then(|mut parts| parts.rfind(|part| !part.is_empty()));
    Ok(Hosts {
        hosts,
        how: format!(
            "files by the links of its page of {}",
            page.unwrap_or("a project")
        ),
    })
}

#[derive(Deserialize)]
struct Project {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    url: String,
}

fn json_links(body: &str, at: &Url) -> Result<Vec<Url>, DiscoverError> {
    let project: Project = serde_json::from_str(body).map_err(|error| DiscoverError::Nonsense {
        url: shown(at),
        group: Group::Pypi,
        problem: error.to_string(),
    })?;
    let files = project.files.iter();
    Ok(files.filter_map(|file| at.join(&file.url).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pip_lists_is_read_in_its_own_order() {
        let settings = PipSettings::parse(
            "global.index-url='https://global.test/simple'\n\
             :env:.index-url='https://env.test/simple'\n\
             install.index-url='https://install.test/simple'\n\
             global.extra-index-url='\\nhttps://a.test\\nhttps://b.test'\n\
             download.cert='/no.pem'\n",
        );
        assert_eq!(settings.get("index-url"), Some("https://env.test/simple"));
        let extra = settings.get("extra-index-url").unwrap();
        assert_eq!(extra.split_whitespace().count(), 2);
        assert_eq!(settings.get("cert"), None);
    }
}
