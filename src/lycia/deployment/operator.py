"""How an operator's commands reach a coordinator."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lycia.deployment.identity import Identity, write_private
from lycia.deployment.node.client import Client
from lycia.errors import AccessError
from lycia.runtime.facts import fact_from_json
from lycia.runtime.ports import Observer


@dataclass(frozen=True)
class OperatorAccess:
    """Where a coordinator is, how to know it, and which key to call it with."""

    url: str
    certificate: str
    name: str
    key: str

    def keep(self, home: Path) -> None:
        """Write it where `at` finds it."""
        write_private(home / "operator.json", json.dumps(asdict(self)).encode())

    @classmethod
    def at(cls, home: Path, url: str | None = None) -> "OperatorAccess":
        """The access that is kept in `home`.

        Raises: AccessError, if there is none, or if it is for another coordinator than `url`.
        """
        path = home / "operator.json"
        if not path.exists():
            raise AccessError(
                f"no coordinator is known in {home}.",
                why="`lycia serve` leaves the operator's key there when it starts.",
                do="start `lycia serve`, or name its folder with --home.",
            )
        access = cls(**json.loads(path.read_text()))
        if url is not None and url.rstrip("/") != access.url:
            raise AccessError(
                f"the operator's key in {home} is for {access.url}, not for {url}.",
                why="each coordinator knows its own operators.",
                do="name the folder of that coordinator with --home, or leave --on out.",
            )
        return access

    def client(self, note: Callable[[str], None] = lambda text: None) -> Client:
        """A client that calls as this operator."""
        return Client(self.url, self.certificate, self.name, Identity.at(Path(self.key)), give_up_s=10.0, note=note)


def follow(client: Client, run: str, watchers: Sequence[Observer]) -> None:
    """Tell `watchers` what happens in a run, from its beginning to its end."""
    after, moved = 0, ""
    while True:
        said = client.get(f"/v1/runs/{run}/events", after=after, wait_s=20)
        lines = [line for _, line in said["events"]]
        after = max([after, *(number for number, _ in said["events"])])
        if said["moved"] != moved:
            moved = said["moved"]
            lines += [moved] if moved else []
        for line in lines:
            for watcher in watchers:
                watcher.notice(fact_from_json(line))
        if said["state"] != "running" and not said["events"]:
            return
