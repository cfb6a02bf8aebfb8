"""The decision against a model of a conversation: whatever is done, what the model is shown is right.

The machine keeps a conversation as the service does, a caller's list that is edited, cut, copied
and stripped of its stamps in every way, and what one process knows. Whenever the decision says
"attach", the items that the model is then shown have to end with the caller's list.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qwen_conv.decision import Attach, Diverged, Known, Look, Seen, decide, settle
from qwen_conv.errors import UsageError
from qwen_conv.items import Message
from qwen_conv.limits import ITEM_LIFETIME
from qwen_conv.local import Entry, LocalList, key_of

URL, HERE = "https://example.com/v1", "conv_1"
DAY = 24 * 60 * 60
words = st.sampled_from(["yes", "no", "yes", "why?", ""])
MOST_LOOKS = 3


@dataclass
class Stored:
    """An item as the service keeps it."""

    role: str
    text: str
    id: str
    at: float
    unseen: bool = False  # somebody else put it there, and nobody here has read it since

    def item(self):
        return Message(self.role, Message.of("user", self.text).content, id=self.id)


@dataclass
class Lists:
    """The caller's list, and what was done to it that the decision may not be able to bridge."""

    entries: list = field(default_factory=list)
    straight: bool = True  # nothing was changed but what a decision has to see through
    whole: bool = True  # it begins where the conversation begins


def audible(told):
    """Without the answers that say nothing: they are no message to anybody."""
    return [(role, text) for role, text in told if text or role != "assistant"]


def as_users(told):
    return [("user" if role == "system" else role, text) for role, text in told]


