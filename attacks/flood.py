"""Floods the proxy: connections without end, requests that never come to their end."""

import collections
import json
import os
import resource
import socket
import sys
import time

import siblings
import special

PROXY = ("127.0.0.1", 3128)
# Connections of a sandbox that are open at once, as docs/operators.md says.
MOST = 320


def half_open():
    """10,000 connections that say nothing, by the relay; then, by the proxy's socket itself, one after the other without end."""
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
            if refused > 20:
                break
    print("kept", len(kept), "refused", refused, flush=True)
    print("flooded", flush=True)
    go_on()
    for stream in kept:
        stream.close()
    return "bounded" if len(kept) < 10000 else "all are kept"


def answer(stream, seconds):
    """What a connection got by then: `limit` or nothing but its end where it was turned away, none of it while it is kept."""
    stream.settimeout(seconds)
    try:
        data = stream.recv(4096)
    except TimeoutError:
        return None
    except OSError:
        data = b""
    return "limit" if b"reason=limit" in data else "ended" if data else "closed"


def most_at_once():
    """As many as may be, by the proxy's socket itself, and fifty more, each of which must be turned away before the first
    has had its time."""
    for _ in range(5):
        kept, more = [], 0
        while len(kept) < MOST:
            kept.append(half())
        while more < 50 and answer(kept[0], 0.001) is None:
            stream = half()
            kept.append(stream)
            while (found := answer(stream, 0.1)) is None and answer(kept[0], 0.001) is None:
                pass
            if found not in ("limit", "closed"):
                break
            more += 1
        for stream in kept:
            stream.close()
        print("more that were turned away", more, flush=True)
        if more == 50:
            return "bounded"
        time.sleep(1)
    return f"{more} of 50 were turned away"


def half():
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(60)
    stream.connect(special.EGRESS + "/proxy.sock")
    try:
        stream.sendall(b"CONNECT half")
    except OSError:
        # It may be closed already, which the answer says.
        pass
    return stream


def go_on():
    """A thousand at once, each in the place of an older one, until somebody outside says that it is enough."""
    kept, count = collections.deque(), 0
    while not os.path.exists(siblings.CUE):
        kept.append(half())
        count += 1
        if len(kept) > 1000:
            kept.popleft().close()
    print("flooded with", count, "more", flush=True)
    for stream in kept:
        stream.close()


def neighbour():
    """Another sandbox, while that one floods."""
    siblings.wait()
    outcome = "served"
    for number in range(20):
        began = time.monotonic()
        with socket.create_connection(PROXY, 60) as stream:
            stream.settimeout(60)
            stream.sendall(f"CONNECT n{number}.attack.test:443 HTTP/1.1\r\n\r\n".encode())
            if b"not_on_allowlist" not in stream.recv(4096):
                outcome = f"not served the {number + 1}th time"
        print(number, f"{time.monotonic() - began:.3f} s", flush=True)
    siblings.say("flood-neighbour", outcome)
    print("tried", flush=True)


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
        return "ended" if time.monotonic() - began < 100 else "endless"


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
    with open("/workspace/output/results.jsonl", "w") as out:
        for name, function in (("flood-endless-head", endless_head), ("flood-half-open", half_open), ("flood-most", most_at_once),
                               ("flood-slow-head", slow_head), ("flood-afterwards", afterwards)):
            out.write(json.dumps({"attempt": name, "outcome": function()}) + "\n")
            out.flush()


if __name__ == "__main__":
    neighbour() if sys.argv[1:] == ["neighbour"] else main()
