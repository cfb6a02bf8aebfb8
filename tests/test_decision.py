"""The case table: what the decision says of each kind of list."""

import pytest

from qwen_conv.decision import Attach, Diverged, Known, Look, Seen, decide, settle
from qwen_conv.errors import NotRepresentableError, UsageError
from qwen_conv.items import FunctionCall, FunctionOutput, Message
from qwen_conv.limits import ITEM_LIFETIME
from qwen_conv.local import Entry, LocalList, key_of
from qwen_conv.stamps import Stamp

URL, HERE, ELSEWHERE = "https://example.com/v1", "conv_here", "conv_elsewhere"
EMPTY = Known(exists=True, empty=True)
THERE = Known(exists=True)


def user(text):
    return Entry((Message.of("user", text),))


def answer(text, stamp=None):
    return Entry((Message.of("assistant", text),), stamp)


def listing(entries):
    return LocalList(entries, lambda entry: entry, tuple(key_of(entry.items) for entry in entries))


def decided(entries, known=THERE, seen=None, *, now=100.0):
    return decide(listing(entries), known, seen, base_url=URL, conversation_id=HERE, now=now)


def took(entries, plan, number, text, now=100.0, conversation_id=HERE):
    """The answer to a turn, with its stamp, and what is known afterwards."""
    stamp, known = settle(
        listing(entries),
        plan,
        base_url=URL,
        conversation_id=conversation_id,
        response_id=f"response-{number}",
        item_ids=(f"msg_{number}",),
        received=(Message.of("assistant", text),),
        now=now,
    )
    return answer(text, stamp), known


def chat(turns, now=100.0, conversation_id=HERE):
    """A chat of some turns on an empty conversation: its list, and what is known of it."""
    entries, known = [], EMPTY
    for number in range(turns):
        entries.append(user(f"question {number}"))
        verdict = decide(
            listing(entries), known, None, base_url=URL, conversation_id=conversation_id, now=now
        )
        reply, known = took(
            entries, verdict, number, f"answer {number}", now, conversation_id=conversation_id
        )
        entries.append(reply)
    return entries, known


def sent(verdict):
    assert isinstance(verdict, Attach), verdict
    return [entry.items[0].text for entry in verdict.send]


def without_stamps(entries):
    return [Entry(entry.items) for entry in entries]


def listed(*texts):
    roles = ("user", "assistant")
    return tuple(
        Message(roles[i % 2], Message.of("user", t).content, id=f"msg_l{i}")
        for i, t in enumerate(texts)
    )


def test_only_new_messages_are_sent_as_they_are():
    assert sent(decided([user("a"), user("b")])) == ["a", "b"]


def test_a_conversation_is_looked_for_before_the_first_turn_on_it():
    assert decided([user("a")], Known()) == Look("conversation")


def test_what_this_process_saw_stored_is_not_sent_again_and_nothing_is_read():
    entries, known = chat(3)
    assert sent(decided([*entries, user("new")], known)) == ["new"]


def test_what_this_process_saw_stored_needs_no_stamp():
    entries, known = chat(3)
    assert sent(decided([*without_stamps(entries), user("new")], known)) == ["new"]


def test_another_process_looks_once_behind_the_last_stamp():
    entries, _ = chat(3)
    entries.append(user("new"))
    look = decided(entries, Known())
    assert look == Look("behind", "msg_2")
    assert sent(decided(entries, THERE, Seen(look, ()))) == ["new"]


def test_a_list_whose_older_part_is_missing_goes_on():
    entries, known = chat(3)
    assert sent(decided([*entries[-2:], user("new")], known)) == ["new"]
    assert sent(decided([*entries[-1:], user("new")], known)) == ["new"]


def test_an_unanswered_message_that_is_stored_is_taken_back():
    entries, _ = chat(1)
    stored = user("stored")
    stamp = Stamp(URL, HERE, None, ("msg_9",), 100.0, said=stored.said, after="msg_0")
    entries.append(Entry(stored.items, stamp))
    verdict = decided(entries, THERE._replace(head=("msg_9",)))
    assert sent(verdict) == ["stored"]
    assert verdict.take_back == "msg_9"


