//! What a driver makes of a proxy that another process had before, or has by now.

use super::*;
use forge_api::egress::Inheritance;

impl Proxy {
    /// Answers a question for what an earlier engine left: a policy at `level`, whose counters say
    /// that so many connections were allowed.
    async fn bequeath(&mut self, level: NetworkLevel, allowed: u64, taken: u64) {
        let request = self.next().await;
        assert_eq!(short(&request.request), "inherit one");
        let policy = policy("one", level);
        let counters = EgressCounters {
            allowed,
            ..EgressCounters::default()
        };
        self.say(&ControlEvent::Answer {
            id: request.id,
            error: None,
            counters: Some(counters),
            inheritance: Some(Box::new(Inheritance { policy, taken })),
        })
        .await;
    }

    async fn count_allowed(&mut self, allowed: u64) {
        let request = self.next().await;
        assert_eq!(short(&request.request), "stats one");
        let counters = EgressCounters {
            allowed,
            ..EgressCounters::default()
        };
        self.say(&ControlEvent::Answer {
            id: request.id,
            error: None,
            counters: Some(counters),
            inheritance: None,
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_process_left_is_gone_on_with() {
    let bench = Bench::inheriting();
    let mut proxy = bench.proxy();
    bench.inherit("one").await;
    // What was not taken comes before anybody knows of the sandbox.
    let hello = proxy.next().await;
    proxy.say(&numbered("one", 5)).await;
    proxy.answer(hello.id, None).await;
    let records = bench.take("one").await;
    proxy.bequeath(NetworkLevel::PackageOnly, 3, 2).await;
    proxy.count_allowed(3).await;
    let records = records.await.unwrap().unwrap();
    assert_eq!((records.connections.len(), records.lost), (1, false));
    assert_eq!(
        (records.counters.allowed, records.counters.unrecorded),
        (3, 0)
    );
    let taken = proxy.next().await.request;
    assert!(
        matches!(taken, ControlRequest::Taken { number: 5, .. }),
        "{taken:?}"
    );
    // Its policy is known, and set again at another proxy.
    drop(proxy);
    bench.restart();
    let mut proxy = bench.proxy();
    proxy.greet().await;
    assert_eq!(proxy.accept_wish().await, "set one package_only");
    let records = bench.take("one").await;
    loop {
        if proxy.accept().await == "stats one" && !records.is_empty() {
            break;
        }
    }
    assert!(records.await.unwrap().unwrap().lost);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_was_set_at_a_proxy_that_is_gone_is_said_to_be_lost() {
    let bench = Bench::inheriting();
    let mut proxy = bench.proxy();
    bench.inherit("one").await;
    proxy.greet().await;
    assert_eq!(proxy.accept().await, "inherit one");
    let records = bench.take("one").await.await.unwrap().unwrap();
    assert!(records.lost && records.connections.is_empty());
    // Half of what an earlier proxy may have given is all that is left of the first phase.
    let answer = bench.set_limited(PhaseName::Setup, 1000).await;
    assert_eq!(proxy.accept_limit().await, 500);
    answer.await.unwrap().unwrap();
    let answer = bench.set_limited(PhaseName::Solve, 1000).await;
    assert_eq!(proxy.accept_limit().await, 1000);
    answer.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_is_looked_up_before_its_policy_is_set() {
    let bench = Bench::inheriting();
    let mut proxy = bench.proxy();
    let new = bench.set("two", NetworkLevel::FullWeb).await;
    proxy.greet().await;
    assert_eq!(proxy.accept().await, "inherit two");
    assert_eq!(proxy.accept_wish().await, "set two full_web");
    new.await.unwrap().unwrap();
    let old = bench.set("one", NetworkLevel::FullWeb).await;
    proxy.bequeath(NetworkLevel::PackageOnly, 9, 9).await;
    assert_eq!(proxy.accept_wish().await, "set one full_web");
    old.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_that_comes_again_counts_once_and_is_said_to_be_taken_again() {
    let bench = Bench::new();
    let mut proxy = bench.with_sandbox("one").await;
    proxy.say(&numbered("one", 1)).await;
    let records = bench.take("one").await;
    proxy.count_allowed(1).await;
    assert_eq!(records.await.unwrap().unwrap().connections.len(), 1);
    assert_eq!(short(&proxy.next().await.request), "taken one");
    // Lost with that.
    drop(proxy);
    let mut proxy = bench.proxy();
    proxy.greet().await;
    proxy.say(&numbered("one", 1)).await;
    proxy.say(&numbered("one", 2)).await;
    assert_eq!(proxy.accept_wish().await, "set one package_only");
    let records = bench.take("one").await;
    proxy.count_allowed(2).await;
    let records = records.await.unwrap().unwrap();
    assert_eq!(
        (records.connections.len(), records.counters.allowed),
        (1, 2)
    );
    let taken = proxy.next().await.request;
    assert!(
        matches!(taken, ControlRequest::Taken { number: 2, .. }),
        "{taken:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_an_earlier_process_left_is_removed_unseen() {
    let bench = Bench::inheriting();
    // Alone it is no reason to make a proxy.
    bench.remove_of("old", true).await.await.unwrap();
    let attempted = timeout(Duration::from_secs(60), bench.source.attempts.notified()).await;
    assert!(attempted.is_err());
    let mut proxy = bench.proxy();
    let answer = bench.set("two", NetworkLevel::Isolated).await;
    proxy.greet().await;
    assert_eq!(proxy.accept().await, "remove old");
    assert_eq!(proxy.accept().await, "inherit two");
    assert_eq!(proxy.accept().await, "set two isolated");
    answer.await.unwrap().unwrap();
    let removed = bench.remove_of("older", true).await;
    assert_eq!(proxy.accept().await, "remove older");
    removed.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_lost_the_proxy_to_another_process_says_so_and_never_comes_back() {
    for told in [true, false] {
        let bench = Bench::inheriting();
        let mut proxy = bench.proxy();
        let answer = bench.set("one", NetworkLevel::Isolated).await;
        proxy.greet().await;
        proxy.accept().await;
        proxy.accept().await;
        answer.await.unwrap().unwrap();
        if told {
            proxy.say(&ControlEvent::Superseded).await;
        } else {
            let mut next = bench.proxy();
            drop(proxy);
            next.next().await;
            next.say(&ControlEvent::Superseded).await;
        }
        let error = bench.take("one").await.await.unwrap().unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
        let error = bench.set("two", NetworkLevel::Isolated).await;
        let error = error.await.unwrap().unwrap_err();
        assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
        bench.remove("one").await.await.unwrap();
        bench.send(Order::Close).await;
        assert_eq!(bench.driver.join().await.unwrap(), End::Superseded);
    }
}
