//! Links of the pages of an index.

use forge_core::egress::AllowedHost;
use url::Url;

use super::site;

/// What files of packages end in; a link to anything else leads to somebody's home page.
const PACKAGES: [&str; 9] = [
    ".whl", ".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz", ".egg", ".tar", ".exe",
];

/// The links of a page in HTML, joined with where it is.
pub(super) fn links(html: &str, at: &Url) -> Vec<Url> {
    let base = attributes(html, "base", "href").next();
    let base = base.and_then(|href| at.join(&decoded(href)).ok());
    let base = base.as_ref().unwrap_or(at);
    attributes(html, "a", "href")
        .filter_map(|href| base.join(&decoded(href)).ok())
        .collect()
}

/// The hosts of those links that lead to files of packages.
pub(super) fn of_packages<'u>(links: impl IntoIterator<Item = &'u Url>) -> Vec<AllowedHost> {
    let mut hosts: Vec<AllowedHost> = Vec::new();
    for link in links {
        let is_package = PACKAGES.iter().any(|end| link.path().ends_with(end));
        if let (true, Ok(host)) = (is_package, site(link))
            && !hosts.contains(&host)
        {
            hosts.push(host);
        }
    }
    hosts
}

/// The values of an attribute of all elements of a name.
fn attributes<'h>(html: &'h str, element: &str, name: &str) -> impl Iterator<Item = &'h str> {
    html.split('<').skip(1).filter_map(move |rest| {
        let tag = &rest[..rest.find('>')?];
        let (found, attributes) = tag.split_once(|each: char| each.is_ascii_whitespace())?;
        if !found.eq_ignore_ascii_case(element) {
            return None;
        }
        value(attributes, name)
    })
}

fn value<'h>(mut rest: &'h str, wanted: &str) -> Option<&'h str> {
    loop {
        let (name, behind) = rest.split_once('=')?;
        let name = name
            .rsplit(|each: char| each.is_ascii_whitespace())
            .next()?;
        let behind = behind.trim_start();
        let (value, left) = match behind.chars().next()? {
            quote @ ('"' | '\'') => behind[1..].split_once(quote)?,
            _ => behind
                .split_once(|each: char| each.is_ascii_whitespace())
                .unwrap_or((behind, "")),
        };
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = left;
    }
}

/// The one entity that stands in addresses.
fn decoded(href: &str) -> String {
    href.replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_whatever_the_page_looks_like() {
        let at = Url::parse("https://index.test/simple/one/").unwrap();
        let html = r#"<!DOCTYPE html><html><body><h1>Links</h1>
<a href="https://files.test/a/one-1.0.tar.gz#sha256=00" data-requires-python="&gt;=3" >one</a>
<A data-x='y>' HREF='../../packages/one-2.0-py3-none-any.whl'>two</A>
<a rel=homepage href=https://home.test/one>home</a>
<abbr href="https://no.test/one.zip"></abbr>
<a name="no-href">x</a><a href="mailto:me@mail.test">m</a> <a
href="https://files.test/b.zip?a=1&amp;b=2">b</a>"#;
        let found = links(html, &at);
        let shown: Vec<&str> = found.iter().map(Url::as_str).collect();
        assert!(
            shown.contains(&"https://files.test/a/one-1.0.tar.gz#sha256=00"),
            "{shown:?}"
        );
        assert!(
            shown.contains(&"https://files.test/b.zip?a=1&b=2"),
            "{shown:?}"
        );
        assert!(!shown.iter().any(|each| each.contains("no.test")));
        let hosts: Vec<String> = of_packages(&found)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(hosts[0], "files.test");
        assert!(!hosts.contains(&"home.test".to_owned()));
    }

    #[test]
    fn a_base_moves_relative_links() {
        let at = Url::parse("https://index.test/simple/one/").unwrap();
        let html = "<base href='https://files.test/x/'><a href='one.whl'>1</a>";
        let hosts = of_packages(&links(html, &at));
        assert_eq!(hosts, [AllowedHost::https("files.test")]);
    }

    #[test]
    fn text_that_is_no_page_has_no_links() {
        let at = Url::parse("https://index.test/").unwrap();
        for html in [
            "",
            "<",
            "<a",
            "<a href",
            "<a href=",
            "<a href=\"",
            "<a href='x",
            "a href=x>",
        ] {
            assert!(links(html, &at).is_empty(), "{html}");
        }
    }
}
