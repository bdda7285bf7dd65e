//! Device rules and their meaning, as plain data.

use std::fmt;
use std::str::FromStr;

use bitflags::bitflags;

use crate::error::{Error, Result};

/// Kind of device in a rule or an access. Section "Device controller".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Both kinds, in a rule: `a`.
    All,
    /// A character device: `c`.
    Char,
    /// A block device: `b`.
    Block,
}

bitflags! {
    /// Accesses to a device. `Display` prints them in the order `rwm`.
    /// Section "Device controller".
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Access: u8 {
        /// Creating a node for the device: `m`.
        const MKNOD = 1;
        /// Opening the device for reading: `r`.
        const READ = 2;
        /// Opening the device for writing: `w`.
        const WRITE = 4;
    }
}

/// A device rule. `FromStr` and `Display` use the form `allow c 1:3 rwm`, with `*` for any number.
/// Section "Device controller".
///
/// ```
/// use cgroup_core::device::{Access, Kind, Rule};
/// let rule: Rule = "deny b *:* rw".parse()?;
/// assert_eq!((rule.kind, rule.major, rule.access), (Kind::Block, None, Access::READ | Access::WRITE));
/// assert_eq!(rule.to_string(), "deny b *:* rw");
/// # Ok::<(), cgroup_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Whether the rule allows or denies.
    pub allow: bool,
    /// Kind of device.
    pub kind: Kind,
    /// Major number; `None` for any.
    pub major: Option<u32>,
    /// Minor number; `None` for any.
    pub minor: Option<u32>,
    /// Accesses.
    pub access: Access,
}

impl Rule {
    /// Returns whether the rule applies to the device, whatever its accesses are.
    pub fn is_about(&self, kind: Kind, major: u32, minor: u32) -> bool {
        (self.kind == Kind::All || self.kind == kind)
            && self.major.is_none_or(|m| m == major)
            && self.minor.is_none_or(|m| m == minor)
    }

    const fn char(major: u32, minor: Option<u32>) -> Self {
        Self { allow: true, kind: Kind::Char, major: Some(major), minor, access: Access::all() }
    }

    const fn mknod(kind: Kind) -> Self {
        Self { allow: true, kind, major: None, minor: None, access: Access::MKNOD }
    }
}

/// The rules that OCI runtimes apply in every container: any node may be created, and null, zero,
/// full, random, urandom, tty, console, ptmx and the pseudo terminals may be used.
///
/// Creating a node grants no access: a device that the rules deny cannot be opened through it.
///
/// Source:
/// <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#default-devices>
pub const DEFAULT: [Rule; 11] = [
    Rule::mknod(Kind::Char),
    Rule::mknod(Kind::Block),
    Rule::char(1, Some(3)),
    Rule::char(1, Some(5)),
    Rule::char(1, Some(7)),
    Rule::char(1, Some(8)),
    Rule::char(1, Some(9)),
    Rule::char(5, Some(0)),
    Rule::char(5, Some(1)),
    Rule::char(5, Some(2)),
    Rule::char(136, None),
];

/// Returns whether the rules allow the accesses. The program of [`compile`](super::compile) decides the
/// same. Each access must be allowed by the last rule that applies to it. An empty access, as of
/// `access(2)` with `F_OK`, is allowed if any allow rule applies to the device.
pub fn allows(rules: &[Rule], kind: Kind, major: u32, minor: u32, access: Access) -> bool {
    let mut about = rules.iter().rev().filter(|rule| rule.is_about(kind, major, minor));
    if access.is_empty() {
        return about.any(|rule| rule.allow);
    }
    access
        .iter()
        .all(|bit| about.clone().find(|rule| rule.access.contains(bit)).is_some_and(|rule| rule.allow))
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "a",
            Self::Char => "c",
            Self::Block => "b",
        })
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "a" => Ok(Self::All),
            "c" => Ok(Self::Char),
            "b" => Ok(Self::Block),
            _ => Err(Error::text("a device type", text, "it is a, b or c")),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::MKNOD, "m")] {
            if self.contains(bit) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Access {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bit = |letter| match letter {
            'r' => Ok(Self::READ),
            'w' => Ok(Self::WRITE),
            'm' => Ok(Self::MKNOD),
            _ => Err(Error::text("device access", text, "it is made of r, w and m")),
        };
        text.chars().map(bit).collect()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.allow { "allow" } else { "deny" };
        write!(f, "{verb} {} ", self.kind)?;
        for (number, end) in [(self.major, ":"), (self.minor, " ")] {
            match number {
                Some(number) => write!(f, "{number}{end}")?,
                None => write!(f, "*{end}")?,
            }
        }
        write!(f, "{}", self.access)
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why| Error::text("a device rule", text, why);
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [verb, kind, numbers, access] = words[..] else {
            return Err(wrong("it is of the form: allow c 1:3 rwm"));
        };
        let allow = match verb {
            "allow" => true,
            "deny" => false,
            _ => return Err(wrong("it begins with allow or deny")),
        };
        let number = |part| match part {
            "*" => Ok(None),
            part => str::parse(part).map(Some).map_err(|_| wrong("a number is decimal or *")),
        };
        let (major, minor) = numbers.split_once(':').ok_or_else(|| wrong("a device is MAJOR:MINOR"))?;
        let (major, minor) = (number(major)?, number(minor)?);
        Ok(Self { allow, kind: kind.parse()?, major, minor, access: access.parse()? })
    }
}

#[cfg(feature = "serde")]
crate::serde_text::as_text!(Rule);
#[cfg(feature = "serde")]
crate::serde_text::as_text!(Kind);
#[cfg(feature = "serde")]
crate::serde_text::as_text!(Access);
