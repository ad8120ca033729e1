use super::*;

const SESSION: i64 = 0x1_0000_abcd;

fn client() -> QueuedClient {
    QueuedClient {
        host: "a".into(),
        run: None,
        since: 0,
    }
}

fn join(queue: &mut Queue) {
    let waiting: Vec<_> = queue.unqueued().collect();
    let joining = waiting.into_iter().map(|ticket| (ticket, client()));
    queue.join(SESSION, &[], joining);
}

fn queue(tickets: &[u64]) -> Queue {
    let mut queue = Queue::new("/d/one".into());
    tickets.iter().for_each(|&ticket| queue.add(Ticket(ticket)));
    join(&mut queue);
    queue.take_requests();
    queue
}

fn name(ticket: u64, sequence: i64) -> String {
    format!("{SESSION:x}.{ticket}-{sequence:010}")
}

fn other(sequence: i64) -> String {
    format!("77.1-{sequence:010}")
}

fn sent(queue: &mut Queue) -> Vec<String> {
    queue.step();
    let shown = |request| match request {
        Request::Create { path, .. } => format!("create {path}"),
        Request::Delete { path } => format!("delete {path}"),
        Request::Data { path, .. } => format!("watch {path}"),
        Request::Children { .. } => "list".into(),
        Request::Check { .. } => "check".into(),
        request => format!("{request:?}"),
    };
    queue.take_requests().into_iter().map(shown).collect()
}

fn next(queue: &Queue) -> Option<u64> {
    queue.next(&BTreeSet::new()).map(|ticket| ticket.0)
}

#[test]
fn entry_is_first_once_all_lower_ones_have_ended_each_watched_at_most_once() {
    let mut queue = queue(&[1, 2]);
    assert!(sent(&mut queue).is_empty());
    assert_eq!(queue.created(&name(1, 5)), Ok(()));
    assert_eq!(queue.created(&name(2, 7)), Ok(()));
    assert_eq!(
        (sent(&mut queue), next(&queue)),
        (vec!["list".into()], None)
    );
    assert!(sent(&mut queue).is_empty());
    let names = [
        other(3),
        name(1, 5),
        other(6),
        name(2, 7),
        other(4),
        "config".into(),
    ];
    queue.list_read(&names, SESSION);
    assert_eq!(sent(&mut queue), [format!("watch /d/one/{}", other(4))]);
    assert!(sent(&mut queue).is_empty());
    queue.ended(&other(4));
    assert_eq!(next(&queue), None);
    assert_eq!(sent(&mut queue), [format!("watch /d/one/{}", other(3))]);
    queue.served(3);
    assert_eq!(next(&queue), Some(1));
    assert!(sent(&mut queue).is_empty());
    // The second entry is behind one of another server, which was listed already.
    assert_eq!(queue.next(&[Ticket(1)].into()), None);
    queue.granted(Ticket(1));
    assert_eq!(sent(&mut queue), [format!("watch /d/one/{}", other(6))]);
    queue.ended(&other(6));
    assert_eq!((sent(&mut queue), next(&queue)), (vec![], Some(2)));
}

#[test]
fn client_that_hangs_up_before_its_place_exists_leaves_none() {
    let mut queue = queue(&[1, 2]);
    queue.leave(Ticket(1));
    assert_eq!(queue.created(&name(1, 0)), Ok(()));
    assert_eq!(sent(&mut queue), [format!("delete /d/one/{}", name(1, 0))]);
    assert_eq!(queue.created(&name(2, 1)), Ok(()));
    queue.leave(Ticket(2));
    assert_eq!(sent(&mut queue), [format!("delete /d/one/{}", name(2, 1))]);
}

