import pytest

from loadcache import LoadingCache


def test_ttl(clock):
    loads = []

    def loader(key):
        clock.now += 3
        loads.append(key)
        return len(loads)

    cache = LoadingCache(loader, ttl=10, clock=clock)
    assert cache.get("k") == 1
    clock.now += 9.5
    assert cache.get("k") == 1
    clock.now += 0.5
    assert len(cache) == 0
    assert cache.get("k") == 2
    assert cache.stats() == {"hits": 1, "loads": 2, "joins": 0, "failures": 0, "evictions": 0}
    cache.put("p", "x")
    clock.now += 9
    assert cache.get("p") == "x"
    cache.put("p", "y")
    clock.now += 9
    assert cache.get("p") == "y"


def test_for_ever(clock):
    cache = LoadingCache(str, clock=clock)
    cache.get(1)
    clock.now += 1e12
    assert cache.get(1) == "1" and cache.stats()["loads"] == 1


def test_least_recently_used_goes_first():
    loads = []
    cache = LoadingCache(lambda key: loads.append(key) or key, max_entries=3)
    for key in "abc":
        cache.get(key)
    cache.get("a")
    cache.put("b", "B")
    cache.get("d")
    assert len(cache) == 3
    assert [cache.get(key) for key in "abd"] == ["a", "B", "d"]
    assert loads == list("abcd")
    cache.get("c")
    assert loads == list("abcdc")
    cache.get("a")
    assert loads == list("abcdca")
    assert cache.stats()["evictions"] == 3


def test_expired_ones_go_before_all_others(clock):
    loads = []
    cache = LoadingCache(lambda key: loads.append(key) or key, ttl=10, max_entries=3, clock=clock)
    cache.get("old")
    clock.now += 5
    cache.get("x")
    cache.get("y")
    clock.now += 4
    cache.get("old")  # used last, but about to expire
    clock.now += 2
    cache.get("new")
    assert [cache.get(key) for key in ("x", "y", "new")] == ["x", "y", "new"]
    assert loads == ["old", "x", "y", "new"]
    assert cache.stats()["evictions"] == 0


def test_replacing_evicts_nothing():
    cache = LoadingCache(str, max_entries=2)
    cache.get(1), cache.get(2)
    cache.put(1, "x")
    cache.put(2, "y")
    assert (cache.get(1), cache.get(2), cache.stats()["evictions"]) == ("x", "y", 0)


def test_arguments():
    with pytest.raises(ValueError):
        LoadingCache(str, max_entries=0)
