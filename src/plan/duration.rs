//! Times as operators write them, in options and config files: a number of seconds, or numbers with
//! units (`1h30m`).

use std::time::Duration;

/// The longest time in seconds that an operator can give as a number: 31 years. More is a typing
/// error; `inf` means without limit.
const MAX_SECONDS: f64 = 1e9;

/// A session timeout from a number of seconds. ZooKeeper has whole milliseconds in 31 bits.
pub fn session_timeout(seconds: f64) -> Option<Duration> {
    let longest = Duration::from_millis(2_147_483_647).as_secs_f64();
    (0.001..=longest)
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
}

/// A number of at most [`MAX_SECONDS`] in either direction, or infinity by its name; 1e999 is a
/// typing error. Blanks around it are ignored, as by Python's `float`.
pub fn number(text: &str) -> Option<f64> {
    let named = !text.contains(|character: char| character.is_ascii_digit());
    text.trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_infinite() && named || number.abs() <= MAX_SECONDS)
}

/// Seconds, from a number or from numbers with units.
pub fn time(text: &str) -> Option<f64> {
    number(text).or_else(|| with_units(text.trim()).filter(|&seconds| seconds <= MAX_SECONDS))
}

/// The units of a time, with their length in seconds.
const UNITS: [(char, f64); 4] = [('d', 86400.0), ('h', 3600.0), ('m', 60.0), ('s', 1.0)];

/// `1h30m` in seconds: numbers, each with its unit, the largest unit first.
fn with_units(text: &str) -> Option<f64> {
    let (mut rest, mut sum, mut above) = (text, 0.0, f64::INFINITY);
    while !rest.is_empty() {
        let at = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (digits, unit) = (&rest[..at], rest[at..].chars().next()?);
        let size = UNITS
            .iter()
            .find(|(name, size)| *name == unit && *size < above)?
            .1;
        sum += digits.parse::<f64>().ok()? * size;
        (rest, above) = (&rest[at + 1..], size);
    }
    (!text.is_empty()).then_some(sum)
}
