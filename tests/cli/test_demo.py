"""`lycia demo`: one command, a whole federation, and nothing left behind."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console

from lycia import simulate
from lycia.data import Examples, check_data
from lycia.data.datasets import HOSPITALS
from lycia.data.datasets.hospitals import read_patients
from lycia.demo import Demo, run_demo
from lycia.demo_hospitals import hospitals_app


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lycia.cli", "demo", *arguments]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", check=False, env={**os.environ, **environment}
    )


def processes_in(folder: Path) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if str(folder) in " ".join(process.info["cmdline"] or [])]


def test_the_demo_trains_survives_a_kill_and_says_where_its_report_is(tmp_path: Path):
    # When a newcomer runs it
    done = demo("--json", "--directory", str(tmp_path))
    assert done.returncode == 0, done.stderr
    # Then its last line says how it went
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["final"]["accuracy"] > 0.93
    assert said["rounds"] == 20
    assert min(said["bytes_up"], said["bytes_down"]) > 0
    # one node was killed, and every round still heard all four
    assert "is killed (SIGKILL)" in done.stderr
    report = json.loads(Path(said["report"]).with_suffix(".json").read_text())
    records = [record for record in report["records"] if record["purpose"] == "train"]
    assert [len(record["survivors"]) for record in records] == [4] * 20
    # alone no node comes near
    (alone,) = (
        record["evaluation"]["baseline"]["nodes"] for record in report["records"] if record["purpose"] == "epilogue"
    )
    assert max(figures["accuracy"] for figures in alone.values()) < 0.85
    # and no process of it is left
    assert processes_in(tmp_path) == []


def made_up(name: str) -> bytes:
    """Forty patients as UCI writes them; those whose heart beats fast are ill."""
    random = np.random.default_rng(HOSPITALS.index(name))
    row = "{age}.0,1.0,{pain}.0,140.0,230.0,0.0,{ecg}.0,{rate}.0,0.0,1.5,?,?,?,{ill}\n"
    rates = random.integers(90, 190, 40).tolist()
    return "".join(
        row.format(age=30 + place, pain=place % 4 + 1, ecg=place % 3, rate=rate, ill=2 * (rate > 140))
        for place, rate in enumerate(rates)
    ).encode("ascii")


def made_up_patients() -> dict[str, Examples]:
    return {name: read_patients(made_up(name)) for name in HOSPITALS}


def test_every_hospital_keeps_half_of_its_patients_and_says_where_they_are_from():
    app = hospitals_app(made_up_patients, rounds=2)
    for place, name in enumerate(HOSPITALS):
        data = app.population[name]
        check_data(app.schema, data)
        assert (len(data.train), len(data.held_out)) == (20, 20)
        assert (data.train.features[:, 10:] == np.eye(4)[place]).all()
    assert simulate(app).rounds == 2


@pytest.mark.slow
def test_hospitals_train_together_as_processes_and_one_is_killed(tmp_path: Path):
    # Given files of four hospitals in UCI's format, which only the nodes read
    for name in HOSPITALS:
        (tmp_path / name).write_bytes(made_up(name))
    source = f"""
from pathlib import Path
from lycia.data.datasets.hospitals import read_patients
from lycia.demo_hospitals import HOSPITALS, hospitals_app

app = hospitals_app(lambda: {{name: read_patients(Path({str(tmp_path)!r}, name).read_bytes()) for name in HOSPITALS}})
"""
    told, home = io.StringIO(), tmp_path / "demo"
    held = Demo(hospitals_app(made_up_patients, rounds=8), source, "patients", "Be well.")
    # When they train
    said = run_demo(held, kill=True, directory=home, console=Console(file=told, width=200))
    # Then every round heard all of them, and everybody has figures
    assert said["rounds"] == 8
    report = json.loads(Path(said["report"]).with_suffix(".json").read_text())
    assert [len(record["survivors"]) for record in report["records"] if record["purpose"] == "train"] == [4] * 8
    assert "va is killed (SIGKILL)" in told.getvalue()
    assert "held-out patients, trained alone and together" in told.getvalue()
    assert "Be well." in told.getvalue()
    assert all(f"\n{name} " in told.getvalue() for name in HOSPITALS)
    assert processes_in(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif("not __import__('os').environ.get('LYCIA_DATA')", reason="needs the files that LYCIA_DATA names")
def test_the_real_hospitals_know_more_together(tmp_path: Path):
    done = demo("--hospitals", "--json", "--directory", str(tmp_path))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["rounds"] == 25
    assert said["final"]["accuracy"] > 0.8
    report = json.loads(Path(said["report"]).with_suffix(".json").read_text())
    (alone,) = (
        record["evaluation"]["baseline"]["pooled"] for record in report["records"] if record["purpose"] == "epilogue"
    )
    assert alone["accuracy"] < said["final"]["accuracy"]


def test_without_their_files_and_offline_nothing_is_started(tmp_path: Path):
    nobody = "http://127.0.0.1:9"
    done = demo(
        "--hospitals", "--directory", str(tmp_path / "demo"),
        LYCIA_DATA="", LYCIA_CACHE=str(tmp_path), HTTPS_PROXY=nobody, https_proxy=nobody,
    )  # fmt: skip
    assert done.returncode != 0
    assert "set LYCIA_DATA to a folder that holds heart_disease/" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_the_hospitals_are_four(tmp_path: Path):
    done = demo("--hospitals", "--nodes", "3")
    assert done.returncode != 0
    assert "leave --nodes out, or --hospitals" in done.stderr
