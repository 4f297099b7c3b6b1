//! The parsers and the policy against input of any kind.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test says what it expects by failing"
)]

mod client_hello;
mod corpus;
mod http_head;
mod names;
