//! The operator's configuration: where it is looked for, what may stand in it, and one precise
//! [`Diagnostic`] for everything that is wrong with it.
//!
//! What a wrong setting means is never guessed: an unknown key or a value of another type is an
//! error, because a limit that was misspelt would be a limit that does not hold. Everything is
//! optional, and a missing file is the same as an empty one.
//!
//! Reading is blocking. Variables of the environment are read by whoever calls.

mod certificates;
mod cleanup;
mod hosts;
mod images;
mod locate;
mod secrets;
mod sections;
mod settings;
mod toml_tree;

pub use certificates::{
    CertificatesError, MAX_CERTIFICATE_BYTES, check_certificates, read_certificates,
};
pub use cleanup::CleanupSettings;
pub use forge_document::{Diagnostic, MAX_DIAGNOSTICS};
pub use hosts::host_entry;
pub use images::{ImageSettings, InvalidPattern};
pub use locate::{ConfigError, ConfigPlaces, MAX_FILE_BYTES, load, parse};
pub use secrets::{MAX_SECRET_BYTES, MIN_SECRET_BYTES, SecretError, SecretSource, SecretValue};
pub use settings::{
    CapacitySettings, Configuration, DiskSettings, EgressOverrides, Group, GroupSettings,
    HardeningSettings, NetworkSettings, QuotaChoice, RegistrySettings, RetrySettings,
};
