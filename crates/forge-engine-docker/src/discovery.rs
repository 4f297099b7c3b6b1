//! Which engine is meant, and why it does not answer.

use std::path::PathBuf;

use forge_engine::{EngineError, EngineErrorKind, Operation};

use crate::client::{Client, Refusal};
use crate::context;
use crate::endpoint::{Endpoint, TlsMaterial};

/// What of the process's environment decides which engine is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `DOCKER_HOST`.
    pub docker_host: Option<String>,
    /// `DOCKER_CONTEXT`.
    pub docker_context: Option<String>,
    /// `DOCKER_CONFIG`.
    pub docker_config: Option<PathBuf>,
    /// Whether `DOCKER_TLS_VERIFY` or `DOCKER_TLS` is set.
    pub docker_tls: bool,
    /// `DOCKER_CERT_PATH`.
    pub docker_cert_path: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// The user this process runs as.
    pub uid: u32,
}

impl Environment {
    /// Reads the environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name: &str| text(name).map(PathBuf::from);
        Self {
            docker_host: text("DOCKER_HOST"),
            docker_context: text("DOCKER_CONTEXT"),
            docker_config: path("DOCKER_CONFIG"),
            docker_tls: text("DOCKER_TLS_VERIFY").is_some() || text("DOCKER_TLS").is_some(),
            docker_cert_path: path("DOCKER_CERT_PATH"),
            home: path("HOME"),
            xdg_runtime_dir: path("XDG_RUNTIME_DIR"),
            uid: nix::unistd::geteuid().as_raw(),
        }
    }

    fn configuration(&self) -> Option<PathBuf> {
        let in_home = || self.home.as_ref().map(|home| home.join(".docker"));
        self.docker_config.clone().or_else(in_home)
    }

    fn tls(&self) -> Option<TlsMaterial> {
        let folder = self.docker_cert_path.clone().or(self.configuration());
        self.docker_tls.then(|| {
            let file = |name: &str| {
                let path = folder.as_ref().map(|folder| folder.join(name));
                path.filter(|path| path.is_file())
            };
            TlsMaterial {
                authority: file("ca.pem"),
                certificate: file("cert.pem"),
                key: file("key.pem"),
            }
        })
    }
}

/// Who says that an engine may be at an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line or the configuration.
    Argument,
    /// `DOCKER_HOST`.
    DockerHost,
    /// A docker context.
    Context(String),
    /// It is a usual place.
    Usual,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Argument => formatter.write_str("as asked for"),
            Self::DockerHost => formatter.write_str("from DOCKER_HOST"),
            Self::Context(name) => write!(formatter, "from docker context '{name}'"),
            Self::Usual => formatter.write_str("a usual place"),
        }
    }
}

/// A place where an engine may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who says so.
    pub origin: Origin,
    /// Where.
    pub endpoint: Endpoint,
}

/// Every place to look at, in order. One that was named explicitly is the only one: falling back
/// to another engine than the one that was meant would run tasks on the wrong machine.
///
/// # Errors
/// What is wrong with the explicit choice.
pub fn candidates(
    host: Option<&str>,
    environment: &Environment,
) -> Result<Vec<Candidate>, EngineError> {
    match explicit(host, environment) {
        Ok(Some(candidate)) => Ok(vec![candidate]),
        Ok(None) => Ok(usual_places(environment)
            .into_iter()
            .map(|path| Candidate {
                origin: Origin::Usual,
                endpoint: Endpoint::Unix(path),
            })
            .collect()),
        Err((origin, message)) => Err(EngineError::new(
            EngineErrorKind::Rejected,
            Operation::Describe,
            "",
            format!("the engine's address ({origin}) cannot be used: {message}"),
        )),
    }
}

fn explicit(
    host: Option<&str>,
    environment: &Environment,
) -> Result<Option<Candidate>, (Origin, String)> {
    let address = |origin: Origin, address: &str| {
        Endpoint::parse(address, environment.tls())
            .map(|endpoint| {
                Some(Candidate {
                    origin: origin.clone(),
                    endpoint,
                })
            })
            .map_err(|message| (origin, message))
    };
    if let Some(host) = host {
        return address(Origin::Argument, host);
    }
    if let Some(host) = &environment.docker_host {
        return address(Origin::DockerHost, host);
    }
    let Some(folder) = environment.configuration() else {
        return Ok(None);
    };
    let named = environment.docker_context.as_deref();
    let unnamed = |message| (Origin::Context(String::new()), message);
    let Some(name) = context::current(&folder, named).map_err(unnamed)? else {
        return Ok(None);
    };
    let origin = Origin::Context(name.clone());
    match context::endpoint(&folder, &name) {
        Ok(endpoint) => Ok(Some(Candidate { origin, endpoint })),
        Err(message) => Err((origin, message)),
    }
}

