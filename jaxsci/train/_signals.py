import signal
import threading


class Interrupted(KeyboardInterrupt):
    """The first signal, where waiting for the end of a chunk is not an option."""


class Signals:
    """While entered, SIGINT and SIGTERM are noted once, in `received`; a second one interrupts.

    A compiled chunk has to end by itself, so the first signal only asks for that. Where Python
    works (`immediate` is true: compiling, evaluating), the first one raises `Interrupted`.

    Outside the main thread Python delivers no signals, and nothing is installed. A signal that the
    process ignores, or whose handler was not set from Python, is left as it is.
    """

    def __init__(self):
        self.received = None
        self.immediate = False
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                previous = signal.getsignal(number)
                if previous is not None and previous != signal.SIG_IGN:
                    self._previous[number] = previous
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *error):
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _handle(self, number, frame):
        first, self.received = self.received is None, number
        if not first:
            raise KeyboardInterrupt
        if self.immediate:
            raise Interrupted
