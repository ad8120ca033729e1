//! Judges a torture run by what its probe jobs recorded, and by no output of the program.

use super::probe_job::Holding;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A fault that was injected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Its kind.
    pub kind: String,
    /// When it ended, since boot.
    pub ended: Duration,
}

/// The result of a run.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Verdict {
    /// How often a lock was acquired.
    pub acquisitions: usize,
    /// How often it was acquired after another holder.
    pub hand_overs: usize,
    /// How often each fault was injected.
    pub faults: BTreeMap<String, usize>,
    /// Holders too many: of the earlier ones the one that ended last, and the one that began too
    /// early.
    pub overlaps: Vec<[Holding; 2]>,
    /// How often a holder began so soon after the last timestamp of another that only the kernel's
    /// lock shows that they did not overlap.
    pub close: usize,
    /// Exclusive holders whose token was not greater than the one before.
    pub stale_tokens: Vec<[Holding; 2]>,
    /// Locks that were not granted again in time, and after which fault.
    pub stuck: Vec<(String, Fault)>,
}

impl Verdict {
    /// Whether no promise was broken.
    pub fn is_good(&self) -> bool {
        self.overlaps.is_empty() && self.stale_tokens.is_empty() && self.stuck.is_empty()
    }
}

/// Judges a run that ended at `end`, for locks with `permits` holders at most. After a fault each
/// lock must be granted within `grace`.
pub fn judge(
    holdings: &[Holding],
    permits: usize,
    faults: &[Fault],
    grace: Duration,
    end: Duration,
) -> Verdict {
    let mut verdict = Verdict {
        acquisitions: holdings.len(),
        ..Verdict::default()
    };
    for fault in faults {
        *verdict.faults.entry(fault.kind.clone()).or_default() += 1;
    }
    let mut locks: BTreeMap<&str, Vec<&Holding>> = BTreeMap::new();
    for holding in holdings {
        locks.entry(&holding.lock).or_default().push(holding);
    }
    for (lock, holdings) in &mut locks {
        holdings.sort_unstable_by_key(|holding| holding.first);
        verdict.hand_overs += holdings.len() - 1;
        judge_order(holdings, permits, &mut verdict);
        let deadlines = faults.iter().filter(|fault| fault.ended + grace <= end);
        let missed = deadlines.filter(|fault| {
            !holdings
                .iter()
                .any(|holding| (fault.ended..=fault.ended + grace).contains(&holding.first))
        });
        verdict
            .stuck
            .extend(missed.map(|fault| ((*lock).to_owned(), fault.clone())));
    }
    verdict
}

/// Judges the holdings of one lock, in the order in which they began: each against all before
/// it. Holders of a semaphore may begin in another order than they acquired it.
fn judge_order(holdings: &[&Holding], permits: usize, verdict: &mut Verdict) {
    for (number, &holding) in holdings.iter().enumerate() {
        let before = &holdings[..number];
        let [together, doubtful] = [
            |holding: &Holding| holding.last,
            |holding: &Holding| holding.dead,
        ]
        .map(|end| {
            before
                .iter()
                .filter(|before| end(before) > holding.first)
                .count()
                >= permits
        });
        let longest = before.iter().max_by_key(|before| before.last);
        match longest {
            Some(&longest) if together || !holding.alone => {
                verdict.overlaps.push([longest.clone(), holding.clone()]);
            }
            _ => verdict.close += usize::from(doubtful),
        }
    }
    let pairs = holdings
        .windows(2)
        .filter(|pair| permits == 1 && pair[1].token <= pair[0].token);
    verdict
        .stale_tokens
        .extend(pairs.map(|pair| [pair[0].clone(), pair[1].clone()]));
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(
            f,
            "{} acquisitions, {} hand-overs",
            self.acquisitions, self.hand_overs
        )?;
        for (kind, count) in &self.faults {
            writeln!(f, "{count:>6} times {kind}")?;
        }
        let [overlaps, stale, stuck] = [
            self.overlaps.len(),
            self.stale_tokens.len(),
            self.stuck.len(),
        ];
        writeln!(
            f,
            "{overlaps} overlaps, {stale} tokens that did not grow, {stuck} locks not granted again in time"
        )?;
        writeln!(
            f,
            "{} hand-overs within a pulse of a last sign, the tree dead as the kernel saw it",
            self.close
        )?;
        for [one, other] in self.overlaps.iter().chain(&self.stale_tokens) {
            writeln!(f, "  {one:?}\n  {other:?}")?;
        }
        self.stuck
            .iter()
            .try_for_each(|(lock, fault)| writeln!(f, "  {lock} after {fault:?}"))
    }
}
