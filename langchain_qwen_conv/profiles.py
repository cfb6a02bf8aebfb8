"""What is known of the models that the Responses API serves, for `ChatQwenConv.profile`.

The Responses API takes about 80 % of a model's context window as input and cuts what is longer in
the middle, without an error (help.aliyun.com, "OpenAI compatible - Responses"; read 2026-11-20).
Windows, outputs and modalities: models.dev, provider "alibaba", read 2026-11-20; qwen3.5-flash
was measured to take about 89,000 tokens (2026-10-07).
"""

from __future__ import annotations

from langchain_core.language_models.model_profile import ModelProfile

PROVIDER = "qwen"
"""What `ls_provider` and `model_provider` say: SummarizationMiddleware compares the two."""

_INPUT_SHARE = 0.8


def _profile(
    window: int, output: int, *, thinks: bool = True, sees: bool = False, takes: int | None = None
) -> ModelProfile:
    return ModelProfile(
        max_input_tokens=takes or int(window * _INPUT_SHARE),
        max_output_tokens=output,
        text_inputs=True,
        text_outputs=True,
        image_inputs=sees,
        image_url_inputs=sees,
        video_inputs=sees,
        pdf_inputs=False,
        audio_inputs=False,
        image_outputs=False,
        audio_outputs=False,
        video_outputs=False,
        reasoning_output=thinks,
        tool_calling=True,
        structured_output=False,  # text.format is ignored; structured output is a tool call
    )


_PROFILES: dict[str, ModelProfile] = {
    "qwen3.8-max": _profile(1_000_000, 131_072, sees=True),
    "qwen3.7-max": _profile(1_000_000, 131_072),
    "qwen3.7-plus": _profile(1_000_000, 65_536, sees=True),
    "qwen3.6-plus": _profile(1_000_000, 65_536, sees=True),
    "qwen3.5-plus": _profile(1_000_000, 65_536, sees=True),
    "qwen3.5-flash": _profile(1_000_000, 65_536, takes=89_000),
    "qwen3-max": _profile(262_144, 65_536, thinks=False),
    "qwen3-coder-plus": _profile(1_000_000, 65_536, thinks=False),
    "qwen3-coder-flash": _profile(1_000_000, 65_536, thinks=False),
    "qwen-plus": _profile(1_000_000, 32_768),
    "qwen-flash": _profile(1_000_000, 32_768),
}


def profile_of(model: str) -> ModelProfile | None:
    """The profile of a model; a dated name, such as `qwen3-max-2026-01-23`, has its base's."""
    base = model.split("-20", maxsplit=1)[0]
    found = _PROFILES.get(model) or _PROFILES.get(base)
    return ModelProfile(**found) if found else None
