//! Discovery against clients and indexes that do not exist.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use forge_config::Group;
use jiff::Timestamp;
use url::Url;

use super::*;
use crate::clients::{Images, Place};

/// Clients that say what a test has them say, by a part of their command line.
#[derive(Default)]
pub(crate) struct FakeClients {
    image: bool,
    answers: Vec<(String, Output)>,
    files: BTreeMap<PathBuf, String>,
}

impl FakeClients {
    pub(crate) fn in_image(mut self) -> Self {
        self.image = true;
        self
    }

    pub(crate) fn answers(self, command: &str, stdout: &str) -> Self {
        let output = Output {
            success: true,
            stdout: stdout.to_owned(),
            stderr: String::new(),
        };
        self.outputs(command, output)
    }

    pub(crate) fn complains(self, command: &str, stderr: &str) -> Self {
        let output = Output {
            stderr: stderr.to_owned(),
            ..Output::default()
        };
        self.outputs(command, output)
    }

    fn outputs(mut self, command: &str, output: Output) -> Self {
        self.answers.push((command.to_owned(), output));
        self
    }

    pub(crate) fn holds(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.to_owned());
        self
    }
}

#[async_trait]
impl Clients for FakeClients {
    fn place(&self) -> Place {
        match self.image {
            true => Place::Image,
            false => Place::Host,
        }
    }

    async fn run(&self, argv: &[&str]) -> io::Result<Output> {
        let line = argv.join(" ");
        let known = self.answers.iter().find(|(part, _)| line.contains(part));
        known
            .map(|(_, output)| output.clone())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    async fn read(&self, path: &Path) -> io::Result<Option<String>> {
        Ok(self.files.get(path).cloned())
    }
}

/// Pages by their address; everything else is not there.
#[derive(Default)]
pub(crate) struct FakeFetch {
    pages: BTreeMap<String, Page>,
    down: BTreeSet<String>,
    asked: Mutex<Vec<String>>,
}

impl FakeFetch {
    pub(crate) fn serves(mut self, url: &str, content_type: &str, body: &str) -> Self {
        let page = Page {
            status: 200,
            content_type: content_type.to_owned(),
            body: body.to_owned(),
            hops: vec![Url::parse(url).unwrap()],
        };
        self.pages.insert(url.to_owned(), page);
        self
    }

    fn refuses(mut self, url: &str, status: u16) -> Self {
        self = self.serves(url, "", "");
        self.pages.get_mut(url).unwrap().status = status;
        self
    }

    fn leads(mut self, from: &str, to: &str) -> Self {
        let mut page = self.pages[to].clone();
        page.hops.insert(0, Url::parse(from).unwrap());
        self.pages.insert(from.to_owned(), page);
        self
    }
}

#[async_trait]
impl Fetch for FakeFetch {
    async fn get(&self, url: &Url, _: &str) -> Result<Page, FetchError> {
        self.asked.lock().unwrap().push(url.to_string());
        let host = url.host_str().unwrap().to_owned();
        if self.down.contains(&host) {
            let source = io::ErrorKind::ConnectionRefused.into();
            return Err(FetchError::Connect { host, source });
        }
        Ok(self.pages.get(url.as_str()).cloned().unwrap_or(Page {
            status: 404,
            content_type: String::new(),
            body: String::new(),
            hops: vec![url.clone()],
        }))
    }
}

fn now() -> Timestamp {
    "2026-01-15T00:00:00Z".parse().unwrap()
}

async fn find(
    group: Group,
    index: Option<&str>,
    clients: &FakeClients,
    fetch: &FakeFetch,
) -> Result<Registry, DiscoverError> {
    let wanted = [Wanted {
        group,
        index: index.map(str::to_owned),
    }];
    let mut found = discover(Places::only(clients), fetch, &wanted, now()).await;
    found.remove(0).outcome
}

fn hosts(registry: &Registry) -> Vec<String> {
    registry.hosts.iter().map(ToString::to_string).collect()
}

const JSON: &str = "application/vnd.pypi.simple.v1+json";
const PROJECT: &str = r#"{"files": [{"url": "https://files.test/a/pip-1.tar.gz"},
    {"url": "../../own/pip-2-py3-none-any.whl"}]}"#;

fn pip(config: &str) -> FakeClients {
    FakeClients::default()
        .answers("pip config list", config)
        .answers("PyPI.simple_url", "https://index.test/simple")
}

