import pickle

from mm_pipelines.graph_api.errors import ThrottledError, TokenError


def test_an_error_survives_the_way_to_another_process() -> None:
    error = ThrottledError("Slow down", code=80003, status=400, fbtrace_id="A", wait_seconds=120)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ThrottledError
    assert (str(again), again.wait_seconds, again.code) == (str(error), 120, 80003)


def test_a_message_is_redacted_wherever_it_comes_from() -> None:
    error = TokenError("Error validating access_token=EAAB12345 of mary@example.com")
    for text in (str(error), repr(error), error.message, *map(str, error.args)):
        assert "EAAB12345" not in text
        assert "mary@example.com" not in text
