//! `zk-flock` is flock(1) for a cluster: it runs a command while it holds a lock that every host can see.
//! `lockex`, the same executable by another name, does so with a queue.
//!
//! # The story
//!
//! ```text
//! argv ─► Options ─► + config file, environment ─► Plan ─► prepare ─► run ─► exit code
//!
//! run: lock says Acquired ─► Start command ─► command Ended | lock Lost | signal ─► tree gone ─► minimum hold ─► release ─► Exit
//! ```
//!
//! Start reading at [`run`], the loop, then at [`supervisor`], which decides. Two processes stand over the command: this program keeps
//! the lock; the *guard*, forked just before the command, keeps the command and its process tree, and sees to it that the tree is dead
//! before the lock can belong to anybody else, whatever becomes of us.
//!
//! # Rooms, by ring; imports point down
//!
//! 1. Words to plan: [`cli`] (help and options of each program, `zk_flock` and `lockex`, which names locks by `python_hash`; what they
//!    share: `options`, `value`, `hosts`, `names`, `words`), [`config`] (the JSON file; `text`), [`plan`] (what they come to).
//! 2. Pure machines, `(event, now) → action`: [`supervisor`], [`guard`], [`lock`] (the contract; `local`; `node`, `queue` and
//!    `semaphore`, recipes on `session_lock`, with `parents` and `acl`; `fake`, a server for their tests) on [`zookeeper`] (`wire`,
//!    `record`, `code`, `request`, `session`, `lease`); [`moment`] and [`signal`], their vocabulary.
//! 3. Effects: [`prepare`] (once, before the loop), [`run`] (the loop; its `setup`, its `guard` and the `line` to it, `files`, `story`),
//!    [`link`] (one connection), [`log`].
//! 4. [`sys`]: system calls, and the only unsafe code. Waiting: `poll`, `timer`, `clock`. Signals: `signals`, `mask`, `disposition`,
//!    `inherited`, `entry`. Processes: `process`, `spawn`, `pidfd`, `tree`, `title`, `daemon`. The rest: `descriptors`, `file`, `socket`,
//!    `random`, `host`, and `testing` for their tests.
//!
//! Rings 1 and 2 know no libc, `sys`, sockets, processes, clock or log; `cli` reads one file, its config.

pub mod cli;
pub mod config;
pub mod guard;
pub mod link;
pub mod lock;
pub mod log;
pub mod moment;
pub mod plan;
pub mod prepare;
pub mod run;
pub mod signal;
pub mod supervisor;
pub mod sys;
pub mod zookeeper;