#[tokio::test]
async fn pips_own_index_is_followed_to_its_files() {
    let fetch = FakeFetch::default().serves("https://index.test/simple/pip/", JSON, PROJECT);
    let found = find(Group::Pypi, None, &pip(""), &fetch).await.unwrap();
    assert_eq!(hosts(&found), ["index.test", "files.test"]);
    assert_eq!(found.index.as_deref(), Some("https://index.test/simple"));
    assert!(found.builtin && !found.configured);
    assert_eq!(
        found.how,
        "pip's built-in index; files by the links of its page of pip"
    );
}

#[tokio::test]
async fn a_mirror_that_pip_is_set_to_is_found_and_nothing_else() {
    let clients = pip("global.index-url='http://me:word@mirror.test:3141/root/'\n\
                       global.extra-index-url='https://extra.test/simple'\n");
    let html = "<a href='pip-1.whl'>1</a><a href='https://home.test/'>home</a>";
    let fetch = FakeFetch::default()
        .serves(
            "http://mirror.test:3141/root/setuptools/",
            "text/html",
            html,
        )
        .serves("https://extra.test/simple/pip/", "text/html", html);
    let found = find(Group::Pypi, None, &clients, &fetch).await.unwrap();
    assert_eq!(hosts(&found), ["mirror.test:3141", "extra.test"]);
    assert_eq!(
        found.index.as_deref(),
        Some("http://mirror.test:3141/root/")
    );
    assert_eq!(found.extra_indexes, ["https://extra.test/simple"]);
    assert!(!found.builtin);
    let asked = fetch.asked.lock().unwrap().join(" ");
    assert!(
        !asked.contains("word") && !asked.contains("index.test"),
        "{asked}"
    );
    assert!(!format!("{found:?}").contains("word"));
}

#[tokio::test]
async fn a_configured_default_is_still_the_default() {
    let clients = pip(":env:.index-url='https://index.test/simple/'\n");
    let fetch = FakeFetch::default().serves("https://index.test/simple/pip/", JSON, PROJECT);
    let found = find(Group::Pypi, None, &clients, &fetch).await.unwrap();
    assert!(found.builtin);
}

#[tokio::test]
async fn an_older_pip_says_its_default_in_its_help() {
    let help = "  -i, --index-url <url>  Base URL of the Package Index (default\n\
                \x20                        https://index.test/simple). This should point\n";
    let clients = FakeClients::default()
        .answers("pip config list", "")
        .complains("python3 -c", "ImportError")
        .answers("pip install --help", help);
    let fetch = FakeFetch::default().serves("https://index.test/simple/pip/", JSON, PROJECT);
    let found = find(Group::Pypi, None, &clients, &fetch).await.unwrap();
    assert_eq!(found.index.as_deref(), Some("https://index.test/simple"));
}

#[tokio::test]
async fn hops_to_an_index_are_hosts_too() {
    let fetch = FakeFetch::default()
        .serves("https://new.test/simple/pip/", JSON, PROJECT)
        .leads(
            "https://index.test/simple/pip/",
            "https://new.test/simple/pip/",
        );
    let found = find(Group::Pypi, None, &pip(""), &fetch).await.unwrap();
    assert_eq!(hosts(&found), ["index.test", "new.test", "files.test"]);
}

#[tokio::test]
async fn an_index_that_no_sandbox_could_reach_is_refused() {
    for (index, problem) in [
        ("http://10.1.2.3/simple", "address instead of a name"),
        ("http://[fd00::1]/simple", "address instead of a name"),
        ("file:///srv/packages", "neither https nor http"),
        ("ssh://git@mirror.test/x", "neither https nor http"),
        ("me:word@mirror", "neither https nor http"),
        ("", "no address"),
    ] {
        let clients = pip(&format!("global.index-url='{index}'\n"));
        let error = find(Group::Pypi, None, &clients, &FakeFetch::default()).await;
        let told = error.unwrap_err().to_string();
        assert!(told.contains(problem), "{index}: {told}");
        assert!(!told.contains("word"), "{told}");
    }
}

#[tokio::test]
async fn what_an_index_answers_is_not_believed_blindly() {
    let page = "https://index.test/simple/pip/";
    for (content_type, body) in [
        (JSON, "{"),
        (JSON, "{\"files\": []}"),
        ("text/html", "<h1>Please log in</h1>"),
        (
            "text/html",
            "<a href='http://10.0.0.1/a.whl'>an address</a>",
        ),
    ] {
        let fetch = FakeFetch::default().serves(page, content_type, body);
        let error = find(Group::Pypi, None, &pip(""), &fetch).await.unwrap_err();
        assert!(
            matches!(error, DiscoverError::Nonsense { .. }),
            "{body}: {error}"
        );
    }
    let fetch = FakeFetch::default().refuses(page, 401);
    let error = find(Group::Pypi, None, &pip(""), &fetch).await.unwrap_err();
    assert!(error.hint(Group::Pypi).contains("credentials"));
    let mut links = String::new();
    for number in 0..1000 {
        links.push_str(&format!("<a href='https://h{number}.test/a.whl'>x</a>"));
    }
    let fetch = FakeFetch::default().serves(page, "text/html", &links);
    let error = find(Group::Pypi, None, &pip(""), &fetch).await.unwrap_err();
    assert!(error.to_string().contains("hosts"), "{error}");
}

