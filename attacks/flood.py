"""Floods the proxy: connections without end, requests that never come to their end."""

import concurrent.futures
import json
import os
import resource
import socket
import time

PROXY = ("127.0.0.1", 3128)


def half_open():
    """10,000 connections that say nothing. The bound is the proxy's, or ours on open files."""
    kept, refused = [], 0
    for _ in range(10000):
        stream = socket.socket()
        stream.settimeout(0.2)
        try:
            stream.connect(PROXY)
            stream.sendall(b"CONNECT half")
            kept.append(stream)
        except OSError:
            refused += 1
            stream.close()
            if refused > 200:
                break
    alive = 0
    for stream in kept:
        stream.setblocking(False)
        try:
            data = stream.recv(100)
            alive += 0 if data == b"" or b"503" in data or b"429" in data else 1
        except BlockingIOError:
            alive += 1
        except OSError:
            pass
    for stream in kept:
        stream.close()
    print("kept", len(kept), "refused", refused, "alive", alive, flush=True)
    return "bounded" if alive <= 2000 else f"alive:{alive}"


def slow_head():
    """A byte a second: the head must come within its time."""
    with socket.create_connection(PROXY, 5) as stream:
        stream.settimeout(1)
        began = time.monotonic()
        for byte in b"CONNECT slow.attack.test:443 HTTP/1.1\r\nX: " + b"y" * 100:
            try:
                stream.sendall(bytes([byte]))
                if stream.recv(4096) is not None:
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        return "ended" if time.monotonic() - began < 20 else "endless"


def endless_head():
    with socket.create_connection(PROXY, 5) as stream:
        stream.settimeout(5)
        stream.sendall(b"GET http://endless.attack.test/ HTTP/1.1\r\n")
        sent = 0
        try:
            while sent < 64 << 20:
                sent += stream.send(b"X: " + b"y" * 8000 + b"\r\n")
        except OSError:
            pass
        return "ended" if sent < 16 << 20 else "endless"


def afterwards():
    """The sandbox itself is served again, with a refusal."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            with socket.create_connection(PROXY, 5) as stream:
                stream.settimeout(5)
                stream.sendall(b"CONNECT after.attack.test:443 HTTP/1.1\r\n\r\n")
                if b"not_on_allowlist" in stream.recv(4096):
                    return "served"
        except OSError:
            pass
        time.sleep(0.5)
    return "not served"


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.makedirs("/workspace/output", exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(2) as pool, open("/workspace/output/results.jsonl", "w") as out:
        slow = pool.submit(slow_head)
        for name, function in (("flood-endless-head", endless_head), ("flood-half-open", half_open), ("flood-slow-head", slow.result), ("flood-afterwards", afterwards)):
            out.write(json.dumps({"attempt": name, "outcome": function()}) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
