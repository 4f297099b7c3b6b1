//! Finding out where indexes are and which hosts serve what they name.

mod apt;
mod cargo;
mod go;
mod npm;
mod pypi;
mod sites;
mod tools;

use std::io;

use forge_config::Group;
use forge_core::egress::AllowedHost;
use futures::future::join_all;
use jiff::Timestamp;
use url::{Host, Url};

use crate::book::{Registry, merge};
use crate::clients::{Clients, Images, InImage, Output, Places};
use crate::fetch::{Fetch, FetchError, Page};

pub(crate) use pypi::settings as pip_settings;

/// Most hosts that one registry is believed to have; a page of links to everywhere is no index.
const MAX_HOSTS: usize = 12;

/// A group to find out about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub group: Group,
    /// Where its index is, when the operator says so.
    pub index: Option<String>,
}

/// What came of a group.
#[derive(Debug)]
pub struct Found {
    /// Which.
    pub group: Group,
    /// The registry, or why there is none.
    pub outcome: Result<Registry, DiscoverError>,
}

/// A registry that could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// Its client is not there.
    #[error("{client} is not installed, so nobody says where the index is")]
    NoClient {
        /// The program.
        client: &'static str,
    },
    /// Its client is not here, and no image can be asked instead.
    #[error("{here}; no image can be asked instead: {why}")]
    NoImage {
        /// What is the matter here.
        here: Box<Self>,
        /// Why not.
        why: String,
    },
    /// Its client is not here, and that of an image was of no use.
    #[error("{here}; neither does {image} help")]
    InImage {
        /// What is the matter here.
        here: Box<Self>,
        /// The image.
        image: String,
        /// What came of it.
        #[source]
        source: Box<Self>,
    },
    /// Its client could not be asked.
    #[error("{client} could not be asked")]
    Client {
        /// The program.
        client: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its client did not say where the index is.
    #[error("{client} does not say where the index is: {said}")]
    NoIndex {
        /// The program.
        client: &'static str,
        /// What it said instead.
        said: String,
    },
    /// The index is at no address that sandboxes could reach.
    #[error("the index {index} {problem}")]
    Unusable {
        /// Where it is, without credentials.
        index: String,
        /// Why not.
        problem: &'static str,
    },
    /// The index did not answer.
    #[error("the index {index} could not be read")]
    Fetch {
        /// Where it is.
        index: String,
        /// What went wrong.
        #[source]
        source: FetchError,
    },
    /// The index said no.
    #[error("{url} answered with status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status code.
        status: u16,
    },
    /// Its index names hosts without end.
    #[error("the index of {group} names {hosts} hosts for its files, more than {MAX_HOSTS}")]
    TooMany {
        /// The group.
        group: Group,
        /// How many hosts.
        hosts: usize,
    },
    /// What the index says is not what its protocol knows.
    #[error("{url} is not what an index of {group} says: {problem}")]
    Nonsense {
        /// What was asked for.
        url: String,
        /// The group.
        group: Group,
        /// What is wrong.
        problem: String,
    },
}

