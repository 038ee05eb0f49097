"""`lycia serve`, but the cohorts are drawn from the plan's seed, as a simulation draws them."""

import json
import sys
from pathlib import Path

from lycia.core.keys import Key
from lycia.deployment.coordinator.server import Settings, serve

SEED = 5


def main() -> None:
    """Understands the arguments that `Federation` gives."""
    said = [argument for argument in sys.argv[2:] if argument != "--json"]
    arguments = dict(zip(said[::2], said[1::2], strict=True))
    home, port, database = Path(arguments["--home"]), int(arguments["--port"]), arguments.get("--database", "")
    settings = Settings(home, port=port, silence_s=30.0, database=database)
    serve(
        settings,
        lambda url: print(json.dumps({"url": url}), flush=True),
        lambda number, attempt: Key(SEED).at("secret", number, attempt).digest(),
    )


if __name__ == "__main__":
    main()
