//! `.swe-forge/task.json`: the specification of a task.

use forge_document::{
    Decoder, Diagnostic, Fields, Located, Position, Problem, Value, optional, quote,
};
use std::collections::HashSet;
use std::path::Path;

use forge_core::task::VerifyContainer;
use forge_core::{CommandLine, Difficulty, Language, TaskId};

use crate::format::{CommandFields, TaskFile, VerifyFields};
use crate::json_tree;
use crate::text;

/// Longest title, in characters.
const MAX_TITLE: usize = 200;
/// Longest tag, in characters.
const MAX_TAG: usize = 64;

pub(crate) const TASK_FIELDS: &[&str] = &[
    "$schema",
    "id",
    "title",
    "instruction",
    "difficulty",
    "image",
    "language",
    "setup",
    "solve",
    "verify",
    "tags",
];
pub(crate) const COMMAND_FIELDS: &[&str] = &["command", "argv"];
pub(crate) const VERIFY_FIELDS: &[&str] = &["command", "argv", "container"];

/// What became of a `task.json`.
#[derive(Debug, Default)]
pub(crate) struct DecodedTask {
    /// All of it, when nothing is wrong with it.
    pub(crate) file: Option<TaskFile>,
    /// The difficulty and its place, also when something else is wrong.
    pub(crate) difficulty: Option<(Difficulty, Position)>,
    /// Where the id stands.
    pub(crate) id_at: Option<Position>,
    /// What is wrong.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Decodes `bytes`, which stand in `path`.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> DecodedTask {
    let mut decoder = Decoder::new(path);
    let mut decoded = DecodedTask::default();
    if let Some(root) = decoder.tree(bytes, json_tree::parse) {
        let located = Located {
            node: &root,
            path: String::new(),
        };
        if let Some(fields) = decoder.object(&located, TASK_FIELDS) {
            decoded.id_at = fields.get("id").map(|id| id.node.at);
            decoded.file = task(&mut decoder, &fields, &mut decoded.difficulty);
        }
    }
    decoded.diagnostics = decoder.finish();
    decoded
}

fn task(
    decoder: &mut Decoder,
    fields: &Fields<'_>,
    difficulty_found: &mut Option<(Difficulty, Position)>,
) -> Option<TaskFile> {
    let schema = schema_reference(decoder, fields);
    let id = decoder
        .required(
            fields,
            "id",
            "give the task a name, for example that of its directory",
        )
        .and_then(|field| id(decoder, &field));
    let title = decoder
        .required(fields, "title", "say in one line what the task is about")
        .and_then(|field| decoder.text(&field, |text| text::one_line(text, MAX_TITLE)));
    let instruction = decoder
        .required(fields, "instruction", "say what an agent is asked to do")
        .and_then(|field| decoder.text(&field, text::prose));
    let difficulty = decoder
        .required(
            fields,
            "difficulty",
            "add \"difficulty\": \"easy\", or a harder one",
        )
        .and_then(|field| {
            let choices = Difficulty::ALL.map(|each| (each.as_str(), each));
            let difficulty = decoder.choice(&field, choices)?;
            *difficulty_found = Some((difficulty, field.node.at));
            Some(difficulty)
        });
    let place = place(decoder, fields);
    let setup = optional(fields, "setup", |field| command(decoder, field));
    let solve = optional(fields, "solve", |field| command(decoder, field));
    let verify = decoder
        .required(
            fields,
            "verify",
            "add \"verify\": {\"command\": \"sh tests/run.sh\"}",
        )
        .and_then(|field| verify(decoder, &field));
    let tags = optional(fields, "tags", |field| tags(decoder, field));
    let (image, language) = place?;
    Some(TaskFile {
        schema: schema?,
        id: id?,
        title: title?.to_owned(),
        instruction: instruction?.to_owned(),
        difficulty: difficulty?,
        image,
        language,
        setup: setup?,
        solve: solve?,
        verify: verify?,
        tags: tags?.unwrap_or_default(),
    })
}

/// `$schema`, which editors use.
#[expect(
    clippy::option_option,
    reason = "absent and wrong are different, and the second is what `?` acts on"
)]
pub(crate) fn schema_reference(
    decoder: &mut Decoder,
    fields: &Fields<'_>,
) -> Option<Option<String>> {
    optional(fields, "$schema", |field| {
        decoder.text(field, text::prose).map(str::to_owned)
    })
}

fn id(decoder: &mut Decoder, field: &Located<'_>) -> Option<TaskId> {
    let text = decoder.text(field, |_| Ok(()))?;
    let result = TaskId::new(text).map_err(|invalid| {
        Problem::new(format!("found {}: {invalid}", quote(text))).expecting(
            "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 80",
        )
    });
    decoder.check(field, result)
}

