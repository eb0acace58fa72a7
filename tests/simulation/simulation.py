"""Plays one story: people, Meta, the daemon and the runs, in virtual time."""

import random
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import text

from mm_pipelines.consent import opt_out_requests
from mm_pipelines.consent.opt_out_requests import NewRequest
from mm_pipelines.warehouse.database import Database
from mm_pipelines.webhooks import webhook_event
from mm_pipelines.webhooks.envelope import parse
from tests.simulation import invariants, runs
from tests.simulation.clock import Clock, empty
from tests.simulation.company import PAGE_IDS, Customer, day, list_path
from tests.simulation.daemon import Daemon, Request
from tests.simulation.invariants import ViolationError
from tests.simulation.meta import Meta
from tests.simulation.model import Model
from tests.simulation.process import Answer, Call, Death, Died, Ended, RunProcess, Sleep
from tests.simulation.runs import Work
from tests.simulation.story import (
    DAY,
    HOUR,
    CallFails,
    Event,
    ListArrives,
    OptOut,
    OtherAppReports,
    Resume,
    RunDies,
    Stop,
    Story,
    Throttled,
    WebhookFails,
    WebhooksReversed,
)

MOST_RUNS_AT_ONCE = 3
DAEMON_LOOP = 5.0
"""Seconds between two evaluations of the sensors."""

QUIET_WITHIN = 6 * DAY
"""After the last event, all work must be done within this time."""

_WEBHOOK_EFFECTS: dict[str, dict[str, object]] = {
    "lost": {"lost": True},
    "doubled": {"copies": 2},
    "late": {"delay_seconds": 5 * HOUR},
}
_WATCHED_FOR = 30 * HOUR
_STUCK_AFTER = 20.0
_BLOCKED_AFTER = 0.3


@dataclass
class Played:
    """What a story did: how often each kind of event and fault took effect, and the runs."""

    happened: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    calls: int = 0


@dataclass
class _Active:
    request: Request
    process: RunProcess
    answered: tuple[int, int] | None = None

    @property
    def work(self) -> Work:
        return self.request.work


def play(story: Story, database: Database) -> Played:
    """Play a story to its end.

    Raises:
        ViolationError: An invariant does not hold.
    """
    with tempfile.TemporaryDirectory(prefix="mm-story-") as home:
        with database.transaction() as connection:
            empty(connection)
        simulation = _Simulation(story, database, Path(home))
        try:
            simulation.play()
        finally:
            simulation.close()
        return simulation.played