class Conversation(RuleBasedStateMachine):
    @initialize(
        same_ids=st.booleans(),
        roles_kept=st.booleans(),
        cursors_refused=st.booleans(),
        span=st.sampled_from(["new", "tail", "whole"]),
    )
    def begin(self, same_ids, roles_kept, cursors_refused, span):
        self.span = span
        self.idle, self.is_behind = Known(), False
        self.same_ids, self.roles_kept = same_ids, roles_kept
        self.cursors_refused = cursors_refused
        self.now, self.count = 1000.0, 0
        self.held: list[Stored] = []
        self.known = Known(exists=True, empty=True)
        self.local = Lists()
        self.saved: list[list[Entry]] = []
        self.looks = 0

    # --- The service --------------------------------------------------------------------------

    def new_id(self):
        self.count += 1
        return f"msg_{self.count}"

    def alive(self):
        return [one for one in self.held if one.at + ITEM_LIFETIME > self.now]

    def look(self, wanted):
        self.looks += 1
        assert self.looks <= MOST_LOOKS, "it never makes up its mind"
        if wanted.at == "conversation":
            self.known = self.known._replace(exists=True)
            return None
        items = tuple(self.shown(one) for one in self.alive())
        if wanted.at == "behind":
            ids = [item.id for item in items]
            if wanted.item_id in ids:
                items = items[ids.index(wanted.item_id) + 1 :]
            elif self.cursors_refused:
                return Seen(wanted, None)
        if items:
            self.known = self.known._replace(exists=True)
        for one in self.held:
            one.unseen = one.unseen and one.id not in {item.id for item in items}
        return Seen(wanted, items)

    def shown(self, stored):
        item = stored.item()
        if item.role == "system" and not self.roles_kept:
            return Message("user", item.content, id=item.id)
        return item

    # --- A turn -------------------------------------------------------------------------------

    @rule(text=words.filter(bool), reply=words, role=st.sampled_from(["user", "user", "system"]))
    def turn(self, text, reply, role):
        entries = [*self.local.entries, Entry((Message.of(role, text),))]
        listing = LocalList(entries, lambda entry: entry, tuple(key_of(e.items) for e in entries))
        self.looks, seen = 0, None
        while True:
            verdict = self.decided(listing, seen)
            if not isinstance(verdict, Look):
                break
            looked = self.look(verdict)
            seen = looked if looked is not None else seen
        if isinstance(verdict, Diverged):
            assert not self.seen_through(), verdict.why
            self.start_anew()
            return
        self.carry_out(verdict, entries, listing, reply)

    def decided(self, listing, seen):
        return decide(
            listing,
            self.known,
            seen,
            base_url=URL,
            conversation_id=HERE,
            now=self.now,
            span=self.span,
        )

    def seen_through(self):
        """Whether the list can be recognized: whole, or by stamps that lead to items there."""
        stamps = [entry.stamp for entry in self.local.entries if entry.is_answer]
        led = self.same_ids and all(
            stamp and stamp.item_ids and stamp.after is not None for stamp in stamps
        )
        # A list that is to be whole is, and one without an answer may have gone back to nothing.
        may_be_a_part = self.span == "new" or (self.span == "tail" and stamps)
        return self.local.straight and (self.local.whole or (led and bool(may_be_a_part)))

    def carry_out(self, plan, entries, listing, reply):
        assert isinstance(plan, Attach)
        if plan.take_back:
            taken = [one for one in self.held if one.id == plan.take_back]
            assert [one.role for one in taken] != ["assistant"]
            self.held = [one for one in self.held if one.id != plan.take_back]
        said = [item for entry in plan.send for item in entry.items]
        shown = [(one.role, one.text) for one in self.alive() if not one.unseen]
        shown += [(item.role, item.text) for item in said]
        wanted = [(item.role, item.text) for entry in entries for item in entry.items]
        shown, wanted = audible(shown), audible(wanted)
        # A list without stamps is compared as if the service listed system messages as the user's.
        shown, wanted = as_users(shown), as_users(wanted)
        assert shown[len(shown) - len(wanted) :] == wanted, (shown, wanted)
        answers = any(entry.is_answer for entry in entries)
        if self.span == "whole" or (self.span == "tail" and not answers):
            assert shown == wanted, (shown, wanted)
        self.is_behind = False

        for item in said:
            self.held.append(Stored(item.role, item.text, self.new_id(), self.now))
        output = (Message.of("assistant", reply),) if reply else ()
        stored_ids = tuple(self.new_id() for _ in output)
        for item, item_id in zip(output, stored_ids, strict=True):
            self.held.append(Stored(item.role, item.text, item_id, self.now))
        told_ids = stored_ids if self.same_ids else tuple(f"{one}x" for one in stored_ids)
        self.count += 1
        stamp, self.known = settle(
            listing,
            plan,
            base_url=URL,
            conversation_id=HERE,
            response_id=f"response-{self.count}",
            item_ids=told_ids,
            received=output,
            now=self.now,
            whole=self.span == "whole",
        )
        self.local.entries = [*entries, Entry(output, stamp)]

    @rule()
    def repeat(self):
        """The list as it is, ending with an answer, has nothing to say."""
        if not self.local.entries or not self.local.straight:
            return
        entries = self.local.entries
        listing = LocalList(entries, lambda entry: entry, tuple(key_of(e.items) for e in entries))
        seen = None
        for _ in range(MOST_LOOKS + 1):
            try:
                verdict = self.decided(listing, seen)
            except UsageError:
                return
            if not isinstance(verdict, Look):
                break
            self.looks = 0
            looked = self.look(verdict)
            seen = looked if looked is not None else seen
        assert not isinstance(verdict, Attach), "an answered list was sent again"

    # --- What may happen to the list that has to be seen through ------------------------------

    @rule()
    def another_process(self):
        """Another process goes on, or this one was started anew."""
        self.known = Known()

    # One that has created a conversation, and never used it, takes it for empty.
    @precondition(lambda self: self.local.straight and not (self.is_behind or self.known.empty))
    @rule()
    def a_process_comes_back(self):
        """It knows what it knew when it last took a turn; the list has what was said since."""
        self.known, self.idle = self.idle, self.known
        self.is_behind = True

    @precondition(lambda self: self.local.entries)
    @rule(data=st.data())
    def drop_the_older_part(self, data):
        entries = self.local.entries
        keep = data.draw(st.integers(1, len(entries)), label="keep")
        self.local.entries = entries[len(entries) - keep :]
        self.local.whole = self.local.whole and keep == len(entries)

    @rule()
    def lose_the_stamps(self):
        self.local.entries = [Entry(entry.items) for entry in self.local.entries]
        # What is left has to be the whole conversation to be recognized.
        whole = [(one.role, one.text) for one in self.alive()]
        mine = [(i.role, i.text) for entry in self.local.entries for i in entry.items]
        self.local.straight = self.local.straight and whole == mine

    @rule()
    def remember_the_list(self):
        self.saved.append(list(self.local.entries))

    # --- What may happen that has to be noticed ------------------------------------------------

    @precondition(lambda self: self.local.entries)
    @rule(data=st.data(), text=words)
    def edit(self, data, text):
        at = data.draw(st.integers(0, len(self.local.entries) - 1), label="at")
        entry = self.local.entries[at]
        if entry.items:
            role = entry.items[0].role
            self.local.entries[at] = Entry((Message.of(role, text),), entry.stamp)
            self.local.straight = False

    @precondition(lambda self: self.local.entries and not self.is_behind)
    @rule(data=st.data())
    def take_out(self, data):
        at = data.draw(st.integers(0, len(self.local.entries) - 1), label="at")
        del self.local.entries[at]
        self.local.straight = False

    @precondition(lambda self: len(self.local.entries) > 2 and not self.is_behind)
    @rule(data=st.data())
    def take_out_a_turn(self, data):
        at = data.draw(st.integers(0, len(self.local.entries) - 2), label="at")
        del self.local.entries[at : at + 2]
        self.local.straight = False

    @precondition(lambda self: self.local.entries)
    @rule(data=st.data(), text=words.filter(bool), role=st.sampled_from(["user", "assistant"]))
    def put_in(self, data, text, role):
        at = data.draw(st.integers(0, len(self.local.entries)), label="at")
        self.local.entries.insert(at, Entry((Message.of(role, text),)))
        self.local.straight = False

    # That a list goes back to where a process had left it cannot be told from its going on.
    @precondition(lambda self: self.saved and not self.is_behind)
    @rule(data=st.data())
    def go_back(self, data):
        """A fork: an earlier list is taken up again."""
        self.local = Lists(list(data.draw(st.sampled_from(self.saved))), straight=False)

    @rule(text=words.filter(bool), role=st.sampled_from(["user", "assistant"]))
    def somebody_else_writes(self, text, role):
        self.held.append(Stored(role, text, self.new_id(), self.now, unseen=True))
        self.local.straight = False

    @rule(days=st.sampled_from([1, 3, 7]))
    def time_passes(self, days):
        self.now += days * DAY
        if any(one.at + ITEM_LIFETIME <= self.now for one in self.held):
            self.local.straight = False

    @rule()
    def start_anew(self):
        """The way out of a divergence: a new conversation from the list, or none."""
        self.held, self.known = [], Known(exists=True, empty=True)
        self.idle, self.is_behind = Known(), False
        self.local, self.saved = Lists(), []

    @invariant()
    def nothing_is_stored_twice(self):
        ids = [one.id for one in getattr(self, "held", [])]
        assert len(ids) == len(set(ids))


Conversation.TestCase.settings = settings(max_examples=600, stateful_step_count=40, deadline=None)
TestConversation = Conversation.TestCase