fn usual_places(environment: &Environment) -> Vec<PathBuf> {
    let runtime = environment.xdg_runtime_dir.as_ref();
    let home = environment.home.as_ref();
    let run_user = PathBuf::from(format!("/run/user/{}", environment.uid));
    let mut places = Vec::new();
    let mut add = |path: Option<PathBuf>| {
        if let Some(path) = path.filter(|path| !places.contains(path)) {
            places.push(path);
        }
    };
    add(Some(PathBuf::from("/var/run/docker.sock")));
    add(runtime.map(|folder| folder.join("docker.sock")));
    add(home.map(|folder| folder.join(".docker/run/docker.sock")));
    add(Some(run_user.join("docker.sock")));
    add(runtime.map(|folder| folder.join("podman/podman.sock")));
    add(Some(run_user.join("podman/podman.sock")));
    add(Some(PathBuf::from("/run/podman/podman.sock")));
    places
}

/// Connects to the first candidate that answers.
///
/// # Errors
/// Every candidate that was tried and why it is of no use.
pub(crate) async fn find(
    host: Option<&str>,
    environment: &Environment,
) -> Result<Client, EngineError> {
    let mut tried = Vec::new();
    for candidate in candidates(host, environment)? {
        match Client::connect(candidate.endpoint.clone()).await {
            Ok(client) => return Ok(client),
            Err(refusal) => tried.push((candidate, refusal)),
        }
    }
    Err(none_answers(&tried))
}

