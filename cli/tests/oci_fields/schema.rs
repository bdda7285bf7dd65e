//! The output of the runtime is valid by the specification's schemas. They are in `schema/`, with their
//! samples.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::bundle::{Bundle, runtime_lacks};
use crate::common::{run_with, skip};

/// Debian's Python, which finds Debian's packages.
const PYTHON: &str = "/usr/bin/python3";

/// A script that reads lines with a schema, a tab and a document, and prints one line of problems for each.
const VALIDATE: &str = "
import json, jsonschema, pathlib, sys
for line in sys.stdin:
    path, document = line.rstrip('\\n').split('\\t')
    schema = json.loads(pathlib.Path(path).read_text())
    resolver = jsonschema.RefResolver('file://' + path, schema)
    validator = jsonschema.Draft4Validator(schema, resolver=resolver)
    try:
        print([error.message for error in validator.iter_errors(json.loads(document))] or '')
    except ValueError as error:
        print(error)
";

/// A document with its name, its schema, and whether it is valid. All documents are checked by one Python
/// process, because its start is slow in the guest.
struct Document {
    name: String,
    schema: &'static str,
    text: String,
    valid: bool,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oci_fields/schema")
}

fn samples() -> Vec<Document> {
    let mut samples = Vec::new();
    for schema in ["features", "state"] {
        for (kind, valid) in [("good", true), ("bad", false)] {
            for sample in fs::read_dir(directory().join(schema).join(kind)).unwrap() {
                let path = sample.unwrap().path();
                let text = fs::read_to_string(&path).unwrap();
                samples.push(Document { name: path.display().to_string(), schema, text, valid });
            }
        }
    }
    samples
}

#[test]
fn written_documents_are_valid_by_the_schemas_which_reject_the_bad_samples() {
    if runtime_lacks(&["crun"], "features, and the state during creation") {
        return;
    }
    if run_with(Command::new(PYTHON).args(["-c", "import jsonschema"]), "").code() != 0 {
        return skip("this test requires Debian's package python3-jsonschema");
    }
    let mut documents = samples();
    let mut add = |name: &str, schema, text: &str| {
        documents.push(Document { name: name.into(), schema, text: text.into(), valid: true });
    };
    for flags in [&["spec"][..], &["spec", "--rootless"]] {
        let bundle = Bundle::sh("");
        bundle.verb(flags).ok();
        add(&flags.join(" "), "config", &fs::read_to_string(bundle.path("config.json")).unwrap());
    }

    let bundle = Bundle::of(&["sleep", "1000"]);
    add("features", "features", bundle.verb(&["features"]).ok());
    let creating = bundle.path("creating");
    let write = format!("cat > {}", creating.display());
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", write], "env": ["PATH=/bin:/usr/bin"] });
    let bundle =
        bundle.set("/hooks/createRuntime/-", hook).set("/annotations", json!({ "org.example": "x" }));
    let mut add_state = |status: &str, state: &str| {
        assert!(state.contains(&format!("\"{status}\"")), "{state}");
        add(status, "state", state);
    };
    let state = || bundle.verb(&["state", bundle.id()]).ok().to_owned();
    bundle.create();
    add_state("creating", &fs::read_to_string(creating).unwrap());
    add_state("created", &state());
    bundle.start();
    add_state("running", &state());
    bundle.verb(&["kill", bundle.id(), "KILL"]).ok();
    bundle.wait_until("stopped");
    add_state("stopped", &state());

    let lines = documents.iter().map(|Document { schema, text, .. }| {
        let path = directory().join(format!("{schema}-schema.json"));
        format!("{}\t{}\n", path.display(), text.replace(['\n', '\t'], " "))
    });
    let said = run_with(Command::new(PYTHON).args(["-Wignore", "-c", VALIDATE]), &lines.collect::<String>());
    assert_eq!(said.ok().lines().count(), documents.len(), "{}", said.out);
    for (Document { name, valid, .. }, said) in documents.iter().zip(said.out.lines()) {
        assert_eq!(said.is_empty(), *valid, "{name}: {said}");
    }
}
