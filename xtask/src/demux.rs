//! Separates the guest's messages from the output of the command.
//!
//! A line that begins with the mark, which only the guest knows, is a message:
//! `MARK start`, then the output, then `MARK CODE`.

/// The contents of a piece of the stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The command's output.
    pub(crate) output: Vec<u8>,
    /// The messages, without the mark.
    pub(crate) said: Vec<String>,
}

/// A stream that is being read.
#[derive(Debug)]
pub(crate) struct Demux {
    mark: Vec<u8>,
    /// Bytes that may be the beginning of a mark.
    pending: Vec<u8>,
}

impl Demux {
    pub(crate) fn new(mark: &str) -> Self {
        Self { mark: mark.as_bytes().to_vec(), pending: Vec::new() }
    }

    /// Adds bytes to the stream, and returns the contents that are complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Piece {
        self.pending.extend_from_slice(bytes);
        let mut piece = Piece::default();
        while let Some(at) = find(&self.pending, &self.mark) {
            piece.output.extend(self.pending.drain(..at));
            let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') else { return piece };
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            piece.said.push(String::from_utf8_lossy(&line[self.mark.len()..]).trim().to_owned());
        }
        let kept = (0..self.mark.len()).rev().find(|&len| self.pending.ends_with(&self.mark[..len]));
        piece.output.extend(self.pending.drain(..self.pending.len() - kept.unwrap_or(0)));
        piece
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_exit_code_are_separated_however_the_stream_is_cut() {
        let stream = b"MARK start\nMAone\nMAR two MARMARK 7\n";
        for size in 1..=stream.len() {
            let mut demux = Demux::new("MARK");
            let mut all = Piece::default();
            for bytes in stream.chunks(size) {
                let piece = demux.push(bytes);
                all.output.extend(piece.output);
                all.said.extend(piece.said);
            }
            assert_eq!(String::from_utf8(all.output).unwrap(), "MAone\nMAR two MAR", "pieces of {size}");
            assert_eq!(all.said, ["start", "7"], "pieces of {size}");
        }
    }

    #[test]
    fn output_that_cannot_be_a_mark_is_not_held_back() {
        assert_eq!(Demux::new("MARK").push(b"prompt> ").output, b"prompt> ");
    }
}
