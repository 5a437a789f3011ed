"""A cancellation is seen by everybody, whoever sets it and wherever they are."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from theory.cancel import Cancellation


def test_the_first_signal_counts() -> None:
    cancellation = Cancellation()
    assert not cancellation.is_set()
    cancellation.set(15)
    cancellation.set(2)
    assert (cancellation.is_set(), cancellation.signal) == (True, 15)


def test_waiting_ends_at_its_time_without_a_cancellation() -> None:
    assert Cancellation().wait(0.01) is False
    assert Cancellation().wait(-1) is False


def test_all_who_wait_are_woken() -> None:
    cancellation, ready = Cancellation(), threading.Barrier(9)

    def wait(_: int) -> bool:
        ready.wait()
        return cancellation.wait(30)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(wait, number) for number in range(8)]
        ready.wait()
        cancellation.set()
        assert all(future.result() for future in waiting)
    assert cancellation.wait(float("inf"))


def test_threads_that_set_it_at_once_disturb_nobody() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            for _ in range(100):
                cancellation = Cancellation()
                setting = [pool.submit(cancellation.set, 15) for _ in range(3)]
                waiting = [pool.submit(cancellation.wait, 30) for _ in range(3)]
                assert [future.result() for future in waiting] == [True] * 3
                assert [future.result() for future in setting] == [None] * 3
    finally:
        sys.setswitchinterval(before)


def test_a_signal_handler_may_set_it_while_its_own_thread_waits() -> None:
    cancellation = Cancellation()
    before = signal.signal(signal.SIGALRM, lambda number, _: cancellation.set(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert cancellation.wait(30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert cancellation.signal == signal.SIGALRM


def test_a_forked_child_can_be_cancelled_by_itself() -> None:
    cancellation = Cancellation()
    pid = os.fork()
    if pid == 0:
        cancellation.set()
        os._exit(0 if cancellation.wait(1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not cancellation.is_set()
