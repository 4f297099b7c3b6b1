//! The egress proxy: the only way out of a sandbox that is not isolated.
//!
//! The pure half decides and parses; it opens nothing and reads no clock:
//!
//! * [`policy`]: what is admitted, which addresses may be dialled, what is looked at in a stream.
//! * [`names`]: host names and authorities in one canonical form.
//! * [`addresses`]: addresses and names that are denied at every level.
//! * [`http_head`]: heads of HTTP/1 requests.
//! * [`client_hello`]: the first message of TLS, and [`server_hello`] the answer to it.
//!
//! The other half serves: [`server`] the sockets of sandboxes, [`control`] the engine, [`resolve`]
//! names, [`audit`] the log of connections.

pub mod addresses;
pub mod audit;
pub mod client_hello;
pub mod control;
pub mod http_head;
pub mod names;
pub mod policy;
mod records;
pub mod resolve;
pub mod server;
pub mod server_hello;
mod tasks;
