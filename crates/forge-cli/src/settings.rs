//! The environment of the process: the only place that reads it, and the list of what is read.

use std::ffi::OsString;
use std::path::PathBuf;

/// Every environment variable that means something to swe-forge, and what.
pub const VARIABLES: [(&str, &str); 12] = [
    (
        "SWE_FORGE_HOME",
        "Folder of the record of all runs (default: $XDG_STATE_HOME/swe-forge, or ~/.local/state/swe-forge)",
    ),
    (
        "SWE_FORGE_CONFIG",
        "The operator's configuration, as with --config",
    ),
    (
        "XDG_CONFIG_HOME",
        "Folder of swe-forge/config.toml, the configuration when none is named (default: ~/.config); else /etc/swe-forge/config.toml",
    ),
    (
        "SWE_FORGE_ENGINE",
        "Address of the engine, as with --engine-host",
    ),
    (
        "SWE_FORGE_INIT",
        "The program that runs in every sandbox (default: the one built in, else forge-init next to swe-forge)",
    ),
    (
        "SWE_FORGE_EGRESS",
        "The proxy of sandboxes with a network (default: the one built in, else forge-egress next to swe-forge)",
    ),
    (
        "SWE_FORGE_LOG",
        "What is logged to standard error, as a tracing filter such as `forge_orchestrator=debug`",
    ),
    (
        "DOCKER_HOST",
        "Address of a Docker engine, when SWE_FORGE_ENGINE and --engine-host are not given",
    ),
    (
        "DOCKER_CONTEXT, DOCKER_CONFIG",
        "Docker's own choice of an engine, when no address is given",
    ),
    (
        "DOCKER_TLS_VERIFY, DOCKER_CERT_PATH",
        "TLS to an engine behind a TCP port",
    ),
    ("NO_COLOR", "When it is not empty, colours are off"),
    ("TERM", "`dumb` turns colours and the live view off"),
];

/// What the environment says, resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The folder of the record; `None` when the environment names no place for it.
    pub state_folder: Option<PathBuf>,
    /// The operator's configuration, when one is named.
    pub config_file: Option<PathBuf>,
    /// The user's folder of configurations.
    pub config_folder: Option<PathBuf>,
    /// The engine's address.
    pub engine_host: Option<String>,
    /// The sandboxes' first program.
    pub init_binary: Option<PathBuf>,
    /// The proxy of sandboxes with a network.
    pub egress_binary: Option<PathBuf>,
    /// A filter for the log.
    pub log_filter: Option<String>,
    /// Colours are not wanted.
    pub no_color: bool,
    /// The terminal cannot move its cursor.
    pub dumb_terminal: bool,
}

impl Settings {
    /// The settings of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self::resolve(|name| std::env::var_os(name))
    }

    /// The settings of an environment. An empty value counts as none.
    #[must_use]
    pub fn resolve(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| variable(name).map(PathBuf::from);
        let text = |name: &str| variable(name).map(|value| value.to_string_lossy().into_owned());
        // The XDG specification asks for relative paths to be ignored.
        let absolute = |path: &PathBuf| path.is_absolute();
        let state_folder = path("SWE_FORGE_HOME")
            .or_else(|| Some(path("XDG_STATE_HOME").filter(absolute)?.join("swe-forge")))
            .or_else(|| Some(path("HOME")?.join(".local/state/swe-forge")));
        let config_folder = path("XDG_CONFIG_HOME")
            .filter(absolute)
            .or_else(|| Some(path("HOME")?.join(".config")));
        Self {
            state_folder,
            config_file: path("SWE_FORGE_CONFIG"),
            config_folder,
            engine_host: text("SWE_FORGE_ENGINE"),
            init_binary: path("SWE_FORGE_INIT"),
            egress_binary: path("SWE_FORGE_EGRESS"),
            log_filter: text("SWE_FORGE_LOG"),
            no_color: variable("NO_COLOR").is_some(),
            dumb_terminal: text("TERM").as_deref() == Some("dumb"),
        }
    }
}

/// A variable that the operator's configuration names as the place of a secret.
#[must_use]
pub(crate) fn secret(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The command line of this process, program first.
#[must_use]
pub fn command_line() -> Vec<OsString> {
    std::env::args_os().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> Settings {
        Settings::resolve(|name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_state_folder_is_the_first_place_that_is_named() {
        let all = [
            ("SWE_FORGE_HOME", "/forge"),
            ("XDG_STATE_HOME", "/xdg"),
            ("HOME", "/home/me"),
        ];
        let folder = |variables: &[(&str, &str)]| resolve(variables).state_folder;
        assert_eq!(folder(&all), Some("/forge".into()));
        assert_eq!(folder(&all[1..]), Some("/xdg/swe-forge".into()));
        assert_eq!(
            folder(&all[2..]),
            Some("/home/me/.local/state/swe-forge".into())
        );
        assert_eq!(folder(&[]), None);
        assert_eq!(
            folder(&[
                ("SWE_FORGE_HOME", ""),
                ("XDG_STATE_HOME", "relative"),
                all[2]
            ]),
            folder(&all[2..])
        );
    }

    #[test]
    fn the_configuration_is_looked_for_in_the_users_folder() {
        let all = [("XDG_CONFIG_HOME", "/xdg"), ("HOME", "/home/me")];
        let folder = |variables: &[(&str, &str)]| resolve(variables).config_folder;
        assert_eq!(folder(&all), Some("/xdg".into()));
        assert_eq!(folder(&all[1..]), Some("/home/me/.config".into()));
        assert_eq!(
            folder(&[("XDG_CONFIG_HOME", "relative"), all[1]]),
            folder(&all[1..])
        );
        let named = resolve(&[("SWE_FORGE_CONFIG", "/own.toml")]).config_file;
        assert_eq!(named, Some("/own.toml".into()));
    }

    #[test]
    fn empty_values_count_as_none() {
        let settings = resolve(&[("NO_COLOR", ""), ("SWE_FORGE_ENGINE", "")]);
        assert_eq!(settings, Settings::default());
        assert!(resolve(&[("NO_COLOR", "1")]).no_color);
    }
}
