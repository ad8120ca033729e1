//! `distributexd`: its help, its options, and its plan with the config file. Defaults are those of
//! the original, `twistd distributex`.

use super::access_tokens;
use super::line::Line;
use super::options::{self, Taken, next_argument};
use super::{Environment, Error, Fault, Program, Request, read, value};
use crate::config::server::Config;
use crate::plan::access::Access;
use crate::plan::{ExitCodes, Server};
use lexopt::prelude::*;
use std::ffi::OsString;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

/// The program.
pub const PROGRAM: Program = Program {
    name: "distributexd",
    help: HELP,
    request,
};

/// What `--help` prints.
const HELP: &str = "\
Usage: distributexd [options]

Grant locks to clients over HTTP: a pool has one slot or several.
The pools are defined in a YAML or JSON config.

Server:
  -c, --config FILE       read config [default: distributex.yaml, or
                          /etc/distributex.yaml if there is none]
  -p, --port PORT         listen on PORT [default: config, or 9889; 0: any free]
      --check             check the config and exit; unknown keys are errors
Output and help:
      --sysexits          use distinct exit codes from sysexits.h for failures
  -v, --verbose           log every request to stderr
  -V, --version           print the version
  -h, --help              print this help
      --program=NAME      act as program NAME; must be the first word

HUP reloads pools and access tokens; TERM and INT shut the server down.

Exit code: 0 if TERM or INT shut the server down, or the checked config is
valid; 2 for a usage error; otherwise 1, or the code of --sysexits.
";

/// Config files without `-c`: the first that exists is read.
const CONFIGS: &[&str] = &["distributex.yaml", "/etc/distributex.yaml"];

/// The port without `-p` and without a port in the config.
const PORT: u16 = 9889;

/// The options, with the defaults of those that were not given.
#[derive(Default, Debug)]
struct Options {
    config: Option<PathBuf>,
    port: Option<u16>,
    check: bool,
    sysexits: bool,
    verbose: bool,
}

/// Parses the arguments after the program's name.
fn request(args: Vec<OsString>, environment: &Environment) -> Result<Request, Error> {
    let mut options = Options::default();
    let special = options::read(&mut Line::new(args), |parser| options.take(parser));
    let sysexits = options.sysexits;
    let request =
        special.and_then(|special| special.map_or_else(|| options.serve(environment), Ok));
    request.map_err(|fault| Error {
        fault: fault.into(),
        advice: None,
        sysexits,
    })
}

impl Options {
    /// Takes the next argument; parsing can go on after a fault.
    fn take(&mut self, parser: &mut lexopt::Parser) -> Result<Taken, Fault> {
        let Some(argument) = next_argument(parser, HELP, &[])? else {
            return Ok(Taken::All);
        };
        match argument {
            Short('c') | Long("config") => self.config = Some(parser.value()?.into()),
            Short('p') | Long("port") => self.port = Some(value::PORT.take("--port", parser)?),
            Long("check") => self.check = true,
            Long("sysexits") => self.sysexits = true,
            Short('v') | Long("verbose") => self.verbose = true,
            Short('V') | Long("version") => return Ok(Taken::Version),
            Short('h') | Long("help") => return Ok(Taken::Help),
            Value(word) => return Err(Fault::Unexpected(word.to_string_lossy().into_owned())),
            option => return Err(option.unexpected().into()),
        }
        Ok(Taken::Argument)
    }

    fn serve(self, environment: &Environment) -> Result<Request, Fault> {
        let (path, text) = match &self.config {
            Some(path) => (path.clone(), read(path)?),
            None => first_existing(CONFIGS)?,
        };
        let check = self.check;
        let mut config = Config::parse(&text, &path)?;
        if let (true, [first, others @ ..]) = (check, &config.unknown[..]) {
            return Err(Fault::UnknownKeys {
                first: first.clone(),
                others: others.len(),
            });
        }
        // The server may run as another user than the one who checks its config.
        let reader = environment.effective_user.filter(|_| !check);
        let read_tokens = |path: &Path| access_tokens::read(path, reader);
        let access = mem::take(&mut config.access).load(read_tokens)?;
        let server = self.merge(config, access, path, environment);
        Ok(if check {
            Request::Check(server)
        } else {
            Request::Serve(server)
        })
    }

    /// The plan from the options and the config, which was read from `path`.
    fn merge(
        self,
        config: Config,
        access: Access,
        path: PathBuf,
        environment: &Environment,
    ) -> Server {
        let Config {
            backend,
            pools,
            listen,
            port,
            state,
            warnings,
            ..
        } = config;
        Server {
            program: PROGRAM.name,
            config: path,
            listen,
            port: self.port.or(port).unwrap_or(PORT),
            pools,
            access,
            backend,
            state: state.map(|path| environment.current_dir.join(path)),
            warnings,
            exit_codes: ExitCodes {
                busy: None,
                busy_default: 1,
                sysexits: self.sysexits,
            },
            verbose: self.verbose,
            manager: environment.manager().unwrap_or_default(), // of a kind that is not known
        }
    }
}

