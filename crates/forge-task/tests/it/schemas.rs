//! The schemas that are checked in are the ones that the code generates.

use std::fs;
use std::path::Path;

use forge_task::schema_files;

/// `cargo xtask schemas` runs this with the variable set, to write instead of compare.
#[test]
fn checked_in_schemas_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas");
    for (name, text) in schema_files() {
        let path = folder.join(&name);
        if std::env::var_os("SWE_FORGE_WRITE_SCHEMAS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let checked_in = fs::read_to_string(&path).unwrap_or_default();
        let shown = name.display();
        assert!(
            checked_in == text,
            "{shown} is out of date: run `cargo xtask schemas`"
        );
    }
}
