//! Files of access tokens, one token a line. Other users must not be able to read or change them.

use super::{Fault, read_all, unreadable};
use crate::plan::access::{self, AccessToken};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Reads a file of access tokens, at least one. `reader` returns the user for whom it is secret;
/// `None`: that user is not known.
pub(super) fn read(path: &Path, reader: Option<fn() -> u32>) -> Result<Vec<AccessToken>, Fault> {
    let unusable = |flaw| Fault::AccessTokens {
        path: path.to_owned(),
        flaw,
    };
    let file = File::open(path).map_err(unreadable(path))?;
    let metadata = file.metadata().map_err(unreadable(path))?;
    if metadata.is_file() {
        access::check_mode(metadata.mode()).map_err(unusable)?;
        if let Some(reader) = reader {
            access::check_owner(metadata.uid(), reader()).map_err(unusable)?;
        }
    }
    AccessToken::parse_file(&read_all(file, path)?).map_err(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};

    #[test]
    fn file_is_read_only_if_mode_and_owner_keep_it_secret() {
        let path = std::env::temp_dir().join(format!("access-tokens-{}", std::process::id()));
        fs::write(&path, "# a comment\n0123456789abcdef\n").unwrap();
        let tokens = |mode| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let read = read(&path, None);
            read.map(|tokens| tokens.len())
                .map_err(|fault| fault.to_string())
        };
        assert_eq!(tokens(0o600), Ok(1));
        let refused = format!(
            "cannot use the access tokens in {}: its mode 0644 lets other users read or change it \
             (use chmod 600, or 640)",
            path.display()
        );
        assert_eq!(tokens(0o644), Err(refused));
        assert_eq!(tokens(0o600), Ok(1));
        let _ = chown(&path, Some(12_345), None); // root's files are read by each user
        let refused = read(&path, Some(|| 54_321)).unwrap_err().to_string();
        assert!(
            refused.contains(", who owns it, can read and change it "),
            "{refused}"
        );
        fs::remove_file(&path).unwrap();
    }
}
