"""Listens in a container on another network, and says on its output whom it heard. Ends with its input."""

import socket
import sys
import threading


def tcp(listener):
    while True:
        stream, peer = listener.accept()
        stream.settimeout(2)
        try:
            data = stream.recv(200)
        except OSError:
            data = b""
        print("heard tcp", peer[0], data.decode("latin-1").strip(), flush=True)
        stream.close()


def udp(listener):
    while True:
        data, peer = listener.recvfrom(2000)
        print("heard udp", peer[0], data[:200].decode("latin-1").strip(), flush=True)


def page(stream, request):
    """A web server: everything is there, and what begins with `redirect` is somewhere else."""
    path = request.split(b" ")[1]
    place = path.split(b"?", 1)[1] if path.startswith(b"/redirect?") else None
    head = b"302 Found\r\nLocation: " + place if place else b"200 OK"
    stream.sendall(b"HTTP/1.1 " + head + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    stream.close()


def sink(listener):
    """Takes everything, and says how much it was: a host that an operator allowed."""
    def take(stream):
        first = stream.recv(65536)
        if first.startswith(b"GET "):
            return page(stream, first)
        count = len(first)
        stream.settimeout(2)
        # A small request is answered, a large one goes on until somebody ends it.
        try:
            while count < 1 << 20:
                count += len(stream.recv(65536))
            stream.settimeout(0.3)
            while data := stream.recv(65536):
                count += len(data)
        except TimeoutError:
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        except OSError:
            pass
        print("sink", count, flush=True)
        stream.close()

    while True:
        stream, _ = listener.accept()
        threading.Thread(target=take, args=(stream,), daemon=True).start()


def main():
    # Port 53 as well, where attempts ask for names.
    for port in (int(sys.argv[1]), 53):
        stream = socket.socket()
        stream.bind(("0.0.0.0", port))
        stream.listen(100)
        threading.Thread(target=tcp, args=(stream,), daemon=True).start()
    for port in (int(sys.argv[2]), 53):
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("0.0.0.0", port))
        threading.Thread(target=udp, args=(datagrams,), daemon=True).start()
    taker = socket.socket()
    taker.bind(("0.0.0.0", int(sys.argv[3])))
    taker.listen(100)
    threading.Thread(target=sink, args=(taker,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


main()
