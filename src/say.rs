//! What a command prints.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// As `println!`, for readers that may stop before the end, as `head` does: the rest is for nobody then.
macro_rules! say {
    () => { $crate::say::line(format_args!("")) };
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}

/// See [`say!`].
pub(crate) fn line(text: Arguments<'_>) {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("what is told cannot be written: {error}"),
        _ => {}
    }
}
