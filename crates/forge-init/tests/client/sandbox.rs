//! A sandbox made of namespaces, without a container engine.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Client, PATIENCE, settings};

/// Makes the namespaces' root and becomes `forge-init` in it.
const BEGIN: &str = r#"
set -e
root=$1
for folder in usr bin sbin lib lib32 lib64; do
    if [ -L /$folder ]; then cp -d /$folder "$root/"
    elif [ -d /$folder ]; then mkdir -p "$root/$folder"; mount --rbind /$folder "$root/$folder"
    fi
done
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
ip link set lo up
# As engines do where a sandbox has a network.
echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start
cd "$root"
eval "$3"
cd /
exec chroot "$root" setpriv --reuid "$2" --regid "$2" --clear-groups --no-new-privs \
    --bounding-set="$4" --inh-caps=-all /.swe-forge/init init
"#;

/// Capabilities of a program under test, and of setup.
const NONE: &str = "-all";
const SETUP: &str = "-all,+chown,+dac_override,+fowner,+setuid,+setgid";

static NEXT_USER: AtomicU32 = AtomicU32::new(0);

/// A running `forge-init` with namespaces, a root and a user of its own.
pub struct Sandbox {
    child: Child,
    folder: tempfile::TempDir,
    bridges: Mutex<Vec<u32>>,
    pub user: u32,
}

impl Sandbox {
    /// Starts one. The tests need root, or whatever else lets `unshare` make namespaces.
    pub fn start() -> Self {
        Self::start_with(false, "")
    }

    /// Starts one for setup, as root, after `prepare` was run in its root, outside of it.
    pub fn start_for_setup(prepare: &str) -> Self {
        Self::start_with(true, prepare)
    }

    /// Starts one after `prepare` was run in its root, outside of it, where its user is `$2`.
    pub fn start_prepared(prepare: &str) -> Self {
        Self::start_with(false, prepare)
    }

    fn start_with(for_setup: bool, prepare: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        // Kernel limits are counted for each user: no test may feel another one's.
        let mut user = 300_000
            + (std::process::id() % 10_000) * 64
            + NEXT_USER.fetch_add(1, Ordering::Relaxed);
        if for_setup {
            user = 0;
        }
        mode(root, 0o755);
        for name in [
            "dev",
            "proc",
            ".swe-forge",
            "tmp",
            "workspace",
            ".swe-forge/channel",
            ".swe-forge/egress",
        ] {
            let path = root.join(name);
            fs::create_dir(&path).unwrap();
            mode(&path, 0o755);
        }
        for name in ["tmp", "workspace", ".swe-forge/channel"] {
            chown(root.join(name), Some(user), Some(user)).unwrap();
        }
        let init = root.join(".swe-forge/init");
        fs::copy(env!("CARGO_BIN_EXE_forge-init"), &init).unwrap();
        // Not to be read by the task, as in an image.
        mode(&init, 0o711);
        let child = Command::new("unshare")
            .args(["--pid", "--fork", "--mount", "--net", "--ipc"])
            .args(["/bin/sh", "-c", BEGIN, "sh"])
            .arg(root)
            .arg(user.to_string())
            .arg(prepare)
            .arg(if for_setup { SETUP } else { NONE })
            .stdin(Stdio::null())
            .stderr(fs::File::create(root.join("log")).unwrap())
            .spawn()
            .expect("unshare (util-linux) is needed for these tests");
        Self {
            child,
            folder,
            bridges: Mutex::default(),
            user,
        }
    }

    /// Starts one and claims it.
    pub fn claimed() -> (Self, Client) {
        let sandbox = Self::start();
        let mut client = sandbox.connect();
        client.claim(settings());
        (sandbox, client)
    }

    pub fn socket(&self) -> UnixStream {
        let path = self.path(".swe-forge/channel/init.sock");
        let log = || fs::read_to_string(self.path("log")).unwrap_or_default();
        wait_until("the sandbox listens", || {
            let ended = fs::metadata(format!("/proc/{}", self.child.id())).is_err();
            assert!(!ended, "no sandbox: {}", log());
            UnixStream::connect(&path).ok()
        })
    }

    /// Connects; no handshake yet.
    pub fn connect(&self) -> Client {
        Client::over_socket(self.socket())
    }

    /// Connects again as the owner.
    pub fn reconnect(&self) -> Client {
        let mut client = self.connect();
        client.start_ids_at(1_000_000);
        client.prove();
        client
    }

    /// Connects through `forge-init bridge`, started as an engine starts an exec.
    pub fn bridge(&self, user: u32) -> Client {
        let user = user.to_string();
        let mut bridge = Command::new("nsenter")
            .args(["--target", &self.init_pid().to_string()])
            .args(["--pid", "--mount", "--net", "--root"])
            .args(["--setuid", &user, "--setgid", &user])
            .args(["/.swe-forge/init", "bridge"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        self.bridges.lock().unwrap().push(bridge.id());
        let (reader, writer) = (bridge.stdout.take().unwrap(), bridge.stdin.take().unwrap());
        std::thread::spawn(move || bridge.wait());
        Client::new(reader, writer, None)
    }

    /// A path inside, as seen from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside.trim_start_matches('/'))
    }

    /// PID 1 as seen from outside.
    pub fn init_pid(&self) -> i32 {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        wait_until("unshare has started PID 1", || {
            fs::read_to_string(&path).ok()?.trim().parse().ok()
        })
    }

    /// Processes in the sandbox as seen from outside, without PID 1; zombies as well.
    pub fn processes(&self) -> Vec<i32> {
        let init = self.init_pid();
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(init).expect("PID 1 is gone");
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != init && namespace(*pid).as_ref() == Some(&own))
            .collect()
    }

    /// Waits for the end of PID 1; gives its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let child = &mut self.child;
        wait_until("the sandbox ends", || child.try_wait().unwrap()).code()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            // Its changed user undid what would end it together with `unshare`.
            let pid = self.init_pid().to_string();
            drop(Command::new("kill").args(["-KILL", &pid]).status());
        }
        // `nsenter` stops when the bridge does, be it late, and the kernel waits until it notices
        // the end.
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            for bridge in self.bridges.lock().unwrap().iter() {
                let _is_gone = kill(Pid::from_raw(bridge.cast_signed()), Signal::SIGCONT);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Waits for a condition that no event tells of.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}
