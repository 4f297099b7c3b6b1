//! Documents that swe-forge publishes to other programs.

pub mod report;

use serde_json::Value;

/// The schemas of all published documents, as file name and schema.
#[must_use]
pub fn schemas() -> Vec<(&'static str, Value)> {
    vec![(
        "report.schema.json",
        schemars::schema_for!(report::Report).to_value(),
    )]
}
