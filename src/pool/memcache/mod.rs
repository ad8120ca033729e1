//! A memcached remembers the holders, for several servers, the original among them. It is asked over one connection, and never waited for: who
//! asks is told within a second that it does not answer, who waits goes on waiting.

#[cfg(test)]
mod any_order;
mod expiry;
#[cfg(test)]
mod fake;
mod line;
mod proposal;
pub mod protocol;
mod roll;
mod round;
mod slate;

use super::refusal::{self, Refusal};
use super::state::Boot;
use super::waiters::Asked;
use super::{Answer, Backend, Input, Output, Report, Request, Ticket};
use crate::moment::Moment;
use crate::plan::{self, Level};
use line::{Line, Want};
use slate::{Said, Slate, Tools};
use std::collections::{BTreeMap, VecDeque};

/// All pools of a server.
#[derive(Debug)]
pub struct Memcache {
    slates: BTreeMap<String, Slate>,
    /// Where memcached is, for messages.
    address: String,
    boot: Boot,
    line: Line,
    /// So many rounds have begun.
    rounds: u64,
    said: VecDeque<Said>,
}

impl Memcache {
    /// Not connected yet. Tokens begin with real time, which `boot` makes of moments.
    pub fn new(pools: Vec<plan::Pool>, address: String, boot: Boot, now: Moment) -> Memcache {
        let slates = pools.into_iter().map(|pool| (pool.name.clone(), Slate::new(compatible(pool)))).collect();
        Memcache { slates, address, boot, line: Line::new(now), rounds: 0, said: VecDeque::new() }
    }

    /// The slates, and what each of them works with.
    fn with_tools(&mut self, now: Moment) -> (&mut BTreeMap<String, Slate>, Tools<'_>) {
        let tools = Tools { line: &mut self.line, said: &mut self.said, address: &self.address, boot: self.boot, now };
        (&mut self.slates, tools)
    }

    fn asked(&mut self, request: &Request, now: Moment) {
        let Request { ticket, call, pool, host, .. } = *request;
        let (slates, mut tools) = self.with_tools(now);
        if let Some(slate) = slate(slates, pool) {
            return slate.ask(Asked { ticket, call, host: escaped(host).into(), run: None, since: now }, &mut tools);
        }
        self.say(Output::Note(Level::Info, refusal::told(pool, host, Refusal::UnknownPool)));
        self.say(Output::Answer(ticket, Answer::Invalid(Refusal::UnknownPool)));
    }

    fn say(&mut self, output: Output) {
        self.said.push_back(Said::Output(output));
    }

    fn gone(&mut self, ticket: Ticket) {
        if self.slates.values_mut().any(|slate| slate.forget(ticket)) {
            return;
        }
        let is_it = |said: &Said| matches!(said, Said::Yes { asked, .. } if asked.ticket == ticket);
        if let Some(index) = self.said.iter().position(is_it)
            && let Some(Said::Yes { asked, pool, grant }) = self.said.remove(index)
            && let Some(slate) = self.slates.get_mut(&*pool)
        {
            slate.untell(&asked.host, grant.token);
        }
    }

    /// Whether it answers too is seen at once, though nobody asks anything: the log is to say since when it does.
    fn connected(&mut self, now: Moment) {
        self.line.connected(now);
        if self.line.outage().is_some() {
            self.slates.values_mut().take(1).for_each(Slate::look);
        }
    }

    fn received(&mut self, bytes: &[u8], now: Moment) {
        self.line.received(bytes);
        loop {
            match self.line.reply() {
                Ok(Some((round, reply))) => {
                    let (slates, mut tools) = self.with_tools(now);
                    let taken = slates.get_mut(&*round.pool).map_or(Ok(()), |slate| slate.reply(&round, reply, &mut tools));
                    if let Err(flaw) = taken {
                        return self.give_up(&flaw.to_string(), now);
                    }
                }
                Ok(None) => return,
                Err(why) => return self.give_up(&why, now),
            }
        }
    }

