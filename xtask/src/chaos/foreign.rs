//! Objects of somebody else's on the engine, with names and labels like ours: nobody may touch them.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::Client;
use super::tasks::IMAGE;
use crate::shell::Failure;

/// The end of the names of all of them.
const ENDING: &str = "-foreign";
const CONTAINER: &str = "swe-forge-task-foreign";
const VOLUME: &str = "swe-forge-workspace-foreign";
const NETWORK: &str = "swe-forge-egress-foreign";
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a name is one of theirs.
pub(super) fn is_foreign(name: &str) -> bool {
    name.trim_start_matches('/').ends_with(ENDING)
}

/// What they were like.
#[derive(Debug)]
pub(super) struct Foreign {
    client: Client,
    /// The file in their volume.
    file: PathBuf,
    seen: Value,
}

impl Foreign {
    /// Makes them.
    pub(super) fn make(client: Client) -> Result<Self, Failure> {
        let labels = labels();
        client.post(
            "/volumes/create",
            &json!({"Name": VOLUME, "Labels": labels}),
        )?;
        client.post(
            "/networks/create",
            &json!({"Name": NETWORK, "CheckDuplicate": true, "Labels": labels}),
        )?;
        let script = "echo mine > /mine; read -r number < /proc/sys/kernel/random/uuid; \
                      echo $number >> /kept/file; exec sleep 1000000";
        let container = json!({
            "Image": IMAGE,
            "Cmd": ["/bin/sh", "-c", script],
            "Labels": labels,
            "StopSignal": "SIGKILL",
            "HostConfig": {
                "Binds": [format!("{VOLUME}:/kept")],
                "NetworkMode": NETWORK,
                "RestartPolicy": {"Name": "always"},
            },
        });
        client.post(&format!("/containers/create?name={CONTAINER}"), &container)?;
        client.post(&format!("/containers/{CONTAINER}/start"), &Value::Null)?;
        let volume = client.get(&format!("/volumes/{VOLUME}"))?;
        let folder = volume["Mountpoint"].as_str().unwrap_or_default();
        let mut foreign = Self {
            client,
            file: PathBuf::from(folder).join("file"),
            seen: Value::Null,
        };
        foreign.settle()?;
        Ok(foreign)
    }

    /// Takes them as they are now: the engine itself ended and started them.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = self.look()?;
            if seen["state"] == "running" && seen["file"] != "" {
                self.seen = seen;
                return Ok(());
            }
            if Instant::now() > until {
                return Err(Failure::new(format!(
                    "the foreign container does not run: {seen}"
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is not as it was.
    pub(super) fn changes(&self) -> Vec<String> {
        let now = match self.look() {
            Ok(now) => now,
            Err(failure) => return vec![failure.to_string()],
        };
        let fields = self.seen.as_object().into_iter().flatten();
        fields
            .filter(|(key, before)| now[key.as_str()] != **before)
            .map(|(key, before)| format!("{key} was {before}, is {}", now[key.as_str()]))
            .collect()
    }

    fn look(&self) -> Result<Value, Failure> {
        let container = self.client.get(&format!("/containers/{CONTAINER}/json"))?;
        let volume = self.client.get(&format!("/volumes/{VOLUME}"))?;
        let network = self.client.get(&format!("/networks/{NETWORK}"))?;
        // Where it cannot be read it is not what it was.
        let file = std::fs::read_to_string(&self.file).unwrap_or_default();
        let folder = self.file.parent().and_then(|folder| folder.metadata().ok());
        let folder = folder.map(|folder| folder.ino());
        let changed = self
            .client
            .list(&format!("/containers/{CONTAINER}/changes"))?;
        // The engine tells them in any order.
        let changed: BTreeSet<String> = changed.iter().map(Value::to_string).collect();
        Ok(json!({
            "container": container["Id"],
            "state": container["State"]["Status"],
            "started": container["State"]["StartedAt"],
            "name": container["Name"],
            "labels": container["Config"]["Labels"],
            // An engine dates a volume by its folder, which it changes itself when it mounts it.
            "volume": [volume["Mountpoint"], volume["Labels"], folder],
            "network": network["Id"],
            "members": network["Containers"].as_object().map(serde_json::Map::len),
            "file": file,
            "changed": changed,
        }))
    }
}

/// Those of another installation, in every other respect like ours.
fn labels() -> Value {
    json!({
        "swe-forge.owner": "somebody-else",
        "swe-forge.run": "01a22e7f-0000-7000-8000-000000000000",
        "swe-forge.task_id": "foreign",
        "swe-forge.attempt": "1",
        "swe-forge.role": "task",
        "swe-forge.difficulty": "easy",
        "swe-forge.created_at": "2026-01-01T00:00:00Z",
        "swe-forge.expires_at": "2099-01-01T00:00:00Z",
        // Of a process that is gone.
        "swe-forge.holder": "a:b:c:999999:1",
    })
}