fn none_answers(tried: &[(Candidate, Refusal)]) -> EngineError {
    let denied = |refusal: &Refusal| matches!(refusal, Refusal::PermissionDenied);
    let too_old = |refusal: &Refusal| matches!(refusal, Refusal::Version(_));
    // The most telling failure decides the kind: an engine that is there but closed to us, or too
    // old, says more than six empty places.
    let kind = if tried.iter().any(|(_, refusal)| denied(refusal)) {
        EngineErrorKind::Denied
    } else if tried.iter().any(|(_, refusal)| too_old(refusal)) {
        EngineErrorKind::Unsupported
    } else {
        EngineErrorKind::Unavailable
    };
    let list: Vec<String> = tried
        .iter()
        .map(|(candidate, refusal)| {
            format!("{} ({}): {refusal}", candidate.endpoint, candidate.origin)
        })
        .collect();
    let message = match list.as_slice() {
        [only] => format!("no engine answers at {only}"),
        _ => format!("no engine answers; tried {}", list.join("; ")),
    };
    EngineError::new(kind, Operation::Describe, "", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn environment(home: &std::path::Path) -> Environment {
        Environment {
            home: Some(home.to_owned()),
            uid: 1234,
            ..Environment::default()
        }
    }

    fn write_context(home: &std::path::Path, name: &str, meta: &str, with_ca: bool) {
        let id = context::hex(&Sha256::digest(name.as_bytes()));
        let meta_folder = home.join(".docker/contexts/meta").join(&id);
        std::fs::create_dir_all(&meta_folder).unwrap();
        std::fs::write(meta_folder.join("meta.json"), meta).unwrap();
        if with_ca {
            let tls = home.join(".docker/contexts/tls").join(&id).join("docker");
            std::fs::create_dir_all(&tls).unwrap();
            std::fs::write(tls.join("ca.pem"), "").unwrap();
        }
    }

    fn only(environment: &Environment, host: Option<&str>) -> Candidate {
        let mut all = candidates(host, environment).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    #[test]
    fn an_argument_wins_over_everything_and_is_the_only_candidate() {
        let home = tempfile::tempdir().unwrap();
        let mut environment = environment(home.path());
        environment.docker_host = Some("unix:///from-env.sock".into());
        let candidate = only(&environment, Some("unix:///asked.sock"));
        assert_eq!(candidate.origin, Origin::Argument);
        assert_eq!(candidate.endpoint, Endpoint::Unix("/asked.sock".into()));
        let candidate = only(&environment, None);
        assert_eq!(candidate.origin, Origin::DockerHost);
    }

    #[test]
    fn a_context_is_read_with_its_certificates() {
        let home = tempfile::tempdir().unwrap();
        let meta = r#"{"Name":"far","Endpoints":{"docker":{"Host":"tcp://box:2376"}}}"#;
        write_context(home.path(), "far", meta, true);
        std::fs::write(
            home.path().join(".docker/config.json"),
            r#"{"currentContext":"far","auths":{}}"#,
        )
        .unwrap();
        let candidate = only(&environment(home.path()), None);
        assert_eq!(candidate.origin, Origin::Context("far".into()));
        assert!(
            matches!(
                &candidate.endpoint,
                Endpoint::Tls {
                    material: TlsMaterial {
                        authority: Some(_),
                        ..
                    },
                    ..
                }
            ),
            "{candidate:?}"
        );

        let mut overridden = environment(home.path());
        overridden.docker_context = Some("default".into());
        assert!(candidates(None, &overridden).unwrap().len() > 1);
    }

    #[test]
    fn a_broken_explicit_choice_is_an_error_and_not_another_engine() {
        let home = tempfile::tempdir().unwrap();
        let mut environment = environment(home.path());
        environment.docker_context = Some("missing".into());
        let error = candidates(None, &environment).unwrap_err();
        assert!(
            error.to_string().contains("no context 'missing'"),
            "{error}"
        );

        let skipping = r#"{"Endpoints":{"docker":{"Host":"tcp://b:1","SkipTLSVerify":true}}}"#;
        write_context(home.path(), "lax", skipping, false);
        environment.docker_context = Some("lax".into());
        let error = candidates(None, &environment).unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");

        environment.docker_host = Some("ssh://box".into());
        let error = candidates(None, &environment).unwrap_err();
        assert!(error.to_string().contains("forward the socket"), "{error}");
    }

    #[test]
    fn without_a_choice_the_usual_places_come_in_order_and_podman_last() {
        let home = tempfile::tempdir().unwrap();
        let mut environment = environment(home.path());
        environment.xdg_runtime_dir = Some("/run/user/1234".into());
        let places: Vec<String> = candidates(None, &environment)
            .unwrap()
            .iter()
            .map(|candidate| candidate.endpoint.to_string())
            .collect();
        assert_eq!(places[0], "unix:///var/run/docker.sock");
        assert_eq!(places[1], "unix:///run/user/1234/docker.sock");
        assert!(places[2].ends_with(".docker/run/docker.sock"));
        assert!(places[3].ends_with("podman.sock"));
        let podman = |place: &String| place.contains("podman");
        assert_eq!(places.iter().position(podman), Some(3));
    }

    #[test]
    fn the_error_lists_every_place_and_why() {
        let candidate = |path: &str| Candidate {
            origin: Origin::Usual,
            endpoint: Endpoint::Unix(path.into()),
        };
        let error = none_answers(&[
            (candidate("/a.sock"), Refusal::NotThere),
            (candidate("/b.sock"), Refusal::PermissionDenied),
        ]);
        assert_eq!(error.kind, EngineErrorKind::Denied);
        let text = error.to_string();
        for part in [
            "/a.sock",
            "there is nothing",
            "/b.sock",
            "permission denied",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[tokio::test]
    async fn an_empty_place_and_a_deaf_socket_are_told_apart() {
        let home = tempfile::tempdir().unwrap();
        let environment = environment(home.path());
        let absent = home.path().join("absent.sock");
        let address = format!("unix://{}", absent.display());
        let error = find(Some(&address), &environment).await.unwrap_err();
        assert!(error.to_string().contains("there is nothing"), "{error}");

        let deaf = home.path().join("deaf.sock");
        drop(std::os::unix::net::UnixListener::bind(&deaf).unwrap());
        let address = format!("unix://{}", deaf.display());
        let error = find(Some(&address), &environment).await.unwrap_err();
        assert!(error.to_string().contains("connection refused"), "{error}");
        assert_eq!(error.kind, EngineErrorKind::Unavailable);
    }
}