    fn give_up(&mut self, why: &str, now: Moment) {
        self.say(Output::Disconnect);
        self.lost(why, now);
    }

    fn lost(&mut self, why: &str, now: Moment) {
        let why = format!("cannot ask memcached at {}: {why}", self.address);
        if self.line.lost(&why, now) {
            let note = format!("{why}; requests fail until it answers, and whoever waits goes on waiting");
            self.say(Output::Note(Level::Error, note));
        }
        self.slates.values_mut().for_each(Slate::line_lost);
    }

    fn tick(&mut self, now: Moment) {
        if let Some(why) = self.line.is_late(now) {
            self.give_up(&why, now);
        }
        let (slates, mut tools) = self.with_tools(now);
        slates.values_mut().for_each(|slate| slate.lose_patience(&mut tools));
    }

    fn begin_rounds(&mut self, now: Moment) {
        if self.line.is_up() {
            self.rounds += 1;
            let number = self.rounds;
            let (slates, mut tools) = self.with_tools(now);
            slates.values_mut().for_each(|slate| slate.begin(number, &mut tools));
        }
    }

    fn wake(&self) -> Moment {
        let is_up = self.line.is_up();
        self.slates.values().map(|slate| slate.wake(is_up)).fold(self.line.wake(), Moment::min)
    }
}

/// The pool that is asked for: by its name in the config, or as the original looks for that.
fn slate<'a>(slates: &'a mut BTreeMap<String, Slate>, pool: &str) -> Option<&'a mut Slate> {
    if slates.contains_key(pool) { slates.get_mut(pool) } else { slates.get_mut(&escaped(pool)) }
}

/// A name as the original takes it, and writes it into memcached: like text in HTML (`cgi.escape`).
fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A pool whose `servers` are named as they are, or as the original wants them.
fn compatible(mut pool: plan::Pool) -> plan::Pool {
    if let Some(servers) = &mut pool.servers {
        servers.extend(servers.iter().map(|server| escaped(server)).filter(|name| !servers.contains(name)).collect::<Vec<_>>());
    }
    pool
}

impl Backend for Memcache {
    fn handle(&mut self, input: Input, now: Moment) {
        match input {
            Input::Asked(request) => self.asked(&request, now),
            Input::ReportAsked(ticket) => self.say(Output::Report(ticket)),
            Input::Gone(ticket) => self.gone(ticket),
            Input::Undelivered { pool, host, token } => {
                if let Some(slate) = slate(&mut self.slates, pool) {
                    slate.undelivered(&escaped(host), token);
                }
            }
            Input::Connected => self.connected(now),
            Input::Disconnected(why) => self.lost(why.as_deref().unwrap_or("it closed the connection"), now),
            Input::Received(bytes) => self.received(bytes, now),
            Input::Tick => self.tick(now),
            // There is no state to save.
            Input::Saved | Input::NotSaved(_) => {}
        }
    }

    fn poll(&mut self, now: Moment) -> Output {
        match self.said.pop_front() {
            Some(Said::Output(output)) => return output,
            Some(Said::Yes { asked, grant, .. }) => return Output::Answer(asked.ticket, Answer::Yes(grant)),
            None => {}
        }
        self.begin_rounds(now);
        match self.line.want(now) {
            Some(Want::Connect) => Output::Connect,
            Some(Want::Send(bytes)) => Output::Send(bytes),
            None => Output::Wait(self.wake()),
        }
    }

    fn reconfigure(&mut self, pools: Vec<plan::Pool>, now: Moment) {
        let mut before = std::mem::take(&mut self.slates);
        let mut after = BTreeMap::new();
        let (_, mut tools) = self.with_tools(now);
        for plan in pools.into_iter().map(compatible) {
            let name = plan.name.clone();
            let slate = match before.remove(&name) {
                Some(mut slate) => {
                    slate.reconfigure(plan, &mut tools);
                    slate
                }
                None => Slate::new(plan),
            };
            after.insert(name, slate);
        }
        before.into_values().for_each(|slate| slate.close(&mut tools));
        self.slates = after;
    }

