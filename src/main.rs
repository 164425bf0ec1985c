//! `farebox`: one binary for everything. The commands are listed in [`farebox::cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    farebox::cli::main()
}
