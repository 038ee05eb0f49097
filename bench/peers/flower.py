"""Flower (flwrlabs/flower), in an environment of its own: nothing of it is installed beside us, and it calls nobody."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lycia.deployment.identity import make_certificate

_WANTED = ("flwr==1.41.0", "numpy")
_APP = Path(__file__).parent / "flower_app"
_LONGEST_S = 300.0


@dataclass(frozen=True)
class Flower:
    """An installed Flower."""

    home: Path

    @classmethod
    def installed(cls, peers: Path) -> "Flower":
        """Flower in the folder of peers; installed there, if it is not yet."""
        peer = cls(peers / _WANTED[0].replace("==", "-"))
        if not (peer.home / "installed").exists():
            print(f"installing {_WANTED[0]} into {peer.home} …", flush=True)
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(peer.home)], check=True)
            subprocess.run([str(peer.python), "-m", "pip", "install", "--quiet", *_WANTED], check=True)
            (peer.home / "installed").touch()
        return peer

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return self.program("python")

    @property
    def version(self) -> str:
        """What is installed."""
        return _WANTED[0].partition("==")[2]

    @property
    def environment(self) -> dict[str, str]:
        """The environment that its processes get: its own programs, and no calls home."""
        path = f"{self.python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return {
            **{key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")},
            "PATH": path,
            "FLWR_HOME": str(self.home / "flwr-home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }

    def program(self, name: str) -> Path:
        """One of the programs of its environment."""
        return self.home / ("Scripts" if os.name == "nt" else "bin") / name

    def rounds(self, home: Path, *, nodes: int, floats: int, rounds: int, durable: bool = False) -> list[float]:
        """When each round of a federation of processes ended, over TLS, in seconds since its server was started.

        Its server app writes the times down itself, in `aggregate_train`; nothing is evaluated. `durable`: its server
        keeps its state in a file.
        """
        home.mkdir(parents=True, exist_ok=True)
        times, log = home / "times.txt", home / "log.txt"
        times.touch()
        began_s = time.time()
        processes: list[subprocess.Popen[bytes]] = []
        with log.open("ab") as output:
            try:
                self._start(home, nodes, processes, output.fileno(), durable)
                self._submit(home, floats, rounds, times, output.fileno())
                until_s = time.monotonic() + _LONGEST_S
                while len(times.read_text().split()) < rounds:
                    if time.monotonic() > until_s or any(process.poll() is not None for process in processes):
                        raise SystemExit(
                            f"Flower did not finish its rounds; {log} ends with:\n{log.read_text()[-2000:]}"
                        )
                    time.sleep(0.2)
            finally:
                for process in reversed(processes):
                    _end(process)
        return [float(line) - began_s for line in times.read_text().split()]

    def _start(
        self, home: Path, nodes: int, processes: list[subprocess.Popen[bytes]], output: int, durable: bool
    ) -> None:
        certificate, key = home / "certificate.pem", home / "certificate.key"
        pem, private = make_certificate(("localhost", "127.0.0.1"))
        certificate.write_bytes(pem)
        key.write_bytes(private)
        port = _free_port()
        tls = [f"--ssl-ca-certfile={certificate}", f"--ssl-certfile={certificate}", f"--ssl-keyfile={key}"]
        flwr_home = Path(self.environment["FLWR_HOME"])
        flwr_home.mkdir(exist_ok=True)
        (flwr_home / "config.toml").write_text(
            f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "127.0.0.1:{port}"\n'
            f'root-certificates = "{certificate}"\n'
        )

        def start(program: str, *arguments: str) -> None:
            command = [str(self.program(program)), *arguments]
            processes.append(
                subprocess.Popen(command, env=self.environment, stdout=output, stderr=output, start_new_session=True)
            )

        kept = [f"--database={home / 'state.db'}"] if durable else []
        start("flower-superlink", f"--port={port}", *tls, *kept, "--disable-runtime-dependency-installation")
        _wait_for(port)  # nodes that come too early would wait for their next try
        for number in range(nodes):
            start(
                "flower-supernode",
                f"--superlink=127.0.0.1:{port}",
                f"--root-certificates={certificate}",
                f"--port={_free_port()}",
                f"--node-config=partition-id={number}",
            )

    def _submit(self, home: Path, floats: int, rounds: int, times: Path, output: int) -> None:
        config = f'floats={floats} num-server-rounds={rounds} times="{times}"'
        command: Sequence[str] = [str(self.program("flwr")), "run", str(_APP), "bench", "--run-config", config]
        subprocess.run(command, env=self.environment, stdout=output, stderr=output, check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"Flower's server does not listen on port {port}.")


def _end(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            return
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
