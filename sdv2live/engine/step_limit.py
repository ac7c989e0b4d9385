"""How many denoising steps the memory takes, found out while the stream runs. Pure: no torch, no device.

Owns what is known of it: counts of steps that have run, and the count that is held to after a failure. Kept over
resets, because memory is; a new process finds it out again. Runs on the engine's thread.
"""

from __future__ import annotations


class StepLimit:
    """After a failure at n steps, the most that has worked below n is taken until another count is asked for.

    A count has stood the test once it ran at full load: every row busy, the window full. A failure at such a count
    has another reason (someone else took the memory), and nothing is held then.
    """

    def __init__(self) -> None:
        self._worked: set[int] = set()
        self._stood = 0
        self._asked = self._allowed = 0  # so many were asked for, and so many are taken instead; 0: nothing is held

    def allowed(self, asked: int) -> int:
        """How many steps a chunk whose settings ask for `asked` may take at most."""
        if asked == self._asked:
            return self._allowed
        self._asked = self._allowed = 0
        return asked

    def worked(self, count: int, *, is_full_load: bool) -> None:
        """A chunk of the stream went through with `count` steps in the device's memory."""
        self._worked.add(count)
        if is_full_load:
            self._stood = max(self._stood, count)

    def forget_the_load(self) -> None:
        """Another schedule: what stood the test has to stand it again."""
        self._stood = 0

    def failed(self, count: int, *, asked: int) -> int | None:
        """The memory was full at `count` steps, of `asked`; -> what is taken now, or None: not for the steps."""
        if count <= max(self._stood, 1):
            return None
        self._worked = {worked for worked in self._worked if worked < count}
        taken = min(max(self._worked, default=1), asked)
        self.hold(taken, asked=asked)
        return taken

    def hold(self, taken: int, *, asked: int) -> None:
        """Take `taken` steps for as long as `asked` are asked for."""
        self._asked, self._allowed = asked, taken
