"""What both sides quantize with; numpy only, for the peer's environment reads it too."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    nbits: int
    group_size: int
    axis: int
    packing: str

    @property
    def what(self) -> str:
        return f"{self.nbits}-bit g{self.group_size} axis {self.axis}"


SETTINGS = [
    Setting(4, 64, 1, "4bit_u8"),
    Setting(2, 16, 1, "2bit_u8"),
    Setting(1, 16, 1, "1bit_u8"),
    Setting(3, 64, 1, "3bit_32"),
    Setting(8, 128, 1, "8bit_u8"),
    Setting(4, 64, 0, "4bit_u8"),
]
