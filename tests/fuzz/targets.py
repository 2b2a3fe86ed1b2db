"""The kinds of input, each with a sound one, ways to change it, and what a user does with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz import use_files, use_models, use_program
from tests.fuzz.mutate import (
    change_bytes_file,
    change_json_file,
    change_json_in_bytes,
    change_lines_file,
    changed_bytes,
    changed_json_text,
)
from tests.fuzz.rewrite import rewrite_gguf

Change = Callable[[Path, Random], None]
Use = Callable[[Path], None]


@dataclass(frozen=True)
class Kind:
    """``make`` puts sound inputs into a folder, in this process and once. A case is one folder in it, changed."""

    name: str
    make: Callable[[Path], None]
    change: Change
    use: Use


def prepare(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The sound inputs by kind, with everything imported that children need."""
    use_models.import_all()
    sound = {}
    for name in names:
        sound[name] = folder / name
        sound[name].mkdir()
        TARGETS[name].make(sound[name])
    return sound


def one_of(*patterns: str, change: Change) -> Change:
    """Change one file, of those that fit a pattern."""

    def changed(folder: Path, random: Random) -> None:
        files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
        change(random.choice(files), random)

    return changed


def either(*changes: Change) -> Change:
    return lambda folder, random: random.choice(changes)(folder, random)


def config(folder: Path, random: Random) -> None:
    """The configuration, the card or the sampling settings of one of the models; the others go."""
    model = _choose(folder, random)
    name = random.choice(("config.json", "config.json", "config.json", "README.md", "generation_config.json"))
    path = model / name
    if not path.exists():
        path.write_text("{}")
    if name == "README.md":
        change_lines_file(path, random)
    else:
        change_json_file(path, random)


def tokenizer(folder: Path, random: Random) -> None:
    model = _choose(folder, random)
    files = [path for path in sorted(model.iterdir()) if path.name in use_models.TOKENIZER_FILES]
    path = random.choice(files)
    (change_json_file if path.suffix == ".json" else change_bytes_file)(path, random)


def weights(folder: Path, random: Random) -> None:
    """The header of a safetensors file, its other bytes, or the index of several."""
    index = folder / "model.safetensors.index.json"
    path = random.choice(sorted(folder.glob("*.safetensors")))
    match random.randrange(4):
        case 0:
            change_json_file(index, random)
        case 1:
            length = int.from_bytes(path.read_bytes()[:8], "little")
            data = change_json_in_bytes(path, random, 8, 8 + length)
            grown = len(data) - path.stat().st_size
            path.write_bytes((length + grown).to_bytes(8, "little") + data[8:])
        case _:
            change_bytes_file(path, random)


def jsonl(folder: Path, random: Random) -> None:
    def change(line: bytes, random: Random) -> bytes:
        with suppress(ValueError):  # a line that was changed before may be no JSON any more
            if random.random() > 0.3 and line:
                return changed_json_text(line, random)
        return changed_bytes(line, random)

    path = random.choice(sorted(folder.iterdir()))
    if path.suffix == ".jsonl":
        change_lines_file(path, random, change)
    else:
        change_bytes_file(path, random)


def answers(folder: Path, random: Random) -> None:
    change_json_file(random.choice(sorted(folder.glob("*.json"))), random)


def state(folder: Path, random: Random) -> None:
    """What an earlier run left: changed, missing, empty, in another's place."""
    for _ in range(random.randint(1, 4)):
        path = random.choice(sorted(path for path in (folder / "state").rglob("*") if path.parent.name != "state"))
        match random.randrange(6):
            case 0:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            case 1 if path.is_file():
                path.write_bytes(b"")
            case 2 if path.is_dir():
                shutil.rmtree(path)
                path.write_bytes(b"x")
            case 3 if path.is_file():
                path.unlink()
                path.mkdir()
            case 4 if path.suffix == ".json" and path.is_file():
                change_json_file(path, random)
            case _ if path.is_file():
                change_bytes_file(path, random)


def recipe(folder: Path, random: Random) -> None:
    path = folder / "recipe.yaml"
    if random.random() < 0.5:
        change_lines_file(path, random)
        return
    as_json = folder / "recipe.json"
    change_json_file(as_json, random)  # which is YAML too
    as_json.replace(path)


def template(folder: Path, random: Random) -> None:
    change_bytes_file(folder / "chat_template.jinja", random)


def arguments(folder: Path, random: Random) -> None:
    """A command line in ``arguments.json``."""
    words = json.loads((folder / "words.json").read_text())
    command = list(random.choice(words["commands"]))
    for _ in range(random.randrange(5)):
        command.insert(random.randrange(len(command) + 1), random.choice(words["words"]))
    if command and random.random() < 0.3:
        del command[random.randrange(len(command))]
    (folder / "arguments.json").write_text(json.dumps(command))


def _choose(folder: Path, random: Random) -> Path:
    models = sorted(path for path in folder.iterdir() if path.is_dir())
    chosen = random.choice(models)
    for other in models:
        if other != chosen:
            shutil.rmtree(other)
    return chosen


TARGETS = {
    kind.name: kind
    for kind in (
        Kind("config", use_models.make_models, config, use_models.convert_model),
        Kind("tokenizer", use_models.make_tokenizers, tokenizer, use_models.use_tokenizer),
        Kind("weights", use_models.make_shards, weights, use_models.read_weights),
        Kind(
            "gguf",
            use_models.make_gguf,
            one_of("*.gguf", change=either(change_bytes_file, rewrite_gguf)),
            use_models.read_gguf,
        ),
        Kind(
            "header",
            use_models.make_sample,
            one_of("*.gguf", change=either(change_bytes_file, rewrite_gguf)),
            use_models.take_apart,
        ),
        Kind(
            "imatrix",
            use_files.make_imatrix,
            either(one_of("*", change=change_bytes_file), one_of("*.gguf", change=rewrite_gguf)),
            use_files.read_imatrix,
        ),
        Kind("baseline", use_files.make_baseline, one_of("*.h5", change=change_bytes_file), use_files.read_baseline),
        Kind("recipe", use_files.make_recipe, recipe, use_files.read_recipe),
        Kind("texts", use_files.make_texts, jsonl, use_files.read_texts),
        Kind("template", use_models.make_template, template, use_models.render_template),
        Kind("state", use_program.make_state, state, use_program.go_on),
        Kind("hub", use_program.make_answers, answers, use_program.ask_hub),
        Kind("arguments", use_program.make_words, arguments, use_program.run_command),
    )
}
