//! Loads one task, or many at once.

use crate::diagnostic::TaskErrors;
use forge_document::{Decoder, Diagnostic, ErrorList, Position, Problem, quote};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use forge_core::task::NetworkPolicy;
use forge_core::{
    CleanupPolicy, ImageChoice, LimitCeiling, NetworkLevel, SecretVariable, SpecificationFile,
    Task, TaskId, UserId,
};

use crate::config_file;
use crate::directory::{CONFIG_FILE, Layout, SPECIFICATION_FOLDER, TASK_FILE, TOOLS_FILE, inspect};
use crate::discover::discover;
use crate::format::{ConfigFile, EnvField, TaskFile};
use crate::host::allowed_hosts;
use crate::limits;
use crate::task_file::{self, DecodedTask};
use crate::tools_file;

/// What an operator sets for all tasks.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The most that any task may ask for.
    pub ceiling: LimitCeiling,
    /// What is removed when, for tasks that do not say.
    pub cleanup: CleanupPolicy,
}

/// What became of the tasks at some paths.
#[derive(Debug, Clone, Default)]
pub struct LoadedTasks {
    /// The tasks without a mistake, in the order they were found. Of several with one id only the
    /// first is here.
    pub tasks: Vec<Task>,
    /// The mistakes of the others, in the same order.
    pub errors: Vec<Diagnostic>,
}

/// Reads the task directory `directory`.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load_task(directory: &Path, options: &LoadOptions) -> Result<Task, TaskErrors> {
    match load(directory, options) {
        Ok(loaded) => Ok(loaded.task),
        Err(diagnostics) => Err(TaskErrors { diagnostics }),
    }
}

/// Reads all tasks that `paths` mean, each a task directory or a folder of them. A directory that
/// is meant twice is read once.
#[must_use]
pub fn load_all(paths: &[PathBuf], options: &LoadOptions) -> LoadedTasks {
    let mut all = LoadedTasks::default();
    let mut directories = Vec::new();
    let mut known = HashSet::new();
    for path in paths {
        match discover(path) {
            Ok(found) => directories.extend(found.into_iter().filter(|directory| {
                let real = directory.canonicalize();
                known.insert(real.unwrap_or_else(|_| directory.clone()))
            })),
            Err(diagnostics) => all.errors.extend(diagnostics),
        }
    }
    let mut by_id: HashMap<TaskId, (PathBuf, Position)> = HashMap::new();
    for (directory, result) in directories.iter().zip(load_each(&directories, options)) {
        let loaded = match result {
            Ok(loaded) => loaded,
            Err(diagnostics) => {
                all.errors.extend(diagnostics);
                continue;
            }
        };
        let file = directory.join(SPECIFICATION_FOLDER).join(TASK_FILE);
        if let Some((first, at)) = by_id.get(&loaded.task.id) {
            all.errors
                .push(repeated_id(&file, &loaded, (first.as_path(), *at)));
            continue;
        }
        by_id.insert(loaded.task.id.clone(), (file, loaded.id_at));
        all.tasks.push(loaded.task);
    }
    all
}

fn repeated_id(file: &Path, loaded: &Loaded, (first, at): (&Path, Position)) -> Diagnostic {
    let problem = Problem::new(format!(
        "{} is also the id of the task in {}:{}:{}",
        quote(loaded.task.id.as_str()),
        first.display(),
        at.line,
        at.column,
    ))
    .hint("give one of them another id");
    problem.at(file, loaded.id_at, "id")
}

/// A task and where its id stands.
#[derive(Debug)]
struct Loaded {
    task: Task,
    id_at: Position,
}

type LoadResult = Result<Loaded, Vec<Diagnostic>>;

