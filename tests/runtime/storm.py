"""Processes and threads that store, load, evict and clear one cache at once, and what they saw go wrong."""

import multiprocessing
import os
import random
import signal
import time
import warnings

from .modules import a_binary, made, settle

NAMES = [f"k{n}" for n in range(6)]
SIZE = 300_000  # of a kernel; six of them are more than the limit


def binary_of(c, n):
    """The only kernel that may ever be loaded under this name."""
    return a_binary(c, n, SIZE)


def faults(c, n):
    """What is wrong with one load where warnings are errors: another kernel, or a file that cannot be used."""
    try:
        found = c.load(NAMES[n], c.key(NAMES[n]))
    except RuntimeWarning as warning:
        return [str(warning)]
    return [] if found in (None, binary_of(c, n)) else [f"another kernel than {NAMES[n]}"]


def work(c, seed, seconds, stop):
    """Random calls for some time, or until one goes wrong; how many loads found a kernel, and what went wrong."""
    draw, until, found, wrong = random.Random(seed), time.monotonic() + seconds, 0, []
    while time.monotonic() < until and not stop.is_set():
        n, action = draw.randrange(len(NAMES)), draw.random()
        if action < 0.4:
            c.store(NAMES[n], c.key(NAMES[n]), binary_of(c, n))
        elif action < 0.95:
            wrong += faults(c, n)
            if wrong:
                stop.set()
            found += c.load(NAMES[n], c.key(NAMES[n])) is not None
        elif action < 0.97:
            c.evict(2 * SIZE)
        else:
            c.clear()
    return found, wrong


def process(folder, mutant, seed, seconds, barrier, stop, reports):
    """One process of a storm."""
    settle(folder, "1")
    c = made(mutant)
    warnings.simplefilter("error")
    barrier.wait(60)
    try:
        reports.put(work(c, seed, seconds, stop))
    except Exception as error:  # a warning is one
        stop.set()
        reports.put((0, [repr(error)]))


def storm(folder, seconds, mutant=None, count=8):
    """So many processes at once; loads that found a kernel, and what went wrong."""
    spawn = multiprocessing.get_context("spawn")
    shared = spawn.Barrier(count), spawn.Event(), spawn.Queue()
    orders = [(folder, mutant, seed, seconds, *shared) for seed in range(count)]
    workers = [spawn.Process(target=process, args=order, daemon=True) for order in orders]
    for worker in workers:
        worker.start()
    results = [shared[-1].get(timeout=60 + seconds) for _ in workers]
    for worker in workers:
        worker.join()
    return sum(found for found, _ in results), [text for _, wrong in results for text in wrong]


def store_for_ever(folder, ready):
    """Until it is killed."""
    settle(folder)
    c = made()
    kernels = [(name, c.key(name), binary_of(c, n)) for n, name in enumerate(NAMES)]
    ready.set()
    while True:
        for kernel in kernels:
            c.store(*kernel)


def die_before_replacing(folder):
    """Killed with a temporary file complete, and nothing in its place."""
    settle(folder)
    c = made()
    os.replace = lambda old, new: os.kill(os.getpid(), signal.SIGKILL)
    c.store(NAMES[0], c.key(NAMES[0]), binary_of(c, 0))
