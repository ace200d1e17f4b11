from paredown.benchmarks.words import trimmed


def test_each_trimmed_vocabulary_is_said_once() -> None:
    made = {"cut-1-prune": {"parameters": 5}, "cut-2-trim": {"changed_tokens": 0.018}}
    measurements = {"candidates": [{"made": {}}, {"made": made}, {"made": made}, {}]}
    assert trimmed(measurements) == [{"name": "cut-2-trim", "changed": 0.018}]
