"""``hubquant tune``: how many tokens a model is best run at a time on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubquant.commands.divergence import FileOfUser
from hubquant.commands.flags import model as reference
from hubquant.commands.job import Job, plan_job
from hubquant.devices import Device
from hubquant.disk import user_path
from hubquant.engine.progress import Progress
from hubquant.engine.store import Store
from hubquant.errors import UserError
from hubquant.gguf_file import GGUFFile
from hubquant.pipeline.in_llamacpp import check_installed
from hubquant.pipeline.offload import choose_offload
from hubquant.pipeline.tuning import CONTEXT, LlamaCppTuning, Timed, TorchTuning, Tuned, Tuning, most_context
from hubquant.pipeline.work import open_model
from hubquant.recipe.schema import Imatrix
from hubquant.units import measured, size

if TYPE_CHECKING:
    from hubquant.sources.component import Component

Engine = Literal["torch", "llamacpp"]


@dataclass(frozen=True)
class Request:
    """``seconds`` are what the timing may take; ``fresh`` does it again."""

    model: str
    context: int = CONTEXT
    engine: Engine = "torch"
    device: Device = "auto"
    seconds: int = 60
    fresh: bool = False


@dataclass(frozen=True)
class Found:
    """``is_known``: it was measured before."""

    tuned: Tuned
    is_known: bool

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self.tuned), "known": self.is_known}

    def __str__(self) -> str:
        tuned, winner = self.tuned, self.tuned.winner
        lines = [f"{_name(each):>12}  {_row(each)}{'  *' if each == winner else ''}" for each in tuned.candidates]
        in_llama_cpp = winner.ubatch is not None
        result = [f"-b {winner.batch} -ub {winner.ubatch}" if in_llama_cpp else f"{winner.batch} tokens at a time"]
        if not tuned.settled:
            result.append("not sure, and not used: more --seconds with --fresh may find a faster one")
        else:
            result.append(
                "for llama.cpp's own programs" if in_llama_cpp else "used by run and imatrix collect from now on"
            )
        if tuned.ended:
            result.append(f"no larger ones: {tuned.ended}")
        if self.is_known:
            result.append("measured before; --fresh measures it again")
        head = "batch/ubatch" if in_llama_cpp else "batch"
        return "\n".join([f"{head:>12}  tokens/s, rounds, memory", *lines, "", *result])


def _name(each: Timed) -> str:
    return f"{each.batch}" if each.ubatch is None else f"{each.batch}/{each.ubatch}"


def _row(each: Timed) -> str:
    speed = measured(each.speed, each.error)
    return f"{speed:>18}  {each.rounds:>3}  {size(each.memory_bytes):>8}"


def tune(request: Request, store: Store, progress: Progress) -> Job[Found]:
    """Raises ``UserError`` before any weight is read."""
    file = user_path(request.model)
    if request.engine == "llamacpp":
        _check_file(request, file)
    component = open_model(reference(request.model), None, progress)
    component.check_predicts("running")
    _check_context(request.context, component)
    task: Tuning
    if request.engine == "llamacpp":
        paths = GGUFFile.open(file).paths
        task = LlamaCppTuning(
            component,
            request.context,
            "cpu",
            request.seconds,
            file=FileOfUser.of(file, *paths),
            file_bytes=sum(path.stat().st_size for path in paths),
        )
    else:
        _check_fits(request, component)
        task = TorchTuning(component, request.context, request.device, request.seconds)
    is_known = store.has(task) and not request.fresh
    return plan_job([task], lambda context: Found(context.read(task), is_known), store, fresh=request.fresh)


def _check_file(request: Request, file: Path) -> None:
    if not file.is_file():
        raise UserError(
            f"llama.cpp cannot run {request.model}",
            why="it reads GGUF files",
            hint="name one, such as hubquant convert writes, or leave --engine llamacpp out",
        )
    if request.device not in ("auto", "cpu"):
        raise UserError(
            f"llama.cpp is not timed on {request.device}", why="it runs on the CPU here", hint="leave --device out"
        )
    check_installed()


def _check_context(context: int, component: Component) -> None:
    most = most_context(component)
    if most is not None and context > most:
        raise UserError(
            f"{component.source.name} has no context of {context} tokens",
            why=f"its positions end at {most}",
            hint=f"pass --context {most} or less",
        )


def _check_fits(request: Request, component: Component) -> None:
    if choose_offload(Imatrix(), component, request.device) == "stream":
        raise UserError(
            f"there is nothing to tune for {component.source.name}",
            why="it does not fit in memory, and blocks that are streamed see one chunk at a time",
            hint="leave tune out: runs stream it",
        )
