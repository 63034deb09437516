"""The Dockerfile: what it copies is enough to build the package, what it installs exists, and what it starts runs.

A container is not needed for that: its lines are run in a clean virtual environment.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line.strip() and not line.startswith("#")]


def values(instruction: str) -> list[str]:
    return [rest for name, rest in LINES if name == instruction]


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the Dockerfile copies, and nothing else."""
    folder = tmp_path_factory.mktemp("app")
    for copied in values("COPY"):
        *sources, target = copied.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            run("cp", "-r", ROOT / source, folder if target == "./" else folder / target)
    return folder


@pytest.fixture(scope="module")
def environment(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the built package; the packages it needs are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", folder / "bin" / "python"]
    run(*pip, "install", "--no-deps", "--no-build-isolation", context, env={**os.environ, **_packages()})
    return folder


def _packages() -> dict[str, str]:
    """Let an environment import the packages of this one, behind its own, and not this checkout."""
    return {"PYTHONPATH": sysconfig.get_paths()["purelib"], "HF_HUB_OFFLINE": "1", "HOME": os.environ["HOME"]}


def test_every_extra_that_it_installs_exists() -> None:
    (install,) = [line for line in values("RUN") if line.startswith("pip install")]
    match = re.search(r'"\.\[([\w,]+)\]"', install)
    assert match is not None
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(match[1].split(",")) <= set(extras)
    assert "--constraint constraints.txt" in install


def test_its_entry_point_runs_in_a_clean_environment(environment: Path, tmp_path: Path) -> None:
    (program,) = json.loads(values("ENTRYPOINT")[0])
    arguments = json.loads(values("CMD")[0])
    command = environment / "bin" / program
    assert "usage: riffusion VERB" in run(command, *arguments, cwd=tmp_path, env=_packages())
    where = [environment / "bin" / "python", "-c", "import riffusion_train; print(riffusion_train.__file__)"]
    assert run(*where, cwd=tmp_path, env={}).startswith(str(environment))
    # The presets travel in the wheel.
    assert "hifi" in run(command, "prepare", "--help", cwd=tmp_path, env=_packages())
    assert "token=" in run(command, "play", "--help", cwd=tmp_path, env=_packages())


@pytest.mark.slow
@pytest.mark.skipif(
    "RIFFUSION_TEST_INSTALL" not in os.environ, reason="set RIFFUSION_TEST_INSTALL=1; downloads 1 to 7 GB"
)
def test_its_install_line_runs_in_a_clean_environment(context: Path, tmp_path: Path) -> None:
    (line,) = [line for line in values("RUN") if line.startswith("pip install")]
    install = line.split("&&")[0]
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["PATH"] = f"{tmp_path / 'venv' / 'bin'}:{env['PATH']}"
    env.setdefault("INDEX", values("ARG")[0].partition("=")[2])
    run("sh", "-c", install, cwd=context, env=env)
    code = "from diffusers import StableDiffusionPipeline; import fastapi, midirenderer, librosa"
    run("python", "-c", code, cwd=tmp_path, env=env)
    assert "torchaudio" in run("riffusion", "doctor", cwd=tmp_path, env=env)