class _Simulation:
    def __init__(self, story: Story, database: Database, home: Path) -> None:
        self._chance = random.Random(story.seed ^ 0x5EED)
        self._database = database
        self._home = home
        self._events = list(story.events)
        self._last_event_at = max((event.at for event in story.events), default=0.0)
        self._clock = Clock(database)
        self._meta = Meta(story.seed, lambda: self._clock.now, self._receive)
        self._meta.refuse(story.refused)
        self._model = Model(frozenset(story.refused))
        self._daemon = Daemon()
        self._active: list[_Active] = []
        self._armed_calls: list[CallFails] = []
        self._armed_deaths: list[RunDies] = []
        self._armed_answers: list[str] = []
        self.played = Played()

    def close(self) -> None:
        """End what still runs."""
        for active in self._active:
            active.process.kill()
        self._meta.close()

    def play(self) -> None:
        """Let events, Meta, daemon and runs take turns until nothing is left to do."""
        while self._turn():
            if self._clock.elapsed > self._last_event_at + QUIET_WITHIN:
                raise ViolationError(f"work is still due after {QUIET_WITHIN / DAY:.0f} quiet days")
        self._check_at_rest()

    def _turn(self) -> bool:
        while self._events and self._events[0].at <= self._clock.elapsed:
            self._happen(self._events.pop(0))
        self._meta.work()
        self._start_runs()
        if self._active:
            self._step(self._chance.choice(self._active))
            return True
        return self._let_time_pass()

    def _let_time_pass(self) -> bool:
        """Go on to the next moment at which something is due; False if there is none."""
        with self._database.transaction() as connection:
            if self._daemon.due(connection, self._clock.now):
                return True
            times = [self._daemon.next_time(connection, self._clock.now), self._meta.next_due()]
            times.append(invariants.next_overdue(connection))
        if self._events:
            times.append(self._clock.now - self._clock.elapsed + self._events[0].at)
        if self._clock.elapsed < self._last_event_at + _WATCHED_FOR:
            # Some work becomes due by the passing of time alone.
            times.append(self._clock.now + HOUR)
        later = [at for at in times if at is not None and at > self._clock.now]
        if not later:
            return False
        self._clock.advance(min(later) - self._clock.now + DAEMON_LOOP)
        return True

    def _start_runs(self) -> None:
        if len(self._active) >= MOST_RUNS_AT_ONCE:
            return
        with self._database.transaction() as connection:
            due = self._daemon.due(connection, self._clock.now)
        running = {active.work for active in self._active}
        for request in due:
            if len(self._active) < MOST_RUNS_AT_ONCE and request.work not in running:
                running.add(request.work)
                self._start(request)

    def _start(self, request: Request) -> None:
        death = None
        if self._armed_deaths:
            dies = self._armed_deaths.pop(0)
            death = Death(dies.statement, dies.after_commit)
        url = self._database.url

        def carry_out(outside: object) -> Ended:
            return runs.carry_out(request.work, url, self._home, outside)  # type: ignore[arg-type]

        self._model.run_started(request.work)
        process = RunProcess(carry_out, self._clock.now, death)
        self._active.append(_Active(request, process))
        self.played.runs += 1

    def _step(self, active: _Active) -> None:
        """Let one run go on until its next call."""
        alone = len(self._active) == 1
        message = active.process.message(_STUCK_AFTER if alone else _BLOCKED_AFTER)
        self._clock.advance(0.02)
        if message is None:
            if alone:
                raise ViolationError(f"{active.work} does nothing and waits for nothing")
            return  # it waits in PostgreSQL for another run
        if active.answered and (isinstance(message, Call) or _has_succeeded(message)):
            self._model.answered.add(active.answered)
        active.answered = None
        if isinstance(message, Ended | Died):
            self._end(active, message)
        elif isinstance(message, Sleep):
            self._clock.advance(message.seconds)
            active.process.answer(Answer(self._clock.now))
        else:
            self._call(active, message)

    def _end(self, active: _Active, message: Ended | Died) -> None:
        self._active.remove(active)
        outcome = message if isinstance(message, Ended) else None
        if outcome is not None:
            invariants.check_log(active.work, outcome)
        else:
            self.played.happened["run died"] += 1
        self._daemon.ended(active.request, outcome, self._clock.now)
        self._model.run_ended(active.work, outcome)
        self._check()

    def _call(self, active: _Active, call: Call) -> None:
        self.played.calls += 1
        fault = self._fault_for(call)
        how = fault.how if fault else None
        if how is not None:
            self.played.happened[f"call {how}"] += 1
        answer = None
        if how not in ("not_sent", "server_error", "killed_before"):
            invariants.check_call(self._model, active.work, call)
            answer = self._meta.call(call.request)
        if how in ("killed_before", "killed_after"):
            active.process.kill()
            self._end(active, Died())
            return
        if how == "database_gone":
            self._end_sessions()
        if how == "server_error":
            answer = (500, {"content-type": "application/json"}, b"{}")
        lost = how if how in ("answer_lost", "not_sent") else None
        if how is None and answer is not None and answer[0] == 200:
            active.answered = invariants.batch_of(call)
        active.process.answer(Answer(self._clock.now, None if lost else answer, lost))

    def _fault_for(self, call: Call) -> CallFails | None:
        path = call.request.url.path
        for fault in self._armed_calls:
            if path.endswith(fault.edge):
                self._armed_calls.remove(fault)
                return fault
        return None

    def _end_sessions(self) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                text("""
                select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()
                """)
            )

    def _happen(self, event: Event) -> None:
        self.played.happened[type(event).__name__] += 1
        match event:
            case ListArrives():
                self._put_list(event)
            case OptOut():
                self._opt_out(event)
            case Stop():
                self._model.note_stop(event.page_id, self._meta.psids(event.page_id)[event.person])
                self._meta.stop(event.page_id, event.person)
            case Resume():
                self._meta.resume(event.page_id, event.person)
            case OtherAppReports():
                self._meta.report_of_other_app(event.audience, event.rows)
            case _:
                self._arm(event)

    def _arm(self, fault: Event) -> None:
        match fault:
            case CallFails():
                self._armed_calls.append(fault)
            case RunDies():
                self._armed_deaths.append(fault)
            case Throttled():
                self._meta.throttle(fault.quota, fault.subject, fault.seconds)
            case WebhooksReversed():
                self._meta.reverse_webhooks()
            case WebhookFails(how="refused" | "answer_lost"):
                self._armed_answers.append(fault.how)
            case WebhookFails():
                self._meta.fail_webhook(**_WEBHOOK_EFFECTS[fault.how])
            case _:
                raise AssertionError(fault)

    def _put_list(self, event: ListArrives) -> None:
        of_day = day(event.day)
        path = list_path(self._home, event.audience, of_day)
        path.parent.mkdir(parents=True, exist_ok=True)
        customers = [Customer(number) for number in event.customers]
        lines = [f"{customer.email},{customer.phone}" for customer in customers]
        part = path.with_suffix(".part")
        part.write_text("\n".join(["email,phone", *lines, ""]))
        part.replace(path)
        self._daemon.list_changed(event.audience, of_day, self._clock.now)
        self._model.listed(event.audience, of_day, customers)

    def _opt_out(self, event: OptOut) -> None:
        customer = Customer(event.customer)
        value = {event.contact: getattr(customer, event.contact)}
        with self._database.transaction() as connection:
            opt_out_requests.receive(connection, event.page_id, [NewRequest(**value)], "command")
        self._model.note_opt_out(event.page_id, customer)

    def _receive(self, body: bytes) -> int:
        """The receiver: stores the events of a webhook."""
        fault = self._armed_answers.pop(0) if self._armed_answers else None
        if fault is not None:
            self.played.happened[f"webhook {fault}"] += 1
        if fault == "refused":
            return 503
        with self._database.transaction() as connection:
            webhook_event.insert(connection, parse(body))
        self._model.webhook_stored(body)
        return 500 if fault == "answer_lost" else 200

    def _check(self) -> None:
        with self._database.transaction() as connection:
            invariants.check(connection, self._model, self._meta)

    def _check_at_rest(self) -> None:
        with self._database.transaction() as connection:
            left_over = self._daemon.left_over(connection, self._clock.now)
        if left_over:
            raise ViolationError(f"work is due and nothing requests it: {'; '.join(left_over)}")
        self._finally("subscription_tokens")
        self._finally("sendable_tokens")
        self._check()
        found = self._run_to_end(Work("inspection", ""))
        with self._database.transaction() as connection:
            invariants.check_at_rest(connection, self._model, self._meta, found)

    def _finally(self, asset: str) -> None:
        for page_id in PAGE_IDS:
            self._run_to_end(Work(asset, page_id))

    def _run_to_end(self, work: Work) -> object:
        self._armed_calls.clear()
        self._armed_deaths.clear()
        self._start(Request(work, self._clock.now))
        (active,) = self._active
        while self._active:
            message = active.process.message(_STUCK_AFTER)
            self._clock.advance(0.02)
            if isinstance(message, Call):
                active.process.answer(Answer(self._clock.now, self._meta.call(message.request)))
            elif isinstance(message, Sleep):
                self._clock.advance(message.seconds)
                active.process.answer(Answer(self._clock.now))
            else:
                self._active.clear()
                if isinstance(message, Ended) and message.error is None:
                    return message.result
                raise ViolationError(f"{work} fails at the end: {message}")
        return None


def _has_succeeded(message: object) -> bool:
    return isinstance(message, Ended) and message.error is None
