"""What is known of a run apart from its numbers, in the same words whichever store it comes from."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

World = Literal["simulation", "deployment"]


@dataclass(frozen=True)
class StoredRun:
    """A run as a store knows it.

    Attributes:
      app: what the app is called.
      plan, layout, schema: as the JSON that they were written to; no schema is None.
      state: "running", "paused", "stopped", "finished", or what else the caller set; reason: the same in words.
      created_s, ended_s: seconds since 1970; ended_s is None while the run goes on.
      first_model: the digest of the model that it started from; "" before it has begun.
      versions: software → version, of what the run was made with.
    """

    id: str
    app: str
    plan: str
    plan_digest: str
    layout: str
    created_s: float
    versions: Mapping[str, str]
    schema: str | None = None
    state: str = "running"
    reason: str = ""
    ended_s: float | None = None
    first_model: str = ""

    def to_json(self) -> str:
        """The run as JSON that people can read."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "StoredRun":
        """The run that `to_json` wrote; fields of a later version are left out."""
        return cls(**{name: value for name, value in json.loads(text).items() if name in cls.__dataclass_fields__})


def facts_of(run: StoredRun, world: World, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that a report is made from, as JSON data. Rounds that were undone stand apart from the others."""
    counting, undone = (
        [record for record in records if ("undone" in record) == is_undone] for is_undone in (False, True)
    )
    return {
        "id": run.id, "app": run.app, "world": world, "state": run.state, "reason": run.reason,
        "plan": json.loads(run.plan), "plan_digest": run.plan_digest, "layout": json.loads(run.layout),
        "versions": dict(run.versions), "started": run.created_s, "ended": run.ended_s,
        "records": counting, "first_model": run.first_model, "undone": undone,
    }  # fmt: skip


def record_to_json(record: Mapping[str, Any]) -> str:
    """A round's record as one line of JSON. What is not finite becomes null: JSON has no word for it."""
    return json.dumps(_plain(record), separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
