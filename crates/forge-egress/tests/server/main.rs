//! The server half on real sockets, with a world outside that is made up.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod bounds;
mod control;
mod handshake;
mod http;
mod memory;
mod program;
mod refusals;
mod smuggling;
mod support;
mod tunnels;
