"""An agent's thread that goes back: it is forked, and a message of it is edited.

A conversation is a line, so each branch has one of its own, which begins with what the branch says.

Run it with `python examples/agent_forks.py`. With DASHSCOPE_API_KEY it talks to Qwen; without one
it starts the offline server, which is no language model. It deletes all that it makes.
"""

from __future__ import annotations

from agent_travel import MODEL, connected, show, thread_of, weather
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from langchain_qwen_conv import ChatQwenConv, QwenConvMiddleware


def main() -> None:
    """Asks, goes back to before the second question, and edits the first one."""
    with connected() as hub:
        agent = create_agent(
            ChatQwenConv(model=MODEL, conversations=hub),
            tools=[weather],
            middleware=[QwenConvMiddleware()],
            checkpointer=InMemorySaver(),
        )
        with thread_of(agent, hub) as config:
            agent.invoke({"messages": "How is the weather in Singapore?"}, config)
            before = agent.get_state(config).config
            agent.invoke({"messages": "I go there."}, config)
            conversations = [agent.get_state(config).values["qwen_conversation_id"]]

            agent.invoke({"messages": "I stay here."}, before)
            conversations.append(agent.get_state(config).values["qwen_conversation_id"])

            first = agent.get_state(config).values["messages"][0]
            edited = HumanMessage("Is it hot in Singapore?", id=first.id)
            agent.update_state(config, {"messages": [edited]})
            state = agent.invoke({"messages": "I stay here all the same."}, config)
            conversations.append(agent.get_state(config).values["qwen_conversation_id"])

            show(state["messages"])
            print(f"Branches: {len(conversations)}, conversations: {len(set(conversations))}.")


if __name__ == "__main__":
    main()
