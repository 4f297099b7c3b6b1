use mvkv::{Error, Isolation, Store};

#[test]
fn commit_and_conflict() {
    let store = Store::new();
    let mut tx = store.begin(Isolation::Snapshot);
    tx.put("a", 1);
    assert_eq!(tx.commit(), Ok(1));
    let mut one = store.begin(Isolation::Snapshot);
    let mut two = store.begin(Isolation::Snapshot);
    one.put("a", 2);
    two.put("a", 3);
    assert_eq!(one.commit(), Ok(2));
    assert_eq!(two.commit(), Err(Error::Conflict));
    assert_eq!(store.snapshot().get(&"a"), Some(2));
    assert_eq!(store.as_of(1).map(|s| s.get(&"a")), Ok(Some(1)));
}

#[test]
fn scanning() {
    let store = Store::new();
    let mut tx = store.begin(Isolation::Snapshot);
    for i in 0..5 {
        tx.put(i, i * i);
    }
    tx.commit().unwrap();
    let all: Vec<_> = store.snapshot().scan(1..4).collect();
    assert_eq!(all, [(1, 1), (2, 4), (3, 9)]);
}
