"""`lycia serve`, but the cohorts are drawn from the plan's seed, as a simulation draws them."""

import json
import sys
from pathlib import Path

from lycia.core.keys import Key
from lycia.deployment.coordinator.server import Settings, serve

SEED = 5


def main() -> None:
    """Understands the arguments that `Federation` gives."""
    arguments = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=False))
    settings = Settings(Path(arguments["--home"]), port=int(arguments["--port"]), silence_s=30.0)
    serve(
        settings,
        lambda url: print(json.dumps({"url": url}), flush=True),
        lambda number, attempt: Key(SEED).at("secret", number, attempt).digest(),
    )


if __name__ == "__main__":
    main()
