"""How an artifact is measured on a text, as a request says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from quantmill.contract.errors import RequestRejected

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured, and how.

    window, stride  tokens that a model sees at once, and from one window to the next: by default 512 or the model's
                    limit, without overlap
    device, dtype   where models run and what they compute in
    prompts         beginnings of windows that both models continue greedily; 0 leaves that out
    context         tokens that the predicted memory is for: by default the model's limit, up to 8192
    speed           whether the artifact is timed in its runtime, where that is installed
    tasks           lm-eval's tasks by name
    task_documents  how many documents of each task; by default all

    Raises RequestRejected for figures and names that cannot be.
    """

    window: int | None = None
    stride: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    prompts: int = 16
    context: int | None = None
    speed: bool = True
    tasks: tuple[str, ...] = ()
    task_documents: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise RequestRejected(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}", dtype=self.dtype)
        least = {"window": 2, "stride": 1, "prompts": 0, "context": 1, "task_documents": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < smallest):
                raise RequestRejected(f"{name} must be an integer of at least {smallest}, not {value!r}")

    def asked(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON."""
        given = asdict(self) | {"tasks": list(self.tasks)}
        usual = asdict(EvaluationOptions()) | {"tasks": []}
        return {name: value for name, value in given.items() if value != usual[name]}

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> EvaluationOptions:
        """From what `asked` gave, or from a user. Raises RequestRejected for unknown names too."""
        unknown = sorted(set(asked) - {field.name for field in fields(cls)})
        if unknown:
            raise RequestRejected(f"an evaluation has no option {', '.join(unknown)}")
        tasks = asked.get("tasks", ())
        return cls(**{**asked, "tasks": (tasks,) if isinstance(tasks, str) else tuple(tasks)})
