//! Texts and words: what needs no server, but for the cookbook's examples.

// bash completes what each program takes, and nothing else.
mod completions;
// Each example of the cookbook runs, or passes the checker of its own program.
mod cookbook;
// Help, parser, manual pages, completions and module map say the same.
mod docs;
// The patches of the simulation's known errors apply to the code.
mod known_errors;
// Imports point down, and the pure layers do no I/O.
mod layers;
// The name in argv[0], or the first word, picks one of the four programs.
mod programs;