def test_an_unanswered_message_that_somebody_else_stored_is_taken_back_too():
    entries, _ = chat(1)
    entries.append(user("stored"))
    seen = Seen(Look("behind", "msg_0"), listed("stored"))
    verdict = decided(entries, THERE, seen)
    assert sent(verdict) == ["stored"]
    assert verdict.take_back == "msg_l0"


def test_everything_is_sent_to_an_empty_conversation():
    entries = [user("a"), answer("b"), user("c")]
    assert sent(decided(entries, EMPTY)) == ["a", "b", "c"]


def test_stamps_of_another_conversation_count_for_nothing():
    entries, _ = chat(2, conversation_id=ELSEWHERE)
    assert len(sent(decided([*entries, user("new")], EMPTY))) == 5


def test_stamps_of_another_service_count_for_nothing():
    entries, known = chat(1)
    moved = [
        Entry(e.items, e.stamp and e.stamp._replace(base_url="https://other/v1")) for e in entries
    ]
    assert decided([*moved, user("new")], known._replace(proof=None)) == Look("everything")


def test_answers_without_a_stamp_have_the_conversation_read_and_compared():
    entries = [user("a"), answer("b"), user("c")]
    look = decided(entries)
    assert look == Look("everything")
    assert sent(decided(entries, THERE, Seen(look, listed("a", "b")))) == ["c"]


def test_answers_without_a_stamp_that_the_conversation_does_not_hold_diverge():
    entries = [user("a"), answer("b"), user("c")]
    for held in (("a", "x"), ("x", "a", "b"), ("a", "b", "x", "y")):
        assert isinstance(
            decided(entries, THERE, Seen(Look("everything"), listed(*held))), Diverged
        )


def test_a_system_message_may_be_listed_as_the_users_but_not_the_other_way_round():
    system = Entry((Message.of("system", "a"),))
    entries = [system, answer("b"), user("c")]
    assert sent(decided(entries, THERE, Seen(Look("everything"), listed("a", "b")))) == ["c"]
    entries = [user("a"), answer("b"), user("c")]
    as_system = (Message.of("system", "a"), Message.of("assistant", "b"))
    assert isinstance(decided(entries, THERE, Seen(Look("everything"), as_system)), Diverged)


def test_a_conversation_that_lists_nothing_is_looked_for():
    entries = [user("a"), answer("b"), user("c")]
    seen = Seen(Look("everything"), ())
    assert decided(entries, Known(), seen) == Look("conversation")
    assert sent(decided(entries, THERE, seen)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda e: e.__setitem__(0, user("edited")), id="an edited question"),
        pytest.param(
            lambda e: e.__setitem__(3, answer("edited", e[3].stamp)), id="an edited answer"
        ),
        pytest.param(lambda e: e.__delitem__(slice(2, 4)), id="a turn taken out"),
        pytest.param(lambda e: e.insert(2, user("inserted")), id="a message put in"),
        pytest.param(lambda e: e.insert(0, user("inserted")), id="a message put before all"),
        pytest.param(lambda e: e.__setitem__(slice(0, 4), e[2:4] + e[0:2]), id="turns swapped"),
    ],
)
def test_a_change_before_the_last_stamp_diverges(change):
    entries, known = chat(3)
    held = listed(*[entry.items[0].text for entry in entries])
    change(entries)
    verdict = decided([*entries, user("new")], known)
    if isinstance(verdict, Look):  # a message without a stamp might still be what is there
        verdict = decided([*entries, user("new")], known, Seen(verdict, held))
    assert isinstance(verdict, Diverged)
    assert [entry.items[0].text for entry in verdict.new] == ["new"]


def test_a_turn_that_began_with_a_reading_is_no_link_between_those_around_it():
    entries, _ = chat(2)
    bare = [*without_stamps(entries), user("c")]
    held = listed(*[entry.items[0].text for entry in entries])
    plan = decided(bare, THERE, Seen(Look("everything"), held))
    reply, known = took(bare, plan, 7, "d")
    without_the_second_turn = [*entries[:2], user("c"), reply, user("e")]
    assert decided(without_the_second_turn, known) == Look("everything")


