"""How an operator's commands reach a coordinator."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

from lycia.deployment.identity import Identity, write_private
from lycia.deployment.node.client import Client
from lycia.errors import AccessError
from lycia.runtime.facts import fact_from_json
from lycia.runtime.ports import Observer


@dataclass(frozen=True)
class OperatorAccess:
    """Where a coordinator is, how to know it, and which key to call it with: the path of its file, seen from `home`."""

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
        try:
            access = cls(**json.loads(path.read_text()))
        except (ValueError, TypeError):
            raise AccessError(
                f"{path} cannot be read.",
                why="it does not hold what `lycia serve` writes there.",
                do="start `lycia serve` again, which writes it anew.",
            ) from None
        access = replace(access, key=str(home / access.key))
        if url is not None and url.rstrip("/") != access.url:
            raise AccessError(
                f"the operator's key in {home} is for {access.url}, not for {url}.",
                why="each coordinator knows its own operators.",
                do="name the folder of that coordinator with --home, or leave --on out.",
            )
        return access

    def client(self, note: Callable[[str], None] | None = None) -> Client:
        """A client that calls as this operator.

        Raises: AccessError, if the key is gone.
        """
        if not Path(self.key).exists():
            raise AccessError(
                f"the operator's key {self.key} is gone.",
                why="the coordinator knows the operator by it.",
                do="restore it from a backup.",
            )
        return Client(self.url, self.certificate, self.name, Identity.at(Path(self.key)), give_up_s=10.0, note=note)


def run_door(run: str, door: str = "") -> str:
    """The path of something about a run, of which a person has typed the name."""
    return f"/v1/runs/{quote(run, safe='')}{door and '/' + door}"


def dashboard_url(client: Client) -> tuple[str, str]:
    """Where a browser sees the dashboard, good for one use within a minute; and its certificate's fingerprint."""
    said = client.post("/v1/dashboard/codes")
    pin = said["pin"].upper()
    return f"{client.url}/dashboard/#code={said['code']}", ":".join(pin[at : at + 2] for at in range(0, len(pin), 2))


def download_model(client: Client, run: str, target: Path, round_number: int | None = None) -> Path:
    """Fetch a run's model after so many rounds, or its latest, into a file.

    Raises: NotFound, if there is no such run, or no model of that round.
    """
    chosen = {} if round_number is None else {"round": round_number}
    return client.download(client.get(run_door(run, "model"), **chosen)["digest"], target, anew=True)


def follow(client: Client, run: str, watchers: Sequence[Observer]) -> str:
    """Tell `watchers` what happens in a run, from its beginning until nobody holds it; returns its state then."""
    after, moved = 0, ""
    while True:
        said = client.get(run_door(run, "events"), after=after, wait_s=20)
        run = said["run"]  # "latest" stays the run that it was at first
        lines = [line for _, line in said["events"]]
        after = max([after, *(number for number, _ in said["events"])])
        if said["state"] == "running" and said["moved"] != moved:  # what moved last is older than a run's end
            moved = said["moved"]
            lines += [moved] if moved else []
        for line in lines:
            for watcher in watchers:
                watcher.notice(fact_from_json(line))
        if said["state"] != "running":
            return str(said["state"])
