"""Fault injection in small, and that the judge sees what it is there to see.

`make chaos` takes 10,000 turns in the same way.
"""

from itertools import chain

import pytest

from chaos.crowd import processes, threads_and_tasks
from chaos.faults import KINDS
from chaos.judge import judged, judged_crowd
from chaos.plan import planned
from chaos.run import lived

# What httpx streams is left to the garbage collector, which may come while another loop runs.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator")

SEED, TURNS, LENGTHS = 41, 210, (2, 3)
TOLD = [f"{role}: {number}" for number in range(4) for role in ("question", "answer")]


def drawn(stories):
    """The kinds of faults that befall some stories."""
    steps = chain.from_iterable(story.steps for story in stories)
    return {fault.kind for step in steps for fault in step.faults}


def test_a_seed_tells_the_whole_plan():
    assert [*planned(SEED, TURNS, LENGTHS)] == [*planned(SEED, TURNS, LENGTHS)]
    assert [*planned(SEED + 1, TURNS, LENGTHS)] != [*planned(SEED, TURNS, LENGTHS)]
    assert sum(story.turns for story in planned(SEED, TURNS, LENGTHS)) == TURNS


def test_the_small_plan_has_every_fault_and_everybody_in_every_way():
    stories = [*planned(SEED, TURNS, LENGTHS)]
    assert drawn(stories) == set(KINDS)
    assert len({(story.taker, story.call) for story in stories}) == 5 * 4
    assert {(s.in_session, s.whole, s.has_tools) for s in stories if s.taker == "model"} >= {
        (False, True, True),
        (True, False, False),
    }


@pytest.fixture(scope="module")
def ledger():
    return lived([*planned(SEED, TURNS, LENGTHS)])


def test_no_turn_is_lost_doubled_or_out_of_order_whatever_befalls_it(ledger):
    assert ledger.turns == TURNS
    assert ledger.is_clean, "\n\n".join(report for _, report in ledger.reports)


def test_what_cannot_be_known_is_reported_as_undecided_and_settled_afterwards(ledger):
    for kind in ("reply lost, never run", "reply lost, stored late", "timed out, stored late"):
        assert ledger.kinds[kind]["undecided"]
    for kind, counts in ledger.kinds.items():
        assert counts["settled"] >= counts["undecided"], kind


def test_a_stored_turn_whose_reply_was_lost_is_found(ledger):
    for kind in ("500, stored", "reply lost, stored", "stream cut, stored"):
        assert ledger.kinds[kind]["found"]
        assert not ledger.kinds[kind]["resent"]


def test_the_judge_is_content_with_what_was_told():
    assert judged(TOLD, TOLD)
    assert judged([], [])


def test_the_judge_sees_a_lost_turn():
    verdict = judged(TOLD, TOLD[:2] + TOLD[4:])
    assert not verdict
    assert verdict.lost == ("question: 1", "answer: 1")


def test_the_judge_sees_a_doubled_turn_whose_copy_may_stand_anywhere():
    for place in (2, 4, 8):
        verdict = judged(TOLD, [*TOLD[:place], *TOLD[2:4], *TOLD[place:]])
        assert not verdict
        assert verdict.doubled == ("question: 1", "answer: 1")
        assert verdict.misplaced == ()


def test_the_judge_sees_swapped_turns():
    verdict = judged(TOLD, [*TOLD[:2], *TOLD[4:6], *TOLD[2:4], *TOLD[6:]])
    assert not verdict
    assert len(verdict.misplaced) == 2
    assert (verdict.lost, verdict.doubled, verdict.foreign) == ((), (), ())


def test_the_judge_sees_an_answer_that_nobody_was_given():
    verdict = judged(TOLD, [*TOLD[:-1], "answer: another"])
    assert verdict.lost == ("answer: 3",)
    assert verdict.foreign == ("answer: another",)


def test_the_judge_of_a_crowd_takes_any_order_of_turns_and_no_turn_within_another():
    pairs = [("q1", "a1"), ("q2", "a2"), ("q3", "a3")]
    assert judged_crowd(pairs, ["q2", "a2", "q3", "a3", "q1", "a1"])
    assert judged_crowd(pairs, ["q2", "q3", "a2", "a3", "q1", "a1"]).misplaced
    assert judged_crowd(pairs, ["q2", "a2", "q1", "a1"]).lost == ("q3", "a3")


def test_threads_and_tasks_that_crowd_on_conversations_take_turns_one_after_another():
    crowd = threads_and_tasks(threads=8, tasks=32, conversations=4, turns=2)
    assert crowd.turns == 80
    assert crowd.is_clean, str(crowd)


def test_processes_that_share_sessions_take_turns_one_after_another():
    crowd = processes(count=2, sessions=2, turns=3)
    assert crowd.turns == 12
    assert crowd.is_clean, str(crowd)
