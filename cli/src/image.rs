//! Names of images. nspod has no images, but users of docker and podman name one before the program.

use std::ffi::OsString;

/// Images of Docker Hub that people try first.
const KNOWN: &[&str] = &[
    "almalinux",
    "alpine",
    "archlinux",
    "busybox",
    "centos",
    "debian",
    "fedora",
    "golang",
    "hello-world",
    "httpd",
    "mariadb",
    "mysql",
    "nginx",
    "node",
    "postgres",
    "python",
    "redis",
    "rockylinux",
    "rust",
    "ubuntu",
];
const SHELLS: &[&str] = &["sh", "bash", "ash", "/bin/sh", "/bin/bash", "/bin/ash"];

/// Returns a hint for a program that does not exist and has the form of an image.
pub(crate) fn hint(command: &[OsString]) -> Option<String> {
    let mut words = command.iter().map(|word| word.to_str());
    let name = words.next()??;
    is_image(name, words.next().flatten()).then(|| {
        format!(
            "if {name} is an image: nspod has none, and the first argument is the program; use --rootfs DIR for a \
             directory with the files of an image, or `podman --runtime \"$(command -v nspod-oci)\" run {name}`"
        )
    })
}

/// Returns whether a name can be that of an image. `next` is the argument after it.
fn is_image(name: &str, next: Option<&str>) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._/:@-".contains(c);
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(allowed) {
        return false;
    }
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    first.contains(['.', ':'])
        || rest.contains([':', '@'])
        || KNOWN.contains(&name)
        || next.is_some_and(|next| SHELLS.contains(&next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_tag_a_registry_or_a_shell_after_it_is_an_image() {
        for image in
            ["alpine", "ubuntu:24.04", "docker.io/library/x", "localhost:5000/x", "a/b:c", "x@sha256:0"]
        {
            assert!(is_image(image, None), "{image}");
        }
        assert!(is_image("mine", Some("sh")) && is_image("me/mine", Some("/bin/bash")));
        for (program, next) in [
            ("no-such", None),
            ("strace", Some("ls")),
            ("bin/no-such", None),
            ("./job.sh", Some("sh")),
            ("/alpine", Some("sh")),
            ("NAME:x", None),
            ("", None),
        ] {
            assert!(!is_image(program, next), "{program}");
        }
    }
}
