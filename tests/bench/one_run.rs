//! One run of `true` under a lock that is free.

use crate::Effort;
use crate::contestants::{Contender, Contestants};
use crate::stopwatch::{Cost, Costs, borrowed, job, system_calls, time};
use crate::table::{Table, mb, ms, ratio};
use common::proxy::Proxy;

/// What is locked.
pub const LOCK: &str = "one-run";

/// What a contender is measured by, of one run.
struct Figures {
    costs: Costs,
    memory: u64,
    calls: usize,
    packets: Option<usize>,
}

/// Measures all in turn, round after round.
pub fn measure(contestants: &Contestants, effort: &Effort) -> Table {
    let head = [
        "one run of `true`",
        "time, × floor",
        "CPU, × floor",
        "time",
        "CPU",
        "memory",
        "system calls",
        "packets",
    ];
    let mut table = Table::new(&head);
    let all: Vec<_> = [Ok(contestants.floor())]
        .into_iter()
        .chain(contestants.contenders())
        .collect();
    let there: Vec<&Contender> = all.iter().flatten().collect();
    let mut figures: Vec<Figures> = there
        .iter()
        .map(|contender| count(contestants, contender))
        .collect();
    for _ in 0..effort.runs {
        for (contender, figures) in there.iter().zip(&mut figures) {
            figures.costs.add(time(
                &contestants.sandbox,
                &contestants.programs,
                &contender.words(LOCK, &["true"]),
            ));
        }
    }
    let floor = &figures[0].costs;
    for (
        contender,
        Figures {
            costs,
            memory,
            calls,
            packets,
        },
    ) in there.iter().zip(&figures)
    {
        let packets = packets.map_or("–".into(), |packets| packets.to_string());
        let ratios = [
            ratio(costs.wall(), floor.wall()),
            ratio(costs.cpu(), floor.cpu()),
        ];
        let plain = [
            ms(costs.wall()),
            ms(costs.cpu()),
            mb(*memory),
            calls.to_string(),
            packets,
        ];
        table.row(contender.name, &[&ratios[..], &plain].concat());
    }
    for missing in all.iter().filter_map(|contender| contender.as_ref().err()) {
        table.missing(missing.name, missing.remedy);
    }
    table
}

/// What noise does not touch. The command is one that does next to nothing, so that the figures are
/// those of who runs it.
fn count(contestants: &Contestants, contender: &Contender) -> Figures {
    let (sandbox, programs) = (&contestants.sandbox, &contestants.programs);
    let nothing = [
        programs
            .stopwatch
            .to_str()
            .expect("paths of tests are text"),
        "nothing",
    ];
    let words = contender.words(LOCK, &nothing);
    let warm_up: Cost = time(sandbox, programs, &words);
    let packets = contender.server.address().map(|address| {
        let proxy = Proxy::start(address);
        let words = contender.words_at(&proxy.address, LOCK, &nothing);
        let outcome = job(sandbox, words[0].as_ref())
            .words(&borrowed(&words[1..]))
            .run();
        assert_eq!(outcome.end, Ok(0), "{outcome:?}");
        proxy.chunks().len()
    });
    let memory = time(sandbox, programs, &words).memory.min(warm_up.memory);
    Figures {
        costs: Costs::default(),
        memory,
        calls: system_calls(sandbox, &words),
        packets,
    }
}