/// Loads `directories` on all cores; the results are in the same order.
fn load_each(directories: &[PathBuf], options: &LoadOptions) -> Vec<LoadResult> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            match directories.get(index) {
                Some(directory) => done.push((index, load(directory, options))),
                None => return done,
            }
        }
    };
    let mut results = thread::scope(|scope| {
        let workers: Vec<_> = (1..cores.min(directories.len()))
            .map(|_| scope.spawn(work))
            .collect();
        let mut results = work();
        for worker in workers {
            match worker.join() {
                Ok(done) => results.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    results.sort_by_key(|&(index, _)| index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn load(directory: &Path, options: &LoadOptions) -> LoadResult {
    let mut errors = ErrorList::new(directory);
    if !directory.is_dir() {
        errors.push_path(
            directory,
            Problem::new("there is no such folder").expecting("a task directory"),
        );
        return Err(errors.into_sorted());
    }
    let layout = inspect(directory, &mut errors);
    let folder = directory.join(SPECIFICATION_FOLDER);
    let mut diagnostics = errors.into_sorted();

    let task_path = folder.join(TASK_FILE);
    let decoded = match &layout.task {
        Some(bytes) => task_file::decode(&task_path, bytes),
        None => DecodedTask::default(),
    };
    let config = match &layout.config {
        Some(bytes) => {
            let (config, wrong) =
                config_file::decode(&folder.join(CONFIG_FILE), bytes, &options.ceiling);
            diagnostics.extend(wrong);
            config
        }
        None => Some(ConfigFile::default()),
    };
    if let Some(bytes) = &layout.tools {
        let (_, wrong) = tools_file::decode(&folder.join(TOOLS_FILE), bytes);
        diagnostics.extend(wrong);
    }
    diagnostics.extend(decoded.diagnostics);
    if let (Some(difficulty), Some(config)) = (decoded.difficulty, &config) {
        let resources = config.resources.clone().unwrap_or_default();
        let mut decoder = Decoder::new(&task_path);
        limits::check_defaults(&mut decoder, difficulty, &resources, &options.ceiling);
        diagnostics.extend(decoder.finish());
    }
    diagnostics.sort_by(|a, b| a.file.cmp(&b.file));
    match (decoded.file, config) {
        (Some(file), Some(config)) if diagnostics.is_empty() => {
            let from = std::path::absolute(directory);
            assemble(file, config, layout, options)
                .map(|task| Loaded {
                    task: Task {
                        directory: from.unwrap_or_else(|_| directory.to_owned()),
                        ..task
                    },
                    id_at: decoded.id_at.unwrap_or(Position::START),
                })
                .ok_or_else(|| vec![Problem::new("it contradicts itself").about(directory)])
        }
        _ => Err(diagnostics),
    }
}

/// Variables with their values, and those whose values the operator keeps.
fn environment(
    fields: BTreeMap<String, EnvField>,
) -> (BTreeMap<String, String>, Vec<SecretVariable>) {
    let (mut env, mut secrets) = (BTreeMap::new(), Vec::new());
    for (variable, field) in fields {
        match field {
            EnvField::Text(text) => {
                env.insert(variable, text);
            }
            EnvField::Secret { secret, phases } => secrets.push(SecretVariable {
                variable,
                secret,
                phases,
            }),
        }
    }
    (env, secrets)
}

/// Fills in what the files leave out. `None` cannot happen after decoding, which has checked what
/// the conversions check again.
fn assemble(
    file: TaskFile,
    config: ConfigFile,
    layout: Layout,
    options: &LoadOptions,
) -> Option<Task> {
    let limits = limits::limits(file.difficulty, &config.resources.unwrap_or_default());
    let verify_container = file.verify.container.unwrap_or_default();
    let network = config.network.unwrap_or_default();
    let has_setup = file.setup.is_some();
    let (env, secrets) = environment(config.env);
    let specification = [
        (TASK_FILE, layout.task),
        (TOOLS_FILE, layout.tools),
        (CONFIG_FILE, layout.config),
    ];
    let command_line = |fields: Option<crate::format::CommandFields>| match fields {
        None => Some(None),
        Some(fields) => fields.into_command_line().map(Some),
    };
    Some(Task {
        id: file.id,
        directory: PathBuf::new(),
        title: file.title,
        instruction: file.instruction,
        difficulty: file.difficulty,
        image: match (file.image, file.language) {
            (Some(reference), None) => ImageChoice::Reference(reference),
            (None, Some(language)) => ImageChoice::Language(language),
            _ => return None,
        },
        setup: command_line(file.setup)?,
        solve: command_line(file.solve)?,
        verify: file.verify.command_line()?,
        verify_container,
        tags: file.tags,
        limits,
        network: NetworkPolicy {
            // Setup exists to fetch and install.
            setup: network.setup.unwrap_or(match has_setup {
                true => NetworkLevel::PackageOnly,
                false => NetworkLevel::Isolated,
            }),
            solve: network.solve.unwrap_or_default(),
            verify: network.verify.unwrap_or_default(),
            allow: allowed_hosts(&network.allow),
        },
        env,
        secrets,
        user: match config.user {
            None => None,
            Some(user) => Some(UserId::new(user.uid, user.gid)?),
        },
        artifacts: config.artifacts,
        tests_visible: config.tests_visible.unwrap_or(false),
        cleanup: limits::cleanup(
            &config.cleanup.unwrap_or_default(),
            &options.cleanup,
            &limits,
            verify_container,
        ),
        specification: specification
            .into_iter()
            .filter_map(|(name, contents)| {
                Some(SpecificationFile {
                    name: name.to_owned(),
                    contents: contents?,
                })
            })
            .collect(),
        src: layout.src,
        tests: layout.tests,
        solution: layout.solution,
    })
}
