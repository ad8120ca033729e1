//! Picks a program by the name it was called by.

fn main() {}
