//! Tools that are opt-in and whose packages come from the host of the index itself.

use std::path::PathBuf;

use url::Url;

use super::{DiscoverError, Index, ask, no_index, parse_index};
use crate::clients::Clients;

/// The first mirror of Maven's settings.
pub(super) async fn maven(clients: &dyn Clients) -> Result<Index, DiscoverError> {
    let urls = match home(clients).await {
        Some(home) => {
            let text = text(clients, home.join(".m2/settings.xml")).await;
            mirrors(&text)
        }
        None => Vec::new(),
    };
    of_settings("maven", "mirror of Maven's settings", &urls)
}

/// The repositories of Gradle's init scripts.
pub(super) async fn gradle(clients: &dyn Clients) -> Result<Index, DiscoverError> {
    let mut urls = Vec::new();
    if let Some(home) = home(clients).await {
        for name in ["init.gradle", "init.gradle.kts"] {
            let text = text(clients, home.join(".gradle").join(name)).await;
            urls.extend(quoted_addresses(&text));
        }
    }
    of_settings("gradle", "repository of Gradle's init script", &urls)
}

/// The sources of Ruby's gem command.
pub(super) async fn gems(clients: &dyn Clients) -> Result<Index, DiscoverError> {
    const CLIENT: &str = "gem";
    let output = ask(clients, CLIENT, &["gem", "sources", "--list"]).await?;
    let lines = output.stdout.lines().map(str::trim);
    let urls: Vec<String> = lines
        .filter(|line| line.starts_with("http"))
        .map(str::to_owned)
        .collect();
    match urls.is_empty() || !output.success {
        true => Err(no_index(CLIENT, &output)),
        false => of_settings(CLIENT, "source of the gem command", &urls),
    }
}

fn of_settings(client: &'static str, how: &str, urls: &[String]) -> Result<Index, DiscoverError> {
    let mut urls = urls
        .iter()
        .map(|text| parse_index(text))
        .collect::<Result<Vec<Url>, _>>()?;
    if urls.is_empty() {
        return Err(DiscoverError::NoIndex {
            client,
            said: "its settings name none".to_owned(),
        });
    }
    Ok(Index {
        url: urls.remove(0),
        extra: urls,
        // Nothing is set for these clients in sandboxes.
        builtin: true,
        how: how.to_owned(),
    })
}

async fn home(clients: &dyn Clients) -> Option<PathBuf> {
    let output = clients.run(&["printenv", "HOME"]).await.ok()?;
    let home = output.stdout.trim();
    home.starts_with('/').then(|| PathBuf::from(home))
}

async fn text(clients: &dyn Clients, path: PathBuf) -> String {
    let text = clients.read(&path).await.ok().flatten();
    text.unwrap_or_default()
}

/// The addresses of `<mirror>` elements, those in comments left out.
fn mirrors(xml: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = xml;
    while let Some((before, comment)) = rest.split_once("<!--") {
        plain.push_str(before);
        rest = comment.split_once("-->").map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    plain
        .split("<mirror>")
        .skip(1)
        .filter_map(|rest| {
            let mirror = rest.split("</mirror>").next()?;
            let (_, value) = mirror.split_once("<url>")?;
            Some(value.split_once("</url>")?.0.trim().to_owned())
        })
        .collect()
}

/// Addresses in quotes, lines that are comments left out.
fn quoted_addresses(script: &str) -> Vec<String> {
    script
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//") && !line.starts_with('*'))
        .flat_map(|line| line.split(['"', '\'']).skip(1).step_by(2))
        .filter(|text| text.starts_with("https://") || text.starts_with("http://"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_found_and_comments_are_not() {
        let xml = "<settings><mirrors><!-- <mirror><url>https://no.test/</url></mirror> -->\n\
                   <mirror><id>a</id><url> https://m.test/maven2 </url></mirror></mirrors>\
                   <profiles><repository><url>https://other.test</url></repository></profiles>";
        assert_eq!(mirrors(xml), ["https://m.test/maven2"]);
        assert!(mirrors("<mirror>").is_empty() && mirrors("<!-- open").is_empty());
    }

    #[test]
    fn addresses_of_a_script_stand_in_quotes() {
        let script = "// maven { url 'https://no.test' }\n  maven { url = uri(\"https://m.test/x\") }\n\
                      println 'hello https://no.test'\n";
        assert_eq!(quoted_addresses(script), ["https://m.test/x"]);
    }
}
