//! Runs programs, and writes shell script.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Returns a text as one word of shell script.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Runs the command to its end. An exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("`{}` could not be started", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Returns the standard output of the command. An exit code other than 0 is an error.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("`{}` could not be started", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed what is not UTF-8", line(command)))
}

/// Returns the command line for messages.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_reads_a_quoted_word_back_unchanged() {
        for word in ["", "plain", "two words", "it's", "$HOME `id` \\ \"", "line\nbreak", "*?[a]", "-n"] {
            let script = format!("printf %s {}", quote(word));
            assert_eq!(read(Command::new("sh").args(["-c", &script])).unwrap(), word);
        }
    }
}
