"""What a job is calibrated on, as a request says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from quantmill.contract.errors import RequestRejected

PACKINGS = ("packed", "documents")
ENDS = ("end", "start")
STARVED = ("report", "all_tokens")
CHOICES = {"packing": PACKINGS, "truncate": ENDS, "starved_experts": STARVED}
LEAST = {"samples": 1, "window": 2, "seed": 0, "least_expert_tokens": 0}


@dataclass(frozen=True)
class CalibrationOptions:
    """A text, and which of its tokens a model sees.

    text                 a UTF-8 text, or .jsonl with a "text" or "messages" on each line
    samples              windows, chosen by `seed` where the text has more
    window               tokens of a window: by default 512 or the model's limit
    packing              documents one after the other cut into windows, or the beginning of each document a window
    truncate             which end of a document goes that is longer than its window
    least_expert_tokens  an expert that fewer tokens are routed to is starved: said by name
    starved_experts      whether those are only reported, or fed all tokens

    Raises RequestRejected for figures and names that cannot be.
    """

    text: str
    samples: int = 128
    window: int | None = None
    seed: int = 0
    packing: str = "packed"
    truncate: str = "end"
    least_expert_tokens: int = 32
    starved_experts: str = "report"

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise RequestRejected(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        for name, smallest in LEAST.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < smallest):
                raise RequestRejected(f"{name} must be an integer of at least {smallest}, not {value!r}")

    def asked(self) -> dict[str, Any]:
        """The text, and what differs from the defaults, as JSON."""
        usual = asdict(CalibrationOptions(self.text))
        return {name: value for name, value in asdict(self).items() if name == "text" or value != usual[name]}

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> CalibrationOptions:
        """From what `asked` gave, or from a user. Raises RequestRejected for unknown names too."""
        unknown = sorted(set(asked) - {field.name for field in fields(cls)})
        if unknown:
            raise RequestRejected(f"a calibration has no option {', '.join(unknown)}")
        return cls(**asked)
