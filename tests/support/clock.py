"""A clock that the test sets."""


class Clock:
    """Called like `time.monotonic`; `now_s` is what it says."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s
