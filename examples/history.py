"""A chain whose history is a conversation on the server: what it says is sent once, stored once.

Run it with `python examples/history.py`. With DASHSCOPE_API_KEY it talks to Qwen; without one it
starts the offline server, which quotes the conversation and is no language model.
"""

from __future__ import annotations

import os
import warnings
from contextlib import ExitStack

from langchain_core._api import LangChainDeprecationWarning
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables.history import RunnableWithMessageHistory

from langchain_qwen_conv import ChatQwenConv, QwenConvChatMessageHistory
from qwen_conv import QwenConversations
from qwen_conv.offline import OfflineServer


def main() -> None:
    """Tells two things, asks about them, shows what is stored, and deletes it."""
    with ExitStack() as clean_up:
        if not os.environ.get("DASHSCOPE_API_KEY"):
            server = clean_up.enter_context(OfflineServer())
            os.environ.update(DASHSCOPE_API_KEY="offline", DASHSCOPE_BASE_URL=server.base_url)

        hub = QwenConversations()  # what the model and the histories share
        prompt = ChatPromptTemplate(
            [
                ("system", "Answer in one sentence."),
                ("placeholder", "{history}"),
                ("human", "{question}"),
            ]
        )
        # LangChain will drop the class in 2.0; agents with a checkpointer do without it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LangChainDeprecationWarning)
            chain = RunnableWithMessageHistory(
                prompt | ChatQwenConv(model="qwen3.6-plus", conversations=hub) | StrOutputParser(),
                lambda session: QwenConvChatMessageHistory(session, conversations=hub),
                input_messages_key="question",
                history_messages_key="history",
            )

        history = QwenConvChatMessageHistory("alice", conversations=hub)
        clean_up.callback(history.delete)
        history.add_user_message("Alice is 20 years old, and her hobbies are music and chess.")
        history.add_ai_message("Nice to meet Alice.")
        for question in ("How old is Alice?", "What are her hobbies?"):
            chain.invoke({"question": question}, {"configurable": {"session_id": "alice"}})
        for message in history.messages:
            print(f"{message.type:6} {message.text}")


if __name__ == "__main__":
    main()
