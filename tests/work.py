"""What a call costs: the bytes that torch makes, the steps that Python takes, and where neither says it, CPU time."""

import sys
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Made(TorchDispatchMode):
    """Bytes of the tensors that operators make, views aside: `total`, and the `largest` tensor's."""

    def __init__(self):
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for storage in (t.untyped_storage() for t in tree_leaves(found) if isinstance(t, torch.Tensor)):
            if storage.data_ptr() not in given:
                self.total += storage.nbytes()
                self.largest = max(self.largest, storage.nbytes())
        return found


def made(call):
    with Made() as counted:
        call()
    return counted


def steps(call):
    """How many instructions of Python `call` executes, in functions that it calls, too."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def assert_proportional(table, most=1.5):
    """`table` has pairs (size, work): no size costs more a unit than `most` times the smallest."""
    each = [work / size for size, work in table]
    assert max(each) <= most * each[0], table


def million():
    """The yardstick of `cost`: a million turns of a loop."""
    for _ in range(1_000_000):
        pass


def cost(work, yardstick=million, times=3):
    """CPU seconds of one in those of the other: the least of each, in turns, so that a busy machine slows both."""
    seconds = {work: [], yardstick: []}
    for _ in range(times):
        for each, taken in seconds.items():
            start = time.process_time()
            each()
            taken.append(time.process_time() - start)
    return min(seconds[work]) / min(seconds[yardstick])