impl DiscoverError {
    /// Whether it only says that there is nobody here who could say.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        match self {
            Self::NoClient { .. } | Self::NoIndex { .. } => true,
            Self::NoImage { here, .. } => here.is_absence(),
            Self::InImage { source, .. } => source.is_absence(),
            _ => false,
        }
    }

    /// Whether its client is nowhere.
    #[must_use]
    pub fn is_without_client(&self) -> bool {
        match self {
            Self::NoClient { .. } => true,
            Self::NoImage { here, .. } => here.is_without_client(),
            Self::InImage { here, source, .. } => {
                here.is_without_client() && source.is_without_client()
            }
            _ => false,
        }
    }

    /// Whether an image's client may know more. What a client here is set to holds, also when it
    /// is set to no index; apt's sources may all be somebody else's.
    fn is_for_images(&self, group: Group) -> bool {
        match group {
            Group::Pypi | Group::Npm | Group::Cargo | Group::Go => {
                matches!(self, Self::NoClient { .. })
            }
            Group::Apt => self.is_absence(),
            // No base image has these clients.
            Group::Maven | Group::Gradle | Group::Gems => false,
        }
    }

    /// The error with everything underneath it, on one line.
    #[must_use]
    pub fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            text.push_str(&format!(": {source}"));
            next = source.source();
        }
        text
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self, group: Group) -> String {
        match self {
            Self::Fetch { source, .. } => match source.hint() {
                Some(hint) => hint.to_owned(),
                None => format!("if it needs no look at the index, set registries.{group}.hosts"),
            },
            Self::Status {
                status: 401 | 403, ..
            } => "sandboxes get no credentials: give them an index that needs none".to_owned(),
            Self::InImage { source, .. } => source.hint(group),
            Self::NoImage { here, .. } => format!(
                "`swe-forge images build` makes images, whose clients are asked then; or {}",
                here.hint(group)
            ),
            Self::NoClient { .. } | Self::NoIndex { .. } if group != Group::Apt => {
                format!(
                    "set registries.{group}.hosts, or .index where it is not the client's own; \
                     enabled = false switches it off"
                )
            }
            _ => format!("set registries.{group}.hosts"),
        }
    }
}

/// Where an index is, and who says so.
#[derive(Debug)]
struct Index {
    url: Url,
    extra: Vec<Url>,
    builtin: bool,
    how: String,
}

impl Index {
    /// The index that the operator set. It may be the one that the client has anyway, and cargo
    /// refuses to be set to that.
    async fn configured(clients: &dyn Clients, group: Group, url: Url) -> Self {
        let own = match group {
            Group::Pypi => pypi::default(clients).await.ok(),
            Group::Npm => npm::default(clients).await,
            Group::Cargo => cargo::default(clients).await,
            Group::Apt | Group::Go | Group::Maven | Group::Gradle | Group::Gems => None,
        };
        Self {
            builtin: own.is_some_and(|own| is_same_place(&own, &url)),
            url,
            extra: Vec::new(),
            how: "index set in the configuration".to_owned(),
        }
    }
}

/// The hosts of a registry and how they were found.
#[derive(Debug)]
struct Hosts {
    hosts: Vec<AllowedHost>,
    how: String,
}

/// Finds out about all of `wanted` at once; one that fails keeps no other from being found.
pub async fn discover(
    places: Places<'_>,
    fetch: &dyn Fetch,
    wanted: &[Wanted],
    now: Timestamp,
) -> Vec<Found> {
    let all = wanted.iter().map(|wanted| async move {
        Found {
            group: wanted.group,
            outcome: Box::pin(here_or_in_image(places, fetch, wanted, now)).await,
        }
    });
    join_all(all).await
}

async fn here_or_in_image(
    places: Places<'_>,
    fetch: &dyn Fetch,
    wanted: &Wanted,
    now: Timestamp,
) -> Result<Registry, DiscoverError> {
    let here = one(places.host, fetch, wanted, now).await;
    let is_for_images = match &here {
        Err(error) => error.is_for_images(wanted.group),
        // Sandboxes have the sources of their image, and these are another distribution's.
        Ok(_) => wanted.group == Group::Apt && !apt::is_distribution_of_images(places.host).await,
    };
    let Some(images) = places.images.filter(|_| is_for_images) else {
        return here;
    };
    match (here, in_image(images, fetch, wanted, now).await) {
        (Ok(here), Ok(there)) => Ok(Registry {
            how: format!("{}; {}", here.how, there.how),
            hosts: merge([there.hosts, here.hosts].concat()),
            ..here
        }),
        (Ok(here), Err(useless)) => Ok(Registry {
            how: format!("{}; {}", here.how, useless.told()),
            ..here
        }),
        (Err(_), Ok(there)) => Ok(there),
        (Err(here), Err(useless)) => Err(useless.after(here)),
    }
}

