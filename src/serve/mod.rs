//! The loop of a lock server. It joins door, connections, pools, their state and signals, and
//! sleeps in one place, the wait of its epoll.

mod api;
mod connection;
mod connection_table;
mod http_session;
mod listener;
mod memcached;
mod server_log;
mod server_metrics;
mod service;
mod state_file;

use crate::log;
use crate::moment::Moment;
use crate::plan::{self, End, Exit, Level, Server};
use crate::pool::memcached::Memcache;
use crate::pool::memory::Memory;
use crate::pool::state::{BootTime, State};
use crate::pool::{Backend, Input, Output};
use crate::reason::reason;
use crate::signal::Signal;
use crate::sys::clock::now;
use crate::sys::epoll::{Epoll, Event, Interest};
use crate::sys::signals::Signals;
use crate::sys::timer::Timer;
use crate::sys::{descriptors, signals};
use listener::{Caller, Door};
use memcached::Memcached;
use server_log::Story;
use service::Service;
use state_file::StateFile;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the last answers may take to arrive when the server ends.
const ENDING: Duration = Duration::from_secs(2);

/// What the epoll calls its descriptors; all others are connections.
const SIGNALS: u64 = 0;
const TIMER: u64 = 1;
const DOOR: u64 = 2;
const MEMCACHED: u64 = 3;

/// Makes the plan again, or says why it cannot.
pub type Again<'a> = &'a mut dyn FnMut() -> Result<Server, String>;

/// Serves until TERM or INT. `again` is called for HUP.
pub fn serve(plan: &Server, again: Again) -> Exit {
    signals::survive_file_limit();
    match Serving::new(plan) {
        Ok(serving) => {
            serving.run(again);
            Exit::Code(0)
        }
        Err((end, why)) => {
            log::complain(plan.program, &why);
            plan.exit_codes.exit(end)
        }
    }
}

/// Whether the state of a planned server can be read and written. Leaves everything as it is.
pub fn check_state(plan: &Server) -> Result<(), (End, String)> {
    plan.state.as_deref().map_or(Ok(()), |path| {
        StateFile::check(path).map_err(|error| {
            let config = plan.config.display();
            (error.end(), format!("{config}: \"state\": {error}"))
        })
    })
}

/// A server, at work.
struct Serving<'a> {
    plan: &'a Server,
    story: Story<'a>,
    service: Service<'a>,
    signals: Signals,
    timer: Timer,
    /// `None` once nobody comes in any more.
    door: Option<Door>,
    state_file: Option<StateFile>,
    /// Where the holders are, if that is not here.
    memcached: Option<Memcached>,
    /// Until when the last answers may arrive, once that is all there is to do.
    ending: Option<Moment>,
}

impl<'a> Serving<'a> {
    fn new(plan: &'a Server) -> Result<Serving<'a>, (End, String)> {
        let system = |what: &'static str| {
            move |error: io::Error| (End::System, format!("cannot {what}: {}", reason(&error)))
        };
        let signals = Signals::take_only(&[Signal::TERM, Signal::INT, Signal::HUP])
            .map_err(system("listen to signals"))?;
        let timer = Timer::new().map_err(system("make a timer"))?;
        let epoll = Epoll::new().map_err(system("make an epoll"))?;
        // Before clients can connect: at boot it may take a while until the name is known.
        let memcached = match &plan.backend {
            plan::Backend::Memory => None,
            plan::Backend::Memcache(host) => {
                Some(Memcached::find(host, now()).map_err(|why| (End::Unreachable, why))?)
            }
        };
        let descriptors =
            descriptors::raise_limit().map_err(system("find how many descriptors there may be"))?;
        let door = Door::open(plan, descriptors).map_err(|why| (End::System, why))?;
        let opened = plan.state.as_deref().map(StateFile::open).transpose();
        let (state_file, state) = opened
            .map_err(|error| (error.end(), error.to_string()))?
            .unzip();
        let watched = door
            .watch(&epoll, DOOR)
            .and_then(|()| epoll.add(signals.fd(), SIGNALS, Interest::Read));
        let watched = watched.and_then(|()| {
            timer
                .fd()
                .map_or(Ok(()), |fd| epoll.add(fd, TIMER, Interest::Read))
        });
        watched.map_err(system("watch descriptors"))?;
        let story = Story {
            program: plan.program,
            verbose: plan.verbose,
        };
        let (pools, now) = (plan.pools.clone(), now());
        let backend: Box<dyn Backend> = match &plan.backend {
            plan::Backend::Memory => Box::new(Memory::new(pools, state, unix_micros(), now)),
            plan::Backend::Memcache(host) => Box::new(Memcache::new(
                pools,
                host.to_string(),
                BootTime::of(&state_file::clocks()),
                now,
            )),
        };
        let service = Service::new(story, epoll, backend);
        Ok(Serving {
            plan,
            story,
            service,
            signals,
            timer,
            door: Some(door),
            state_file,
            memcached,
            ending: None,
        })
    }

    fn run(mut self, again: Again) {
        if let Some(door) = &self.door {
            self.story.begin(self.plan, door);
        }
        loop {
            let wake = self.drain();
            if self
                .ending
                .is_some_and(|until| self.service.crowd().is_empty() || until <= now())
            {
                return self.end();
            }
            self.sleep(wake.min(self.wake()), again);
        }
    }

