"""Operations of an application, contained: what one raises becomes a result, what it wrote is undone. DESIGN 3.

The same on every replica: texts of unexpected exceptions differ between machines, so they become a fixed code. A
MemoryError or OSError may be local to one machine, so it is tried once more, with a context of its own: had the first
attempt drawn from `context.random`, going on with that one would give other numbers than everywhere else.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress

from pbft.application import MAX_ERROR_BYTES, Application, Context, OperationError
from pbft.batch import Outcome
from pbft.state import State, StateError

Tell = Callable[[str, Exception | None], None]
"""(what is wrong with the application, the exception that shows where)"""

OutcomeRow = tuple[int, bytes]

_OK = int(Outcome.OK)
_REFUSED = int(Outcome.REFUSED)
_PLACES = 64

_FAILED: OutcomeRow = (int(Outcome.FAILED), b"")
_TOO_LARGE: OutcomeRow = (int(Outcome.TOO_LARGE), b"")
_CROWDED: OutcomeRow = (int(Outcome.CROWDED), b"")


class Operations:
    """Runs the operations of one application, each in its own bracket of undo."""

    def __init__(self, application: Application, state: State, result_max: int, together_max: int = 0) -> None:
        """`result_max`: bytes of one result; `together_max`: of all results of one REQUEST, at least `result_max`."""
        self._application = application
        self._state = state
        self._result_max = result_max
        self._together_max = max(result_max, together_max)
        self.tell: Tell | None = None
        """Gets failures of the application, once for each place: clients can repeat them as often as they like."""
        self._told: set[object] = set()
        """Places that were told; at most `_PLACES`."""

    def execute(
        self, operations: Sequence[bytes], number: int, position: int, client: int, time: int, seed: bytes
    ) -> list[OutcomeRow]:
        """`Application.execute` one after the other, the writes of each kept iff it succeeds.

        `position` is that of the first in its batch. Raises only what is not an `Exception`.
        """
        execute, limit, room = self._application.execute, self._result_max, self._together_max
        begin, commit = self._state.begin, self._state.commit
        outcomes: list[OutcomeRow] = []
        for operation in operations:
            if outcomes and outcomes[-1] == _CROWDED:  # the rest too: they execute in the order of the calls
                outcomes.append(_CROWDED)
                continue
            begin()
            try:
                result = execute(operation, Context(number, position, client, time, seed))
                if type(result) is bytes and len(result) <= limit and len(result) <= room:
                    commit()
                    outcomes.append((_OK, result))
                else:
                    self._undo()
                    outcomes.append(self._unusable(result))
            except Exception as error:
                self._undo()
                if isinstance(error, (MemoryError, OSError)):
                    outcomes.append(self._again(operation, Context(number, position, client, time, seed), room))
                else:
                    outcomes.append(self._raised(error))
            except BaseException:
                self._undo()
                raise
            room -= len(outcomes[-1][1])
            position += 1
        return outcomes

    def query(
        self, operations: Sequence[bytes], number: int, position: int, client: int, time: int, seed: bytes
    ) -> list[OutcomeRow]:
        """`Application.query` one after the other; a write raises in it."""
        outcomes: list[OutcomeRow] = []
        room = self._together_max
        with self._state.read_only():
            for index, operation in enumerate(operations, position):
                if outcomes and outcomes[-1] == _CROWDED:
                    outcomes.append(_CROWDED)
                    continue
                for last in (False, True):
                    try:
                        result = self._application.query(operation, Context(number, index, client, time, seed))
                        outcomes.append(self._checked(result, room))
                        break
                    except Exception as error:
                        if last or not isinstance(error, (MemoryError, OSError)):
                            outcomes.append(self._raised(error))
                            break
                room -= len(outcomes[-1][1])
        return outcomes

    def _again(self, operation: bytes, context: Context, room: int) -> OutcomeRow:
        """The second and last attempt at an operation."""
        state = self._state
        state.begin()
        try:
            outcome = self._checked(self._application.execute(operation, context), room)
            if outcome[0] == _OK:
                state.commit()
            else:
                self._undo()
        except Exception as error:
            self._undo()
            return self._raised(error)
        except BaseException:
            self._undo()
            raise
        return outcome

    def _undo(self) -> None:
        # An application that ended the bracket by itself has broken its contract, the same on every replica.
        with suppress(StateError):
            self._state.rollback()

    def _checked(self, result: object, room: int) -> OutcomeRow:
        if type(result) is bytes and len(result) <= self._result_max and len(result) <= room:
            return _OK, result
        return self._unusable(result)

    def _unusable(self, result: object) -> OutcomeRow:
        if type(result) is not bytes:
            self._tell(type(result), f"a result must be bytes, and this is a {type(result).__name__}")
            return _FAILED
        return _TOO_LARGE if len(result) > self._result_max else _CROWDED

    def _raised(self, error: Exception) -> OutcomeRow:
        """What an exception becomes."""
        if isinstance(error, OperationError):
            with suppress(
                Exception
            ):  # a subclass may have left its text out, put anything there, or made it a property
                message: object = error.message
                if type(message) is bytes and len(message) <= MAX_ERROR_BYTES:
                    return _REFUSED, message
        frames = traceback.extract_tb(error.__traceback__, limit=-1)
        place = (type(error), frames[-1].filename, frames[-1].lineno) if frames else type(error)
        self._tell(place, "an operation failed, and its writes are undone", error)
        return _FAILED

    def _tell(self, place: object, text: str, error: Exception | None = None) -> None:
        if self.tell is not None and place not in self._told and len(self._told) < _PLACES:
            self._told.add(place)
            self.tell(f"{type(self._application).__name__}: {text}", error)