/// An image that says nothing.
enum Useless {
    NoImage(String),
    Client {
        image: String,
        source: DiscoverError,
    },
}

impl Useless {
    fn told(&self) -> String {
        match self {
            Self::NoImage(why) => format!("no image can be asked: {why}"),
            Self::Client { image, source } => format!("{image}: {}", source.with_causes()),
        }
    }

    fn after(self, here: DiscoverError) -> DiscoverError {
        let here = Box::new(here);
        match self {
            Self::NoImage(why) => DiscoverError::NoImage { here, why },
            Self::Client { image, source } => DiscoverError::InImage {
                here,
                image,
                source: Box::new(source),
            },
        }
    }
}

async fn in_image(
    images: &dyn Images,
    fetch: &dyn Fetch,
    wanted: &Wanted,
    now: Timestamp,
) -> Result<Registry, Useless> {
    let asked = images.with_client(wanted.group).await;
    let InImage { image, clients } = asked.map_err(Useless::NoImage)?;
    match one(&*clients, fetch, wanted, now).await {
        Ok(registry) => Ok(Registry {
            how: format!("{} in {image}: {}", client(wanted.group), registry.how),
            ..registry
        }),
        Err(source) => Err(Useless::Client { image, source }),
    }
}

/// Who is asked about a group.
const fn client(group: Group) -> &'static str {
    match group {
        Group::Pypi => "pip",
        Group::Npm => "npm",
        Group::Cargo => "cargo",
        Group::Apt => "apt",
        Group::Go => "go",
        Group::Maven => "maven",
        Group::Gradle => "gradle",
        Group::Gems => "gem",
    }
}

async fn one(
    clients: &dyn Clients,
    fetch: &dyn Fetch,
    wanted: &Wanted,
    now: Timestamp,
) -> Result<Registry, DiscoverError> {
    let group = wanted.group;
    if group == Group::Apt {
        let Hosts { hosts, how } = apt::hosts(clients).await?;
        return finish(group, None, hosts, how, now);
    }
    let index = match &wanted.index {
        Some(text) => Index::configured(clients, group, parse_index(text)?).await,
        None => match group {
            Group::Pypi => pypi::index(clients).await?,
            Group::Npm => npm::index(clients).await?,
            Group::Cargo => cargo::index(clients).await?,
            Group::Go => go::index(clients).await?,
            Group::Maven | Group::Apt => tools::maven(clients).await?,
            Group::Gradle => tools::gradle(clients).await?,
            Group::Gems => tools::gems(clients).await?,
        },
    };
    let mut hosts = Vec::new();
    let mut how = Vec::new();
    for url in std::iter::once(&index.url).chain(&index.extra) {
        check(url)?;
        let found = match group {
            Group::Pypi => pypi::hosts(fetch, url).await?,
            Group::Npm => npm::hosts(fetch, url).await?,
            Group::Cargo => cargo::hosts(fetch, url).await?,
            Group::Go => go::hosts(clients, fetch, url).await?,
            Group::Apt | Group::Maven | Group::Gradle | Group::Gems => Hosts {
                hosts: vec![site(url)?],
                how: "files come from the same host".to_owned(),
            },
        };
        hosts.extend(found.hosts);
        if !how.contains(&found.how) {
            how.push(found.how);
        }
    }
    let how = format!("{}; {}", index.how, how.join("; "));
    let configured = wanted.index.is_some();
    finish(group, Some((index, configured)), hosts, how, now)
}

fn finish(
    group: Group,
    index: Option<(Index, bool)>,
    hosts: Vec<AllowedHost>,
    how: String,
    now: Timestamp,
) -> Result<Registry, DiscoverError> {
    let hosts = merge(hosts);
    if hosts.len() > MAX_HOSTS {
        return Err(DiscoverError::TooMany {
            group,
            hosts: hosts.len(),
        });
    }
    let (index, configured) = match index {
        Some((index, configured)) => (Some(index), configured),
        None => (None, false),
    };
    let builtin = index.as_ref().is_none_or(|index| index.builtin);
    let extra = index.iter().flat_map(|index| &index.extra);
    Ok(Registry {
        group,
        extra_indexes: extra.map(shown).collect(),
        index: index.as_ref().map(|index| shown(&index.url)),
        builtin,
        configured,
        hosts,
        how,
        found_at: now,
    })
}

