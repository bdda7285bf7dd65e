//! Writing, merging and removing the values of the fields of [`Limits`](super::Limits).

use std::collections::BTreeMap;
use std::fmt::Display;

use super::values::{CpuMax, IoMax, Max, RdmaMax};
use crate::CpuList;

/// File and format of a field.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileFormat {
    /// The name of the file. `SIZE` in it stands for the key of the map.
    pub(super) file: &'static str,
    /// The text between the key and the value, such as `default ` in `io.weight`.
    pub(super) prefix: &'static str,
}

impl FileFormat {
    /// Returns the text that stands for `SIZE` in the name of the file.
    pub(super) fn size_in<'a>(&self, file: &'a str) -> Option<&'a str> {
        let (before, after) = self.file.split_once("SIZE")?;
        let size = file.strip_prefix(before)?.strip_suffix(after)?;
        (!size.contains('.')).then_some(size)
    }
}

/// The type of a field of [`Limits`](super::Limits).
pub(super) trait Setting: Default {
    /// Returns whether the value leaves the file as it is.
    fn is_unset(&self) -> bool;

    /// Whether the value replaces the whole content of the file.
    const REPLACES: bool;

    /// Appends the files and values to write.
    fn write(&self, format: FileFormat, writes: &mut Vec<(String, String)>);

    /// Overwrites the value with the parts that `new` sets.
    fn merge(&mut self, new: &Self);

    /// Removes and returns the part that is written to `file`.
    fn take(&mut self, format: FileFormat, file: &str) -> Self;
}

impl<T: Value> Setting for Option<T> {
    const REPLACES: bool = true;

    fn is_unset(&self) -> bool {
        self.is_none()
    }

    fn write(&self, format: FileFormat, writes: &mut Vec<(String, String)>) {
        let text = self.as_ref().map(|value| format!("{}{}", format.prefix, value.text()));
        writes.extend(text.map(|text| (format.file.to_owned(), text)));
    }

    fn merge(&mut self, new: &Self) {
        match (self, new) {
            (Some(old), Some(new)) => old.merge(new),
            (old @ None, Some(new)) => *old = Some(new.clone()),
            (_, None) => {}
        }
    }

    fn take(&mut self, format: FileFormat, file: &str) -> Self {
        if format.file == file { Option::take(self) } else { None }
    }
}

/// Limits by device, each on a line of one file; or by page size, each in a file of its own.
impl<K: Clone + Ord + Display, T: Value> Setting for BTreeMap<K, T> {
    const REPLACES: bool = false;

    fn is_unset(&self) -> bool {
        self.is_empty()
    }

    fn write(&self, format: FileFormat, writes: &mut Vec<(String, String)>) {
        for (key, value) in self.iter().filter(|(_, value)| !value.is_empty()) {
            writes.push(match format.file.split_once("SIZE") {
                Some((before, after)) => (format!("{before}{key}{after}"), value.text()),
                None => (format.file.to_owned(), format!("{key} {}{}", format.prefix, value.text())),
            });
        }
    }

    fn merge(&mut self, new: &Self) {
        for (key, new) in new {
            match self.get_mut(key) {
                Some(old) => old.merge(new),
                None => _ = self.insert(key.clone(), new.clone()),
            }
        }
    }

    fn take(&mut self, format: FileFormat, file: &str) -> Self {
        if format.file == file {
            return std::mem::take(self);
        }
        let key = self.keys().find(|key| format.size_in(file) == Some(key.to_string().as_str())).cloned();
        key.and_then(|key| self.remove_entry(&key)).into_iter().collect()
    }
}

/// A single value of a limit.
pub(super) trait Value: Clone + Display {
    /// Returns the text that the kernel reads.
    fn text(&self) -> String {
        self.to_string()
    }

    /// Returns whether the value leaves everything as it is.
    fn is_empty(&self) -> bool {
        false
    }

    /// Overwrites the parts that `new` sets.
    fn merge(&mut self, new: &Self) {
        *self = new.clone();
    }
}

impl Value for bool {
    fn text(&self) -> String {
        u8::from(*self).to_string()
    }
}

impl Value for u64 {}
impl Value for Max {}
impl Value for CpuMax {}
impl Value for CpuList {}

impl Value for IoMax {
    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }

    fn merge(&mut self, new: &Self) {
        self.rbps = new.rbps.or(self.rbps);
        self.wbps = new.wbps.or(self.wbps);
        self.riops = new.riops.or(self.riops);
        self.wiops = new.wiops.or(self.wiops);
    }
}

impl Value for RdmaMax {
    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }

    fn merge(&mut self, new: &Self) {
        self.hca_handle = new.hca_handle.or(self.hca_handle);
        self.hca_object = new.hca_object.or(self.hca_object);
    }
}
