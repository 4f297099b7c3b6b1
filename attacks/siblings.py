"""Two sandboxes at once: one holds all that a user may have of the kernel, the other asks for some of it."""

import ctypes
import fcntl
import json
import os
import resource
import signal
import sys
import time

C = ctypes.CDLL(None, use_errno=True)
# Made by whoever watches both, when it is the other's turn.
CUE = "/tmp/cue"


def queues(most):
    """Queues of file events: their number is the user's."""
    kept = []
    while len(kept) < most and (queue := C.inotify_init()) >= 0:
        kept.append(queue)
    return kept


def signals(most):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
    count = 0
    while count < most and C.sigqueue(os.getpid(), int(signal.SIGRTMIN), None) == 0:
        count += 1
    return count


def large_pipes(most):
    """Pipes of 1 MiB: beyond what a user may have in pages of pipes none can be made larger."""
    kept = []
    while len(kept) < most:
        reader, writer = os.pipe()
        kept.append((reader, writer))
        try:
            fcntl.fcntl(writer, 1031, 1 << 20)
        except OSError:
            kept.pop()
            break
    return kept


def watches(queue, most):
    os.makedirs("/workspace/watched", exist_ok=True)
    count = 0
    while count < most:
        path = b"/workspace/watched/%d" % count
        os.mkdir(path)
        if C.inotify_add_watch(queue, path, 0xFFF) < 0:
            break
        count += 1
    return count


def wait():
    while not os.path.exists(CUE):
        time.sleep(0.1)


def say(name, outcome):
    os.makedirs("/workspace/output", exist_ok=True)
    with open("/workspace/output/results.jsonl", "a") as out:
        out.write(json.dumps({"attempt": name, "outcome": outcome, "user": os.getuid()}) + "\n")


def hog():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = queues(100000)
    counts = len(held), signals(1 << 20), len(pipes := large_pipes(1000)), watches(held[0], 20000)
    print("held", counts, flush=True)
    wait()
    say("sibling-hog", "held" if all(counts) and pipes else f"held {counts}")


def sibling():
    wait()
    held = queues(8)
    counts = len(held), signals(8), len(large_pipes(4)), watches(held[0], 100) if held else 0
    say("sibling", "works" if counts == (8, 8, 4, 100) else f"got {counts}")
    print("tried", flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
