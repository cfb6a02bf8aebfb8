"""The names of the sides, and what each of them does."""

from __future__ import annotations

from collections.abc import Mapping

OURS = "qwen-conv"
SDK = "bare SDK"
DICTS = "bare SDK, dicts"
BY_HAND = "stock class, by hand"
WHOLE_LIST = "stock class, whole list"
FRAMEWORK = "framework alone"

LEGEND: Mapping[str, str] = {
    OURS: "`ChatQwenConv.with_conversation(id)`; the caller passes the whole list of messages in "
    "every turn. Items are read by `hub.run(flows.read, id)`, and as messages by "
    "`QwenConvChatMessageHistory(...).messages`.",
    SDK: "a loop over `client.responses.create(conversation=id, input=text)`, which makes typed "
    "models of the answers, and over `client.conversations.items.list(id)`.",
    DICTS: "the same through `client.post` and `client.get` with `cast_to=object`: the least that "
    "a client of the SDK can do.",
    BY_HAND: "`ChatOpenAI(use_responses_api=True).bind(conversation=id)`; the caller keeps count, "
    "and passes the new message only.",
    WHOLE_LIST: "`ChatOpenAI(use_responses_api=True)` without a conversation; the caller passes "
    "the whole list of messages in every turn.",
    FRAMEWORK: "`langchain_core.language_models.chat_models`, which every chat model imports.",
}
"""What each side does."""
