"""What is known of the models that the Responses API serves.

Windows, outputs and modalities: models.dev, provider "alibaba", read 2026-11-20.
"""

from __future__ import annotations

from dataclasses import dataclass

INPUT_SHARE = 0.8
"""The part of a model's context window that the Responses API takes as input. It cuts what is
longer in the middle, without an error (help.aliyun.com, "OpenAI compatible - Responses"; read
2026-11-20)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model. Every number is in tokens.

    Attributes:
        window: The context window, for input and output together.
        output: The most that an answer has.
        thinks: Whether it can think before it answers.
        sees: Whether it sees images and videos.
        takes: The most that it takes as input, where that was measured.
    """

    window: int
    output: int
    thinks: bool = True
    sees: bool = False
    takes: int | None = None

    @property
    def input(self) -> int:
        """The most that it takes as input: as measured, or its share of the window."""
        return self.takes or int(self.window * INPUT_SHARE)


_MODELS = {
    "qwen3.8-max": Model(window=1_000_000, output=131_072, sees=True),
    "qwen3.7-max": Model(window=1_000_000, output=131_072),
    "qwen3.7-plus": Model(window=1_000_000, output=65_536, sees=True),
    "qwen3.6-plus": Model(window=1_000_000, output=65_536, sees=True),
    "qwen3.5-plus": Model(window=1_000_000, output=65_536, sees=True),
    "qwen3.5-flash": Model(window=1_000_000, output=65_536, takes=89_000),  # about; 2026-10-07
    "qwen3-max": Model(window=262_144, output=65_536, thinks=False),
    "qwen3-coder-plus": Model(window=1_000_000, output=65_536, thinks=False),
    "qwen3-coder-flash": Model(window=1_000_000, output=65_536, thinks=False),
    "qwen-plus": Model(window=1_000_000, output=32_768),
    "qwen-flash": Model(window=1_000_000, output=32_768),
}


def model_of(name: str) -> Model | None:
    """The model of that name; a dated one, such as `qwen3-max-2026-01-23`, is its base."""
    return _MODELS.get(name) or _MODELS.get(name.split("-20", maxsplit=1)[0])
