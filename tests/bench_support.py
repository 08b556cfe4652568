"""For the tests of the benchmark's child processes, which import this module and nothing large."""


def echo(connection, number):
    """Sends the sum of `number` and what it gets, then fails."""
    connection.send(number + connection.recv())
    raise ValueError(f"no {number}")
