"""The queue before an engine, with an engine that is as slow as a test wants it."""

import gc
import threading
import time
import weakref
from concurrent.futures import wait

import numpy as np
import pytest

from alocc.data.resizing import ImageFormat
from alocc.errors import BusyError
from alocc.scores import Scores
from alocc.serving.batcher import Batcher, Work, most_together
from alocc.serving.settings import Limits


class Slow:
    """Scores an image by its first pixel, once it may."""

    image_format = ImageFormat(28, 28, 1)

    def __init__(self):
        self.may, self.sizes, self.maps = threading.Event(), [], []
        self.may.set()

    def score(self, images, progress=None, *, maps=False):
        assert self.may.wait(10)
        self.sizes.append(len(images))
        self.maps.append(maps)
        first = images[:, 0, 0, 0].astype(np.float64)
        if 255 in first:
            raise RuntimeError("a fault of the engine")
        anomaly_map = np.zeros((len(images), 28, 28), np.float32) if maps else None
        return Scores(first, first / 256, first > 200, {}, None, 0.01, anomaly_map)


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def batcher(slow):
    made = Batcher(slow, Limits(queue=16, latency_ms=1e6))
    slow.sizes.clear(), slow.maps.clear()
    yield made
    slow.may.set()
    made.close()


def work(engine, *values, **options):
    images = [np.full((28, 28, 1), value, np.uint8) for value in values]
    return Work(engine, len(images), lambda: images, **options)


def test_what_waits_shares_a_pass_and_everybody_gets_their_own(slow, batcher):
    slow.may.clear()
    works = [work(slow, i, i + 100) for i in range(8)]
    first = batcher.submit(works[0])
    while batcher._urgent:  # until its pass has begun
        pass
    others = [batcher.submit(each) for each in works[1:]]
    slow.may.set()
    wait([first, *others], 10)
    assert slow.sizes == [2, 14]
    assert [future.result().anomaly_score.tolist() for future in [first, *others]] == [[i, i + 100] for i in range(8)]


def test_maps_come_first_then_who_waits_then_batches(slow, batcher):
    slow.may.clear()
    order = []
    submitted = [batcher.submit(work(slow, 0))]
    while batcher._urgent:
        pass
    for name, options in (("batch", {"later": True}), ("request", {}), ("map", {"maps": True})):
        future = batcher.submit(work(slow, 1, **options))
        future.add_done_callback(lambda _, name=name: order.append(name))
        submitted.append(future)
    slow.may.set()
    wait(submitted, 10)
    assert order == ["map", "request", "batch"] and slow.maps == [False, True, False, False]
    assert submitted[-1].result().anomaly_map.shape == (1, 28, 28) and submitted[0].result().anomaly_map is None


def test_a_queue_that_is_full_refuses_and_an_idle_one_takes_anything(slow, batcher):
    batcher.admit(40)  # more than the queue, but nothing waits
    with pytest.raises(BusyError) as refused:
        batcher.admit(1)
    assert refused.value.retry_after >= 1
    assert batcher.submit(work(slow, *range(40))).result(10)
    assert batcher.waiting == 0
    batcher.admit(10)
    batcher.admit(6)
    with pytest.raises(BusyError):
        batcher.admit(1)


def test_a_wait_that_would_be_too_long_is_refused(slow):
    made = Batcher(slow, Limits(queue=10_000, latency_ms=50))
    made._rate = 100.0  # images a second
    made.admit(5)  # 50 ms
    made.admit(1)
    with pytest.raises(BusyError) as refused:
        made.admit(1)
    assert refused.value.retry_after == 1
    made.submit(work(slow, *range(6))).result(10)
    made.close()


def test_a_fault_of_the_engine_or_of_an_image_is_that_of_its_pass_or_its_work_alone(slow, batcher):
    def broken():
        raise ValueError("a fault of an image")

    slow.may.clear()
    batcher.submit(work(slow, 0))
    while batcher._urgent:
        pass
    fine, faulty = batcher.submit(work(slow, 1)), batcher.submit(Work(slow, 1, broken))
    slow.may.set()
    assert fine.result(10).anomaly_score.tolist() == [1]
    with pytest.raises(ValueError, match="of an image"):
        faulty.result(10)
    with pytest.raises(RuntimeError, match="of the engine"):
        batcher.submit(work(slow, 255)).result(10)
    assert batcher.submit(work(slow, 3)).result(10).anomaly_score.tolist() == [3]
    assert batcher.submit(Work(slow, 1, list)).result(10).anomaly_score.size == 0  # not one image could be used


