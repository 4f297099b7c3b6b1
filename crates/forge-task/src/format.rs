//! The three files of `.swe-forge/` as Rust types: what the decoders produce and what the published
//! JSON Schemas are generated from, so that the two cannot drift apart.
//!
//! Units are those the author writes; every `None` is a default that is filled in later.

use std::borrow::Cow;
use std::collections::BTreeMap;

use forge_core::task::VerifyContainer;
use forge_core::{Difficulty, Language, NetworkLevel, PhaseName, TaskId};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// The specification of a task: `.swe-forge/task.json`.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(title = "swe-forge task.json", 
    deny_unknown_fields,
    extend("oneOf" = [{"required": ["image"]}, {"required": ["language"]}])
)]
pub struct TaskFile {
    /// Where an editor finds the schema of this file; not used otherwise.
    #[schemars(rename = "$schema")]
    pub schema: Option<String>,
    /// The task's name, unique within a run: letters, digits, '.', '_' and '-', beginning with a
    /// letter or digit.
    #[schemars(
        with = "String",
        length(min = 1, max = 80),
        regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")
    )]
    pub id: TaskId,
    /// One line about the task.
    #[schemars(length(min = 1, max = 200))]
    pub title: String,
    /// What an agent is asked to do.
    #[schemars(length(min = 1))]
    pub instruction: String,
    /// How hard the task is; decides the limits it gets unless config.yaml overrides them.
    pub difficulty: Difficulty,
    /// The image it runs in; either this or `language`.
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// The language whose base image it runs in; either this or `image`.
    pub language: Option<Language>,
    /// Prepares the workspace before the agent's turn.
    pub setup: Option<CommandFields>,
    /// Solves the task, when the agent `command` is used.
    pub solve: Option<CommandFields>,
    /// Decides whether the task is solved: exit code 0 or any other.
    pub verify: VerifyFields,
    /// Labels of the author's, without repetition.
    #[schemars(default, extend("uniqueItems" = true), inner(length(min = 1, max = 64)))]
    pub tags: Vec<String>,
}

/// Something to run: either `command` or `argv`.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(
    deny_unknown_fields,
    extend("oneOf" = [{"required": ["command"]}, {"required": ["argv"]}])
)]
pub struct CommandFields {
    /// Text for `/bin/sh -c` of the image.
    #[schemars(length(min = 1))]
    pub command: Option<String>,
    /// Program and arguments, run without a shell.
    #[schemars(length(min = 1))]
    pub argv: Option<Vec<String>>,
}

/// What decides: either `command` or `argv`, and where it runs.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(
    deny_unknown_fields,
    extend("oneOf" = [{"required": ["command"]}, {"required": ["argv"]}])
)]
pub struct VerifyFields {
    /// Text for `/bin/sh -c` of the image.
    #[schemars(length(min = 1))]
    pub command: Option<String>,
    /// Program and arguments, run without a shell.
    #[schemars(length(min = 1))]
    pub argv: Option<Vec<String>>,
    /// `fresh`: a new container on the same workspace (the default); `same`: the one of setup and
    /// solve, for tasks whose setup changes more than the workspace.
    pub container: Option<VerifyContainer>,
}

/// The tools an agent may call: `.swe-forge/tools.json`.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(title = "swe-forge tools.json", deny_unknown_fields)]
pub struct ToolsFile {
    /// Where an editor finds the schema of this file; not used otherwise.
    #[schemars(rename = "$schema")]
    pub schema: Option<String>,
    /// The tools, each with a name of its own.
    pub tools: Vec<ToolFields>,
}

/// One tool.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ToolFields {
    /// What the agent calls it by.
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[a-z0-9_-]+$"))]
    pub name: String,
    /// What it does, for the agent.
    #[schemars(length(min = 1))]
    pub description: String,
    /// JSON Schema of the parameters: an object with `properties`.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub parameters: serde_json::Value,
    /// Program and arguments; `{name}` stands for the parameter of that name.
    #[schemars(length(min = 1))]
    pub argv: Vec<String>,
}

/// Settings of the execution: `.swe-forge/config.yaml`.
#[derive(Debug, Clone, PartialEq, Default, JsonSchema)]
#[schemars(title = "swe-forge config.yaml", deny_unknown_fields)]
pub struct ConfigFile {
    /// What the phases may reach.
    pub network: Option<NetworkFields>,
    /// What the task may use, where that differs from its difficulty.
    pub resources: Option<ResourceFields>,
    /// Environment of every command.
    #[schemars(default, schema_with = "env_schema")]
    pub env: BTreeMap<String, EnvField>,
    /// Who the processes run as; chosen per task when left out.
    pub user: Option<UserField>,
    /// What is removed when the task ends.
    pub cleanup: Option<CleanupFields>,
    /// Files and folders of the workspace that are kept besides `output/`.
    #[schemars(default, length(max = 64), inner(length(min = 1)))]
    pub artifacts: Vec<String>,
    /// Whether the agent may see `tests/` from the start; `false` when left out.
    pub tests_visible: Option<bool>,
}

