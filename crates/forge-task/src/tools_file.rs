//! `.swe-forge/tools.json`: the tools an agent may call.

use forge_document::{
    Decoder, Diagnostic, Fields, Located, Node, Problem, Value, did_you_mean, quote,
};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value as Json;

use crate::format::{ToolFields, ToolsFile};
use crate::json_tree;
use crate::task_file::{argument_list, schema_reference};
use crate::text;

pub(crate) const TOOLS_FIELDS: &[&str] = &["$schema", "tools"];
pub(crate) const TOOL_FIELDS: &[&str] = &["name", "description", "parameters", "argv"];

/// Most names of properties that a misspelt one is compared with.
const COMPARED_PROPERTIES: usize = 1000;
/// Most names of properties in a hint.
const SHOWN_PROPERTIES: usize = 10;

/// Decodes `bytes`, which stand in `path`.
pub(crate) fn decode(path: &Path, bytes: &[u8]) -> (Option<ToolsFile>, Vec<Diagnostic>) {
    let mut decoder = Decoder::new(path);
    let file = decoder.tree(bytes, json_tree::parse).and_then(|root| {
        let located = Located {
            node: &root,
            path: String::new(),
        };
        let fields = decoder.object(&located, TOOLS_FIELDS)?;
        let schema = schema_reference(&mut decoder, &fields);
        let tools = decoder
            .required(&fields, "tools", "add \"tools\": [], or remove the file")
            .and_then(|field| tools(&mut decoder, &field));
        Some(ToolsFile {
            schema: schema?,
            tools: tools?,
        })
    });
    (file, decoder.finish())
}

fn tools(decoder: &mut Decoder, field: &Located<'_>) -> Option<Vec<ToolFields>> {
    let items = decoder.list(field)?;
    let count = items.len();
    let mut names = HashMap::new();
    let mut tools = Vec::new();
    for item in &items {
        let Some(fields) = decoder.object(item, TOOL_FIELDS) else {
            continue;
        };
        tools.extend(tool(decoder, &fields));
        let Some(name) = fields.get("name") else {
            continue;
        };
        if let Value::Text(text) = &name.node.value
            && let Some(first) = names.insert(text.as_str(), item.path.clone())
        {
            let problem = Problem::new(format!("{first} has the name {} too", quote(text)))
                .expecting("a name of its own");
            decoder.refuse(&name, problem);
        }
    }
    (tools.len() == count).then_some(tools)
}

fn tool(decoder: &mut Decoder, fields: &Fields<'_>) -> Option<ToolFields> {
    let name = decoder
        .required(fields, "name", "say what the agent calls the tool by")
        .and_then(|field| decoder.text(&field, text::tool_name));
    let description = decoder
        .required(fields, "description", "say what the tool does")
        .and_then(|field| decoder.text(&field, text::prose));
    let parameters_field = decoder.required(
        fields,
        "parameters",
        "add \"parameters\": {\"type\": \"object\", \"properties\": {}}",
    );
    let properties = parameters_field
        .as_ref()
        .and_then(|field| properties(decoder, field));
    let argv_field = decoder.required(fields, "argv", "say which program it is, as a list");
    let argv = argv_field
        .as_ref()
        .and_then(|field| argument_list(decoder, field));
    if let (Some(field), Some(properties)) = (&argv_field, &properties) {
        check_references(decoder, field, properties);
    }
    properties?;
    Some(ToolFields {
        name: name?.to_owned(),
        description: description?.to_owned(),
        parameters: to_json(parameters_field?.node),
        argv: argv?,
    })
}

/// The names of the parameters. Of JSON Schema only what a call is put together from is looked at.
fn properties<'t>(decoder: &mut Decoder, field: &Located<'t>) -> Option<BTreeSet<&'t str>> {
    let schema = decoder.open_object(field)?;
    if let Some(kind) = schema.get("type") {
        decoder.choice(&kind, [("object", ())])?;
    }
    let mut names = BTreeSet::new();
    if let Some(properties) = schema.get("properties") {
        for (member, property) in decoder.open_object(&properties)?.all() {
            // A bare true or false is a schema too.
            if !matches!(property.node.value, Value::Boolean(_)) {
                decoder.open_object(&property)?;
            }
            names.insert(member.key.as_str());
        }
    }
    if let Some(required) = schema.get("required") {
        for (located, name) in decoder.texts(&required, |_| Ok(()))? {
            if !names.contains(name.as_str()) && !decoder.is_full() {
                let problem = no_such_property(&name, &names);
                decoder.refuse(&located, problem);
            }
        }
    }
    Some(names)
}

fn check_references(decoder: &mut Decoder, argv: &Located<'_>, properties: &BTreeSet<&str>) {
    let Value::List(items) = &argv.node.value else {
        return;
    };
    for (index, node) in items.iter().enumerate() {
        let Value::Text(text) = &node.value else {
            continue;
        };
        for name in references(text) {
            if !properties.contains(name) && !decoder.is_full() {
                let located = Located {
                    node,
                    path: format!("{}[{index}]", argv.path),
                };
                decoder.refuse(&located, no_such_property(name, properties));
            }
        }
    }
}

fn no_such_property(name: &str, properties: &BTreeSet<&str>) -> Problem {
    let known: Vec<_> = properties.iter().copied().take(SHOWN_PROPERTIES).collect();
    let candidates = properties.iter().copied().take(COMPARED_PROPERTIES);
    let hint = did_you_mean(name, candidates).unwrap_or_else(|| match known.is_empty() {
        true => "the parameters have no properties".to_owned(),
        false => format!("properties are {}", known.join(", ")),
    });
    Problem::new(format!("found {}", quote(name)))
        .expecting("the name of a property of parameters")
        .hint(hint)
}

/// The parameters that an argument refers to as `{name}`. Braces around anything that is no name,
/// as in `awk '{print $1}'`, are meant as they stand.
fn references(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|part| {
        let (name, _) = part.split_once('}')?;
        let named = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name
                .chars()
                .all(|character| character.is_ascii_alphanumeric() || "_-".contains(character));
        named.then_some(name)
    })
}

/// The same value without its places; of repeated keys, which are a mistake noted elsewhere, the
/// last one.
fn to_json(node: &Node) -> Json {
    match &node.value {
        // No format of a task has dates.
        Value::Null | Value::Date => Json::Null,
        Value::Boolean(value) => Json::Bool(*value),
        Value::Number(text) => serde_json::from_str(text).unwrap_or(Json::Null),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Object(members) => Json::Object(
            members
                .iter()
                .map(|member| (member.key.clone(), to_json(&member.node)))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_braces_around_a_name_refer_to_a_parameter() {
        for (text, found) in [
            ("{path}", vec!["path"]),
            ("--from={a}:{b-c}", vec!["a", "b-c"]),
            ("{print $1}", vec![]),
            ("{}", vec![]),
            ("{1}", vec![]),
            ("{open", vec![]),
            ("{{x}}", vec!["x"]),
        ] {
            assert_eq!(references(text).collect::<Vec<_>>(), found, "{text}");
        }
    }
}
