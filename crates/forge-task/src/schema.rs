//! The published JSON Schemas of the three files, generated from the types in [`crate::format`].

use std::path::PathBuf;

use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use crate::format::{ConfigFile, TaskFile, ToolsFile};

/// The schemas as file name and document.
#[must_use]
pub fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("task.schema.json", schema_of::<TaskFile>()),
        ("tools.schema.json", schema_of::<ToolsFile>()),
        ("config.schema.json", schema_of::<ConfigFile>()),
    ]
}

/// The schemas as they stand in the folder `schemas/` of the repository: file name and text.
#[must_use]
pub fn schema_files() -> Vec<(PathBuf, String)> {
    schemas()
        .into_iter()
        .map(|(name, schema)| (PathBuf::from(name), format!("{schema:#}\n")))
        .collect()
}

fn schema_of<T: JsonSchema>() -> Value {
    // Without references a reader, and an error message of an editor, sees the fields in place.
    SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.transforms.push(Box::new(tidy));
        })
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// Makes a schema say what the decoders do, which schemars has no settings for: a field that may be
/// left out may not be null, numbers have no formats that only Rust knows, and text is not broken
/// where the source is.
fn tidy(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        object.remove("format");
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::String(description)) = object.get_mut("description") {
            *description = description.replace('\n', " ");
        }
        let choices = match object.get("anyOf") {
            Some(Value::Array(choices)) => choices.as_slice(),
            _ => &[],
        };
        let null = json!({"type": "null"});
        if let [Value::Object(inner), second] = choices
            && *second == null
        {
            let mut merged = inner.clone();
            object.remove("anyOf");
            merged.append(object);
            *object = merged;
        }
    }
    transform_subschemas(&mut tidy, schema);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use forge_core::LimitCeiling;
    use forge_core::task::VerifyContainer;
    use forge_core::{Difficulty, Language, NetworkLevel};

    use super::*;
    use crate::config_file::{CLEANUP_FIELDS, CONFIG_FIELDS, NETWORK_FIELDS, RESOURCE_FIELDS};
    use crate::task_file::{COMMAND_FIELDS, TASK_FIELDS, VERIFY_FIELDS};
    use crate::tools_file::{TOOL_FIELDS, TOOLS_FIELDS};
    use crate::{config_file, task_file, tools_file};
    use forge_document::Diagnostic;

    /// The schema at a path of property names.
    fn at<'s>(schema: &'s Value, path: &[&str]) -> &'s Value {
        path.iter().fold(schema, |schema, name| match *name {
            "[]" => &schema["items"],
            name => &schema["properties"][name],
        })
    }

    fn names(value: &Value) -> BTreeSet<String> {
        match value {
            Value::Object(members) => members.keys().cloned().collect(),
            Value::Array(items) => items
                .iter()
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect(),
            _ => BTreeSet::new(),
        }
    }

    fn missing(diagnostics: &[Diagnostic], prefix: &str) -> BTreeSet<String> {
        diagnostics
            .iter()
            .filter(|each| each.message == "this field is required")
            .filter_map(|each| each.field.as_deref()?.strip_prefix(prefix))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn schemas_and_decoders_know_the_same_fields() {
        let all = schemas();
        let [task, tools, config] = [0, 1, 2].map(|index| &all[index].1);
        for (schema, path, fields) in [
            (task, &[][..], TASK_FIELDS),
            (task, &["setup"], COMMAND_FIELDS),
            (task, &["solve"], COMMAND_FIELDS),
            (task, &["verify"], VERIFY_FIELDS),
            (tools, &[], TOOLS_FIELDS),
            (tools, &["tools", "[]"], TOOL_FIELDS),
            (config, &[], CONFIG_FIELDS),
            (config, &["network"], NETWORK_FIELDS),
            (config, &["resources"], RESOURCE_FIELDS),
            (config, &["cleanup"], CLEANUP_FIELDS),
        ] {
            let object = at(schema, path);
            let known: BTreeSet<_> = fields.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(names(&object["properties"]), known, "{path:?}");
            assert_eq!(
                object["additionalProperties"],
                Value::Bool(false),
                "{path:?}"
            );
            assert_eq!(object["type"], "object", "{path:?}");
        }
    }

    #[test]
    fn schemas_and_decoders_require_the_same_fields() {
        let all = schemas();
        let file = Path::new("f");
        let decoded = task_file::decode(file, b"{\"image\": \"x\"}");
        assert_eq!(
            names(&all[0].1["required"]),
            missing(&decoded.diagnostics, "")
        );
        let (_, diagnostics) = tools_file::decode(file, b"{}");
        assert_eq!(names(&all[1].1["required"]), missing(&diagnostics, ""));
        let (_, diagnostics) = tools_file::decode(file, b"{\"tools\": [{}]}");
        let tool = at(&all[1].1, &["tools", "[]"]);
        assert_eq!(names(&tool["required"]), missing(&diagnostics, "tools[0]."));
        let everything = b"network: {}\nresources: {}\ncleanup: {}\n";
        let (_, diagnostics) = config_file::decode(file, everything, &LimitCeiling::default());
        assert_eq!(diagnostics, []);
        for path in [&[][..], &["network"], &["resources"], &["cleanup"]] {
            assert_eq!(at(&all[2].1, path).get("required"), None, "{path:?}");
        }
    }

    #[test]
    fn schemas_and_decoders_know_the_same_names() {
        fn check<T: JsonSchema + serde::Serialize>(all: &[T], names: &[&str]) {
            let written = all.iter().map(|each| serde_json::to_value(each).unwrap());
            assert_eq!(written.collect::<Vec<_>>(), names);
            let schema = schema_of::<T>();
            let variants = schema["oneOf"].as_array().unwrap();
            let listed: Vec<_> = variants.iter().map(|each| &each["const"]).collect();
            assert_eq!(listed, names);
        }
        check(&Difficulty::ALL, &Difficulty::ALL.map(Difficulty::as_str));
        check(&Language::ALL, &Language::ALL.map(Language::as_str));
        check(
            &NetworkLevel::ALL,
            &NetworkLevel::ALL.map(NetworkLevel::as_str),
        );
        check(
            &VerifyContainer::ALL,
            &VerifyContainer::ALL.map(VerifyContainer::as_str),
        );
    }
}