/// The first of these files that exists, and its content.
fn first_existing(paths: &'static [&'static str]) -> Result<(PathBuf, Vec<u8>), Fault> {
    for path in paths.iter().map(Path::new) {
        match read(path) {
            Err(Fault::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            text => return text.map(|text| (path.to_owned(), text)),
        }
    }
    Err(Fault::NoConfig(paths))
}

#[cfg(test)]
mod tests {
    use super::super::options::testing::{environment, line};
    use super::*;
    use crate::plan::{Backend, Pool};

    const CONFIG: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/yaml/accepted/documented.yaml"
    );

    fn ask(words: &str) -> Result<Request, String> {
        request(line(words), &environment())
            .map_err(|error| format!("{} {error}", error.exit_code()))
    }

    fn server(words: &str) -> Server {
        match ask(&format!(
            "-c|{CONFIG}{}{words}",
            if words.is_empty() { "" } else { "|" }
        )) {
            Ok(Request::Serve(server)) => server,
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn default_port_is_that_of_the_original() {
        let server = server("");
        assert_eq!(
            (server.program, server.config.as_path(), server.port),
            ("distributexd", Path::new(CONFIG), 9889)
        );
        assert_eq!(
            (&server.backend, server.listen),
            (&Backend::Memory, Some("0.0.0.0".parse().unwrap()))
        );
        assert_eq!(
            server.state.as_deref(),
            Some(Path::new("/var/lib/distributexd/state.json"))
        );
        let [puppet, deploy, nightly] = &server.pools[..] else {
            panic!("{:?}", server.pools)
        };
        assert_eq!(
            (puppet.name.as_str(), nightly.name.as_str()),
            ("puppet", "nightly")
        );
        let servers = Some(
            ["web1.acme.com", "web2.acme.com", "db-1"]
                .map(str::to_owned)
                .to_vec(),
        );
        assert_eq!(
            *deploy,
            Pool {
                name: "deploy".into(),
                expire: None,
                permits: 3,
                servers
            }
        );
        assert!(!server.verbose && !server.exit_codes.sysexits && server.warnings.is_empty());
    }

    #[test]
    fn each_option_has_its_effect_in_every_form() {
        type Effect = fn(&Server) -> bool;
        let rows: &[(&[&str], Effect)] = &[
            (
                &[
                    "-p80",
                    "-p|80",
                    "--port=80",
                    "--port|80",
                    "--p=80",
                    "-p1|-p80",
                ],
                |server| server.port == 80,
            ),
            (&["-p0"], |server| server.port == 0),
            (&["--sysexits"], |server| server.exit_codes.sysexits),
            (&["-v", "--verbose"], |server| server.verbose),
        ];
        for (ways, effect) in rows {
            for way in *ways {
                assert!(effect(&server(way)), "{way}");
            }
        }
        for way in [
            format!("--check|-c{CONFIG}"),
            format!("--config={CONFIG}|--check"),
        ] {
            assert!(matches!(ask(&way), Ok(Request::Check(_))), "{way}");
        }
        assert!(matches!(ask("-x|-h"), Ok(Request::Help)));
        assert!(matches!(ask("-V|-c|/nowhere"), Ok(Request::Version)));
    }

    #[test]
    fn faults_have_a_message_and_an_exit_code() {
        for (words, sentence) in [
            ("-x", "2 invalid option '-x'"),
            (
                "--c=a",
                "2 option '--c' is ambiguous: it could be --config or --check",
            ),
            (
                "-p|http",
                "2 --port: expected a port, 0 to 65535, found \"http\"",
            ),
            (
                "more",
                "2 unexpected argument \"more\": expected only options",
            ),
            (
                "--sysexits|more",
                "64 unexpected argument \"more\": expected only options",
            ),
            (
                "-c|/nowhere",
                "1 cannot read /nowhere: no such file or directory",
            ),
            (
                "-c|/nowhere|--sysexits",
                "78 cannot read /nowhere: no such file or directory",
            ),
            (
                "-c|/dev/null|--sysexits",
                "78 /dev/null:1: expected keys and values, found nothing",
            ),
        ] {
            assert_eq!(ask(words).map(drop), Err(sentence.to_owned()), "{words}");
        }
    }

    #[test]
    fn check_refuses_unknown_keys_and_start_warns_of_them() {
        let path = std::env::temp_dir().join(format!("distributexd-config-{}", std::process::id()));
        std::fs::write(&path, "pools:\n- name: a\n  maxlock: 3\nodd: 1\nport: 80\n").unwrap();
        let shown = path.display();
        let sentence =
            format!("{shown}:3: \"maxlock\": unknown key (did you mean \"maxlocks\"?); and 1 more");
        assert_eq!(
            ask(&format!("--check|-c|{shown}")).map(drop),
            Err(format!("1 {sentence}"))
        );
        assert_eq!(
            ask(&format!("--check|--sysexits|-c|{shown}")).map(drop),
            Err(format!("78 {sentence}"))
        );
        for (words, port) in [("", 80), ("|-p|90", 90)] {
            let Ok(Request::Serve(server)) = ask(&format!("-c|{shown}{words}")) else {
                panic!("it is served")
            };
            assert_eq!((server.port, server.warnings.len()), (port, 2));
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn first_existing_config_is_read() {
        assert_eq!(
            first_existing(&["/nowhere", CONFIG, "/dev/null"])
                .unwrap()
                .0,
            Path::new(CONFIG)
        );
        let fault = first_existing(&["/nowhere", "/nowhere/else"]).unwrap_err();
        assert_eq!(
            fault.to_string(),
            "no config file found (tried /nowhere, /nowhere/else): use -c FILE"
        );
    }

    #[test]
    fn state_path_is_relative_to_the_start_directory() {
        let config = Config::parse(b"state: s", Path::new("f")).unwrap();
        assert_eq!(
            Options::default()
                .merge(config, Access::default(), "f".into(), &environment())
                .state
                .as_deref(),
            Some(Path::new("/here/s"))
        );
    }
}