/// `image` or `language`.
fn place(decoder: &mut Decoder, fields: &Fields<'_>) -> Option<(Option<String>, Option<Language>)> {
    let image = fields.get("image");
    let language = fields.get("language");
    let problem = |message: &str| Problem::new(message).expecting("either image or language");
    match (&image, &language) {
        (None, None) => {
            let problem = problem("found neither")
                .hint("add \"language\": \"python\", or the image of your own that it runs in");
            decoder.refuse_object(fields, "language", problem);
            return None;
        }
        (Some(_), Some(language)) => {
            decoder.refuse(language, problem("found both").hint("remove one of them"));
        }
        _ => {}
    }
    let image = image.map(|field| {
        decoder
            .text(&field, text::image_reference)
            .map(str::to_owned)
    });
    let language = language.map(|field| {
        let choices = Language::ALL.map(|each| (each.as_str(), each));
        decoder.choice(&field, choices)
    });
    match (image, language) {
        (Some(image), None) => Some((Some(image?), None)),
        (None, Some(language)) => Some((None, Some(language?))),
        _ => None,
    }
}

/// What `command` and `argv` of one object say.
fn run_fields(decoder: &mut Decoder, fields: &Fields<'_>) -> Option<CommandFields> {
    let command = fields.get("command");
    let argv = fields.get("argv");
    let problem = |message: &str| Problem::new(message).expecting("either command or argv");
    match (&command, &argv) {
        (None, None) => {
            let problem = problem("found neither").hint("add \"command\": \"sh tests/run.sh\"");
            decoder.refuse_object(fields, "", problem);
            return None;
        }
        (Some(_), Some(argv)) => {
            decoder.refuse(argv, problem("found both").hint("remove one of them"));
            return None;
        }
        _ => {}
    }
    Some(CommandFields {
        command: match command {
            None => None,
            Some(field) => Some(decoder.text(&field, text::command)?.to_owned()),
        },
        argv: match argv {
            None => None,
            Some(field) => Some(argument_list(decoder, &field)?),
        },
    })
}

/// A program and its arguments.
pub(crate) fn argument_list(decoder: &mut Decoder, field: &Located<'_>) -> Option<Vec<String>> {
    let arguments = decoder.texts(field, text::argument)?;
    match arguments.first() {
        None => {
            let problem = Problem::new("found an empty list").expecting("a program to run");
            decoder.refuse(field, problem);
            return None;
        }
        Some((program, text)) => {
            let result = text::command(text);
            decoder.check(program, result)?;
        }
    }
    let bytes: usize = arguments.iter().map(|(_, text)| text.len() + 1).sum();
    if bytes > text::MAX_TOTAL_BYTES {
        let problem = Problem::new(format!("the arguments have {bytes} bytes"))
            .expecting(format!("at most {}", text::MAX_TOTAL_BYTES))
            .hint("put what is long into a file below src/ or tests/");
        decoder.refuse(field, problem);
        return None;
    }
    Some(arguments.into_iter().map(|(_, text)| text).collect())
}

fn command(decoder: &mut Decoder, field: &Located<'_>) -> Option<CommandFields> {
    let fields = command_object(decoder, field, COMMAND_FIELDS)?;
    run_fields(decoder, &fields)
}

fn verify(decoder: &mut Decoder, field: &Located<'_>) -> Option<VerifyFields> {
    let fields = command_object(decoder, field, VERIFY_FIELDS)?;
    let run = run_fields(decoder, &fields);
    let container = optional(&fields, "container", |field| {
        let choices = VerifyContainer::ALL.map(|each| (each.as_str(), each));
        decoder.choice(field, choices)
    });
    let CommandFields { command, argv } = run?;
    Some(VerifyFields {
        command,
        argv,
        container: container?,
    })
}

/// Text where an object belongs is the commonest slip here.
fn command_object<'t>(
    decoder: &mut Decoder,
    field: &Located<'t>,
    known: &[&str],
) -> Option<Fields<'t>> {
    let hint = match &field.node.value {
        Value::Text(text) => format!("write {{\"command\": {}}}", quote(text)),
        Value::List(_) => "write {\"argv\": […]}".to_owned(),
        _ => return decoder.object(field, known),
    };
    let problem = Problem::new(format!("found {}", field.node.describe()))
        .expecting("an object with command or argv")
        .hint(hint);
    decoder.refuse(field, problem);
    None
}

fn tags(decoder: &mut Decoder, field: &Located<'_>) -> Option<Vec<String>> {
    let tags = decoder.texts(field, |text| text::one_line(text, MAX_TAG))?;
    let mut seen = HashSet::new();
    for (located, tag) in &tags {
        if !seen.insert(tag.as_str()) {
            let problem = Problem::new(format!("the tag {} is repeated", quote(tag)))
                .hint("remove one of them");
            decoder.refuse(located, problem);
        }
    }
    Some(tags.into_iter().map(|(_, tag)| tag).collect())
}

impl CommandFields {
    /// The command, when exactly one of the two is given.
    pub(crate) fn into_command_line(self) -> Option<CommandLine> {
        match (self.command, self.argv) {
            (Some(text), None) => Some(CommandLine::Shell(text)),
            (None, Some(argv)) => Some(CommandLine::Argv(argv)),
            _ => None,
        }
    }
}

impl VerifyFields {
    /// The command, when exactly one of the two is given.
    pub(crate) fn command_line(&self) -> Option<CommandLine> {
        let fields = CommandFields {
            command: self.command.clone(),
            argv: self.argv.clone(),
        };
        fields.into_command_line()
    }
}
