//! A full configuration, and changes to it by JSON path.

use serde_json::Value;

/// Returns a configuration with valid values for every Linux field of the specification.
pub(crate) fn full() -> Value {
    serde_json::from_str(include_str!("data/full.json")).unwrap()
}

/// Returns the same with the label of only one security module: a process cannot have several.
pub(crate) fn plannable() -> Value {
    let mut document = full();
    document["process"]["selinuxLabel"] = Value::Null;
    document
}

/// One step of a path: a name or an index.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    Name(String),
    Index(usize),
}

/// Splits a path such as `linux.devices[0].path` into its parts.
pub(crate) fn parts(path: &str) -> Vec<Part> {
    let words = path.split(['.', '[']).filter(|word| !word.is_empty());
    let part = |word: &str| match word.strip_suffix(']') {
        Some(index) => Part::Index(index.parse().unwrap()),
        None => Part::Name(word.to_owned()),
    };
    words.map(part).collect()
}

pub(crate) fn path(parts: &[Part]) -> String {
    let mut path = String::new();
    for part in parts {
        match part {
            Part::Name(name) if path.is_empty() => path.push_str(name),
            Part::Name(name) => path.extend([".", name]),
            Part::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

/// Returns the value at the path, and creates it if it is missing.
pub(crate) fn at<'a>(value: &'a mut Value, parts: &[Part]) -> &'a mut Value {
    parts.iter().fold(value, |value, part| match part {
        Part::Name(name) => {
            if !value.is_object() {
                *value = Value::Object(Default::default());
            }
            &mut value[name]
        }
        Part::Index(index) => {
            if !value.is_array() {
                *value = Value::Array(Vec::new());
            }
            let items = value.as_array_mut().unwrap();
            items.resize(items.len().max(index + 1), Value::Null);
            &mut items[*index]
        }
    })
}

/// Returns the full configuration with another value at a path.
pub(crate) fn with(path: &str, value: Value) -> Value {
    let mut document = full();
    *at(&mut document, &parts(path)) = value;
    document
}

/// Removes the value at a path.
pub(crate) fn remove(document: &mut Value, parts: &[Part]) {
    let (last, rest) = parts.split_last().unwrap();
    match (at(document, rest), last) {
        (Value::Object(members), Part::Name(name)) => drop(members.remove(name)),
        (Value::Array(items), Part::Index(index)) if *index < items.len() => drop(items.remove(*index)),
        _ => {}
    }
}

/// Returns the paths of a value and all values in it, the outer value first.
pub(crate) fn paths(value: &Value) -> Vec<Vec<Part>> {
    let mut all = vec![Vec::new()];
    let mut below = |part: Part, value: &Value| {
        all.extend(paths(value).into_iter().map(|rest| [vec![part.clone()], rest].concat()));
    };
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| below(Part::Name(name.clone()), value));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| below(Part::Index(index), value));
        }
        _ => {}
    }
    all
}
