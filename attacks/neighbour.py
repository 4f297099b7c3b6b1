"""How long a short program takes, over and over: what a neighbour of an attack notices."""

import json
import os
import time


def main():
    times = []
    until = time.monotonic() + 9
    while time.monotonic() < until:
        began = time.monotonic()
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        times.append((time.monotonic() - began) * 1000)
        time.sleep(0.02)
    times.sort()
    os.makedirs("/workspace/output", exist_ok=True)
    with open("/workspace/output/times.json", "w") as out:
        json.dump({"count": len(times), "median": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}, out)


if __name__ == "__main__":
    main()
