"""One operation of an application, contained: what it raises becomes a result, what it wrote is undone. DESIGN 3.

The same on every replica: texts of unexpected exceptions differ between machines, so they become a fixed code.
"""

from __future__ import annotations

from pbft.application import Application, Context, OperationError
from pbft.batch import Outcome
from pbft.state import State

_Result = tuple[int, bytes]


class Operations:
    """Runs operations of one application, each in its own bracket of undo."""

    def __init__(self, application: Application, state: State, result_max: int) -> None:
        self._application = application
        self._state = state
        self._result_max = result_max

    def execute(self, operation: bytes, context: Context) -> _Result:
        """`Application.execute` with its writes kept iff it succeeds."""
        outcome = self._attempt(operation, context)
        if outcome is None:  # MemoryError or OSError may be local: once more before it becomes a result
            outcome = self._attempt(operation, context)
        return (Outcome.FAILED, b"") if outcome is None else outcome

    def query(self, operation: bytes, context: Context) -> _Result:
        """`Application.query`; a write raises in it."""
        with self._state.read_only():
            try:
                return self._checked(self._application.query(operation, context))
            except OperationError as error:
                return Outcome.REFUSED, error.message
            except Exception:
                return Outcome.FAILED, b""

    def _attempt(self, operation: bytes, context: Context) -> _Result | None:
        state = self._state
        state.begin()
        try:
            outcome = self._checked(self._application.execute(operation, context))
        except OperationError as error:
            state.rollback()
            return Outcome.REFUSED, error.message
        except (MemoryError, OSError):
            state.rollback()
            return None
        except Exception:
            state.rollback()
            return Outcome.FAILED, b""
        except BaseException:
            state.rollback()
            raise
        if outcome[0] is Outcome.OK:
            state.commit()
        else:
            state.rollback()
        return outcome

    def _checked(self, result: object) -> _Result:
        if type(result) is not bytes:
            return Outcome.FAILED, b""
        if len(result) > self._result_max:
            return Outcome.TOO_LARGE, b""
        return Outcome.OK, result
