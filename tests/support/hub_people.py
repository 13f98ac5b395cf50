"""People who publish to and read from a Hub, each in programs of their own."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from forks import PROGRAMS, Forks
from hub_clients import TOKEN, environment
from hub_server import RemoteHub


class Person:
    """Somebody with a token, a cache and a store of their own."""

    def __init__(
        self, stack: ExitStack, hub: RemoteHub, folder: Path, token: str = TOKEN, config: str = "tiny"
    ) -> None:
        folder.mkdir()
        self.folder, self.config = folder, config
        variables = environment(hub.endpoint, folder / "home", xet=True, token=token) | {"OMP_NUM_THREADS": "1"}
        self.forks = stack.enter_context(Forks(variables))

    def run(self, code: str, *arguments: str) -> str:
        done = self.forks.run(code, arguments, self.folder)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def grace(self, *arguments: str, settings: tuple[str, ...] = ()) -> Any:
        """The JSON object that a command prints."""
        chosen = [part for setting in settings for part in ("--set", setting)]
        shared = ["--config", self.config, "--store", str(self.folder / "store"), "--json", *chosen]
        return json.loads(self.run(PROGRAMS["grace"], *arguments, *shared).splitlines()[-1])