#[tokio::test]
async fn a_client_that_is_missing_is_told_with_what_to_set() {
    let (clients, fetch) = (FakeClients::default(), FakeFetch::default());
    for group in [
        Group::Pypi,
        Group::Npm,
        Group::Cargo,
        Group::Apt,
        Group::Go,
        Group::Gems,
    ] {
        let error = find(group, None, &clients, &fetch).await.unwrap_err();
        assert!(matches!(error, DiscoverError::NoClient { .. }), "{error}");
        assert!(error.hint(group).contains(&format!("registries.{group}.")));
    }
    for group in [Group::Maven, Group::Gradle] {
        let error = find(group, None, &clients, &fetch).await.unwrap_err();
        assert!(matches!(error, DiscoverError::NoIndex { .. }), "{error}");
    }
}

#[tokio::test]
async fn one_group_that_fails_keeps_no_other_from_being_found() {
    let clients = pip("").answers("npm config get registry", "https://down.test/\n");
    let mut fetch = FakeFetch::default().serves("https://index.test/simple/pip/", JSON, PROJECT);
    fetch.down.insert("down.test".into());
    let wanted = [Group::Npm, Group::Pypi].map(|group| Wanted { group, index: None });
    let found = discover(Places::only(&clients), &fetch, &wanted, now()).await;
    let fetch_failed = |found: &Found| matches!(found.outcome, Err(DiscoverError::Fetch { .. }));
    assert!(fetch_failed(&found[0]) && found[1].outcome.is_ok());
}

/// One image with these clients, and who asked for it.
struct OneImage {
    clients: Option<Arc<FakeClients>>,
    asked: Mutex<Vec<Group>>,
}

#[async_trait]
impl Images for OneImage {
    async fn with_client(&self, group: Group) -> Result<InImage, String> {
        self.asked.lock().unwrap().push(group);
        match &self.clients {
            None => Err("base-image is not there".to_owned()),
            Some(clients) => Ok(InImage {
                image: "base-image".to_owned(),
                clients: Arc::<FakeClients>::clone(clients),
            }),
        }
    }
}

#[tokio::test]
async fn an_image_is_asked_for_the_clients_that_this_machine_has_not() {
    let packument = r#"{"versions": {"1.0.0": {"dist": {"tarball": "https://npm.test/ms.tgz"}}}}"#;
    let fetch = FakeFetch::default()
        .serves("https://npm.test/ms", "application/json", packument)
        .serves("https://index.test/simple/pip/", JSON, PROJECT);
    let sources = "deb https://deb.test/debian trixie main\n";
    let in_image = FakeClients::default()
        .in_image()
        .answers("npm config get registry", "https://npm.test/\n")
        .answers(
            "pip config list",
            "global.index-url='https://image.test/'\n",
        )
        .answers("apt-config shell", "LIST='/etc/apt/sources.list'\n")
        .holds("/etc/apt/sources.list", sources);
    let groups = [
        Group::Pypi,
        Group::Npm,
        Group::Cargo,
        Group::Apt,
        Group::Maven,
    ];
    let wanted = groups.map(|group| Wanted { group, index: None });
    let mut images = OneImage {
        clients: Some(Arc::new(in_image)),
        asked: Mutex::default(),
    };
    // Of apt's sources here none is the distribution's.
    let host = pip("")
        .answers("apt-config shell", "LIST='/etc/apt/sources.list'\n")
        .holds("/etc/apt/sources.list", "deb https://v.test any main\n");
    let places = Places {
        host: &host,
        images: Some(&images),
    };
    let found = discover(places, &fetch, &wanted, now()).await;
    let [pypi, npm, cargo, apt, maven] = found.as_slice() else {
        panic!("{found:?}");
    };
    let pypi = pypi.outcome.as_ref().unwrap();
    assert_eq!(hosts(pypi)[0], "index.test", "what is here goes first");
    let npm = npm.outcome.as_ref().unwrap();
    assert_eq!(hosts(npm), ["npm.test"]);
    assert!(npm.how.starts_with("npm in base-image: "), "{}", npm.how);
    assert_eq!(hosts(apt.outcome.as_ref().unwrap()), ["deb.test:80,443"]);
    let error = cargo.outcome.as_ref().unwrap_err();
    assert!(matches!(error, DiscoverError::InImage { .. }) && error.is_absence());
    assert!(maven.outcome.is_err());
    let mut asked = images.asked.lock().unwrap().clone();
    asked.sort_unstable();
    assert_eq!(asked, [Group::Npm, Group::Cargo, Group::Apt]);
    images.clients = None;
    let places = Places {
        host: &host,
        images: Some(&images),
    };
    let mut found = discover(places, &fetch, &wanted[1..2], now()).await;
    let error = found.remove(0).outcome.unwrap_err();
    assert_eq!(
        error.to_string(),
        "npm is not installed, so nobody says where the index is; no image can be asked instead: \
         base-image is not there"
    );
    assert!(error.is_absence() && error.hint(Group::Npm).contains("images build"));
}

