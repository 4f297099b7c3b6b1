//! Everything that can be wrong, each said once with its place.

use std::path::Path;

use forge_config::{ConfigError, Diagnostic, MAX_DIAGNOSTICS, parse};

fn mistakes(text: &str) -> Vec<Diagnostic> {
    match parse(Path::new("config.toml"), text) {
        Err(ConfigError::Wrong { diagnostics, .. }) => diagnostics,
        other => panic!("{text}: {other:?}"),
    }
}

/// The one mistake of `text`, as it is told.
fn mistake(text: &str) -> String {
    let mistakes = mistakes(text);
    assert_eq!(mistakes.len(), 1, "{text}: {mistakes:#?}");
    mistakes[0].to_string()
}

#[test]
fn an_unknown_key_is_answered_with_the_one_that_was_meant() {
    assert_eq!(
        mistake("[limits]\nmemroy_mb = 4\n"),
        "config.toml:2:1: limits.memroy_mb: unknown key \"memroy_mb\"\n  \
         hint: did you mean \"memory_mb\"?"
    );
    assert_eq!(
        mistake("[hardening]\n  user = 0\n"),
        "config.toml:2:3: hardening.user: unknown key \"user\"\n  \
         hint: the keys here are runtime, own_cores"
    );
    assert!(mistake("[netwrok]\n").contains("did you mean \"network\"?"));
    assert!(mistake("[registries.pip]\n").contains("refresh_days, pypi, npm"));
}

#[test]
fn values_of_another_type_say_what_is_expected() {
    for (text, said) in [
        (
            "[limits]\nmemory_mb = \"4096\"",
            "config.toml:2:13: limits.memory_mb: expected a whole number from 6 to 1073741824; \
             found \"4096\"\n  hint: remove the quotes",
        ),
        (
            "[limits]\nprocesses = 1.5",
            "config.toml:2:13: limits.processes: expected a whole number from 1 to 4000000; \
             found 1.5",
        ),
        (
            "[images]\nrequire_digest = \"true\"",
            "config.toml:2:18: images.require_digest: expected true or false; \
             found \"true\"\n  hint: remove the quotes",
        ),
        (
            "[images]\nallow = \"swe-forge/*\"",
            "config.toml:2:9: images.allow: expected a list; found \"swe-forge/*\"\n  \
             hint: write [\"swe-forge/*\"]",
        ),
        (
            "limits = 4",
            "config.toml:1:10: limits: expected a table; found 4",
        ),
        (
            "[disk]\npool = 2020-01-01",
            "config.toml:2:8: disk.pool: expected text; found a date\n  \
             hint: put it in quotes",
        ),
        (
            "[network]\nmax_level = \"packages_only\"",
            "config.toml:2:13: network.max_level: expected one of isolated, package_only, \
             limited_web, full_web; found \"packages_only\"\n  \
             hint: did you mean \"package_only\"?",
        ),
    ] {
        assert_eq!(mistake(text), said);
    }
    let table = mistake("[network.exception]\nhosts = [\"a\"]\n");
    assert!(table.contains("write [[network.exception]]"), "{table}");
    let list = mistake("[[disk]]\nquota = \"auto\"\n");
    assert!(list.contains("write [disk], not [[disk]]"), "{list}");
}

#[test]
fn numbers_out_of_range_are_refused() {
    for text in [
        "[limits]\nmemory_mb = 0",
        "[limits]\nmemory_mb = -1",
        "[limits]\nmemory_mb = 99999999999999999999999",
        "[limits]\ncpu_cores = nan",
        "[limits]\ncpu_cores = inf",
        "[limits]\ncpu_cores = 0",
        "[limits]\ndisk_gb = -0.5",
        "[limits]\ntimeout_seconds = 86401",
        "[network]\nconnections = 0",
        "[network]\nconnections = 65536",
        "[registries]\nrefresh_days = 0",
        "[cleanup]\ndelay_seconds = 86401",
        "[cleanup]\nforce_cleanup_after_hours = 0",
        "[cleanup]\nlog_retention_days = 0",
        "[cleanup]\nimages_retention_days = 1.5",
        "[cleanup]\nbudget_gb = 0",
    ] {
        assert!(mistake(text).contains("expected a"), "{text}");
    }
}

#[test]
fn a_window_for_inspection_above_its_own_bound_is_refused() {
    assert_eq!(
        mistake("[cleanup]\nmax_delay_seconds = 60\ndelay_seconds = 61\n"),
        "config.toml:3:17: cleanup.delay_seconds: 61 s is above cleanup.max_delay_seconds, 60 s\n  \
         hint: raise max_delay_seconds, or lower this"
    );
    assert!(mistake("[cleanup]\non_sucess = true\n").contains("did you mean \"on_success\"?"));
}