    fn report(&self, now: Moment) -> Vec<Report<'_>> {
        self.slates.values().map(|slate| slate.report(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Call, Grant};
    use super::fake::Fake;
    use super::*;
    use std::time::Duration;

    /// When this host booted: the tokens begin here, in microseconds.
    const BOOT: Boot = Boot(1_763_000_000_000);

    /// Two servers and a memcached as a script: every line has a time in ms, what happens then, and what the servers answer.
    ///
    /// Clients are named by their hosts, with a number if a host has several. Tokens are shown without what they began with.
    struct Site {
        servers: [Memcache; 2],
        fake: Fake,
        reachable: bool,
        frozen: bool,
        /// What the frozen memcached has not read yet, by server.
        unread: [String; 2],
        clients: Vec<String>,
        now: Moment,
        notes: Vec<String>,
    }

    fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_millis(milliseconds))
    }

    fn pool(permits: u32, expire: u64) -> plan::Pool {
        plan::Pool { name: "one".into(), expire: (expire > 0).then(|| Duration::from_secs(expire)), permits, servers: None }
    }

    impl Site {
        fn new(pool: &plan::Pool) -> Site {
            let server = || Memcache::new(vec![pool.clone()], "h:11211".into(), BOOT, at(0));
            let mut fake = Fake::new(BOOT);
            fake.put("one:token", &BOOT.micros(at(0)).to_string(), Moment::NEVER);
            Site {
                servers: [server(), server()],
                fake,
                reachable: true,
                frozen: false,
                unread: Default::default(),
                clients: Vec::new(),
                now: at(0),
                notes: Vec::new(),
            }
        }

        fn play(&mut self, lines: &[(u64, &str, &str)]) {
            for &(time, event, expected) in lines {
                self.now = at(time);
                self.happen(event);
                assert_eq!(self.drain(), expected, "{event:?} at {time} ms; {:?}", self.fake.heard);
            }
        }

        fn happen(&mut self, event: &str) {
            let words: Vec<_> = event.split(' ').collect();
            let server = usize::from(words[0] == "2");
            match words[1..] {
                ["tick"] => self.servers.iter_mut().for_each(|server| server.handle(Input::Tick, self.now)),
                ["reachable"] => self.reachable = true,
                ["unreachable"] => {
                    self.reachable = false;
                    self.servers.iter_mut().for_each(|server| server.handle(Input::Disconnected(None), self.now));
                }
                ["frozen"] => self.frozen = true,
                ["thawed"] => self.frozen = false,
                ["step"] => self.execute(server),
                ["holds", value] => self.fake.put("one:lockedby", value, Moment::NEVER),
                ["gone", client] => self.servers[server].handle(Input::Gone(self.ticket(client)), self.now),
                ["lost", host, token] => {
                    let token = BOOT.micros(at(0)) + token.parse::<i64>().unwrap();
                    self.servers[server].handle(Input::Undelivered { pool: "one", host, token }, self.now);
                }
                ["get", client] => self.ask(server, client, Call::Get),
                ["wait", client] => self.ask(server, client, Call::Wait),
                ["renew", client] => self.ask(server, client, Call::Renew { token: None }),
                ["renew", client, token] => {
                    let token = BOOT.micros(at(0)) + token.parse::<i64>().unwrap();
                    self.ask(server, client, Call::Renew { token: Some(token) });
                }
                ["release", client] => self.ask(server, client, Call::Release { token: None }),
                ["release", client, token] => {
                    let token = BOOT.micros(at(0)) + token.parse::<i64>().unwrap();
                    self.ask(server, client, Call::Release { token: Some(token) });
                }
                _ => panic!("{event}"),
            }
        }

        fn ask(&mut self, server: usize, client: &str, call: Call) {
            self.clients.push(client.into());
            let (ticket, host) = (self.ticket(client), client.trim_end_matches(char::is_numeric));
            self.servers[server].handle(Input::Asked(Request { ticket, call, pool: "one", host, run: None }), self.now);
        }

        fn ticket(&self, client: &str) -> Ticket {
            Ticket(self.clients.iter().rposition(|name| name == client).unwrap().try_into().unwrap())
        }

        fn drain(&mut self) -> String {
            let mut said = Vec::new();
            for index in 0..2 {
                loop {
                    if !self.frozen {
                        self.execute(index);
                    }
                    let server = &mut self.servers[index];
                    match server.poll(self.now) {
                        Output::Answer(Ticket(ticket), answer) => {
                            said.push(format!("{} {}", self.clients[usize::try_from(ticket).unwrap()], shown(&answer)));
                        }
                        Output::Note(_, note) => self.notes.push(note),
                        Output::Connect if self.reachable => server.handle(Input::Connected, self.now),
                        Output::Connect => server.handle(Input::Disconnected(Some("refused".into())), self.now),
                        Output::Send(bytes) => self.unread[index] += str::from_utf8(&bytes).unwrap(),
                        Output::Disconnect => self.unread[index].clear(),
                        Output::Save(_) | Output::Report(_) => panic!("nobody asked for this"),
                        Output::Wait(_) => break,
                    }
                }
            }
            said.join(", ")
        }

        fn execute(&mut self, server: usize) {
            let replies = self.fake.execute(&std::mem::take(&mut self.unread[server]), self.now);
            if !replies.is_empty() {
                self.servers[server].handle(Input::Received(replies.as_bytes()), self.now);
            }
        }

        fn list(&self) -> Option<&str> {
            self.fake.value("one:lockedby")
        }
    }

    fn shown(answer: &Answer) -> String {
        match answer {
            Answer::Yes(Grant { token, expires }) => {
                let token = token - BOOT.micros(at(0));
                format!("YES {token}{}", expires.map_or(String::new(), |left| format!(" {} s", left.as_secs())))
            }
            Answer::No => "NO".into(),
            Answer::Ok => "OK".into(),
            Answer::Invalid(_) => "INVALID".into(),
            Answer::Unavailable(why) => format!("503 {why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_list_is_for_all_servers() {
        let mut site = Site::new(&pool(1, 60));
        site.fake.forget();
        site.play(&[
            (0, "1 get a", "a YES 1 59 s"),
            (0, "2 get b", "b NO"),
            (0, "1 get a", "a YES 1 59 s"),
            (1, "2 release b", "b OK"),
            (2, "1 release a", "a OK"),
            (3, "2 get b", "b YES 2 59 s"),
        ]);
        assert_eq!(site.list(), Some("b"));
        assert_eq!(site.fake.value("one:token"), Some("1763000000000002"));
        assert_eq!(
            site.fake.heard[..6],
            [
                "gets one:lockedby",
                "incr one:token 1",
                "add one:token 0 0 16",
                "incr one:token 1",
                "add one:lockedby 0 60 1",
                "gets one:lockedby"
            ]
        );
    }

    #[test]
    fn a_release_here_wakes_at_once_and_elsewhere_within_a_quarter_of_a_second() {
        let mut site = Site::new(&pool(1, 0));
        site.play(&[
            (0, "1 get a", "a YES 1"),
            (0, "1 wait b", ""),
            (1, "2 wait c", ""),
            (2, "2 wait c2", ""),
            (3, "1 release a", "a OK, b YES 2"),
            (4, "1 release b", "b OK"),
            (251, "1 tick", ""),
            (252, "1 tick", "c YES 3, c2 YES 3"),
        ]);
    }

    #[test]
    fn however_many_wait_the_list_is_read_four_times_a_second() {
        let mut site = Site::new(&pool(1, 0));
        site.play(&[(0, "1 get a", "a YES 1")]);
        (0..1000).for_each(|number| site.happen(&format!("1 wait w{number}")));
        site.drain();
        let before = site.fake.heard.len();
        for time in (0..=10_000).step_by(10) {
            site.play(&[(time, "1 tick", "")]);
        }
        assert_eq!(site.fake.heard.len() - before, 40);
        assert!(site.fake.heard[before..].iter().all(|command| command == "gets one:lockedby"));
    }

    #[test]
    fn what_other_servers_wrote_is_believed() {
        let mut site = Site::new(&pool(2, 60));
        site.play(&[
            (0, "1 holds a,b", ""),
            (0, "1 get c", "c NO"),
            (0, "1 get a", "a YES 0 59 s"),
            (1, "1 release b", "b OK"),
            (2, "1 get c", "c YES 1 59 s"),
        ]);
        assert_eq!(site.list(), Some("a,c"));
        site.play(&[(3, "1 holds ", ""), (3, "1 get d", "d YES 2 59 s")]);
        assert_eq!(site.list(), Some("d"));
    }

    #[test]
    fn while_memcached_is_away_requests_fail_within_a_second_and_waiters_wait() {
        const WHY: &str = "503 cannot ask memcached at h:11211: refused";
        let mut site = Site::new(&pool(1, 60));
        site.play(&[
            (0, "1 get a", "a YES 1 59 s"),
            (0, "1 wait b", ""),
            (10, "1 unreachable", ""),
            (20, "1 get c", ""),
            (30, "1 release a", ""),
            (919, "1 tick", ""),
            (920, "1 tick", &format!("c {WHY}")),
            (930, "1 tick", &format!("a {WHY}")),
            (5000, "1 get c", ""),
            (5001, "1 reachable", ""),
            (7000, "1 tick", &format!("c {WHY}")),
            (7001, "1 release a", "a OK, b YES 2 59 s"),
        ]);
        let lost =
            "cannot ask memcached at h:11211: it closed the connection; requests fail until it answers, and whoever waits goes on waiting";
        let told = |note: &str| site.notes.iter().filter(|other| *other == note).count();
        assert_eq!((told(lost), told("memcached at h:11211 answers again, after 7.0 s")), (2, 2), "of either server");
    }

    #[test]
    fn that_memcached_answers_again_is_told_when_it_does_though_nobody_asks() {
        let mut site = Site::new(&pool(1, 60));
        site.play(&[(0, "1 get a", "a YES 1 59 s"), (3000, "1 unreachable", ""), (3010, "1 reachable", ""), (3050, "1 tick", "")]);
        assert_eq!(site.notes.last().unwrap(), "memcached at h:11211 answers again, after 0.1 s");
        let asked = site.fake.heard.len();
        site.play(&[(9000, "1 tick", "")]);
        assert_eq!(site.fake.heard.len(), asked);
    }

    #[test]
    fn a_line_that_is_lost_is_tried_again_less_and_less_often() {
        let mut site = Site::new(&pool(1, 60));
        site.play(&[(0, "1 unreachable", "")]);
        let mut pauses = Vec::new();
        let mut time = 0;
        for _ in 0..8 {
            let Output::Wait(Moment(wake)) = site.servers[0].poll(site.now) else { panic!("there is nothing to do") };
            let wake = u64::try_from(wake.as_millis()).unwrap();
            pauses.push(wake - time);
            time = wake;
            site.play(&[(time, "1 tick", "")]);
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
    }

    #[test]
    fn a_memcached_that_comes_to_itself_is_still_believed() {
        let mut site = Site::new(&pool(2, 60));
        site.play(&[
            (0, "1 get a", "a YES 1 59 s"),
            (100, "1 frozen", ""),
            (100, "1 get b", ""),
            (100, "1 wait c", ""),
            (200, "1 wait d", ""),
            (1000, "1 tick", "b 503 memcached does not answer"),
            (5000, "1 thawed", "c YES 2 59 s"),
            (5001, "1 release c", "c OK, d YES 3 59 s"),
        ]);
        assert_eq!(site.list(), Some("a,d"));
    }

    #[test]
    fn a_memcached_that_does_not_is_given_up() {
        let mut site = Site::new(&pool(1, 60));
        site.play(&[
            (0, "1 frozen", ""),
            (0, "1 wait a", ""),
            (9999, "1 tick", ""),
            (10_000, "1 tick", ""),
            (10_050, "1 tick", ""),
            (10_051, "1 thawed", "a YES 1 59 s"),
        ]);
        assert!(site.notes[0].starts_with("cannot ask memcached at h:11211: no reply for 10 s; "), "{:?}", site.notes);
    }

    #[test]
    fn what_memcached_refuses_fails_and_is_tried_again() {
        let mut site = Site::new(&pool(1, 60));
        site.fake.refuses = Some("SERVER_ERROR out of memory storing object");
        let why = "503 memcached refuses: it says \"out of memory storing object\"";
        site.play(&[
            (0, "1 get a", ""),
            (0, "1 wait b", ""),
            (249, "1 tick", ""),
            (250, "1 tick", ""),
            (900, "1 tick", &format!("a {why}")),
        ]);
        site.fake.refuses = None;
        site.play(&[(1200, "1 tick", "b YES 1 59 s")]);
        assert_eq!(site.fake.heard.iter().filter(|command| *command == "gets one:lockedby").count(), 4);
        assert_eq!(site.notes.iter().filter(|note| note.starts_with("nobody gets one")).count(), 1);
    }

    /// How often in two minutes somebody who answers so is connected to, and what is said of him.
    fn tried_and_told(replies: &[&[u8]]) -> (usize, Vec<String>) {
        let mut server = Memcache::new(vec![pool(1, 60)], "h:11211".into(), BOOT, at(0));
        server.handle(Input::Asked(Request { ticket: Ticket(0), call: Call::Wait, pool: "one", host: "a", run: None }), at(0));
        let (mut now, mut tried, mut notes, mut next) = (at(0), 0, Vec::new(), replies.iter());
        while now < at(120_000) {
            match server.poll(now) {
                Output::Connect => {
                    (tried, next) = (tried + 1, replies.iter());
                    server.handle(Input::Connected, now);
                }
                Output::Send(_) => match next.next() {
                    Some(reply) => server.handle(Input::Received(reply), now),
                    None => server.handle(Input::Disconnected(None), now),
                },
                Output::Note(_, note) => notes.push(note),
                Output::Wait(until) => {
                    now = until;
                    server.handle(Input::Tick, now);
                }
                _ => {}
            }
        }
        (tried, notes)
    }

    #[test]
    fn who_only_looks_like_a_memcached_is_named_once_and_tried_less_and_less_often() {
        for replies in [&[&b"STORED\r\n"[..]][..], &[b"END\r\n", b"7\r\n", b"HTTP/1.1 400 Bad Request\r\n"], &[b"END\r\n", b"END\r\n"], &[]]
        {
            let (tried, notes) = tried_and_told(replies);
            assert_eq!(notes.len(), 1, "{:?}", notes.get(1));
            assert!(tried < 70, "{tried} times");
        }
        let full = tried_and_told(&[b"ERROR Too many open connections\r\n"]);
        assert_eq!(full.1.len(), 2, "{full:?}");
        assert!(full.1[0].ends_with("memcached refuses: it says \"Too many open connections\""), "{full:?}");
        let fickle = tried_and_told(&[b"VALUE one:lockedby 0 1 1\r\nb\r\nEND\r\n"]);
        assert!(fickle.0 < 500 && fickle.1.len() < 1000, "{} times, {} notes", fickle.0, fickle.1.len());
    }

    #[test]
    fn a_memcached_that_refuses_before_it_is_asked_is_told_in_its_words() {
        let mut server = Memcache::new(vec![pool(1, 60)], "h:11211".into(), BOOT, at(0));
        assert_eq!(server.poll(at(0)), Output::Connect);
        server.handle(Input::Connected, at(0));
        server.handle(Input::Received(b"ERROR Too many open connections\r\n"), at(0));
        assert_eq!(server.poll(at(0)), Output::Disconnect);
        let Output::Note(_, note) = server.poll(at(0)) else { panic!("it says why") };
        assert!(note.starts_with("cannot ask memcached at h:11211: it says \"Too many open connections\"; "), "{note}");
    }

    #[test]
    fn names_stand_in_memcached_as_the_original_writes_them() {
        let mut site = Site::new(&plan::Pool { servers: Some(vec!["r&d".into(), "<b>".into(), "x&amp;y".into()]), ..pool(3, 60) });
        site.play(&[
            (0, "1 get r&d", "r&d YES 1 59 s"),
            (0, "1 get <b>", "<b> YES 2 59 s"),
            (0, "1 get x&y", "x&y YES 3 59 s"),
            (0, "1 get r&amp", "r&amp INVALID"),
        ]);
        assert_eq!(site.list(), Some("r&amp;d,&lt;b&gt;,x&amp;y"));
        site.play(&[(1, "1 lost <b> 2", ""), (2, "2 release r&d", "r&d OK"), (3, "2 get x&y", "x&y YES 3 58 s")]);
        assert_eq!(site.list(), Some("x&amp;y"));
    }

    #[test]
    fn a_pool_is_found_by_the_name_that_the_original_looks_for() {
        let mut server = Memcache::new(vec![plan::Pool { name: "r&amp;d".into(), ..pool(1, 60) }], "h:11211".into(), BOOT, at(0));
        server.handle(Input::Asked(Request { ticket: Ticket(0), call: Call::Get, pool: "r&d", host: "a", run: None }), at(0));
        assert_eq!(server.poll(at(0)), Output::Connect);
        server.handle(Input::Connected, at(0));
        assert_eq!(server.poll(at(0)), Output::Send(b"gets r&amp;d:lockedby\r\n".to_vec()));
    }

    #[test]
    fn what_is_no_list_is_left_alone() {
        let mut site = Site::new(&pool(1, 60));
        site.happen("1 get a");
        let Output::Connect = site.servers[0].poll(at(0)) else { panic!("it connects") };
        site.servers[0].handle(Input::Connected, at(0));
        let Output::Send(_) = site.servers[0].poll(at(0)) else { panic!("it reads the list") };
        site.servers[0].handle(Input::Received(b"VALUE one:lockedby 0 1 5\r\n\xff\r\nEND\r\n"), at(0));
        site.play(&[(900, "1 tick", "a 503 in memcached, one:lockedby is no list of hosts")]);
    }

    #[test]
    fn whoever_hung_up_while_it_was_written_does_not_stay_on_the_list() {
        let mut site = Site::new(&pool(1, 60));
        site.play(&[
            (0, "1 get c", "c YES 1 59 s"),
            (0, "1 release c", "c OK"),
            (0, "1 frozen", ""),
            (0, "1 wait a", ""),
            (0, "1 step", ""),
            (0, "1 step", ""),
            (1, "1 gone a", ""),
            (1, "1 wait b", ""),
            (1, "1 step", ""),
            (2, "1 thawed", "b YES 3 59 s"),
            (3, "1 lost b 3", ""),
            (4, "1 wait c", "c YES 4 59 s"),
            (5, "1 get c", "c YES 4 58 s"),
            (6, "1 lost c 4", ""),
            (7, "1 get d", "d NO"),
        ]);
        assert_eq!(site.list(), Some("c"));
    }

    #[test]
    fn whoever_knows_the_token_has_heard_so_no_answer_that_is_lost_takes_it_from_them() {
        for (renewal, stays) in [("1 renew a 1", "a"), ("1 renew a 9", "")] {
            let mut site = Site::new(&pool(1, 60));
            site.play(&[(0, "1 get a", "a YES 1 59 s"), (1, renewal, "a YES 1 59 s"), (2, "1 lost a 1", ""), (2, "1 lost a 1", "")]);
            assert_eq!(site.list(), Some(stays), "{renewal}");
        }
    }

    #[test]
    fn a_renewal_and_whatever_else_writes_the_list_restart_its_clock() {
        let mut site = Site::new(&pool(2, 60));
        site.play(&[
            (0, "1 get a", "a YES 1 59 s"),
            (10_000, "1 get a", "a YES 1 49 s"),
            (20_000, "1 renew a", "a YES 1 59 s"),
            (30_000, "2 get a", "a YES 1 59 s"),
            (40_000, "1 get a", "a YES 1 39 s"),
            (85_000, "1 get a", "a YES 1 59 s"),
            (86_000, "1 renew b", "b YES 2 59 s"),
            (87_000, "1 renew c", "c NO"),
        ]);
        let written = site.fake.heard.iter().filter(|command| command.starts_with("cas") || command.starts_with("add one:l"));
        assert_eq!(written.count(), 5, "{:?}", site.fake.heard);
    }

    #[test]
    fn an_expiry_counts_from_when_the_list_may_have_been_written() {
        let mut site = Site::new(&pool(1, 60));
        site.play(&[(0, "1 frozen", ""), (0, "1 wait a", ""), (0, "1 step", ""), (1000, "1 step", ""), (4000, "1 step", "a YES 1 56 s")]);
        site.play(&[(4000, "1 release a", ""), (4000, "1 wait b", ""), (4000, "1 step", ""), (4000, "1 step", "")]);
        site.play(&[(13_999, "1 step", "a OK, b YES 2 49 s")]);
    }

    #[test]
    fn an_expiry_is_told_as_memcached_takes_it() {
        for (expire, told) in [(0, "0"), (60, "60"), (2_592_000, "2592000"), (2_592_001, "1765592001")] {
            let mut site = Site::new(&pool(1, expire));
            site.happen("1 get a");
            assert!(site.drain().starts_with("a YES 1"));
            assert_eq!(site.fake.heard.last().unwrap(), &format!("add one:lockedby 0 {told} 1"));
        }
    }

    #[test]
    fn an_older_token_releases_nothing() {
        let mut site = Site::new(&pool(1, 60));
        site.play(&[
            (0, "1 get a", "a YES 1 59 s"),
            (1, "1 release a 1", "a OK"),
            (2, "1 get a", "a YES 2 59 s"),
            (3, "1 release a 1", "a OK"),
            (4, "1 get b", "b NO"),
            (5, "1 release a 2", "a OK"),
            (6, "2 get b", "b YES 3 59 s"),
            (7, "1 release b 3", "b OK"),
            (8, "1 get c", "c YES 4 59 s"),
        ]);
    }

    #[test]
    fn what_is_not_asked_well_is_invalid_whether_memcached_is_there_or_not() {
        let mut site = Site::new(&plan::Pool { servers: Some(vec!["a".into()]), ..pool(1, 60) });
        site.play(&[(0, "1 unreachable", ""), (0, "1 get b", "b INVALID"), (0, "1 wait b", "b INVALID"), (0, "1 get a,b", "a,b INVALID")]);
        site.play(&[(1, "1 reachable", ""), (60, "1 holds c", ""), (60, "1 release b", "b INVALID"), (60, "1 release c", "c OK")]);
    }

    #[test]
    fn a_new_config_holds_from_now_on() {
        let mut site = Site::new(&pool(1, 60));
        site.play(&[(0, "1 get a", "a YES 1 59 s"), (0, "1 wait b", ""), (0, "1 wait c", "")]);
        let servers = Some(vec!["a".into(), "b".into()]);
        site.servers[0].reconfigure(vec![plan::Pool { servers, ..pool(2, 30) }], at(1));
        site.play(&[(1, "1 tick", "c INVALID, b YES 2 29 s"), (2, "1 get a", "a YES 1 28 s"), (3, "1 frozen", ""), (3, "1 renew a", "")]);
        site.servers[0].reconfigure(Vec::new(), at(3));
        site.play(&[(4, "1 get a", "a INVALID, a INVALID")]);
        site.servers[0].reconfigure(vec![pool(1, 60)], at(5));
        site.play(&[(5, "1 get c", ""), (6, "1 thawed", "c NO")]);
    }
}
