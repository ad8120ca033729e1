//! x
mod common;
use common::ensemble::Ensemble;
#[test]
fn starts() {
    let t = std::time::Instant::now();
    let e = Ensemble::start();
    eprintln!("{:?} leader {}", t.elapsed(), e.leader());
    let l = e.leader();
    e.depose(l);
    let t = std::time::Instant::now();
    for _ in 0..100 { eprintln!("{:?} {:?}", t.elapsed(), common::ensemble::SERVERS.map(|s| e.mode(s))); std::thread::sleep(std::time::Duration::from_millis(100)); }
}
