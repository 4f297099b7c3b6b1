//! Rust crates: cargo says where the sparse index is, the index's `config.json` where the files
//! are.

use forge_config::Group;
use serde::Deserialize;
use url::Url;

use super::{
    DiscoverError, Hosts, Index, ask, first_page, hop_sites, no_index, parse_index, shown, site,
};
use crate::clients::{Clients, Output};
use crate::fetch::Fetch;

const CLIENT: &str = "cargo";
/// The file of a sparse index that says where everything else is.
const CONFIG: &str = "config.json";

/// Cargo has no way to be asked for its index. But it names the address that it cannot reach, and
/// so it is sent to a proxy that nobody is: the answer comes at once and without any network, with
/// every file and variable heeded by which cargo can be set.
const QUESTION: [&str; 18] = [
    "env",
    "CARGO_HTTP_PROXY=http://127.0.0.1:9",
    "NO_PROXY=",
    "no_proxy=",
    "CARGO_NET_RETRY=0",
    "CARGO_NET_OFFLINE=false",
    // Before 1.70 the index is a repository otherwise.
    "CARGO_REGISTRIES_CRATES_IO_PROTOCOL=sparse",
    "CARGO_TERM_COLOR=never",
    "CARGO_TERM_QUIET=false",
    "CARGO_TERM_VERBOSE=false",
    "CARGO_TERM_PROGRESS_WHEN=never",
    "cargo",
    "install",
    "--root",
    "/nonexistent",
    "--color",
    "never",
    "swe-forge-asks-for-the-index",
];

pub(super) async fn index(clients: &dyn Clients) -> Result<Index, DiscoverError> {
    let output = ask(clients, CLIENT, &QUESTION).await?;
    let (url, replaced) = read(&output).ok_or_else(|| no_index(CLIENT, &output))?;
    let how = match replaced {
        false => "cargo's built-in sparse index",
        true => "source replacement of cargo's configuration",
    };
    Ok(Index {
        url: parse_index(&url)?,
        extra: Vec::new(),
        builtin: !replaced,
        how: how.to_owned(),
    })
}

/// The index that cargo has without any setting, when it is set to no other.
pub(super) async fn default(clients: &dyn Clients) -> Option<Url> {
    let index = index(clients).await.ok()?;
    index.builtin.then_some(index.url)
}

/// The index in cargo's complaint, and whether it stands in the place of the built-in one.
fn read(output: &Output) -> Option<(String, bool)> {
    let named = output
        .stderr
        .split('`')
        .find(|part| part.starts_with("http") && part.ends_with(&format!("/{CONFIG}")))?;
    let replaced = output.stderr.contains("replaced source");
    Some((named.strip_suffix(CONFIG)?.to_owned(), replaced))
}

#[derive(Deserialize)]
struct Config {
    dl: String,
    #[serde(default, rename = "auth-required")]
    auth_required: bool,
}

pub(super) async fn hosts(fetch: &dyn Fetch, index: &Url) -> Result<Hosts, DiscoverError> {
    let Some(page) = first_page(fetch, index, &[CONFIG], "application/json, */*;q=0.5").await?
    else {
        return Err(DiscoverError::Status {
            url: shown(&super::below(index, CONFIG)),
            status: 404,
        });
    };
    let at = page.hops.last().unwrap_or(index);
    let nonsense = |problem: String| DiscoverError::Nonsense {
        url: shown(at),
        group: Group::Cargo,
        problem,
    };
    let config: Config =
        serde_json::from_str(&page.body).map_err(|error| nonsense(error.to_string()))?;
    if config.auth_required {
        return Err(DiscoverError::Status {
            url: shown(index),
            status: 401,
        });
    }
    // Markers such as `{crate}` stand in the path, at the earliest.
    let fixed = config.dl.split('{').next().unwrap_or_default();
    let files = Url::parse(fixed).map_err(|error| nonsense(format!("`dl`: {error}")))?;
    let mut hosts = hop_sites(&page)?;
    hosts.push(site(&files)?);
    Ok(Hosts {
        hosts,
        how: "files by `dl` of the index's config.json".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(stderr: &str) -> Option<(String, bool)> {
        read(&Output {
            success: false,
            stdout: String::new(),
            stderr: stderr.to_owned(),
        })
    }

    #[test]
    fn the_index_stands_in_the_complaint() {
        let own = "    Updating the index\nerror: download of config.json failed\n\nCaused by:\n  \
                   failed to download from `https://index.test/config.json`\n\nCaused by:\n  [7] no\n";
        assert_eq!(told(own), Some(("https://index.test/".into(), false)));
        let replaced = "    Updating `mine` index\nerror: failed to query replaced source registry \
                        `crates-io`\n\nCaused by:\n  failed to download from \
                        `http://m.test/api/index/config.json`\n";
        assert_eq!(
            told(replaced),
            Some(("http://m.test/api/index/".into(), true))
        );
        assert_eq!(told("error: no such command: `install`"), None);
        assert_eq!(told(""), None);
    }
}