    /// When something is to be done that the backend does not know of.
    fn wake(&self) -> Moment {
        let door = self.door.as_ref().map_or(Moment::NEVER, Door::wake);
        self.service
            .crowd()
            .wake()
            .min(door)
            .min(self.ending.unwrap_or(Moment::NEVER))
    }

    /// Does all that the backend wants done now; returns when it wants to be asked again.
    fn drain(&mut self) -> Moment {
        loop {
            match self.service.backend.poll(now()) {
                Output::Answer(ticket, answer) => self.service.deliver(ticket, &answer),
                Output::Report(ticket) => self.service.show(ticket),
                Output::Save(state) => self.save(&state),
                Output::Note(level, note) => self.story.tell(level, &note),
                Output::Transport(output) => {
                    let memcached = self.memcached.as_mut();
                    if let Some(event) = memcached.and_then(|memcached| memcached.execute(output)) {
                        self.service.backend.handle(Input::Transport(event), now());
                    }
                }
                Output::Wait(until) => {
                    if !self.service.see_off() && !self.service.settle() {
                        return until;
                    }
                }
            }
        }
    }

    fn save(&mut self, state: &State) {
        let saved = self
            .state_file
            .as_ref()
            .map_or(Ok(()), |file| file.save(state));
        let counts = &mut self.service.counts;
        *(if saved.is_ok() {
            &mut counts.saves
        } else {
            &mut counts.failed_saves
        }) += 1;
        self.service
            .backend
            .handle(saved.map_or_else(Input::NotSaved, |()| Input::Saved), now());
    }

    /// Sleeps until `wake` or until something happens, and takes it all in.
    fn sleep(&mut self, wake: Moment, again: Again) {
        // Each request moves somebody's deadline, and a timer that wakes us once too early costs
        // less than setting it each time.
        self.timer.set_by((wake != Moment::NEVER).then_some(wake));
        if let Some(Err(error)) = self
            .memcached
            .as_mut()
            .map(|memcached| memcached.watch(&self.service.epoll, MEMCACHED))
        {
            self.story.tell(
                Level::Error,
                &format_args!(
                    "cannot watch the connection to memcached: {}",
                    reason(&error)
                ),
            );
        }
        let news = self
            .service
            .epoll
            .wait(self.timer.poll_limit(now()))
            .unwrap_or_else(|error| {
                self.story.tell(
                    Level::Error,
                    &format_args!("cannot wait: {}", reason(&error)),
                );
                Vec::new()
            });
        for Event { key, ended } in news {
            match key {
                SIGNALS => self.hear_signals(again),
                TIMER => self.timer.clear(),
                DOOR => self.let_in(),
                MEMCACHED => self.hear_memcached(),
                key => self.service.attend(key, ended),
            }
        }
        self.service.call_time();
        if let Some(door) = &mut self.door
            && let Err(error) = door.reopen(&self.service.epoll, DOOR, now())
        {
            self.story.tell(
                Level::Error,
                &format_args!("cannot accept connections: {}", reason(&error)),
            );
        }
        self.service.backend.handle(Input::Tick, now());
    }

    fn hear_memcached(&mut self) {
        if let Some(memcached) = &mut self.memcached {
            memcached.ready(|event| {
                self.service.backend.handle(Input::Transport(event), now());
            });
        }
    }

    fn let_in(&mut self) {
        let Some(door) = &mut self.door else { return };
        for caller in door.callers(self.service.crowd().len()) {
            match caller {
                Caller::Guest(stream) => self.service.welcome(stream),
                Caller::Surplus(stream) => self.service.turn_away(stream),
                Caller::Shortage(why) => match door.close(&self.service.epoll, DOOR, now()) {
                    Ok(true) => self.story.tell(
                        Level::Warning,
                        &format_args!("nobody comes in for a while: {why}"),
                    ),
                    Ok(false) => {}
                    Err(error) => self.story.tell(
                        Level::Error,
                        &format_args!("cannot stop accepting connections: {}", reason(&error)),
                    ),
                },
            }
        }
    }

    fn hear_signals(&mut self, again: Again) {
        while let Some(received) = self.signals.next() {
            match (received.signal, self.ending) {
                (Signal::HUP, None) => self.read_again(again()),
                (signal @ (Signal::TERM | Signal::INT), None) => self.begin_to_end(signal),
                (Signal::TERM | Signal::INT, Some(_)) => self.ending = Some(now()),
                _ => {}
            }
        }
    }

    fn read_again(&mut self, plan: Result<Server, String>) {
        match plan {
            Ok(plan) => {
                self.story.read_again(self.plan, &plan);
                self.service.backend.reconfigure(plan.pools, now());
            }
            Err(why) => self.story.tell(
                Level::Error,
                &format_args!("{why}; the pools stay as they are"),
            ),
        }
    }

    /// Nobody comes in any more, and all that is asked is answered.
    fn begin_to_end(&mut self, signal: Signal) {
        self.story
            .tell(Level::Info, &format_args!("ending after {signal}"));
        self.ending = Some(now() + ENDING);
        self.door = None;
        self.service.wind_up("the server is ending");
    }

    /// What was not heard by now was not said.
    fn end(mut self) {
        self.service.close_all();
        self.drain();
        self.story.tell(Level::Info, &"ended");
    }
}

fn unix_micros() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}
