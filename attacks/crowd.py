"""One of many at once: stays until somebody outside has seen all of them, and asks for a name of its own where it has a network."""

import json
import os
import socket
import sys
import time

import siblings
import special


def main():
    name = sys.argv[1]
    result = {"attempt": name, "outcome": "alone", "folder": "", "inode": 0}
    with open("/proc/self/mountinfo") as file:
        roots = [line.split()[3] for line in file if line.split()[4] == special.EGRESS]
    if roots:
        result["folder"] = os.path.basename(roots[0])
        result["inode"] = os.stat(special.EGRESS + "/proxy.sock").st_ino
    print("here", flush=True)
    is_last = False
    while not is_last:
        # All are there by then: once more.
        is_last = os.path.exists(siblings.CUE)
        if roots:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
                stream.settimeout(120)
                stream.connect(special.EGRESS + "/proxy.sock")
                stream.sendall(f"CONNECT {name}.attack.test:443 HTTP/1.1\r\n\r\n".encode())
                if b"reason=not_on_allowlist" not in stream.recv(4096):
                    result["outcome"] = "not refused"
        found = [special.other_sandbox(None, None), special.folder_above(None, None) if roots else "nothing", special.interfaces(None, None)]
        if found != ["ENOENT", "nothing", "only_lo"]:
            result["outcome"] = " ".join(found)
        time.sleep(0.5)
    os.makedirs("/workspace/output", exist_ok=True)
    with open("/workspace/output/results.jsonl", "w") as out:
        out.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
