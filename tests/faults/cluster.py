"""A deployment whose processes can be hurt, started again by hand, and joined by others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import psutil

from cli.home import Home
from cli.processes import read_state, start_time, write_state
from tests.system.deployment import NUM_SHARDS, Deployment
from tests.system.polling import eventually
from tests.system.processes import Process, Ran, start, wait_until_serving
from tests.system.wire import Stubs

WHOLE = 1.0


class Cluster(Deployment):
    """A deployment to hurt."""

    def settings_of(self, name: str) -> dict[str, Any]:
        """Return what a process of this home is started with."""
        generations = self.home / "generations"
        if name == "encoder":
            (bundle,) = (self.home / "bundles").iterdir()
            return {"BUNDLE": bundle}
        if name.startswith("shard-"):
            return {"SHARD": name.removeprefix("shard-"), "GENERATIONS": generations}
        return {
            "ENCODER": self.encoder.address,
            "SHARDS": ",".join(self.shard(number).address for number in range(NUM_SHARDS)),
            "CATALOG": f"sqlite:///{self.home / 'catalog.sqlite'}",
            "GENERATIONS": generations,
        }

    def start_again(self, name: str, **settings: Any) -> Process:
        """Start a process that has ended, by hand, on the port that it had."""
        gone = self.processes[name]
        given = {**self.settings_of(name), "PORT": gone.port, **settings}
        process = start(name, given, self.home / "by-hand")
        self.processes[name] = process
        self._remember(process)
        wait_until_serving(process)
        return process

    def _remember(self, process: Process) -> None:
        """Tell the command line of a process, so that it finds and stops it."""
        home = Home.at(self.home)
        state = read_state(home)
        remembered = [
            replace(
                entry,
                pid=process.pid,
                started_at=start_time(process.pid),
                address=process.address,
                http_address=process.http_address,
                log=str(process.log),
            )
            if entry.name == process.name
            else entry
            for entry in state.processes
        ]
        write_state(home, replace(state, processes=tuple(remembered)))

    @contextmanager
    def beside(self, name: str, **settings: Any) -> Iterator[Process]:
        """Run one more process with settings of its own, until the body ends.

        Args:
            name: as "gateway.tight": role, dot, what is special about it.
            settings: beside those of the home.
        """
        given = {**self.settings_of(name.partition(".")[0]), **settings}
        process = start(name, given, self.home / "by-hand")
        try:
            wait_until_serving(process)
            yield process
        finally:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.go_on()
                process.kill()

    @contextmanager
    def stubs_beside(self, name: str, **settings: Any) -> Iterator[Stubs]:
        """Run one more process and connect to it."""
        with self.beside(name, **settings) as process:
            stubs = Stubs(process.address)
            try:
                yield stubs
            finally:
                stubs.close()

    def down(self) -> Ran:
        """Stop everything, also what was started by hand and the command does not know of."""
        ran = super().down()
        for process in self.processes.values():
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.go_on()
                process.kill()
        return ran

    def heal(self) -> None:
        """Let stopped processes go on, start those that ended, wait until all is searched."""
        for name, process in list(self.processes.items()):
            if process.running:
                process.go_on()
            else:
                self.start_again(name)
        self.wait_until_whole()

    def wait_until_whole(self) -> None:
        """Wait until searches by text see every item again."""
        eventually(self._is_whole, "every shard, the encoder and the catalogue answer")

    def _is_whole(self) -> bool:
        try:
            response = self.search(text=f"is it whole? {id(object())}", min_coverage=WHOLE)
        except grpc.RpcError:
            return False
        return not response.degraded and response.generation == 1

    def states(self, response: Any) -> Mapping[int, str]:
        """Return how each shard took part in an answer."""
        names = response.coverage.shards[0].DESCRIPTOR.fields_by_name["state"].enum_type
        return {
            entry.shard: names.values_by_number[entry.state].name.removeprefix("SHARD_STATE_")
            for entry in response.coverage.shards
        }

    def degraded(self, response: Any) -> list[str]:
        """Return the steps down that an answer names."""
        names = response.DESCRIPTOR.fields_by_name["degraded"].enum_type
        return [
            names.values_by_number[value].name.removeprefix("DEGRADED_REASON_")
            for value in response.degraded
        ]
