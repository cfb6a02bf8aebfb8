"""What is known of the models, as LangChain has it: `ChatQwenConv.profile`."""

from __future__ import annotations

from langchain_core.language_models.model_profile import ModelProfile

from qwen_conv.models import model_of

PROVIDER = "qwen"
"""What `ls_provider` and `model_provider` say: SummarizationMiddleware compares the two."""


def profile_of(name: str) -> ModelProfile | None:
    """The profile of the model of that name, if it is known."""
    model = model_of(name)
    if model is None:
        return None
    return ModelProfile(
        max_input_tokens=model.input,
        max_output_tokens=model.output,
        text_inputs=True,
        text_outputs=True,
        image_inputs=model.sees,
        image_url_inputs=model.sees,
        video_inputs=model.sees,
        pdf_inputs=False,
        audio_inputs=False,
        image_outputs=False,
        audio_outputs=False,
        video_outputs=False,
        reasoning_output=model.thinks,
        tool_calling=True,
        structured_output=False,  # text.format is ignored; structured output is a tool call
    )
