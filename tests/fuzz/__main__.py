"""``python -m tests.fuzz``: exit code 1 when anything but a result or one of our errors came of a case."""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(
    OMP_NUM_THREADS="1",  # children are forked: no threads before
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_ENDPOINT="http://127.0.0.1:9",
    HF_HUB_DISABLE_TELEMETRY="1",
    HUBQUANT_DEBUG="1",
)
for _name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
    os.environ.pop(_name, None)
SAVED = Path("fuzz-failures")


def main() -> int:
    from tests.fuzz.targets import TARGETS, prepare
    from tests.fuzz.watch import Finding, make_case, run_cases

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(TARGETS), action="append", help="one kind of input")
    parser.add_argument("--case", type=int, help="one case of --only, in this process and with its traceback")
    options = parser.parse_args()
    names = options.only or sorted(TARGETS)
    with tempfile.TemporaryDirectory(prefix="hubquant-fuzz-") as made:
        os.environ["HF_HOME"] = f"{made}/hf"
        sound = prepare(Path(made), names)
        if options.case is not None:
            folder = Path(made) / "case"
            make_case(TARGETS[names[0]], sound[names[0]], folder, options.seed, options.case)
            TARGETS[names[0]].use(folder)
            return 0
        done, found = dict.fromkeys(names, 0), dict[str, Finding]()
        until = time.monotonic() + 60 * options.minutes
        turn = 0
        while time.monotonic() < until:
            name = names[turn % len(names)]
            turn += 1
            n_run, findings = run_cases(TARGETS[name], sound[name], options.seed, done[name], 200, until)
            done[name] += n_run
            for finding in findings:
                if finding.kind in found:
                    continue
                found[finding.kind] = finding
                saved = SAVED / f"{name}-{options.seed}-{finding.case}"
                shutil.rmtree(saved, ignore_errors=True)
                make_case(TARGETS[name], sound[name], saved, options.seed, finding.case)
                print(f"\n{finding.kind}\n{ast.literal_eval(finding.detail)}")
                print(f"input: {saved}")
                print(
                    f"again: python -m tests.fuzz --seed {options.seed} --only {name} --case {finding.case}", flush=True
                )
    print(f"seed {options.seed}: {sum(done.values()):,} cases, {len(found)} kinds of findings")
    print(", ".join(f"{name} {number:,}" for name, number in done.items()))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