#[tokio::test]
async fn apt_of_another_distribution_is_asked_in_an_image_as_well() {
    let machine = |os: &str, source: &str| {
        FakeClients::default()
            .answers("apt-config shell", "LIST='/etc/apt/sources.list'\n")
            .holds("/etc/apt/sources.list", source)
            .holds("/etc/os-release", os)
    };
    let debian = || {
        machine(
            "ID=debian\nVERSION_CODENAME=a\n",
            "deb https://deb.test a main\n",
        )
    };
    let other = machine(
        "ID=other\nID_LIKE=debian\nVERSION_CODENAME=b\n",
        "deb https://other.test b main\n",
    );
    let mut images = OneImage {
        clients: Some(Arc::new(debian().in_image())),
        asked: Mutex::default(),
    };
    let group = Group::Apt;
    let wanted = [Wanted { group, index: None }];
    let fetch = FakeFetch::default();
    for (host, expected) in [
        (&debian(), &["deb.test:80,443"][..]),
        (&other, &["deb.test:80,443", "other.test:80,443"]),
    ] {
        let images = Some(&images as &dyn Images);
        let found = discover(Places { host, images }, &fetch, &wanted, now()).await;
        assert_eq!(hosts(found[0].outcome.as_ref().unwrap()), expected);
    }
    assert_eq!(images.asked.lock().unwrap().len(), 1);
    images.clients = None;
    let places = Places {
        host: &other,
        images: Some(&images),
    };
    let found = discover(places, &fetch, &wanted, now()).await;
    let found = found[0].outcome.as_ref().unwrap();
    assert_eq!(hosts(found), ["other.test:80,443"]);
    assert!(
        found.how.ends_with("base-image is not there"),
        "{}",
        found.how
    );
}

#[tokio::test]
async fn npm_is_followed_to_its_tarballs() {
    let packument = r#"{"versions": {"1.0.0": {"dist": {"tarball": "https://files.test/ms.tgz"}},
        "2.0.0": {"dist": {"tarball": "https://npm.test/ms.tgz"}}}}"#;
    let fetch = FakeFetch::default().serves("https://npm.test/ms", "application/json", packument);
    let clients = FakeClients::default().answers("npm config get registry", "https://npm.test/\n");
    let found = find(Group::Npm, None, &clients, &fetch).await.unwrap();
    assert_eq!(hosts(&found), ["npm.test", "files.test"]);
    assert!(found.builtin);
    let empty = FakeFetch::default().serves("https://npm.test/ms", "", "{\"versions\": {}}");
    let error = find(Group::Npm, None, &clients, &empty).await.unwrap_err();
    assert!(matches!(error, DiscoverError::Nonsense { .. }));
}

