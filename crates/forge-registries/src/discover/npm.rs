//! JavaScript packages: npm says where the registry is, a package's document where its files are.

use std::collections::BTreeMap;

use forge_config::Group;
use serde::Deserialize;
use url::Url;

use super::{
    DiscoverError, Hosts, Index, ask, first_page, hop_sites, no_index, parse_index, shown, site,
};
use crate::clients::Clients;
use crate::fetch::Fetch;

const CLIENT: &str = "npm";
/// Packages that any registry of JavaScript packages has.
const PACKAGES: [&str; 3] = ["ms", "semver", "once"];
/// The short form of a package's document, else the long one.
const ACCEPT: &str = "application/vnd.npm.install-v1+json, application/json;q=0.8";

pub(super) async fn index(clients: &dyn Clients) -> Result<Index, DiscoverError> {
    let output = ask(clients, CLIENT, &["npm", "config", "get", "registry"]).await?;
    let told = output.stdout.trim();
    if !output.success || told.is_empty() || ["undefined", "null"].contains(&told) {
        return Err(no_index(CLIENT, &output));
    }
    let url = parse_index(told)?;
    let builtin = default(clients).await.as_ref() == Some(&url);
    let how = match builtin {
        true => "npm's built-in registry",
        false => "registry of npm's configuration",
    };
    Ok(Index {
        url,
        extra: Vec::new(),
        builtin,
        how: how.to_owned(),
    })
}

/// The registry that npm has without any setting.
pub(super) async fn default(clients: &dyn Clients) -> Option<Url> {
    let argv = [
        "env",
        "-u",
        "npm_config_registry",
        "-u",
        "NPM_CONFIG_REGISTRY",
        "npm",
        "config",
        "get",
        "registry",
        // Two files, since npm refuses to read one twice.
        "--userconfig=/nonexistent/user",
        "--globalconfig=/nonexistent/global",
    ];
    let output = clients.run(&argv).await.ok()?;
    parse_index(&output.stdout).ok()
}

#[derive(Deserialize)]
struct Packument {
    versions: BTreeMap<String, Version>,
}

#[derive(Deserialize)]
struct Version {
    dist: Dist,
}

#[derive(Deserialize)]
struct Dist {
    tarball: String,
}

pub(super) async fn hosts(fetch: &dyn Fetch, index: &Url) -> Result<Hosts, DiscoverError> {
    let Some(page) = first_page(fetch, index, &PACKAGES, ACCEPT).await? else {
        return Ok(Hosts {
            hosts: vec![site(index)?],
            how: "the registry has none of the usual packages, so only its own host is known"
                .to_owned(),
        });
    };
    let at = page.hops.last().unwrap_or(index);
    let nonsense = |problem: String| DiscoverError::Nonsense {
        url: shown(at),
        group: Group::Npm,
        problem,
    };
    let packument: Packument =
        serde_json::from_str(&page.body).map_err(|error| nonsense(error.to_string()))?;
    let mut hosts = hop_sites(&page)?;
    let before = hosts.len();
    for version in packument.versions.values() {
        let tarball = at
            .join(&version.dist.tarball)
            .map_err(|error| nonsense(format!("`dist.tarball`: {error}")))?;
        let host = site(&tarball)?;
        if !hosts[before..].contains(&host) {
            hosts.push(host);
        }
    }
    if hosts.len() == before {
        return Err(nonsense("no version has a file".to_owned()));
    }
    Ok(Hosts {
        hosts,
        how: "files by dist.tarball of one package".to_owned(),
    })
}
