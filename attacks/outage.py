"""Asks the proxy for a host on no list, again and again, while somebody outside ends the proxy and starts it again.

At every moment the answer must be a refusal or none at all. Meanwhile a connection to a host that is allowed is held.
"""

import json
import os
import socket
import sys
import threading
import time

import network


def ask():
    try:
        with socket.create_connection(("127.0.0.1", 3128), 60) as stream:
            stream.settimeout(60)
            stream.sendall(b"CONNECT outage.attack.test:443 HTTP/1.1\r\n\r\n")
            answer = stream.recv(4096)
    except OSError:
        return "none"
    if b"reason=not_on_allowlist" in answer:
        return "refused"
    return "open" if answer.startswith(b"HTTP/1.1 200") else "none"


def hold():
    """A tunnel to the host that is allowed, which is given its name while this runs."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        stream = socket.create_connection(("127.0.0.1", 3128), 60)
        stream.settimeout(60)
        stream.sendall(b"CONNECT sink.attack.test:7413 HTTP/1.1\r\n\r\n")
        if network.answer(network.head(stream)) == "status:200":
            stream.sendall(network.hello("right", "sink.attack.test")[0])
            return stream
        stream.close()
        time.sleep(0.5)
    return None


def keep(stream, result):
    """Data all the time, until somebody ends the connection."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        try:
            stream.sendall(b"x" * 100)
            stream.settimeout(0.1)
            if not stream.recv(100):
                result.append("ended")
                return
        except TimeoutError:
            continue
        except OSError:
            result.append("ended")
            return


def beg(word):
    """Says it, and asks until the end."""
    print(word, flush=True)
    while True:
        print(ask(), flush=True)
        time.sleep(0.2)


def main():
    if len(sys.argv) > 1:
        beg(sys.argv[1])
    seen, result = [ask()], []
    print(seen[0], flush=True)
    if stream := hold():
        threading.Thread(target=keep, args=(stream, result), daemon=True).start()
        print("held", flush=True)
    until = time.monotonic() + 300
    while time.monotonic() < until:
        found = ask()
        if seen[-1] != found:
            seen.append(found)
            print(found, flush=True)
        if seen == ["refused", "none", "refused"] or "open" in seen:
            break
        time.sleep(0.1)
    os.makedirs("/workspace/output", exist_ok=True)
    with open("/workspace/output/results.jsonl", "w") as out:
        out.write(json.dumps({"attempt": "proxy-ended", "outcome": " ".join(seen)}) + "\n")
        out.write(json.dumps({"attempt": "tunnel-ended", "outcome": "never held" if stream is None else "".join(result) or "still open"}) + "\n")


if __name__ == "__main__":
    main()
