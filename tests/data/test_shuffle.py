from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from janus_train.data.shuffle import Order, permute, stable_hash


@given(n=st.integers(1, 300), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection(n: int, key: int) -> None:
    assert sorted(permute(i, n, key) for i in range(n)) == list(range(n))


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=9).filter(any),
    window=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_every_sample_comes_once_an_epoch(sizes: list[int], window: int, epoch: int) -> None:
    order = Order(seed=1, source="a", shard_sizes=sizes, window=window)
    assert sorted(order.index(epoch, i) for i in range(order.length)) == list(range(order.length))


def test_epochs_seeds_and_sources_have_their_own_order() -> None:
    def first_order(seed: int, source: str, epoch: int) -> list[int]:
        order = Order(seed, source, [50, 50, 50])
        return [order.index(epoch, i) for i in range(20)]

    orders = [first_order(0, "a", 0), first_order(0, "a", 1), first_order(1, "a", 0), first_order(0, "b", 0)]
    assert len({tuple(o) for o in orders}) == 4
    assert first_order(0, "a", 0) == orders[0]


def test_reading_stays_within_a_window_of_shards() -> None:
    order = Order(0, "a", [100] * 20, window=3)
    shards = [order.index(0, i) // 100 for i in range(300)]
    assert len(set(shards)) == 3


def test_stable_hash_is_the_same_everywhere() -> None:
    assert stable_hash("order", 0, "scenes", 1) == 0x41C2C637322F1459
