import os
import signal
import threading

import pytest

from riffusion_train.runtime.progress import StopRequest


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_a_request_and_the_handlers_come_back(number: signal.Signals):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as stop:
        assert not stop.asked
        send(number)
        assert stop.asked
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_ctrl_c_interrupts_and_a_second_sigterm_does_not():
    with StopRequest() as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_callback_hears_every_signal():
    heard: list[int] = []
    with StopRequest(heard.append) as stop:
        send(signal.SIGINT)
        send(signal.SIGINT)
        send(signal.SIGTERM)
    assert heard == [signal.SIGINT, signal.SIGINT, signal.SIGTERM]
    assert stop.asked


def test_other_threads_install_nothing():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with StopRequest() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
