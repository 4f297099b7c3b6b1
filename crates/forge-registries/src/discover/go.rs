//! Go modules: the go command says through which proxy.

use url::Url;

use super::{DiscoverError, Hosts, Index, ask, below, no_index, parse_index, site};
use crate::clients::Clients;
use crate::fetch::Fetch;

const CLIENT: &str = "go";

pub(super) async fn index(clients: &dyn Clients) -> Result<Index, DiscoverError> {
    let output = ask(clients, CLIENT, &["go", "env", "GOPROXY"]).await?;
    let mut proxies = proxies(&output.stdout)?;
    if !output.success || proxies.is_empty() {
        return Err(no_index(CLIENT, &output));
    }
    let default = clients
        .run(&["env", "-u", "GOPROXY", "GOENV=off", "go", "env", "GOPROXY"])
        .await
        .is_ok_and(|plain| plain.stdout == output.stdout);
    let how = match default {
        true => "go's built-in proxy",
        false => "GOPROXY of go's configuration",
    };
    Ok(Index {
        url: proxies.remove(0),
        extra: proxies,
        builtin: default,
        how: how.to_owned(),
    })
}

/// The proxies of a list; what asks the hosts of the modules themselves is none.
fn proxies(list: &str) -> Result<Vec<Url>, DiscoverError> {
    list.trim()
        .split([',', '|'])
        .map(str::trim)
        .filter(|part| !["", "direct", "off", "none"].contains(part))
        .map(parse_index)
        .collect()
}

pub(super) async fn hosts(
    clients: &dyn Clients,
    fetch: &dyn Fetch,
    index: &Url,
) -> Result<Hosts, DiscoverError> {
    let mut hosts = vec![site(index)?];
    let mut how = "modules come from the same host".to_owned();
    if let Some(database) = checksums(clients).await {
        let name = database.host_str().unwrap_or_default();
        let page = fetch
            .get(&below(index, &format!("sumdb/{name}/supported")), "*/*")
            .await
            .map_err(|source| DiscoverError::Fetch {
                index: super::shown(index),
                source,
            })?;
        // A proxy that does not serve the database leaves go to ask it.
        if page.status != 200 {
            hosts.push(site(&database)?);
            how.push_str(", checksums from the database of GOSUMDB");
        }
    }
    Ok(Hosts { hosts, how })
}

/// The database of checksums: `off`, `name`, `name+hash+key`, and an address after it where it is
/// not the name.
async fn checksums(clients: &dyn Clients) -> Option<Url> {
    let output = clients.run(&["go", "env", "GOSUMDB"]).await.ok()?;
    let mut words = output.stdout.split_whitespace();
    let name = words.next()?.split('+').next()?;
    if name == "off" {
        return None;
    }
    let address = match words.next() {
        Some(address) => address.to_owned(),
        None => format!("https://{name}/"),
    };
    parse_index(&address).ok()
}
