"""Work in a thread that ends with it."""

import threading

import pytest

from ram_demo.models.apart import apart


def test_the_result_comes_back_and_the_thread_is_gone():
    thread = apart(threading.current_thread)
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_what_it_raises_comes_back_as_it_is():
    error = ValueError("as it is")

    def fails():
        raise error

    with pytest.raises(ValueError) as caught:
        apart(fails)
    assert caught.value is error
