//! A fault with the file and the line that it is in: the start of each message about a config or a
//! state file.

use std::error::Error;
use std::fmt::{self, Debug, Display};
use std::path::{Path, PathBuf};

/// A fault in a file. Printed as `PATH:LINE: FAULT`.
#[derive(Debug)]
pub struct InFile<F> {
    path: PathBuf,
    line: Option<usize>,
    fault: F,
}

impl<F> InFile<F> {
    /// A fault in the file at `path`, on a line, counted from 1; `None`: in the file as a whole.
    pub fn new(path: &Path, line: Option<usize>, fault: F) -> InFile<F> {
        InFile {
            path: path.to_owned(),
            line,
            fault,
        }
    }
}

impl<F: Display> Display for InFile<F> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let InFile { path, line, fault } = self;
        match line {
            Some(line) => write!(f, "{}:{line}: {fault}", path.display()),
            None => write!(f, "{}: {fault}", path.display()),
        }
    }
}

impl<F: Debug + Display> Error for InFile<F> {}
