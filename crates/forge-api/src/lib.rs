//! Documents that swe-forge publishes to other programs.

pub mod egress;
pub mod report;
pub mod waiting;

use serde_json::Value;

/// The schemas of all published documents, as file name and schema.
#[must_use]
pub fn schemas() -> Vec<(&'static str, Value)> {
    vec![(
        "report.schema.json",
        schemars::schema_for!(report::Report).to_value(),
    )]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// `cargo xtask schemas` runs this with the variable set, to write instead of compare.
    #[test]
    fn checked_in_schemas_are_those_of_the_types() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas");
        for (name, schema) in super::schemas() {
            let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
            let path = folder.join(name);
            if std::env::var_os("SWE_FORGE_WRITE_SCHEMAS").is_some() {
                fs::write(&path, &text).unwrap();
            }
            let checked_in = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                checked_in == text,
                "{name} is out of date: run `cargo xtask schemas`"
            );
        }
    }
}
