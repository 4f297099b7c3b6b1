//! The listeners that capture connections of programs that know of no proxy.
//!
//! Each name has an address of its own, and its ports are bound on that address alone, when the
//! name is first asked for. So a task's own server is in nobody's way: on 127.0.0.1 any port is
//! free, and so is every port on all addresses that is not captured. What cannot be had besides is
//! a server on all addresses (0.0.0.0) on a captured port once a name was asked for; its port on
//! 127.0.0.1 can. Where such a server was there first, connections to names on that port reach it
//! instead of the egress proxy: a task that does this misleads itself, and nobody else.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::addresses::{self, Addresses, Index};
use super::dns::Names;

/// Most listeners at once, unless so many ports are captured that [`MIN_NAMES`] need more: 2048 at
/// most. Each takes up to 4 KiB of the kernel's memory for the sandbox.
const MAX_LISTENERS: usize = 1024;
/// Most names that have an address.
const MAX_NAMES: usize = 512;
/// Fewest, however many ports are captured.
const MIN_NAMES: usize = 16;

/// Names, their addresses, and the listeners on these.
pub(crate) struct Captures {
    epoll: Arc<Epoll>,
    token: fn(Key) -> u64,
    addresses: Addresses,
    ports: Vec<u16>,
    listeners: BTreeMap<Key, TcpListener>,
    /// The sandbox's own name.
    own_name: String,
}

/// What a listener captures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) index: Index,
    pub(crate) port: u16,
}

impl Captures {
    /// No names yet. Listeners are registered in `epoll` under the number that `token` gives;
    /// `descriptors` is what this process may have open.
    pub(crate) fn new(
        epoll: Arc<Epoll>,
        token: fn(Key) -> u64,
        mut ports: Vec<u16>,
        descriptors: u64,
        own_name: String,
    ) -> Self {
        ports.sort_unstable();
        ports.dedup();
        let share = usize::try_from(descriptors / 4).unwrap_or(MAX_LISTENERS);
        let most = MAX_LISTENERS.min(share) / ports.len().max(1);
        Self {
            epoll,
            token,
            addresses: Addresses::new(most.clamp(MIN_NAMES, MAX_NAMES)),
            ports,
            listeners: BTreeMap::new(),
            own_name,
        }
    }

    /// A listener.
    pub(crate) fn listener(&self, key: Key) -> Option<&TcpListener> {
        self.listeners.get(&key)
    }

    /// The name whose connections come in at an address.
    pub(crate) fn name(&mut self, index: Index) -> Option<String> {
        self.addresses.name(index).map(str::to_owned)
    }

    fn open(&mut self, index: Index) -> io::Result<()> {
        for port in &self.ports {
            let key = Key { index, port: *port };
            let listener = match TcpListener::bind((addresses::address(index), *port)) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                bound => bound?,
            };
            listener.set_nonblocking(true)?;
            // Told once for each connection: those that wait for a free link must not keep us busy.
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            let event = EpollEvent::new(flags, (self.token)(key));
            self.epoll.add(&listener, event)?;
            self.listeners.insert(key, listener);
        }
        Ok(())
    }

    fn close(&mut self, index: Index) {
        for port in &self.ports {
            if let Some(listener) = self.listeners.remove(&Key { index, port: *port }) {
                // Not left to its end: a child about to become a program has it open as well.
                let _was_not_registered = self.epoll.delete(&listener);
            }
        }
    }
}

impl Names for Captures {
    fn address_of(&mut self, name: &str) -> Option<Ipv4Addr> {
        if name == self.own_name {
            return Some(Ipv4Addr::LOCALHOST);
        }
        let given = self.addresses.give(name);
        if let Some(forgotten) = given.forgotten {
            self.close(forgotten);
        }
        if given.is_new && self.open(given.index).is_err() {
            self.close(given.index);
            self.addresses.forget(given.index);
            return None;
        }
        Some(addresses::address(given.index))
    }

    fn name_of(&mut self, address: Ipv4Addr) -> Option<String> {
        self.name(addresses::index(address)?)
    }
}
