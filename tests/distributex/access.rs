//! Access tokens: a client without a valid one can neither use nor read pools, and distributex sends
//! its own.

use super::{complains, curl};
use common::distributexd::Distributexd;
use common::run::exited;
use common::sandbox::Sandbox;
use common::wait_until;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const USER: &str = "a-user-0123456789";
const ADMINISTRATOR: &str = "an-administrator-0123456789";

/// Writes a file of tokens that other users cannot read.
fn token_file(sandbox: &Sandbox, name: &str, token: &str) -> PathBuf {
    sandbox.secret(name, &format!("# for tests\n{token}\n"))
}

/// A server whose pool has the name of the sandbox and needs a token.
fn guarded<'a>(sandbox: &'a Sandbox, options: &str) -> Distributexd<'a> {
    let files = [("use", USER), ("administer", ADMINISTRATOR)]
        .map(|(name, token)| token_file(sandbox, name, token).display().to_string());
    let [user, administrator] = files;
    let pool = &sandbox.id;
    let config = format!(
        "access_tokens:\n  use: {user}\n  administer: {administrator}\npools:\n- name: {pool}\n{options}"
    );
    Distributexd::start(sandbox, &config)
}

/// Status and body of the answer to curl with these options.
#[track_caller]
fn answer(server: &Distributexd, options: &[&str], target: &str) -> (String, String) {
    let url = format!("http://127.0.0.1:{}{target}", server.port);
    let output = curl(&[&["-w", "\n%{http_code}"], options].concat(), &url);
    let (body, status) = output.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

fn bearer(token: &str) -> [String; 2] {
    ["-H".into(), format!("Authorization: Bearer {token}")]
}

/// The fencing token of the first holder in a text of `/status/`.
fn server_token(status: &str) -> String {
    let (_, rest) = status.split_once("\"token\":").expect("it is held");
    rest.split_once(',')
        .expect("more fields follow")
        .0
        .to_owned()
}

#[test]
fn client_without_a_right_can_neither_acquire_nor_release_nor_renew_nor_revoke_nor_read() {
    let sandbox = Sandbox::new();
    let server = guarded(&sandbox, "  require_fencing_token: true\n");
    let target = |call: &str, host: &str| format!("/{call}/?pool={}&host={host}", sandbox.id);
    let ask = |token: &str, options: &[&str], target: &str| {
        let header = bearer(token);
        let header = header.each_ref().map(String::as_str);
        answer(&server, &[&header, options].concat(), target)
    };
    let status = |token, options: &[&str], target: &str| ask(token, options, target).0;
    assert_eq!(ask(USER, &[], &target("get", "me")).1, "YES");
    let calls = [
        target("get", "them"),
        target("wait", "them"),
        target("g/e/t", "me"),
        target("renew", "me"),
        target("release", "me") + "&token=1",
        "/status/".into(),
        "/status".into(),
        "/metrics".into(),
    ];
    for target in &calls {
        let (status_of_none, body) = answer(&server, &[], target);
        assert_eq!(status_of_none, "401", "{target}");
        assert!(
            body.starts_with("refused: access token missing: "),
            "{body}"
        );
        assert_eq!(status("a-user-0123456780", &[], target), "401", "{target}");
        assert_eq!(status("", &[], target), "401", "{target}");
    }
    let post = ["-X", "POST"];
    assert_eq!(answer(&server, &post, &target("revoke", "me")).0, "401");
    assert_eq!(
        status("a-user-0123456780", &post, &target("revoke", "me")),
        "401"
    );
    assert_eq!(status(USER, &post, &target("revoke", "me")), "403");
    // Another site can make a browser send these.
    let basic = ["-u", &format!("x:{USER}")];
    assert_eq!(answer(&server, &basic, &target("release", "me")).0, "401");
    assert_eq!(
        status(USER, &[], &target("release", "me")),
        "403",
        "no fencing token"
    );

    assert_eq!(ask(USER, &[], &target("get", "them")).1, "NO");
    let shown = answer(&server, &basic, "/status/");
    assert_eq!(shown.0, "200");
    assert!(
        shown.1.contains("\"me\"") && !shown.1.contains("\"them\""),
        "{}",
        shown.1
    );
    let metrics = ask(USER, &[], "/metrics").1;
    assert!(
        metrics.contains("\ndistributexd_denied_total 29\n"),
        "{metrics}"
    );
    assert_eq!(status(ADMINISTRATOR, &post, &target("revoke", "me")), "200");

    let cross_site = ["-H", "Sec-Fetch-Site: cross-site"];
    assert_eq!(status(USER, &cross_site, &target("get", "me")), "403");

    let waiter = |token: &str, host: &str| {
        let mut waiter = server.connect();
        let target = target("wait", host);
        waiter.say(&format!(
            "GET {target} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n"
        ));
        wait_until("it to wait", || {
            let shown = ask(ADMINISTRATOR, &[], "/status/").1;
            shown.contains(&format!("{{\"host\":\"{host}\",\"waiting\""))
        });
        waiter
    };
    let (mut denied, mut granted) = (waiter(USER, "one"), waiter(ADMINISTRATOR, "other"));
    let renewed = "another-user-0123456789";
    token_file(&sandbox, "use", renewed);
    server.signal(libc::SIGHUP);
    wait_until("the new token to be accepted", || {
        status(renewed, &[], "/status/") == "200"
    });
    assert_eq!(status(USER, &[], "/status/"), "401");
    // A client that waits loses its rights, too.
    assert_eq!(denied.reply().status, 401);
    let token = server_token(&ask(ADMINISTRATOR, &[], "/status/").1);
    let release = format!("{}&token={token}", target("release", "me"));
    assert_eq!(ask(ADMINISTRATOR, &[], &release).1, "OK");
    assert_eq!(granted.hear(), "YES");
    let log = server.stderr();
    assert!(
        log.contains("refused a request of 127.0.0.1: access token missing"),
        "{log}"
    );
    let request = " method=GET path=/status/ status=401 reason=\"access token missing\" took=0.";
    let line = log.lines().find(|line| line.contains(request));
    let line = line.expect("each request is logged");
    assert!(line.contains(" DEBUG request peer=127.0.0.1:"), "{line}");
    assert!(line.contains("s agent=curl/"), "{line}");
    for secret in [USER, ADMINISTRATOR, renewed, "a-user-0123456780"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn distributex_sends_its_token_and_says_why_it_is_refused() {
    let sandbox = Sandbox::new();
    let server = guarded(&sandbox, "");
    let run = |words: &[&str]| sandbox.distributex(server.port, words);
    let [user, wrong] = [("use", USER), ("wrong", "wrong-0123456789")]
        .map(|(name, token)| token_file(&sandbox, name, token).display().to_string());
    let option = |file: &str| format!("--access-token-file={file}");

    let refused = run(&["--sysexits", "echo no"]).run();
    let lock = format!("cannot acquire {}@127.0.0.1:{}: ", sandbox.id, server.port);
    complains(
        &refused,
        77,
        &[
            &lock,
            "401",
            "(access token missing): use --access-token-file FILE",
        ],
    );
    let refused = run(&[&option(&wrong), "echo no"]).run();
    complains(
        &refused,
        1,
        &["401", "(access token not valid): check the file of"],
    );

    let ran = run(&["-v", &option(&user), "echo yes"]).run();
    assert_eq!((ran.end, ran.stdout.as_str()), (Ok(0), "yes\n"), "{ran:?}");
    assert!(!ran.stderr.contains(USER), "{ran:?}");
    let from_environment = |job: common::run::Job| {
        let job = job.env("DISTRIBUTEX_ACCESS_TOKEN_FILE", &user);
        job.run()
    };
    assert_eq!(
        from_environment(run(&["echo yes"])),
        exited(0).printing("yes\n")
    );
    assert_eq!(
        from_environment(run(&["--status"])).end,
        Ok(3),
        "it is free"
    );
    let refused = run(&["--sysexits", "--status"]).run();
    complains(&refused, 77, &["cannot read the locks at", "401"]);

    fs::set_permissions(&user, Permissions::from_mode(0o644)).unwrap();
    let refused = run(&["--sysexits", &option(&user), "echo no"]).run();
    complains(
        &refused,
        78,
        &["cannot use the access tokens in ", "its mode 0644"],
    );
}
