//! Why a helper command ended, from what it wrote to stderr: of openssl the `verify error` line, the
//! alert or the first error, of other programs the last line. Pure.

use crate::printable::printable;

/// The longest line that is kept, in bytes. A longer one is cut.
const LONGEST_LINE: usize = 240;

/// The text if the peer ended the connection before a TLS message was seen.
const NO_TLS: &str = "no TLS there (is this a plain-text port?)";

/// What openssl writes if the peer ends the connection without a message of TLS: the text of its
/// error, and ECONNRESET and EPIPE of its last call.
const ENDS: [&str; 4] = [
    "unexpected eof while reading",
    "errno=104",
    "errno=32",
    "errno=0",
];

/// What openssl writes if the peer answers in plain text.
const PLAIN: [&str; 2] = ["wrong version number", "packet length too long"];

/// What openssl writes where the host is an IP address, which the server is not told as a name.
const NO_SERVER_NAME: &str = "Can't use SSL_get_servername";

/// What a helper has written.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The start of a line.
    rest: Vec<u8>,
    /// openssl's first `verify error`.
    unverified: Option<String>,
    /// The alert of the server.
    alert: Option<String>,
    /// openssl's first error.
    error: Option<String>,
    last: Option<String>,
    /// The server has shown a certificate.
    saw_certificate: bool,
    /// The server ended the connection.
    ended: bool,
    /// The server answered in plain text.
    plain: bool,
}

impl Words {
    /// Takes in what the helper has written.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else if self.rest.len() < LONGEST_LINE {
                self.rest.push(byte);
            }
        }
    }

    /// The server has sent something for the first time. A line from before that, e.g. a banner of ssh,
    /// is not why the connection ends.
    pub(super) fn connected(&mut self) {
        self.rest.clear();
        self.last = None;
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.rest);
        let line = printable(String::from_utf8_lossy(&line).trim());
        let is_certificate = |line: &str| line.starts_with("depth=") || line == "verify return:1";
        if line.is_empty() || line == NO_SERVER_NAME {
        } else if let Some(fault) = line.strip_prefix("verify error:") {
            self.saw_certificate = true;
            let (number, text) = fault.split_once(':').unwrap_or(("", fault));
            let fault = if number.starts_with("num=") {
                text
            } else {
                fault
            };
            self.unverified.get_or_insert(fault.to_owned());
        } else if is_certificate(&line) {
            self.saw_certificate = true;
        } else if PLAIN.iter().any(|text| line.contains(text)) {
            self.plain = true;
        } else if ENDS.iter().any(|text| line.contains(text)) {
            self.ended = true;
        } else if let Some(error) = openssl_error(&line) {
            if let Some((_, alert)) = error.split_once(" alert ") {
                self.alert.get_or_insert(alert.to_owned());
            }
            self.error.get_or_insert(error);
        } else {
            self.last = Some(line);
        }
    }

    /// The reason; `None`: the server hung up. `answered`: the server has sent something.
    pub(super) fn reason(&mut self, answered: bool) -> Option<String> {
        self.end_line();
        if let Some(fault) = &self.unverified {
            Some(format!("its certificate is not accepted: {fault}"))
        } else if let Some(alert) = &self.alert {
            Some(format!("it refuses the TLS connection: {alert}"))
        } else if self.plain {
            Some(NO_TLS.into())
        } else if let Some(error) = &self.error {
            Some(error.clone())
        } else if self.ended {
            (!answered && !self.saw_certificate).then(|| NO_TLS.into())
        } else if let Some(last) = &self.last {
            Some(last.clone())
        } else if answered || self.saw_certificate {
            None
        } else {
            Some("the command of the connection ended without a reason".into())
        }
    }
}

