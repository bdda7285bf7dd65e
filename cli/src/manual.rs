//! Completions and manual pages, for packages to install.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::error::{Error, Result};
use crate::output;

/// Print completions for a shell
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Write manual pages to a directory
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Existing directory
    pub dir: PathBuf,
}

/// A section of a manual page. Lines of `text` that begin with four blanks are printed as they are; an empty line
/// ends a paragraph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Heading, such as `EXAMPLES`.
    pub title: &'static str,
    /// Plain text.
    pub text: String,
}

/// Returns the sections that a page has besides those from the definitions of its command. `page` is its name, such
/// as `nspod-pod-create`.
pub type Sections = fn(page: &str) -> Vec<Section>;

/// Prints completions of a program.
///
/// # Errors
/// If standard output cannot be written.
pub fn completions(args: &CompletionsArgs, mut program: Command) -> Result<()> {
    let (name, mut text) = (program.get_name().to_owned(), Vec::new());
    clap_complete::generate(args.shell, &mut program, name, &mut text);
    output::print(text)
}

/// Writes the manual pages of a program, one for each of its commands.
///
/// # Errors
/// If the directory cannot be written.
pub fn man(args: &ManArgs, program: Command, sections: Sections) -> Result<()> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    write_all(&program, &args.dir, sections)
        .map_err(|e| Error::io("write", "write manual pages to", &args.dir, &e))
}

fn write_all(command: &Command, dir: &Path, sections: Sections) -> std::io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_all(command, dir, sections)?;
    }
    std::fs::write(dir.join(format!("{}.1", page_name(command))), page(command, sections)?)
}

/// Returns the name of a command's page: `nspod-pod-create`. The command has been built.
pub fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// Returns the manual page of a command that has been built, as roff.
///
/// # Errors
/// None of a system call: the page is written to memory.
pub fn page(command: &Command, sections: Sections) -> std::io::Result<Vec<u8>> {
    let name = page_name(command).to_owned();
    let program = name.split('-').next().unwrap_or_default();
    let source = format!("{program} {}", env!("CARGO_PKG_VERSION"));
    // An empty date would be left out, and the source would be printed as the date.
    let man =
        Man::new(command.clone()).title(name.to_uppercase()).source(source).manual("User Commands").date(" ");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        man.render_subcommands_section(&mut text)?;
    }
    for section in sections(&name) {
        text.extend(roff(&section).into_bytes());
    }
    Ok(text)
}

/// Formats a section as roff.
fn roff(section: &Section) -> String {
    let mut text = format!(".SH {}\n", section.title);
    let mut verbatim = false;
    for line in section.text.lines() {
        let code = line.strip_prefix("    ");
        if code.is_some() != verbatim {
            text.push_str(if verbatim { ".fi\n.RE\n" } else { ".RS 4\n.nf\n" });
            verbatim = !verbatim;
        }
        match code.unwrap_or(line) {
            "" => text.push_str(".PP\n"),
            // Roff would take a dot or an apostrophe at the start for a request.
            line => {
                let line = line.replace('\\', "\\e").replace('-', "\\-");
                let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
                text.push_str(&format!("{guard}{line}\n"));
            }
        }
    }
    if verbatim {
        text.push_str(".fi\n.RE\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_roff() {
        let text = "Print it:\n    nspod ps -a \\\n\n.hidden\n    'quoted'".into();
        let want = ".SH EXAMPLES\nPrint it:\n.RS 4\n.nf\nnspod ps \\-a \\e\n.fi\n.RE\n.PP\n\\&.hidden\n.RS 4\n.nf\n\\&'quoted'\n.fi\n.RE\n";
        assert_eq!(roff(&Section { title: "EXAMPLES", text }), want);
    }
}
