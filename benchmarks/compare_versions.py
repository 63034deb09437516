"""Whether two versions of the package write the same: the commands of both run on a small real input.

    python -m benchmarks.compare_versions OLD_TREE [NEW_TREE] [--work DIR] [--until GROUP] [--reuse-old]

A tree is a checkout; NEW_TREE is this one where it is not given. Both run in a folder of the same name, so that paths in the
output are the same. Of JSON and YAML the keys of the old version count; those that only the new one writes are listed. The
numbers are those of one thread of one machine: on another they may end in other digits, for both versions alike.
"""

import argparse
import dataclasses
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from benchmarks.compare_cases import CASES, Case
from benchmarks.compare_inputs import write_inputs
from benchmarks.compare_outputs import LEFT_OUT, VERSION, Facts, differences, digest, facts_of, numbers_of, shared

_MOST_SHOWN = 4
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "PYTHONDONTWRITEBYTECODE": "1",  # the trees stay as they are
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # the entry point of the installed version does not exist in every other
}
_MISSING = "missing"


class FailedError(Exception):
    """What was asked for cannot be done; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    old: str
    new: str
    equal: bool
    details: tuple[str, ...] = ()


class Version:
    """A checkout whose commands can be run.

    Args:
        tree: The checkout.
        work: Folder for caches of compiled code.

    Raises:
        FailedError: If the package cannot be imported from there.
    """

    def __init__(self, tree: Path, work: Path) -> None:
        self.tree = tree.resolve()
        self._environment = {
            **os.environ, **_ENVIRONMENT, "PYTHONPATH": str(self.tree), "NUMBA_CACHE_DIR": str(work / "numba"),
        }  # fmt: skip
        code = "import riffusion_train as package; print(package.__version__, package.__file__)"
        told = self._run(["-c", code], work)
        self.version, _, file = told.stdout.strip().partition(" ")
        if not Path(file).is_relative_to(self.tree):
            raise FailedError(f"{tree}: no checkout of riffusion-train; {told.stderr.strip()[-200:] or file}")

    def command(self, line: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run the words of a command in a folder."""
        verb, *words = shlex.split(line)
        # A pattern stands for a file that the versions name differently.
        words = [
            next((str(file.relative_to(folder)) for file in folder.glob(word)), word) if "*" in word else word
            for word in words
        ]
        start = [self._corpus_module()] if verb == "corpus" else ["riffusion_train", verb]
        return self._run(["-m", *start, *words], folder)

    def _run(self, words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        environment = {**self._environment, "HF_HOME": str(folder / ".cache")}
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    def _corpus_module(self) -> str:
        """Return the module that composes the corpus, wherever this version keeps it."""
        packages = [path.parent for path in self.tree.glob("*/__init__.py")]
        files = [file for package in packages for file in package.rglob("*.py")]
        found = [file.parent for file in files if (file.parent.name, file.name) == ("corpus", "__main__.py")]
        found += [file.with_suffix("") for file in files if file.name == "corpus.py" and file.parent.name != "corpus"]
        if not found:
            raise FailedError(f"{self.tree}: has no module `corpus` that can be run")
        return ".".join(min(found, key=lambda path: len(path.parts)).relative_to(self.tree).parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two versions. Returns the exit code: 0 all equal, 1 something differs, 2 it cannot be found out."""
    words = _parser().parse_args(argv)
    work = Path(words.work) if words.work else Path(tempfile.mkdtemp(prefix="compare-versions-"))
    try:
        rows, added = _compare(words, work.resolve())
    except FailedError as error:
        print(f"compare_versions: {error}", file=sys.stderr)
        return 2
    finally:
        if not words.work:
            shutil.rmtree(work, ignore_errors=True)
    _print_table(rows, added)
    return 0 if all(row.equal for row in rows) else 1


def compare(
    cases: Sequence[Case], old: dict[str, Facts], new: dict[str, Facts]
) -> tuple[list[Row], dict[str, set[str]]]:
    """Return the rows of the table, and the keys that only the new version writes, by case."""
    rows: list[Row] = []
    added: dict[str, set[str]] = {}
    for case in cases:
        before, after = old[case.name], new[case.name]
        equal: dict[str, list[str]] = {}
        for name in sorted(before.keys() | after.keys()):
            if name not in before or name not in after:
                old_hash, new_hash = (digest(facts[name]) if name in facts else _MISSING for facts in (before, after))
                rows.append(Row(f"{case.name}: {name}", old_hash, new_hash, False))
                continue
            kept = shared(before[name], after[name], added.setdefault(case.name, set()))
            found = tuple(differences(before[name], kept))
            if found:
                rows.append(Row(f"{case.name}: {name}", digest(before[name]), digest(kept), False, found))
            else:
                equal.setdefault(PurePosixPath(name).suffix, []).append(name)
        rows += (_equal_row(case, before, names) for names in equal.values())
    return rows, added


def _equal_row(case: Case, facts: Facts, names: Sequence[str]) -> Row:
    """Return one row for all files of one kind that are equal."""
    what = names[0]
    told = digest([facts[name] for name in names] if len(names) > 1 else facts[what])
    if len(names) > 1:
        folders = {str(PurePosixPath(name).parent) for name in names}
        pattern = ("**/*" if len(folders) > 1 else "*") + PurePosixPath(what).suffix
        what = f"{PurePosixPath(os.path.commonpath(folders)) / pattern} ({len(names)})"
    return Row(f"{case.name}: {what}", told, told, True)


def _compare(words: argparse.Namespace, work: Path) -> tuple[list[Row], dict[str, set[str]]]:
    work.mkdir(parents=True, exist_ok=True)
    cases = list(_wanted(words.until))
    old, new = Version(Path(words.old), work), Version(Path(words.new), work)
    kept = work / "old.json"
    if words.reuse_old and kept.is_file():
        before = json.loads(kept.read_text(encoding="utf-8"))
        if not before.keys() >= {case.name for case in cases}:
            raise FailedError(f"{kept}: is of other cases; leave out --reuse-old")
    else:
        _write_inputs(old, work)
        before = _run_all("old", old, cases, work)
        kept.write_text(json.dumps(before), encoding="utf-8")
    after = _run_all("new", new, cases, work)
    (work / "new.json").write_text(json.dumps(after), encoding="utf-8")
    return compare(cases, before, after)


def _wanted(until: str | None) -> Iterator[Case]:
    groups = list(dict.fromkeys(case.name.split()[0] for case in CASES))
    if until is not None and until not in groups:
        raise FailedError(f"--until {until}: choose from: {', '.join(groups)}")
    last = groups.index(until) if until else len(groups)
    return (case for case in CASES if groups.index(case.name.split()[0]) <= last)


def _write_inputs(version: Version, work: Path) -> None:
    folder = work / "input"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made = version.command("corpus out=corpus clips=6 num_workers=0", folder)
    if made.returncode:
        raise FailedError(f"the corpus cannot be rendered: {made.stderr.strip()[-300:]}")
    write_inputs(folder, folder / "corpus")


def _run_all(side: str, version: Version, cases: Sequence[Case], work: Path) -> dict[str, Facts]:
    """Run all cases with one version in `outputs`, which is renamed to `side` when they are done.

    Raises:
        FailedError: If a command fails with the old version.
    """
    folder, target = work / "outputs", work / side
    for path in (folder, target):
        shutil.rmtree(path, ignore_errors=True)
    folder.mkdir()
    found: dict[str, Facts] = {}
    before_s = _cpu_s()
    for number, case in enumerate(cases, start=1):
        start = time.monotonic()
        found[case.name] = _run_case(side, version, case, folder)
        print(
            f"{side} {number}/{len(cases)} {case.name}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True
        )
    print(f"{side}: {_cpu_s() - before_s:.0f} s of CPU time", file=sys.stderr)
    folder.rename(target)
    return found


def _cpu_s() -> float:
    """Return the CPU seconds of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run_case(side: str, version: Version, case: Case, folder: Path) -> Facts:
    codes, printed = [], []
    try:
        if case.given is not None:
            _give(side, version, case.given, folder)
        if case.before is not None:
            case.before(folder)
        for line in case.commands:
            done = version.command(line, folder)
            codes.append(done.returncode)
            printed += numbers_of(done.stdout)
            if done.returncode:
                raise FailedError(f"riffusion {line}: {done.stderr.strip()[-1500:]}")
    except (FailedError, OSError) as error:  # what an earlier case was to write may be missing
        if side == "old":
            raise FailedError(f"{case.name}: {error}") from None
        print(f"{side} {case.name} failed: {error}", file=sys.stderr)
        codes.append(-1)
    facts = facts_of(folder, case.outputs, version=version.version, strict=case.strict)
    if side == "old" and case.outputs and not facts:
        raise FailedError(f"{case.name}: wrote none of {', '.join(case.outputs)}")
    return (
        facts | ({"printed numbers": printed} if case.printed else {}) | ({"exit codes": codes} if any(codes) else {})
    )


def _give(side: str, version: Version, given: tuple[str, str], folder: Path) -> None:
    """Put a folder that the old version writes into the folder of both."""
    line, output = given
    kept = folder.parent / "input" / output
    if side == "old":
        done = version.command(line, folder)
        if done.returncode:
            raise FailedError(f"riffusion {line}: {done.stderr.strip()[-1500:]}")
        shutil.copytree(folder / output, kept)
    else:
        shutil.copytree(kept, folder / output)


def _print_table(rows: Sequence[Row], added: dict[str, set[str]]) -> None:
    width = max(len(row.what) for row in rows)
    print(f"{'what':<{width}} | old hash     | new hash     | equal")
    for row in rows:
        print(f"{row.what:<{width}} | {row.old:<12} | {row.new:<12} | {'yes' if row.equal else 'NO'}")
        for detail in row.details[:_MOST_SHOWN]:
            print(f"    {detail}")
        if len(row.details) > _MOST_SHOWN:
            print(f"    and {len(row.details) - _MOST_SHOWN} more")
    for case, keys in added.items():
        if keys:
            print(f"only the new version writes, in {case}: {', '.join(sorted(keys))}")
    left_out = "; ".join(f"{file}: {', '.join(sorted(keys))}" for file, keys in LEFT_OUT.items())
    print(f"not compared: {left_out}; the package's own version, read as {VERSION}")
    unequal = sum(not row.equal for row in rows)
    print(f"{len(rows)} rows, {unequal} not equal")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_versions", allow_abbrev=False)
    parser.add_argument("old", metavar="OLD_TREE", help="checkout of the version that sets the standard")
    parser.add_argument("new", metavar="NEW_TREE", nargs="?", default=str(Path(__file__).parents[1]))
    parser.add_argument("--work", metavar="DIR", help="keep inputs and outputs here; else they are removed")
    parser.add_argument("--until", metavar="GROUP", help="stop after prepare, train, export, sample, …")
    parser.add_argument("--reuse-old", action="store_true", help="take the old version's outputs that --work holds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
