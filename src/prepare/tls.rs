//! Checks of a connection by TLS before it is made: its files, the mode of the key, and the program
//! that speaks TLS.

use crate::plan::connection::{Tls, Tool};
use crate::plan::{Command, Connection};
use crate::reason::reason;
use crate::sys::file;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Characters that mean something else than themselves in an address of socat.
const SPECIAL_TO_SOCAT: [char; 11] = [',', ':', '!', '"', '\'', '\\', '(', ')', '{', '[', ']'];

/// The connection with a program that this host has. The error says what is missing.
pub fn checked(connection: &Connection) -> Result<Connection, String> {
    let Connection::Tls(tls) = connection else {
        return Ok(connection.clone());
    };
    let files = [
        ("the CA certificates", &tls.ca),
        ("the certificate", &tls.cert),
        ("the key", &tls.key),
    ];
    for (what, file) in files {
        if let Some(file) = file {
            check_readable(what, file)?;
        }
    }
    if let Some(key) = tls.key_file() {
        check_mode(key)?;
        check_passphrase(key)?;
    }
    let tool = tool(tls)?;
    Ok(Connection::Tls(Tls {
        tool,
        ..tls.clone()
    }))
}

fn check_readable(what: &str, file: &Path) -> Result<(), String> {
    File::open(file)
        .and_then(|mut open| open.read(&mut [0]))
        .map(drop)
        .map_err(|error| {
            let (file, why) = (file.display(), reason(&error));
            format!("cannot connect by TLS: cannot read {what} {file}: {why}")
        })
}

/// The bits of a mode that are not the owner's.
const OTHERS: u32 = 6;

/// As ssh does: the owner may let no one else read a key. Another owner, e.g. root, has decided that
/// this user may read it.
fn check_mode(key: &Path) -> Result<(), String> {
    let Ok(metadata) = fs::metadata(key) else {
        return Ok(()); // reading it has failed already
    };
    if metadata.uid() != file::effective_uid() || metadata.mode().trailing_zeros() >= OTHERS {
        return Ok(());
    }
    let (key, mode) = (key.display(), metadata.mode() & 0o777);
    Err(format!(
        "cannot connect by TLS: the key {key} has mode {mode:04o}, so that other users may read or change it: use chmod 600 {key}"
    ))
}

/// The most bytes of a file with a key that are read: a key of 16384 bits has 13 kB.
const LONGEST_KEY: u64 = 64 << 10;

/// What the file of an encrypted key contains (RFC 7468, and the traditional format).
const ENCRYPTED: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];

/// openssl would read the passphrase from its stdin, which is the connection.
fn check_passphrase(key: &Path) -> Result<(), String> {
    let mut text = Vec::new();
    let read = File::open(key).and_then(|file| file.take(LONGEST_KEY).read_to_end(&mut text));
    let contains = |mark: &&[u8]| text.windows(mark.len()).any(|part| part == *mark);
    if read.is_err() || !ENCRYPTED.iter().any(contains) {
        return Ok(()); // an error was found before
    }
    let key = key.display();
    Err(format!(
        "cannot connect by TLS: the key {key} is encrypted, and there is no way to enter its passphrase: use a key without one"
    ))
}

fn tool(tls: &Tls) -> Result<Tool, String> {
    if has("openssl") {
        return Ok(Tool::Openssl);
    }
    if !has("socat") {
        return Err(
            "cannot connect by TLS: openssl is not found on PATH (nor is socat): install openssl"
                .into(),
        );
    }
    let files = [&tls.ca, &tls.cert, &tls.key].into_iter().flatten();
    let texts = files.map(|file| file.to_string_lossy().into_owned());
    match texts
        .chain(tls.name.clone())
        .find(|text| text.contains(SPECIAL_TO_SOCAT))
    {
        None => Ok(Tool::Socat),
        Some(text) => Err(format!(
            "cannot connect by TLS: openssl is not found on PATH, and socat cannot use {text:?}: install openssl"
        )),
    }
}

fn has(program: &str) -> bool {
    let command = Command {
        words: vec![program.into()],
        shown: program.into(),
    };
    super::find_command(&command, Path::new("")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn key_with_a_passphrase_is_refused_before_the_first_connection() {
        let key = std::env::temp_dir().join(format!("zk-flock-key-{}", std::process::id()));
        let flaw = |text: &str| {
            fs::write(&key, text).unwrap();
            fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
            let tls = Tls {
                cert: Some(key.clone()),
                ..Tls::default()
            };
            checked(&Connection::Tls(tls)).err().unwrap_or_default()
        };
        for (text, is_encrypted) in [
            ("-----BEGIN PRIVATE KEY-----\n", false),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\n", true),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n",
                true,
            ),
        ] {
            assert_eq!(flaw(text).contains("is encrypted"), is_encrypted, "{text}");
        }
        fs::remove_file(&key).unwrap();
    }
}
