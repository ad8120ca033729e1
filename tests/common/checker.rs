//! Judges a torture run by what its jobs have written, and by nothing that the program says of
//! itself.

use super::life::Life;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Something that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What it was.
    pub kind: String,
    /// When it was over, since boot.
    pub ended: Duration,
}

/// What the run comes to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Verdict {
    /// How often a lock was taken.
    pub acquisitions: usize,
    /// How often from another.
    pub hand_overs: usize,
    /// How often each thing was broken.
    pub faults: BTreeMap<String, usize>,
    /// Who began before as many as may were dead: who of these lived longest, and who began.
    pub overlaps: Vec<[Life; 2]>,
    /// How often a job began so soon after the last sign of another that the signs alone would
    /// leave a doubt, and the kernel leaves none.
    pub close: usize,
    /// Whose token was not greater than the one before, of a lock for one.
    pub stale_tokens: Vec<[Life; 2]>,
    /// Which lock was not granted again in time, after which fault.
    pub stuck: Vec<(String, Fault)>,
}

impl Verdict {
    /// Whether the promise was kept.
    pub fn is_good(&self) -> bool {
        self.overlaps.is_empty() && self.stale_tokens.is_empty() && self.stuck.is_empty()
    }
}

/// Judges a run that was over at `end`, for locks that so many may hold. After a fault each lock
/// must be granted within `grace`.
pub fn judge(
    lives: &[Life],
    permits: usize,
    faults: &[Fault],
    grace: Duration,
    end: Duration,
) -> Verdict {
    let mut verdict = Verdict {
        acquisitions: lives.len(),
        ..Verdict::default()
    };
    for fault in faults {
        *verdict.faults.entry(fault.kind.clone()).or_default() += 1;
    }
    let mut locks: BTreeMap<&str, Vec<&Life>> = BTreeMap::new();
    for life in lives {
        locks.entry(&life.lock).or_default().push(life);
    }
    for (lock, lives) in &mut locks {
        lives.sort_unstable_by_key(|life| life.first);
        verdict.hand_overs += lives.len() - 1;
        judge_order(lives, permits, &mut verdict);
        let deadlines = faults.iter().filter(|fault| fault.ended + grace <= end);
        let missed = deadlines.filter(|fault| {
            !lives
                .iter()
                .any(|life| (fault.ended..=fault.ended + grace).contains(&life.first))
        });
        verdict
            .stuck
            .extend(missed.map(|fault| ((*lock).to_owned(), fault.clone())));
    }
    verdict
}

/// Judges the lives of one lock, by their beginning: each against all before it. Those who hold a
/// semaphore together may begin in another order than they were let in.
fn judge_order(lives: &[&Life], permits: usize, verdict: &mut Verdict) {
    for (number, &life) in lives.iter().enumerate() {
        let before = &lives[..number];
        let [together, doubtful] = [|life: &Life| life.last, |life: &Life| life.dead].map(|end| {
            before
                .iter()
                .filter(|before| end(before) > life.first)
                .count()
                >= permits
        });
        let longest = before.iter().max_by_key(|before| before.last);
        match longest {
            Some(&longest) if together || !life.alone => {
                verdict.overlaps.push([longest.clone(), life.clone()]);
            }
            _ => verdict.close += usize::from(doubtful),
        }
    }
    let pairs = lives
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
