//! Listeners on this machine that must not hear anything from a sandbox.

use std::io::Read;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as LocalAddress, UnixListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::outside::remark;
use crate::shell::Failure;

/// Ports that attempts name by their services. One that is in use here is left out, with a remark.
const SERVICES: [u16; 5] = [22, 53, 80, 443, 853];
const PATIENCE: Duration = Duration::from_secs(60);

/// What was heard, each with the first bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    pub(super) fn note(&self, what: String) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(what);
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Waits until something was heard; whether it was.
    pub(super) fn something(&self) -> bool {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if !self.all().is_empty() {
                self.clear();
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

/// Listeners on every address of this machine.
#[derive(Debug)]
pub(super) struct Canaries {
    /// A port of TCP.
    pub tcp: u16,
    /// A port of UDP.
    pub udp: u16,
    /// The name of an abstract socket.
    pub local: String,
    /// What they heard.
    pub heard: Heard,
}

impl Canaries {
    /// Begins to listen, and proves that they hear.
    pub(super) fn start() -> Result<Self, Failure> {
        let failure =
            |error| Failure::new(format!("this machine gives no port to listen on: {error}"));
        let heard = Heard::default();
        let stream = tcp(0).map_err(failure)?;
        let datagrams = udp(0).map_err(failure)?;
        let ports = stream
            .local_addr()
            .and_then(|tcp| Ok((tcp.port(), datagrams.local_addr()?.port())));
        let (tcp_port, udp_port) = ports.map_err(failure)?;
        accept(stream, heard.clone());
        receive(datagrams, heard.clone());
        let mut ports = vec![(Kind::Tcp, tcp_port), (Kind::Udp, udp_port)];
        for port in SERVICES {
            match tcp(port) {
                Ok(listener) => {
                    accept(listener, heard.clone());
                    ports.push((Kind::Tcp, port));
                }
                Err(error) => remark(&format!("nobody listens on port {port} of TCP: {error}")),
            }
            match udp(port) {
                Ok(socket) => {
                    receive(socket, heard.clone());
                    ports.push((Kind::Udp, port));
                }
                Err(error) => remark(&format!("nobody listens on port {port} of UDP: {error}")),
            }
        }
        let local = format!("attack-{}", std::process::id());
        let address = LocalAddress::from_abstract_name(&local).map_err(failure)?;
        accept_local(
            UnixListener::bind_addr(&address).map_err(failure)?,
            heard.clone(),
        );
        let canaries = Self {
            tcp: tcp_port,
            udp: udp_port,
            local,
            heard,
        };
        for (kind, port) in ports {
            prove(kind, "127.0.0.1", port, &canaries.heard)?;
        }
        Ok(canaries)
    }
}

/// How something is sent to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Udp,
}

/// A listener that is deaf proves nothing.
pub(super) fn prove(kind: Kind, address: &str, port: u16, heard: &Heard) -> Result<(), Failure> {
    let said = match kind {
        Kind::Tcp => TcpStream::connect((address, port)).map(drop),
        Kind::Udp => UdpSocket::bind("0.0.0.0:0")
            .and_then(|socket| socket.send_to(b"proof", (address, port)))
            .map(drop),
    };
    if said.is_ok() && heard.something() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the listener on port {port} of {address} ({kind:?}) hears nothing"
    )))
}

fn tcp(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}

fn udp(port: u16) -> std::io::Result<UdpSocket> {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| UdpSocket::bind(("0.0.0.0", port)))
}

fn accept(listener: TcpListener, heard: Heard) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let peer = stream.peer_addr();
            heard.note(first_words(stream, peer));
        }
    });
}

fn accept_local(listener: UnixListener, heard: Heard) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 200];
            let read = stream
                .set_read_timeout(Some(Duration::from_millis(500)))
                .and_then(|()| stream.read(&mut bytes))
                .unwrap_or(0);
            let words = String::from_utf8_lossy(&bytes[..read]).trim().to_owned();
            heard.note(format!("abstract socket: {words}"));
        }
    });
}

fn first_words(mut stream: TcpStream, peer: std::io::Result<SocketAddr>) -> String {
    let mut bytes = [0; 200];
    let read = stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .and_then(|()| stream.read(&mut bytes))
        .unwrap_or(0);
    let peer = peer.map_or_else(|_| "somebody".to_owned(), |peer| peer.to_string());
    format!(
        "TCP from {peer}: {}",
        String::from_utf8_lossy(&bytes[..read]).trim()
    )
}

fn receive(socket: UdpSocket, heard: Heard) {
    std::thread::spawn(move || {
        let mut bytes = [0; 2000];
        while let Ok((read, peer)) = socket.recv_from(&mut bytes) {
            let words = String::from_utf8_lossy(&bytes[..read.min(200)])
                .trim()
                .to_owned();
            heard.note(format!("UDP from {peer}: {words}"));
        }
    });
}