#[tokio::test]
async fn cargo_is_followed_to_where_its_index_says() {
    let complaint = "error: failed to query replaced source registry `crates-io`\n\nCaused by:\n  \
                     failed to download from `https://crates.test/index/config.json`\n";
    let clients = FakeClients::default().complains("cargo install", complaint);
    let url = "https://crates.test/index/config.json";
    let fetch = FakeFetch::default().serves(
        url,
        "application/json",
        r#"{"dl": "https://files.test:443/{crate}/{version}", "api": "https://api.test"}"#,
    );
    let found = find(Group::Cargo, None, &clients, &fetch).await.unwrap();
    assert_eq!(hosts(&found), ["crates.test", "files.test"]);
    assert!(!found.builtin);
    let closed = FakeFetch::default().serves(url, "", r#"{"dl": "x", "auth-required": true}"#);
    let error = find(Group::Cargo, None, &clients, &closed)
        .await
        .unwrap_err();
    assert!(matches!(error, DiscoverError::Status { status: 401, .. }));
    assert!(
        find(Group::Cargo, None, &clients, &FakeFetch::default())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn apt_of_a_machine_gives_the_distributions_sources_and_of_an_image_all() {
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let own = format!(
        "Types: deb\n# a comment\nURIs: http://deb.test/debian\n\
         Suites: trixie trixie-updates\nSigned-By: {keys}\n\n\
         Types: deb\nEnabled: no\nURIs: http://off.test/debian\nSuites: trixie\n\n\
         Types: deb-src\nURIs: http://source.test/debian\nSuites: trixie\n"
    );
    let main = "# deb http://commented.test/ trixie main\n\
                deb mirror+file:/etc/apt/mirrors/x.list trixie-security main # here\n";
    let more = "deb [arch=amd64 signed-by=/etc/apt/keyrings/vendor.gpg] https://vendor.test/apt stable main\n\
                deb [signed-by=/usr/share/keyrings/vendor-archive-keyring.gpg] https://v.test trixie main\n\
                deb https://unsigned.test trixie main\n";
    let clients = || {
        FakeClients::default()
            .answers(
                "apt-config shell",
                "LIST='/etc/apt/sources.list'\nPARTS='/etc/apt/parts/'\n",
            )
            .answers(
                "ls -1 /etc/apt/parts/",
                "debian.sources\nmore.list\nold.list.save\n",
            )
            .holds("/etc/apt/parts/debian.sources", &own)
            .holds("/etc/apt/sources.list", main)
            .holds("/etc/apt/parts/more.list", more)
            .holds(
                "/etc/apt/parts/old.list.save",
                "deb http://save.test/ trixie main\n",
            )
            .holds("/etc/os-release", "ID=debian\nVERSION_CODENAME=trixie\n")
            .holds(
                "/etc/apt/mirrors/x.list",
                "# list\nhttps://one.test/d\thttps\nftp://two.test/\n",
            )
    };
    let fetch = FakeFetch::default();
    let found = find(Group::Apt, None, &clients(), &fetch).await.unwrap();
    assert_eq!(hosts(&found), ["one.test:80,443", "deb.test:80,443"]);
    assert_eq!(found.index, None);
    let image = clients().in_image();
    let found = find(Group::Apt, None, &image, &fetch).await.unwrap();
    assert_eq!(hosts(&found).len(), 5);
}

#[tokio::test]
async fn go_asks_its_proxies_and_the_database_only_where_it_must() {
    let clients = || {
        FakeClients::default()
            .answers(
                "go env GOPROXY",
                "https://one.test|https://two.test/x,direct\n",
            )
            .answers("go env GOSUMDB", "sums.test+00+key\n")
    };
    let fetch = FakeFetch::default().serves("https://one.test/sumdb/sums.test/supported", "", "");
    let found = find(Group::Go, None, &clients(), &fetch).await.unwrap();
    assert_eq!(hosts(&found), ["one.test", "two.test", "sums.test"]);
    assert_eq!(found.extra_indexes, ["https://two.test/x"]);
    let only = clients().in_image();
    let set = find(Group::Go, Some("https://one.test"), &only, &fetch)
        .await
        .unwrap();
    assert_eq!(hosts(&set), ["one.test"]);
    assert!(set.configured);
}

#[tokio::test]
async fn an_index_that_is_set_needs_no_client() {
    let fetch = FakeFetch::default().serves("https://m.test/simple/six/", JSON, PROJECT);
    let clients = FakeClients::default();
    let found = find(Group::Pypi, Some("https://m.test/simple"), &clients, &fetch)
        .await
        .unwrap();
    assert_eq!(hosts(&found), ["m.test", "files.test"]);
    assert!(found.configured && !found.builtin);
    let found = find(
        Group::Maven,
        Some("https://m.test:8443/maven"),
        &clients,
        &fetch,
    )
    .await;
    assert_eq!(hosts(&found.unwrap()), ["m.test:8443"]);
}

#[tokio::test]
async fn an_index_that_is_set_to_the_clients_own_is_still_its_own() {
    let complaint = "  failed to download from `https://crates.test/config.json`\n";
    let clients = FakeClients::default().complains("cargo install", complaint);
    let fetch = FakeFetch::default().serves(
        "https://crates.test/config.json",
        "application/json",
        r#"{"dl": "https://crates.test/files"}"#,
    );
    let set = Some("https://crates.test");
    let found = find(Group::Cargo, set, &clients, &fetch).await.unwrap();
    assert!(found.builtin && found.configured);
    let without = FakeClients::default();
    let found = find(Group::Cargo, set, &without, &fetch).await.unwrap();
    assert!(!found.builtin);
}
