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


def main():
    stream, datagrams = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.bind(("0.0.0.0", int(sys.argv[1])))
    datagrams.bind(("0.0.0.0", int(sys.argv[2])))
    stream.listen(100)
    threading.Thread(target=tcp, args=(stream,), daemon=True).start()
    threading.Thread(target=udp, args=(datagrams,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


main()