#[test]
fn what_a_lost_answer_leaves_open_is_read_after_the_reconnect() {
    let mut queue = queue(&[1, 2, 3]);
    assert_eq!(queue.created(&name(1, 0)), Ok(()));
    queue.list_read(&[name(1, 0)], SESSION);
    assert_eq!(next(&queue), Some(1));
    queue.leave(Ticket(1));
    queue.disconnected();
    assert_eq!(
        (sent(&mut queue), next(&queue)),
        (vec!["check".into(), "list".into()], None)
    );
    // The delete was lost, the creates of two other entries were carried out, one of them for a
    // client that has hung up meanwhile.
    queue.leave(Ticket(2));
    queue.list_read(&[name(1, 0), name(2, 1)], SESSION);
    assert_eq!(
        sent(&mut queue),
        [(1, 0), (2, 1)].map(|(ticket, number)| format!("delete /d/one/{}", name(ticket, number)))
    );
    assert_eq!(queue.unqueued().collect::<Vec<_>>(), [Ticket(3)]);
    join(&mut queue);
    assert_eq!(sent(&mut queue), [format!("create /d/one/{SESSION:x}.3-")]);
    // This time the entry was created, and only the answer was lost.
    queue.disconnected();
    sent(&mut queue);
    queue.list_read(&[name(3, 2)], SESSION);
    assert_eq!((sent(&mut queue), next(&queue)), (vec![], Some(3)));
    // The next session has none of them.
    queue.disconnected();
    queue.session_ended();
    assert_eq!(queue.unqueued().collect::<Vec<_>>(), [Ticket(3)]);
    assert_eq!((sent(&mut queue), next(&queue)), (vec![], None));
}

#[test]
fn entry_that_was_deleted_by_hand_is_created_again() {
    let mut queue = queue(&[1]);
    assert_eq!(queue.created(&name(1, 0)), Ok(()));
    queue.list_read(&[], SESSION);
    assert_eq!(queue.unqueued().collect::<Vec<_>>(), [Ticket(1)]);
}

#[test]
fn entry_that_has_been_served_is_not_waited_for() {
    let mut queue = queue(&[1]);
    assert_eq!(queue.created(&name(1, 5)), Ok(()));
    queue.served(3);
    assert_eq!(sent(&mut queue), ["list"]);
    queue.list_read(&[other(3), name(1, 5)], SESSION);
    assert_eq!((sent(&mut queue), next(&queue)), (vec![], Some(1)));
}

#[test]
fn doubt_is_over_with_a_list_that_was_requested_after_it() {
    let mut queue = queue(&[1, 2]);
    assert_eq!(queue.created(&name(1, 0)), Ok(()));
    assert_eq!(sent(&mut queue), ["list"]);
    queue.doubt();
    assert!(sent(&mut queue).is_empty());
    queue.list_read(&[name(1, 0)], SESSION);
    assert_eq!(queue.created(&name(2, 1)), Ok(()));
    assert_eq!(next(&queue), None);
    assert_eq!(sent(&mut queue), ["check", "list"]);
    queue.list_read(&[name(2, 1)], SESSION);
    assert_eq!(queue.unqueued().collect::<Vec<_>>(), [Ticket(1)]);
    assert_eq!(next(&queue), Some(2));
}

#[test]
fn waiter_has_one_entry_however_often_it_joins() {
    let mut queue = queue(&[1]);
    queue.leave(Ticket(1));
    queue.add(Ticket(1));
    join(&mut queue);
    queue.take_requests();
    assert_eq!(queue.created(&name(1, 4)), Ok(()));
    assert_eq!(queue.created(&name(1, 5)), Ok(()));
    assert_eq!(
        sent(&mut queue),
        [format!("delete /d/one/{}", name(1, 5)), "list".into()]
    );
    queue.list_read(&[name(1, 4), name(1, 3)], SESSION);
    assert_eq!(sent(&mut queue), [format!("delete /d/one/{}", name(1, 3))]);
    assert_eq!(next(&queue), Some(1));
    queue.granted(Ticket(1));
    assert_eq!((next(&queue), queue.queued()), (None, 0));
}

#[test]
fn queue_whose_sequence_numbers_are_used_up_takes_no_waiter() {
    for sequence in ["2146435073", "-2147483648"] {
        let mut queue = queue(&[1]);
        let name = format!("{SESSION:x}.1-{sequence}");
        assert_eq!(queue.created(&name), Err(Ticket(1)), "{name}");
        assert_eq!(queue.joining(), 0);
        assert_eq!(sent(&mut queue), [format!("delete /d/one/{name}")]);
    }
}
