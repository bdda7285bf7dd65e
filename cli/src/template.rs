//! Templates of `--format`: text with fields in braces, such as `{{.Name}} {{.Status}}`, filled from JSON.
//!
//! A field is a path of keys and indices. Case and underscores do not matter, so that `{{.ExitCode}}` is the key
//! `exit_code`. `{{json .Field}}` is the JSON of a field. `\t` and `\n` in the text are a tab and a line feed.

use serde_json::Value;

use crate::output;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field { path: Vec<String>, json: bool },
}

impl Template {
    /// Parses a template.
    pub(crate) fn parse(text: &str) -> Result<Template, String> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut parts = Vec::new();
        let mut rest = &*text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (field, after) =
                after.split_once("}}").ok_or_else(|| format!("{{{{{after} must end with }}}}"))?;
            parts.push(Part::Text(before.into()));
            parts.push(parse_field(field.trim())?);
            rest = after;
        }
        parts.push(Part::Text(rest.into()));
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Template(parts))
    }

    /// Returns the text with the fields of a value.
    ///
    /// # Errors
    /// The value has no such field. The sentence lists those that it has.
    pub(crate) fn fill(&self, value: &Value) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Field { path, json: true } => {
                    text.push_str(&output::ascii_controls(&find(value, path)?.to_string()));
                }
                Part::Field { path, json: false } => match find(value, path)? {
                    Value::String(part) => text.push_str(&output::shown(part)),
                    Value::Null => {}
                    other => text.push_str(&output::ascii_controls(&other.to_string())),
                },
            }
        }
        Ok(text)
    }

    /// Splits a template at its tabs, for a table.
    pub(crate) fn columns(&self) -> Vec<Template> {
        let mut columns = vec![Vec::new()];
        for part in &self.0 {
            let Part::Text(text) = part else {
                columns.last_mut().expect("at least one").push(part.clone());
                continue;
            };
            for (at, piece) in text.split('\t').enumerate() {
                if at > 0 {
                    columns.push(Vec::new());
                }
                columns.last_mut().expect("at least one").push(Part::Text(piece.into()));
            }
        }
        columns.into_iter().map(Template).collect()
    }

    /// Returns the text with the names of the fields in capitals, as the heading of a column.
    pub(crate) fn heading(&self) -> String {
        let name = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Field { path, .. } => words(path.last().map_or("", |key| key)),
        };
        self.0.iter().map(name).collect()
    }
}

/// Returns the words of a key in capitals: `HOST PID` of `HostPid` and of `host_pid`.
fn words(key: &str) -> String {
    let mut text = String::new();
    let mut last = ' ';
    for c in key.chars() {
        if c == '_' || c.is_ascii_uppercase() && last.is_ascii_lowercase() {
            text.push(' ');
        }
        if c != '_' {
            text.push(c.to_ascii_uppercase());
        }
        last = c;
    }
    text
}

fn parse_field(text: &str) -> Result<Part, String> {
    let (json, name) = match text.strip_prefix("json ") {
        Some(rest) => (true, rest.trim()),
        None => (false, text),
    };
    let keys = name.strip_prefix('.').filter(|keys| !keys.contains(char::is_whitespace));
    let keys = keys
        .ok_or_else(|| format!("{{{{{text}}}}} must have the form {{{{.Field}}}} or {{{{json .Field}}}}"))?;
    let path = keys.split('.').filter(|key| !key.is_empty()).map(ToOwned::to_owned).collect();
    Ok(Part::Field { path, json })
}

fn find<'v>(value: &'v Value, path: &[String]) -> Result<&'v Value, String> {
    let mut at = value;
    for (depth, key) in path.iter().enumerate() {
        let found = match at {
            Value::Object(fields) => {
                fields.iter().find(|(name, _)| plain(name) == plain(key)).map(|(_, v)| v)
            }
            Value::Array(items) => key.parse::<usize>().ok().and_then(|at| items.get(at)),
            _ => None,
        };
        at = found.ok_or_else(|| {
            let missing = format!("there is no field .{}", path[..=depth].join("."));
            match at {
                Value::Object(fields) => {
                    let names: Vec<_> = fields.keys().map(String::as_str).collect();
                    format!("{missing}; there are {}", names.join(", "))
                }
                _ => missing,
            }
        })?;
    }
    Ok(at)
}

fn plain(key: &str) -> String {
    key.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(template: &str) -> Result<String, String> {
        let value = json!({"id": "web", "exit_code": 3, "pod": null, "spec": {"args": ["a", "b"]}});
        Template::parse(template)?.fill(&value)
    }

    #[test]
    fn a_field_is_named_in_any_case() {
        for (template, text) in [
            ("", ""),
            ("plain", "plain"),
            ("{{.id}} {{ .ExitCode }}", "web 3"),
            ("{{.ID}}\\t{{.exit_code}}\\n", "web\t3\n"),
            ("{{.Pod}}|{{json .Pod}}", "|null"),
            ("{{.Spec.Args}} {{.spec.args.1}} {{json .spec.args.0}}", r#"["a","b"] b "a""#),
            ("{{json .spec}}", r#"{"args":["a","b"]}"#),
        ] {
            assert_eq!(filled(template).as_deref(), Ok(text), "{template}");
        }
    }

    #[test]
    fn a_wrong_template_is_explained() {
        for (template, why) in [
            ("{{.id", "must end with }}"),
            ("{{id}}", "must have the form"),
            ("{{range .spec}}", "must have the form"),
            ("{{.Names}}", "there is no field .Names; there are exit_code, id, pod, spec"),
            ("{{.id.x}}", "there is no field .id.x"),
            ("{{.spec.args.2}}", "there is no field .spec.args.2"),
        ] {
            nspod_testkit::assert_refused(filled(template), why);
        }
    }

    #[test]
    fn a_table_has_a_column_for_each_tab() {
        let template = Template::parse("{{.ID}}\\t{{.HostPid}} x").unwrap();
        let headings: Vec<_> = template.columns().iter().map(Template::heading).collect();
        assert_eq!(headings, ["ID", "HOST PID x"]);
    }
}
