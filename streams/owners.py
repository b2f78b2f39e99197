"""One answer of several workers: exactly one owns what is asked for, and all are asked at once."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from streams.errors import UnavailableError

T = TypeVar("T")


async def first_answer(asking: Iterable[Coroutine[Any, Any, T]], problem: str) -> T:
    """The first that does not raise UnavailableError; the others are not waited for. Raises UnavailableError, `problem` and all reasons."""
    asked = [asyncio.create_task(one) for one in asking]
    problems = []
    try:
        for answer in asyncio.as_completed(asked):
            try:
                return await answer
            except UnavailableError as error:
                problems.append(str(error))
    finally:
        for task in asked:
            task.cancel()
    raise UnavailableError(problem + "; ".join(problems))
