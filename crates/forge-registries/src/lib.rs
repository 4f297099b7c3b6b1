//! Package registries: which hosts serve the packages of an ecosystem, found out from its clients,
//! and what follows for sandboxes.
//!
//! No registry is known by name. Where an index is, its client says; which hosts serve the files,
//! the index says. So a company's mirror is found wherever its machines are set to it, and nothing
//! else is allowed then.
//!
//! * [`discover`]: asks [`Clients`] and follows their indexes with [`Fetch`].
//! * [`RegistryBook`]: what was found, kept in a file, with what the operator set in its place.
//! * [`up_to_date`]: the book with everything in it that is due.
//! * [`policy_for`]: what the egress proxy is told for a phase.
//! * [`client_environment`], [`cargo_config`]: what makes the clients in a sandbox use the same;
//!   [`isolated_environment`]: what makes those give up soon that can reach nothing.

mod addresses;
mod book;
mod certificates;
mod clients;
mod discover;
mod environment;
mod fetch;
mod http;
mod policy;
mod refresh;

pub use addresses::{HostResolver, Need, Resolve, Standing};
pub use book::{AcceptedAddress, BOOK_FILE, BookError, HostAddresses, Registry, RegistryBook};
pub use certificates::{CaBundle, find_ca_bundle};
pub use clients::{
    Clients, HostClients, Images, InImage, MAX_FILE_BYTES, Output, PATIENCE, Place, Places,
};
pub use discover::{DiscoverError, Found, Wanted, discover};
pub use environment::{PROXY_URL, cargo_config, client_environment, isolated_environment};
pub use fetch::{Fetch, FetchError, Page};
pub use forge_config::Group;
pub use http::HttpFetch;
pub use policy::{Known, PolicyError, groups_for, language_of, policy_for};
pub use refresh::{Refresh, Refreshed, accept_addresses, up_to_date};
