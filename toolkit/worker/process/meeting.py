"""The machines of a run wait for each other: the main one listens at the run's address, and the others report there.

When all have reported, the main machine stops listening. That frees the port for the launcher, and tells the others
that they may start theirs.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore

from toolkit.errors import RunError
from toolkit.worker.process.stop import StopSignal

WAIT_SECONDS = 1800.0
"""Time that the machines wait for each other: they may be started by hand, one after the other."""
POLL_SECONDS, ANSWER_SECONDS, READ_SECONDS = 0.2, 5.0, 30.0
_COMPLETE, _READ, _SIZE = "ftk/complete", "ftk/read", "/size"
_SAME_SIZE = "Use the same number of machines, and of processes on each of them."


@dataclass(frozen=True)
class Meeting:
    """A meeting of the machines of one run. rank: of this machine. processes: of the run on all machines."""

    address: str
    port: int
    rank: int
    machines: int
    processes: int
    stop: StopSignal

    def hold(self) -> None:
        """Wait until all machines are there. Raises StopRequested, or RunError when some do not come."""
        where, minutes = f"{self.address}:{self.port}", f"{WAIT_SECONDS / 60:.0f} minutes"
        deadline = time.monotonic() + WAIT_SECONDS
        print(f"Machine {self.rank} of {self.machines} waits for the others at {where}", flush=True)
        if self.rank == 0:
            missing = self._receive_others(deadline)
            what = f"Machine {missing} of this run did not report at {where} within {minutes}."
        else:
            missing = None if self._report(deadline) else 0
            what = f"The main machine of this run did not answer at {where} within {minutes}."
        if missing is not None:
            hint = "Start the run on every machine with the same address and port, let the firewall pass all ports "
            raise RunError(what, hint + "between them, then press Resume.", "machines_apart")

    def _receive_others(self, deadline: float) -> int | None:
        """Listen until all others have reported; return the rank of a missing one, None when all have."""
        store = self._listen()
        for other in range(1, self.machines):
            while store.add(self._key(other), 0) <= 0:
                if time.monotonic() > deadline:
                    return other
                self._pause()
        wrong = self._find_other_size(store)
        store.set(_COMPLETE, str(self.processes))
        # the others must have read it before this process stops listening
        end = time.monotonic() + READ_SECONDS
        while store.add(_READ, 0) < self.machines - 1 and time.monotonic() < end:
            self._pause()
        if wrong:
            raise RunError(wrong, _SAME_SIZE, "machines_differ")
        return None

    def _find_other_size(self, store: TCPStore) -> str:
        for other in range(1, self.machines):
            theirs = int(store.get(self._key(other) + _SIZE))
            if theirs != self.processes:
                what = f"machine {other} has settings for {theirs} processes of this run, the main one for"
                return f"The machines differ: {what} {self.processes}."
        return ""

    def _listen(self) -> TCPStore:
        try:
            return TCPStore(self.address, self.port, is_master=True, timeout=_ANSWER, wait_for_workers=False)
        except RuntimeError as error:
            message = f"This machine can't listen at {self.address}:{self.port}: {str(error).splitlines()[0]}"
            hint = "Choose another port on every machine, or correct the address of the main machine."
            raise RunError(message, hint, "machines_apart") from error

    def _report(self, deadline: float) -> bool:
        """Report to the main machine until it says that all are there; return False if it never does."""
        while time.monotonic() < deadline:
            try:
                if self._visit(deadline):
                    self._wait_for_hang_up()
                    return True
            except RuntimeError:  # nothing listens there yet, or the processes of an attempt that is about to end
                self._pause()
        return False

    def _visit(self, deadline: float) -> bool:
        """Stay connected until the main machine says that all are there. Raises RuntimeError if it hangs up before."""
        store = TCPStore(self.address, self.port, is_master=False, timeout=_ANSWER, wait_for_workers=False)
        store.set(self._key(self.rank) + _SIZE, str(self.processes))
        store.add(self._key(self.rank), 1)
        try:
            while not store.check([_COMPLETE]):
                if time.monotonic() > deadline:
                    return False
                self._pause()
        except BaseException:
            self._leave(store)
            raise
        processes = int(store.get(_COMPLETE))
        store.add(_READ, 1)
        if processes != self.processes:
            message = (
                f"The run has {self.processes} processes by the settings here, {processes} by those of the main one"
            )
            raise RunError(f"{message}.", _SAME_SIZE, "machines_differ")
        return True

    def _wait_for_hang_up(self) -> None:
        """Wait until the main machine listens no more: its launcher's port would be taken for that of the meeting."""
        end = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < end:
            try:
                # not through the store, which would write a long warning to the log
                socket.create_connection((self.address, self.port), timeout=ANSWER_SECONDS).close()
            except OSError:
                return
            time.sleep(POLL_SECONDS)

    def _leave(self, store: TCPStore) -> None:
        try:
            store.add(self._key(self.rank), -1)
        except RuntimeError:
            return

    def _pause(self) -> None:
        self.stop.raise_if_requested()
        time.sleep(POLL_SECONDS)

    @staticmethod
    def _key(rank: int) -> str:
        return f"ftk/machine-{rank}"


_ANSWER = timedelta(seconds=ANSWER_SECONDS)
