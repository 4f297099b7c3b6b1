from loadcache import LoadingCache


def test_loads_once():
    calls = []
    cache = LoadingCache(lambda key: calls.append(key) or key * 2)
    assert cache.get(4) == 8
    assert cache.get(4) == 8
    assert calls == [4]
    cache.invalidate(4)
    assert cache.get(4) == 8
    assert calls == [4, 4]