def test_going_back_diverges():
    entries, known = chat(3)
    back = [*entries[:4], user("another question")]
    look = decided(back, known)
    assert look == Look("behind", "msg_1")
    behind = listed("question 2", "answer 2")
    look = decided(back, known, Seen(look, behind))
    assert look == Look("everything")
    everything = listed(*[e.items[0].text for e in entries])
    assert isinstance(decided(back, known, Seen(look, everything)), Diverged)


def test_stamps_of_seven_days_diverge():
    entries, known = chat(2)
    assert isinstance(decided([*entries, user("new")], known, now=100.0 + ITEM_LIFETIME), Diverged)
    assert sent(decided([*entries, user("new")], known, now=99.0 + ITEM_LIFETIME)) == ["new"]


def test_what_the_ledger_saw_seven_days_ago_has_to_be_looked_at():
    entries, known = chat(2)
    bare = [*without_stamps(entries), user("new")]
    assert decided(bare, known, now=100.0 + ITEM_LIFETIME) == Look("everything")


def test_a_cursor_that_is_gone_has_the_conversation_read_whole():
    entries, _ = chat(1)
    entries.append(user("new"))
    look = decided(entries, THERE, Seen(Look("behind", "msg_0"), None))
    assert look == Look("everything")
    held = listed("question 0", "answer 0")
    assert sent(decided(entries, THERE, Seen(look, held))) == ["new"]


def test_a_reading_vouches_for_a_day_as_listed_items_have_no_date():
    entries = [user("a"), answer("b"), user("c")]
    plan = decided(entries, THERE, Seen(Look("everything"), listed("a", "b")))
    reply, known = took(entries, plan, 1, "d")
    entries += without_stamps([reply]) + [user("e")]
    day = 24 * 60 * 60
    assert sent(decided(entries, known, now=99.0 + day)) == ["e"]
    assert decided(entries, known, now=100.0 + day) == Look("everything")


def test_results_of_a_call_that_the_conversation_holds_are_sent_alone():
    question = [user("weather?")]
    call = FunctionCall("call_1", "weather", '{"city": "Singapore"}')
    stamp, known = settle(
        listing(question),
        decided(question, EMPTY),
        base_url=URL,
        conversation_id=HERE,
        response_id="response-0",
        item_ids=("msg_0",),
        received=(call,),
        now=100.0,
    )
    result = Entry((FunctionOutput("call_1", "sunny"),))
    verdict = decided([*question, Entry((call,), stamp), result], known)
    assert verdict.send == (result,)


def test_a_list_with_nothing_new_is_refused():
    entries, known = chat(2)
    with pytest.raises(UsageError, match="nothing new"):
        decided(entries, known)


def test_a_half_character_is_refused():
    with pytest.raises(NotRepresentableError, match=r"\\ud83d"):
        user("\ud83d")


def test_people_do_say_yes_twice():
    entries, known = [user("yes")], EMPTY
    for number in range(3):
        reply, known = took(entries, decided(entries, known), number, "ok")
        entries += [reply, user("yes")]
        assert sent(decided(entries, known)) == ["yes"]


def test_after_a_rebase_the_new_conversation_vouches_for_the_whole_list():
    old, _ = chat(2, conversation_id=ELSEWHERE)
    entries = [*old, user("new")]
    reply, known = took(entries, decided(entries, EMPTY), 9, "reply")
    entries += [reply, user("newer")]
    assert sent(decided(entries, known)) == ["newer"]
    look = decided(entries, Known())
    assert look == Look("behind", "msg_9")
    assert sent(decided(entries, THERE, Seen(look, ()))) == ["newer"]


def test_a_stamp_that_is_none_proves_nothing():
    entries, _ = chat(1)
    good = entries[1].stamp.to_dict()
    assert Stamp.from_dict(good) == entries[1].stamp
    for wrong in (
        {},
        None,
        "x",
        {**good, "v": 2},
        {**good, "item_ids": "msg_1"},
        {**good, "sent": [1]},
    ):
        assert Stamp.from_dict(wrong) is None
