//! Which certificate authorities the clients on this machine are set to.

use std::path::{Path, PathBuf};

use forge_config::check_certificates;
use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use crate::clients::Clients;
use crate::discover::pip_settings;

/// A bundle of certificate authorities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaBundle {
    /// The PEM file on the machine where clients were asked.
    pub path: PathBuf,
    /// Who is set to it, for people.
    pub how: String,
    /// How many certificates are in it.
    pub certificates: usize,
}

/// Variables by which clients are set to a bundle. The last one adds to the authorities that a
/// client has; a gateway's own authority may be all there is in it.
const VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "NODE_EXTRA_CA_CERTS",
];

/// The bundle that clients are set to: the first that is one, in the order pip, npm, cargo, git,
/// variables of the environment.
pub async fn find_ca_bundle(clients: &dyn Clients) -> Option<CaBundle> {
    let mut found: Vec<(PathBuf, String)> = Vec::new();
    let mut note = |path: Option<String>, how: &str| {
        let path = path.map(|path| PathBuf::from(path.trim()));
        if let Some(path) = path.filter(|path| path.is_absolute()) {
            found.push((path, how.to_owned()));
        }
    };
    if let Ok(settings) = pip_settings(clients).await {
        note(settings.get("cert").map(str::to_owned), "pip's cert");
    }
    note(
        answer(clients, &["npm", "config", "get", "cafile"]).await,
        "npm's cafile",
    );
    note(cargo_setting(clients).await, "cargo's http.cainfo");
    let git = ["git", "config", "--get", "http.sslCAInfo"];
    note(answer(clients, &git).await, "git's http.sslCAInfo");
    for name in VARIABLES {
        note(answer(clients, &["printenv", name]).await, name);
    }
    choose(found).await
}

/// The first file that is a bundle, with everybody who is set to it.
async fn choose(found: Vec<(PathBuf, String)>) -> Option<CaBundle> {
    for (path, _) in &found {
        let checked = path.clone();
        let count = tokio::task::spawn_blocking(move || check_certificates(&checked)).await;
        if let Ok(Ok(certificates)) = count {
            let by: Vec<&str> = found
                .iter()
                .filter(|(other, _)| other == path)
                .map(|(_, how)| how.as_str())
                .collect();
            return Some(CaBundle {
                path: path.clone(),
                how: by.join(", "),
                certificates,
            });
        }
    }
    None
}

async fn answer(clients: &dyn Clients, argv: &[&str]) -> Option<String> {
    let output = clients.run(argv).await.ok()?;
    output.success.then_some(output.stdout)
}

async fn cargo_setting(clients: &dyn Clients) -> Option<String> {
    let home = match answer(clients, &["printenv", "CARGO_HOME"]).await {
        Some(home) => PathBuf::from(home.trim()),
        None => Path::new(answer(clients, &["printenv", "HOME"]).await?.trim()).join(".cargo"),
    };
    for name in ["config.toml", "config"] {
        if let Ok(Some(text)) = clients.read(&home.join(name)).await {
            return cainfo(&text);
        }
    }
    None
}

fn cainfo(text: &str) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let http = table.get_ref().get("http")?.get_ref();
    Some(http.get("cainfo")?.get_ref().as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::tests::FakeClients;

    fn bundle(folder: &Path, name: &str) -> String {
        let path = folder.join(name);
        let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn the_first_file_that_is_a_bundle_is_taken_with_all_who_use_it() {
        let folder = tempfile::tempdir().unwrap();
        let ours = bundle(folder.path(), "ours.pem");
        let other = bundle(folder.path(), "other.pem");
        let clients = FakeClients::default()
            .answers("python3 -m pip config list", "global.cert='/gone.pem'\n")
            .answers("npm config get cafile", &format!("{ours}\n"))
            .answers("printenv HOME", "/home/me\n")
            .holds(
                "/home/me/.cargo/config.toml",
                &format!("[http]\ncainfo = {ours:?}\n"),
            )
            .answers("printenv SSL_CERT_FILE", &format!("{other}\n"));
        let found = find_ca_bundle(&clients).await.unwrap();
        assert_eq!(found.path, PathBuf::from(ours));
        assert_eq!(found.how, "npm's cafile, cargo's http.cainfo");
        assert_eq!(found.certificates, 1);
    }

    #[tokio::test]
    async fn without_any_setting_there_is_none() {
        let clients = FakeClients::default()
            .answers("npm config get cafile", "null\n")
            .answers("printenv SSL_CERT_FILE", "relative.pem\n");
        assert_eq!(find_ca_bundle(&clients).await, None);
    }
}
