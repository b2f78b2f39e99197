"""All jobs of a deployment. A module that has some names its factory here: (settings, configuration) -> its jobs."""

import importlib
from collections.abc import Callable
from typing import Any

from streams.configuration import Configuration
from streams.scheduling.job import Job
from streams.settings import Settings

FACTORIES: tuple[str, ...] = ("streams.agreement.job:jobs", "streams.analytics.jobs:jobs")
"""`module:function`, imported when they are needed."""


def load(settings: Settings, configuration: Configuration) -> dict[str, Job]:
    """Every job by its name, in an order in which each comes after those that it waits for."""
    found: dict[str, Job] = {}
    for factory in FACTORIES:
        module, _, name = factory.partition(":")
        make: Callable[[Settings, Configuration], list[Any]] = getattr(importlib.import_module(module), name)
        for job in make(settings, configuration):
            assert job.name not in found, f"two jobs are called {job.name}"
            found[job.name] = job
    return in_order(found)


def in_order(jobs: dict[str, Job]) -> dict[str, Job]:
    """The same, each after those that it waits for. Raises ValueError when they wait for each other, or for one that there is not."""
    placed: dict[str, Job] = {}
    left = dict(jobs)
    while left:
        free = [name for name, job in left.items() if all(before in placed for before in job.after)]
        if not free:
            raise ValueError(f"these jobs wait for each other, or for what is no job: {', '.join(left)}")
        for name in free:
            placed[name] = left.pop(name)
    return placed
