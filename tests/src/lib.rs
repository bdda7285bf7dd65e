//! Helpers that the real-kernel tests share.