def test_closing_computes_what_was_submitted(slow):
    made = Batcher(slow, Limits())
    slow.may.clear()
    futures = [made.submit(work(slow, i, later=i % 2 == 0)) for i in range(6)]
    threading.Timer(0.1, slow.may.set).start()
    made.close()
    assert all(future.done() for future in futures)


def test_large_images_are_computed_a_few_at_a_time():
    assert [most_together(ImageFormat(side, side, 3)) for side in (28, 90, 512, 4096)] == [128, 128, 4, 1]


def test_a_cancelled_request_is_left_out_and_nobody_behind_it_notices(slow, batcher):
    slow.may.clear()
    batcher.admit(4)
    batcher.submit(work(slow, 0))
    while batcher._urgent:
        pass
    gone, stays, also = (batcher.submit(work(slow, i)) for i in (1, 2, 3))
    assert gone.cancel()
    slow.may.set()
    assert [future.result(10).anomaly_score.tolist() for future in (stays, also)] == [[2], [3]]
    assert slow.sizes == [1, 2] and batcher.waiting == 0


def test_who_went_while_images_failed_does_not_end_the_thread(slow, batcher):
    def broken():
        assert not failing.found.cancel()  # too late: its turn has come
        raise ValueError("a fault of an image")

    failing = Work(slow, 1, broken)
    with pytest.raises(ValueError, match="of an image"):
        batcher.submit(failing).result(10)
    assert batcher.submit(work(slow, 3)).result(10).anomaly_score.tolist() == [3]


def test_images_wait_until_they_are_decoded(slow, batcher):
    decoding, may = threading.Event(), threading.Event()

    def images():
        decoding.set()
        assert may.wait(10)
        return [np.zeros((28, 28, 1), np.uint8)] * 16

    batcher.admit(16)
    batcher.submit(decoded := Work(slow, 16, images))
    assert decoding.wait(10) and batcher.waiting == 16
    with pytest.raises(BusyError):
        batcher.admit(1)
    may.set()
    assert decoded.found.result(10) and batcher.waiting == 0


def test_while_a_pass_computes_what_waits_behind_it_is_decoded_once(slow, batcher):
    threads, decoded = [], threading.Event()

    def images():
        threads.append(threading.current_thread().name)
        decoded.set()
        return [np.full((28, 28, 1), 7, np.uint8)]

    slow.may.clear()
    first = batcher.submit(work(slow, 1))
    while not batcher._computes:
        pass
    behind = batcher.submit(Work(slow, 1, images))
    assert decoded.wait(10) and not first.done()  # the pass is still under way
    slow.may.set()
    assert behind.result(10).anomaly_score.tolist() == [7]
    assert batcher.submit(Work(slow, 1, images)).result(10).anomaly_score.tolist() == [7]
    assert threads == ["alocc-ahead", "alocc-engine"]  # nobody is in front of the last one


def test_no_more_is_decoded_ahead_than_the_next_pass_takes_nor_for_who_went(slow, batcher):
    decoded = []

    def waiting(i, n=64):
        return Work(slow, n, lambda: decoded.append(i) or [np.zeros((28, 28, 1), np.uint8)] * n)

    slow.may.clear()
    batcher.submit(work(slow, 1))
    while not batcher._computes:
        pass
    with batcher._something:  # nobody looks before all are there
        works = [waiting(i) for i in range(5)]
        assert works[0].found.cancel()
        batcher._urgent.extend(works)
        batcher._behind.notify()
    while len(decoded) < 1:
        pass
    time.sleep(0.2)
    assert decoded == [1]  # together with the one that went, 128 images
    slow.may.set()
    wait([each.found for each in works[1:]], 10)
    assert decoded == [1, 2, 3, 4]


def test_a_detector_whose_file_was_replaced_is_let_go_though_nothing_else_comes():
    old, other = Slow(), Slow()
    batcher = Batcher(old, Limits())
    old.may.clear()
    futures = [batcher.submit(work(old, 1))]
    while not batcher._computes:
        pass
    futures += [batcher.submit(work(old, 2)), batcher.submit(work(old, 3))]
    old.may.set()
    wait(futures, 10)
    assert batcher.submit(work(other, 4)).result(10)
    gone = weakref.ref(old)
    del old, futures
    for _ in range(100):
        if gone() is None:
            break
        time.sleep(0.02)
        gc.collect()
    assert gone() is None
    batcher.close()