#[test]
fn name_servers_are_addresses_that_a_container_reaches() {
    for (list, said) in [
        (r#"["resolver.test"]"#, "the address of a name server"),
        (r#"["10.0.0.53:53"]"#, "the address of a name server"),
        (r#"["2001:db8::53"]"#, "the address of a name server"),
        (r#"["127.0.0.53"]"#, "loopback is not reached"),
        (r#"["0.0.0.0"]"#, "no address is not reached"),
        (r#"["224.0.0.251"]"#, "multicast is not reached"),
        ("[]", "at least one entry"),
        (
            r#"["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]"#,
            "at most 3",
        ),
    ] {
        let text = format!("[network]\nresolvers = {list}");
        let said_of_it = mistake(&text);
        assert!(said_of_it.contains(said), "{text}: {said_of_it}");
    }
}

#[test]
fn exceptions_need_hosts_and_ranges_that_can_be_opened() {
    let missing = mistakes("[[network.exception]]\n");
    assert_eq!(missing.len(), 2);
    assert!(
        missing[0]
            .to_string()
            .contains("network.exception[0].hosts: this key is required")
    );
    for (text, said) in [
        ("[network]\nexceptions = [\"10.1.2.3/8\"]", "10.0.0.0/8"),
        ("[network]\nexceptions = [\"127.0.0.1\"]", "stays closed"),
        (
            "[network]\nexceptions = [\"mirror.test\"]",
            "a range of addresses",
        ),
        (
            "[network]\ndenied = [\"10.0.0.0/40\"]",
            "a range of addresses",
        ),
        (
            "[[network.exception]]\nhosts = []\nranges = [\"10.0.0.0/8\"]",
            "at least one entry",
        ),
        (
            "[[network.exception]]\nhosts = [\"10.1.1.1\"]\nranges = [\"10.0.0.0/8\"]",
            "only names",
        ),
    ] {
        assert!(mistake(text).contains(said), "{text}: {}", mistake(text));
    }
}

#[test]
fn an_index_is_an_address_without_credentials() {
    for (index, said) in [
        ("mirror.test/simple", "begins with https://"),
        ("ftp://mirror.test/", "https:// or http://"),
        ("https://me:word@mirror.test/", "credentials"),
        ("me:word@mirror.test", "credentials"),
        ("https://10.1.2.3/simple", "give the host a name"),
        ("https://[::1]/simple", "give the host a name"),
        ("https://2130706433/simple", "give the host a name"),
        ("https://mirror.test/?x", "leave out everything"),
    ] {
        let text = format!("[registries.pypi]\nindex = \"{index}\"\n");
        assert!(mistake(&text).contains(said), "{index}: {}", mistake(&text));
        assert!(!mistake(&text).contains("word"), "{index}");
    }
    assert!(mistake("[registries.apt]\nindex = \"https://m.test/\"").contains("each image"));
    assert!(mistake("[registries.apt]\nhosts = []").contains("at least one"));
}

#[test]
fn a_secret_that_stands_in_the_file_is_not_repeated() {
    let said = mistake("[secrets]\nTOKEN = \"hunter2\"\n");
    assert!(
        said.contains("does not hold it") && !said.contains("hunter2"),
        "{said}"
    );
    for (text, expected) in [
        ("[secrets]\nTOKEN = {}", "neither or both"),
        (
            "[secrets]\nTOKEN = {env = \"A\", file = \"/a\"}",
            "neither or both",
        ),
        ("[secrets]\nTOKEN = {command = \"x\"}", "unknown key"),
        ("[secrets]\nTOKEN = {env = \"A=B\"}", "environment variable"),
        ("[secrets]\nTOKEN = {file = \"a\"}", "absolute path"),
        ("[secrets]\n\"a b\" = {env = \"A\"}", "the name of a secret"),
    ] {
        let said: Vec<String> = mistakes(text).iter().map(ToString::to_string).collect();
        assert!(said.join("\n").contains(expected), "{text}: {said:?}");
    }
}

#[test]
fn a_bundle_of_certificates_must_be_one() {
    let said = mistake("[network]\nca_bundle = \"/does/not/exist.pem\"\n");
    assert!(said.contains("it cannot be read: No such file"), "{said}");
    assert!(mistake("[network]\nca_bundle = \"ca.pem\"").contains("absolute path"));
    assert!(mistake("[network]\nca_bundle = \"/etc/passwd\"").contains("no certificate"));
}

#[test]
fn all_mistakes_are_told_in_the_order_of_the_file() {
    let found = mistakes(
        "[secrets]\nTOKEN = 1\n[limits]\nmemory = 1\nprocesses = \"x\"\n[disk]\nquota = \"xfs\"\n",
    );
    let lines: Vec<u32> = found.iter().filter_map(|each| each.line).collect();
    assert_eq!(lines, [2, 4, 5, 7]);
    let many: String = (0..1000)
        .map(|number| format!("key{number} = 1\n"))
        .collect();
    let found = mistakes(&many);
    // One more says that these are not all.
    assert_eq!(found.len(), MAX_DIAGNOSTICS + 1);
}

#[test]
fn what_is_no_toml_is_told_with_its_place() {
    let found = mistakes("[limits]\nmemory_mb = \n[disk\nquota = \"nope\"");
    assert!(found.iter().all(|each| each.message.starts_with("no TOML")));
    assert_eq!((found[0].line, found[0].column), (Some(2), Some(13)));
    let twice = mistake("[limits]\nprocesses = 1\nprocesses = 2\n");
    assert!(
        twice.starts_with("config.toml:3:1: no TOML: duplicate key"),
        "{twice}"
    );
    let deep = format!("a = {}{}", "[".repeat(5000), "]".repeat(5000));
    assert!(!mistakes(&deep).is_empty());
}

#[test]
fn columns_count_characters() {
    let found = mistakes("[images]\nallow = [\"ä\", 1]\n");
    let columns: Vec<u32> = found.iter().filter_map(|each| each.column).collect();
    assert_eq!(columns, [10, 15]);
    assert_eq!(found[1].field.as_deref(), Some("images.allow[1]"));
}
