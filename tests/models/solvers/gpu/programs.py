"""Run the programs of a Triton kernel by turns in the interpreter, which runs only one program at a time.

Each program is a thread. One runs until it polls a barrier, then the next one. A phase that reads what another program
writes in the same phase finds old numbers, in one of the two orders of the programs.
"""

import threading

from triton.runtime import interpreter

builder = interpreter.interpreter_builder


def number(value):
    """Return a number as the interpreter has it."""
    return interpreter.TensorHandle(interpreter.np.array([value], dtype="int32"), interpreter.tl.int32)


class ByTurns:
    """A launch of `count` programs, in place of one that starts a single program."""

    def __init__(self, launch, count, reverse=False):
        self.launch, self.count = launch, count
        self.order = list(range(count))[:: -1 if reverse else 1]
        self.turn, self.changed, self.own, self.polls = 0, threading.Condition(), threading.local(), 0

    def __call__(self, kernel, *arguments, **fixed):
        atomic, self.kernel, errors = builder.create_atomic_rmw, kernel, []
        self.left, self.turn = list(self.order), self.order[0]

        def polled(*of_atomic):
            found = atomic(*of_atomic)
            self.polls += 1
            self._pass()
            if errors:
                raise RuntimeError("another program failed")
            return found

        def program(own):
            self.own.number = own
            try:
                self._wait()
                self.launch(kernel, *arguments, **fixed)
            except Exception as error:
                errors.append(error)
            finally:
                with self.changed:
                    following = self._following()
                    self.left.remove(own)
                    self.turn = following
                    self.changed.notify_all()

        patched = interpreter._patch_lang(kernel.fn)  # until the last program has ended
        builder.create_atomic_rmw = polled
        builder.create_get_program_id = lambda axis: number(self.own.number)
        builder.create_get_num_programs = lambda axis: number(self.count)
        try:
            threads = [threading.Thread(target=program, args=(own,)) for own in self.order]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for name in ("create_atomic_rmw", "create_get_program_id", "create_get_num_programs"):
                delattr(builder, name)
            patched.restore()
        if errors:
            raise errors[0]

    def _following(self):
        return self.left[(self.left.index(self.own.number) + 1) % len(self.left)]

    def _wait(self):
        with self.changed:
            self.changed.wait_for(lambda: self.turn == self.own.number)

    def _pass(self):
        with self.changed:
            self.turn = self._following()
            self.changed.notify_all()
        self._wait()