/// Network levels of the phases. When left out, setup is `package_only`, the others `isolated`.
#[derive(Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NetworkFields {
    /// During setup.
    pub setup: Option<NetworkLevel>,
    /// During solve.
    pub solve: Option<NetworkLevel>,
    /// During verify.
    pub verify: Option<NetworkLevel>,
    /// Hosts reachable at `limited_web`, on port 443 unless another is written: `example.org`, `example.org:8443` or `*.example.org`.
    #[schemars(default, length(max = 64), inner(length(min = 1)))]
    pub allow: Vec<String>,
}

/// Limits that differ from those of the difficulty.
#[derive(Debug, Clone, PartialEq, Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ResourceFields {
    /// Memory in MiB, without swap.
    #[schemars(range(min = 6))]
    pub memory_mb: Option<u64>,
    /// CPU quota in cores.
    #[schemars(range(min = 0.01))]
    pub cpu_cores: Option<f64>,
    /// Size of the workspace in GiB.
    #[schemars(range(min = 0.001))]
    pub disk_gb: Option<f64>,
    /// Processes and threads together.
    #[schemars(range(min = 1))]
    pub processes: Option<u64>,
    /// Bound on setup and solve together.
    #[schemars(range(min = 1))]
    pub timeout_seconds: Option<u64>,
    /// Bound on verify; when left out the same as for setup and solve, at most 600.
    #[schemars(range(min = 1))]
    pub verify_timeout_seconds: Option<u64>,
    /// Size of `/tmp` in MiB; counts as memory.
    #[schemars(range(min = 1))]
    pub tmp_mb: Option<u64>,
    /// Output of one phase in MiB, both streams together.
    #[schemars(range(min = 1))]
    pub output_mb: Option<u64>,
}

/// A user: `1000`, or `"1000:100"` with its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserField {
    /// User id, never 0.
    pub uid: u32,
    /// Group id, never 0.
    pub gid: u32,
}

/// What is removed when the task ends, and what is kept. An operator may have set other defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CleanupFields {
    /// Remove the containers of a completed task; `true` when left out.
    pub on_success: Option<bool>,
    /// Remove those of a failed one; `true` when left out.
    pub on_failure: Option<bool>,
    /// Remove those of one that passed a deadline; `true` when left out.
    pub on_timeout: Option<bool>,
    /// Keep the logs; `true` when left out.
    pub preserve_logs: Option<bool>,
    /// Keep the artifacts; `true` when left out.
    pub preserve_artifacts: Option<bool>,
    /// Containers and volumes that are to be removed stay so long for inspection, also when nothing
    /// else is left to do; when left out, 60 seconds, and never longer than the run.
    #[schemars(range(max = 86_400))]
    pub delay_seconds: Option<u64>,
    /// Anyone may remove what an attempt made so many hours after its start, whatever became of its
    /// run; 24 when left out.
    #[schemars(range(min = 1, max = 8760))]
    pub force_cleanup_after_hours: Option<u64>,
    /// Kept logs and artifacts go so many days after the end of their run; 30 when left out.
    #[schemars(range(min = 1, max = 3650))]
    pub log_retention_days: Option<u64>,
    /// No container outlives this.
    #[schemars(range(min = 1, max = 86_400))]
    pub max_lifetime_seconds: Option<u64>,
}

/// The value of a variable in `env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvField {
    /// As written.
    Text(String),
    /// A secret of the operator.
    Secret {
        /// Its name.
        secret: String,
        /// The phases whose commands get it.
        phases: Vec<PhaseName>,
    },
}

fn env_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "additionalProperties": {"oneOf": [
            {"type": ["string", "number"]},
            {
                "type": "object",
                "additionalProperties": false,
                "required": ["secret", "phases"],
                "properties": {
                    "secret": {
                        "type": "string",
                        "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
                        "maxLength": 64,
                        "description": "The name of a secret in the operator's configuration.",
                    },
                    "phases": {
                        "type": "array",
                        "minItems": 1,
                        "uniqueItems": true,
                        "items": {"enum": ["setup", "solve", "verify"]},
                        "description": "The phases whose commands get it.",
                    },
                },
            },
        ]},
    })
}

impl JsonSchema for UserField {
    fn schema_name() -> Cow<'static, str> {
        "User".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                {"type": "integer", "minimum": 1, "maximum": 4_294_967_294_u32},
                {"type": "string", "pattern": "^[1-9][0-9]{0,9}:[1-9][0-9]{0,9}$"},
            ],
        })
    }
}