/// An address as it is kept and shown: credentials are the operator's.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for addresses that can have no credentials.
    url.set_password(None).ok();
    url.set_username("").ok();
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

fn is_same_place(one: &Url, other: &Url) -> bool {
    shown(one).trim_end_matches('/') == shown(other).trim_end_matches('/')
}

/// Reads what a client says about its index.
fn parse_index(text: &str) -> Result<Url, DiscoverError> {
    let unusable = |problem| DiscoverError::Unusable {
        // Text that is no address may hold anything, also a password.
        index: "that is set".to_owned(),
        problem,
    };
    let mut url = Url::parse(text.trim()).map_err(|_| unusable("is no address"))?;
    // What is asked for without them is what sandboxes get.
    url.set_password(None).ok();
    url.set_username("").ok();
    check(&url)?;
    Ok(url)
}

/// Refuses an index that no sandbox could reach.
fn check(url: &Url) -> Result<(), DiscoverError> {
    site(url).map(|_| ())
}

/// The host of an address, as an entry of an allow-list.
fn site(url: &Url) -> Result<AllowedHost, DiscoverError> {
    let unusable = |problem| DiscoverError::Unusable {
        index: match is_web(url) {
            true => shown(url),
            // `me:word@mirror` is an address of the scheme `me`.
            false => "that is set".to_owned(),
        },
        problem,
    };
    let Some(port) = url.port_or_known_default().filter(|_| is_web(url)) else {
        return Err(unusable("is neither https nor http"));
    };
    match url.host() {
        Some(Host::Domain(name)) => Ok(AllowedHost {
            name: name.trim_end_matches('.').to_owned(),
            subdomains: false,
            ports: vec![port],
        }),
        _ => Err(unusable(
            "has an address instead of a name, and addresses are not reached at package_only",
        )),
    }
}

fn is_web(url: &Url) -> bool {
    matches!(url.scheme(), "https" | "http")
}

/// The hosts of every hop to a page.
fn hop_sites(page: &Page) -> Result<Vec<AllowedHost>, DiscoverError> {
    page.hops.iter().map(site).collect()
}

/// The first of some pages of an index that is there; `None` when the index has none of them.
async fn first_page(
    fetch: &dyn Fetch,
    index: &Url,
    pages: &[&str],
    accept: &str,
) -> Result<Option<Page>, DiscoverError> {
    for page in pages {
        let url = below(index, page);
        let page = fetch
            .get(&url, accept)
            .await
            .map_err(|source| DiscoverError::Fetch {
                index: shown(index),
                source,
            })?;
        match page.status {
            200 => return Ok(Some(page)),
            404 | 410 => {}
            status => {
                return Err(DiscoverError::Status {
                    url: shown(&url),
                    status,
                });
            }
        }
    }
    Ok(None)
}

/// `path` below an index, whether or not the index ends in a slash.
fn below(index: &Url, path: &str) -> Url {
    let mut url = index.clone();
    let base = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{base}/{path}"));
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// Asks a client.
async fn ask(
    clients: &dyn Clients,
    client: &'static str,
    argv: &[&str],
) -> Result<Output, DiscoverError> {
    clients
        .run(argv)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => DiscoverError::NoClient { client },
            _ => DiscoverError::Client { client, source },
        })
}

/// A client that answered something else.
fn no_index(client: &'static str, output: &Output) -> DiscoverError {
    let told = match output.stderr.trim() {
        "" => output.stdout.trim(),
        told => told,
    };
    let last = told.lines().next_back().unwrap_or("nothing");
    DiscoverError::NoIndex {
        client,
        said: last.chars().take(200).collect(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
