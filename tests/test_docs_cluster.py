"""The commands of docs/cluster.md. There is neither Slurm nor Kubernetes here: their part is played by a few lines each."""

import re
import sys
from pathlib import Path
from subprocess import run

import pytest
import yaml
from commands import HANG_S, ROOT, manifest_of, run_prep

from prep.tasks import TaskPart, find_task_part

PAGE = ROOT / "docs" / "cluster.md"
SBATCH = """#!{python}
import argparse, os, subprocess, sys
from pathlib import Path
parser = argparse.ArgumentParser()
for flag in ("--array", "--dependency", "--wrap"):
    parser.add_argument(flag)
parser.add_argument("--parsable", action="store_true")
job = parser.parse_args()
jobs = Path("jobs")
if job.dependency and job.dependency.removeprefix("afterok:") not in jobs.read_text().split():
    sys.exit("no such job, or it failed")
first, last = map(int, (job.array or "0-0").split("-"))
for index in range(first, last + 1):
    array = {{"ID": index, "COUNT": last - first + 1, "MIN": first, "STEP": 1}} if job.array else {{}}
    environment = {{f"SLURM_ARRAY_TASK_{{name}}": str(value) for name, value in array.items()}}
    subprocess.run(job.wrap, shell=True, check=True, env=os.environ | environment)
with jobs.open("a") as file:
    print("job" + str(os.getpid()), file=file)
if job.parsable:
    print("job" + str(os.getpid()))
"""


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf8"), re.DOTALL)
    return str(found)


@pytest.mark.long
def test_the_slurm_commands_make_a_data_set(tmp_path: Path, paragraphs: list[str]) -> None:
    (tmp_path / "a.txt").write_text("\n".join(paragraphs[:1500]), encoding="utf8")
    settings = {"corpus": "a.txt", "out": "out", "scratch": "scratch", "tokenizer": "train:500", "engine": "executors:threads"}
    (tmp_path / "build.toml").write_text("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
    for name, text in (
        ("sbatch", SBATCH.format(python=sys.executable)),
        ("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    commands = "set -e\n" + block("bash").replace("--array 0-99", "--array 4-5")
    done = run(["bash", "-c", commands], cwd=tmp_path, env=path, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"{stage} part {i}/2: " in done.stderr for stage in ("tokenize", "pair") for i in (0, 1)), done.stderr
    assert manifest_of(tmp_path / "out")["ledger"]["documents"]["used"] == 1500


def test_the_kubernetes_job_says_which_shard_it_is() -> None:
    job = yaml.safe_load(block("yaml"))["spec"]
    (container,) = job["template"]["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]} | {"JOB_COMPLETION_INDEX": "7"}
    assert find_task_part("tokenize", "", environment) == TaskPart(7, job["completions"]) and job["completions"] == 100
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule == {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}}
    assert container["command"][:4] == ["python", "-m", "prep", "build"]
    assert job["template"]["spec"]["restartPolicy"] == "Never", "a policy on failures asks for it"


def test_the_flags_of_all_commands_exist() -> None:
    known = run_prep("build", "--help").stdout
    commands = re.findall(r"python -m prep build (.*)", PAGE.read_text(encoding="utf8"))
    commands.append(" ".join(yaml.safe_load(block("yaml"))["spec"]["template"]["spec"]["containers"][0]["command"]))
    flags = {flag for command in commands for flag in re.findall(r"(?<!\S)--[a-z-]+", command)}
    assert {"--corpus", "--engine", "--stage", "--task-shard"} <= flags
    assert all(re.search(rf"{flag}\b", known) for flag in flags)


MPI = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


class MPIPoolExecutor(ProcessPoolExecutor):
    def __init__(self, workers):
        super().__init__(workers, get_context("spawn"))
"""


def test_the_executor_of_the_page_builds_the_same(
    tmp_path: Path, paragraphs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MPI is not installed: a pool of processes stands for its own, which pickles tasks and results as well."""
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "futures.py").write_text(MPI)
    (tmp_path / "pools.py").write_text(block("python"))
    (tmp_path / "a.txt").write_text("\n".join(paragraphs[:300]), encoding="utf8")
    monkeypatch.syspath_prepend(tmp_path)
    fingerprints = []
    for name, engine in (("ours", "local"), ("theirs", "pools:cluster")):
        places = ("--corpus", tmp_path / "a.txt", "--out", tmp_path / name, "--scratch", tmp_path / f"{name}-scratch")
        done = run_prep("build", *places, "--tokenizer", "train:500", "--engine", engine, "--workers", 1)
        assert done.returncode == 0, done.stderr
        fingerprints.append(manifest_of(tmp_path / name)["data_fingerprint"])
    assert fingerprints[0] == fingerprints[1]
