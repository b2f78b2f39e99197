"""The command `loyalty demo`: tells the story, exits with 0 only if every check holds, and leaves no process behind."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import click
from rich.console import Console

from infra.demo.checks import CheckFailed, Step
from infra.demo.screen import WIDTH, Screen, shown
from infra.demo.story import CHAPTERS, START, STOP, Chapter, note_singles, traffic
from infra.demo.world import World, make_stack, open_world
from infra.stack import HomeInUse, Progress, Stack
from streams.errors import ConfigurationError, LoyaltyError
from streams.settings import PREFIX

FOLDER = "demo"
EXIT_FAILED, EXIT_CONFIGURATION, EXIT_INTERRUPTED = 1, 2, 130


@click.command()
@click.option("--home", envvar=f"{PREFIX}HOME", default=".loyalty", show_default=True, type=click.Path(path_type=Path, file_okay=False),
              help="The demo has the folder `demo` in it for data and logs, emptied when the next demo starts.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object with the results on standard output, the story on standard error.")
def demo(home: Path, as_json: bool) -> None:
    """Tell the story of a hotel check-out on real parts, and check every step."""
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH
    telling = Telling(Screen(console), (home / FOLDER).resolve())
    code = asyncio.run(telling.run())
    if as_json:
        click.echo(json.dumps(telling.to_json(), indent=2))
    sys.exit(code)


@dataclass(slots=True)
class Telling:
    """One run of the demo."""

    screen: Screen
    home: Path
    steps: list[Step] = field(default_factory=list)
    world: World | None = None
    problem: str = ""
    took_s: float = 0.0

    async def run(self) -> int:
        """The exit code. Whatever it is, nothing runs any more."""
        started_s = time.monotonic()
        try:
            stack = make_stack(self.home, on_progress=self._progress)
            self.screen.open(self.home)
            with self._signals(stack):
                await self._tell(stack)
        except CheckFailed as error:
            self.problem = str(error)
            step, logs = self.steps[-1], shown(self.home / "logs")
            self.screen.complain(f"step {step.number} does not hold: {step.title}. Everything is stopped; logs: {logs}")
            return EXIT_FAILED
        except (ConfigurationError, HomeInUse) as error:
            self.problem = str(error)
            self.screen.complain(self.problem)
            return EXIT_CONFIGURATION
        except asyncio.CancelledError:
            self.problem = "interrupted"
            self.screen.complain("interrupted; everything is stopped")
            return EXIT_INTERRUPTED
        finally:
            self.took_s = time.monotonic() - started_s
        assert self.world is not None
        self.screen.summary(self.steps, self.world.series, traffic(self.world), self.took_s)
        self.screen.farewell(command_line(), self.home)
        return 0

    async def _tell(self, stack: Stack) -> None:
        async with open_world(stack) as world:
            self.world = world
            for number, chapter in enumerate((START, *CHAPTERS)):
                await self._tell_one(number, chapter, world)
            note_singles(world)
            await self._tell_one(len(CHAPTERS) + 1, STOP, world)

    async def _tell_one(self, number: int, chapter: Chapter, world: World) -> None:
        step = Step(number=number, title=chapter.title, on_check=self.screen.check, on_rows=self.screen.rows, on_output=self.screen.output)
        self.steps.append(step)
        started_s = time.monotonic()
        with self.screen.step(step, chapter.why):
            try:
                step.proof = await chapter.tell(world, step)
            except (ConfigurationError, HomeInUse):
                raise
            except (CheckFailed, LoyaltyError, OSError, RuntimeError, aiohttp.ClientError) as error:
                failed = error if isinstance(error, CheckFailed) else CheckFailed(step.title, expected="no error", seen=described(error))
                self.screen.failed(failed, world.stack.services)
                raise failed from error
            finally:
                step.took_s = time.monotonic() - started_s

    def _progress(self, progress: Progress) -> None:
        """Of the stack's start, from its threads."""
        if progress.event == "ready":
            self.steps[-1].holds(f"{progress.service} is ready", True, expected="", seen="", took_s=progress.elapsed_s)
        else:
            self.screen.progress(progress)

    @contextmanager
    def _signals(self, stack: Stack) -> Iterator[None]:
        """The first SIGINT or SIGTERM asks for an orderly end, the second for an end at once."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        asked = False

        def handle() -> None:
            nonlocal asked
            if asked:
                stack.kill_all()
                return
            asked = True
            self.screen.complain("stopping everything; press Ctrl-C again to stop at once")
            stack.abort()
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, handle)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def to_json(self) -> dict[str, Any]:
        """The results for programs."""
        world = self.world
        return {
            "passed": not self.problem,
            "problem": self.problem or None,
            "took_s": round(self.took_s, 3),
            "steps": [step.to_json() for step in self.steps],
            "latencies": [one.to_json() for one in world.series] if world else [],
            "traffic": traffic(world) if world else {},
            "logs": str(self.home / "logs"),
        }


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def command_line() -> str:
    """How to call this program again, for example `.venv/bin/loyalty`."""
    program = Path(sys.argv[0])
    if program.name != "loyalty":
        return "python -m streams.cli"
    found = program.resolve()
    if any((Path(folder) / program.name).resolve() == found for folder in os.environ.get("PATH", "").split(os.pathsep) if folder):
        return program.name
    return str(program)
