"""Runs the attempts of one scene that need no network: `local.py MODULE`, each attempt a function of that module.

An attempt ends in a word: the name of an errno, or what the function says. One that takes the program with it is run
in a child and named by the signal.
"""

import errno
import importlib
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def outcome(function):
    try:
        return function()
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
    except MemoryError:
        return "ENOMEM"
    except Exception as error:  # Whatever it is, it is how the attempt ended.
        return f"{type(error).__name__}: {error}"[:80]


def in_child(function):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        # Whoever takes all memory shall be the one that is killed for it.
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        try:
            os.write(writer, str(outcome(function)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    data = b""
    while piece := os.read(reader, 4096):
        data += piece
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "signal:%d" % os.WTERMSIG(status)
    return data.decode() or "nothing"


def main():
    module = importlib.import_module(sys.argv[1])
    with open(os.path.join(HERE, "attempts.json")) as file:
        attempts = [attempt for attempt in json.load(file) if "call" in attempt]
    os.makedirs("/workspace/output", exist_ok=True)
    with open("/workspace/output/results.jsonl", "a") as out:
        for attempt in attempts:
            function = getattr(module, attempt["call"])
            run = outcome if attempt.get("here") else in_child
            out.write(json.dumps({"attempt": attempt["name"], "outcome": str(run(function))}) + "\n")
            out.flush()


if __name__ == "__main__":
    sys.exit(main())