/// The text of a line of openssl's error queue:
/// `ID:error:CODE:LIBRARY:FUNCTION:REASON:FILE:LINE:DATA`.
fn openssl_error(line: &str) -> Option<String> {
    let (_, fields) = line.split_once(":error:")?;
    let fields: Vec<&str> = fields.split(':').collect();
    let [_, _, _, reason, rest @ ..] = &fields[..] else {
        return None;
    };
    let data = rest.get(2..).unwrap_or_default().join(":");
    let text = if *reason == "system lib" && !data.is_empty() {
        data.as_str()
    } else {
        reason
    };
    let (first, rest) = text.split_at_checked(1).unwrap_or((text, ""));
    Some(first.to_lowercase() + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by openssl 3.0.
    const ACCEPTED: &str =
        "depth=1 CN = Test CA\nverify return:1\ndepth=0 CN = h\nverify return:1\n";
    const EOF: &str = "4057:error:0A000126:SSL routines:ssl3_read_n:unexpected eof while reading:../ssl/record/rec_layer_s3.c:320:\n";

    fn reason(text: &str, answered: bool) -> Option<String> {
        let mut words = Words::default();
        text.as_bytes().chunks(7).for_each(|part| words.push(part));
        words.reason(answered)
    }

    #[test]
    fn reason_is_the_line_that_says_why() {
        let failed = "4057:error:0A000086:SSL routines:tls_post_process_server_certificate:certificate verify failed:../ssl/statem/statem_clnt.c:1889:\n";
        for (text, expected) in [
            (
                format!("depth=0 CN = h\nverify error:num=62:hostname mismatch\n{failed}"),
                "its certificate is not accepted: hostname mismatch",
            ),
            (
                format!("depth=0 CN = h\nverify error:num=10:certificate has expired\nnotAfter=Nov 29 14:29:57 2026 GMT\n{failed}"),
                "its certificate is not accepted: certificate has expired",
            ),
            (
                format!("{ACCEPTED}4047:error:0A00045C:SSL routines:ssl3_read_bytes:tlsv13 alert certificate required:../ssl/record/rec_layer_s3.c:1601:SSL alert number 116\n"),
                "it refuses the TLS connection: certificate required",
            ),
            (
                "40E7:error:8000006F:system library:BIO_connect:Connection refused:../crypto/bio/bio_sock2.c:117:calling connect()\n40E7:error:10000067:BIO routines:BIO_connect:connect error:../crypto/bio/bio_sock2.c:119:\nconnect:errno=111\n".into(),
                "connection refused",
            ),
            (
                "40F7:error:10080002:BIO routines:BIO_lookup_ex:system lib:../crypto/bio/bio_addr.c:746:Name or service not known\nconnect:errno=0\n".into(),
                "name or service not known",
            ),
            ("write:errno=104\n".into(), NO_TLS),
            (EOF.into(), NO_TLS),
            (
                "4047:error:0A00010B:SSL routines:ssl3_get_record:wrong version number:../ssl/record/ssl3_record.c:354:\n".into(),
                NO_TLS,
            ),
            ("first\nssh: no route\u{1b}".into(), "ssh: no route?"),
            (String::new(), "the command of the connection ended without a reason"),
        ] {
            assert_eq!(reason(&text, false).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn server_that_hung_up_is_no_fault_of_tls() {
        assert_eq!(reason(EOF, true), None);
        assert_eq!(reason(&format!("{ACCEPTED}{EOF}"), false), None);
        assert_eq!(reason(&format!("{ACCEPTED}write:errno=104\n"), false), None);
        assert_eq!(reason("", true), None);
        assert_eq!(
            reason(&format!("Can't use SSL_get_servername\n{ACCEPTED}"), false),
            None
        );
    }

    #[test]
    fn line_from_before_the_first_answer_is_not_the_reason() {
        let mut words = Words::default();
        words.push(b"Warning: Permanently added 'bastion'\nno new");
        words.connected();
        assert_eq!(words.reason(true), None);
        words.push(b"Connection reset by bastion\n");
        let reason = words.reason(true);
        assert_eq!(reason.as_deref(), Some("Connection reset by bastion"));
    }

    #[test]
    fn endless_line_is_cut() {
        assert_eq!(
            reason(&"x".repeat(9000), false).unwrap().len(),
            LONGEST_LINE
        );
    }
}
