from metaledger.producers.relay import Report
from metaledger.services.metrics import metrics_file

REPORT = Report(
    sent=3,
    retries=1,
    rows_waiting=7,
    rows_max=100,
    oldest_row_age_s=2.5,
    unrecorded_aggregates=0,
)


def values(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return dict(line.rsplit(" ", 1) for line in lines)


def test_counters_count_on_and_gauges_are_as_they_are(tmp_path):
    path = tmp_path / "relay.prom"
    write = metrics_file(path, 's"1')
    write(REPORT)
    write(REPORT)
    label = '{stream_id="s\\"1"}'
    assert values(path) == {
        f"metaledger_relay_sent_total{label}": "6",
        f"metaledger_relay_retries_total{label}": "2",
        f"metaledger_relay_rows_waiting{label}": "7",
        f"metaledger_relay_rows_max{label}": "100",
        f"metaledger_relay_oldest_row_age_seconds{label}": "2.5",
        f"metaledger_relay_unrecorded_aggregates{label}": "0",
    }
    assert list(tmp_path.iterdir()) == [path]


def test_metrics_that_cannot_be_written_stop_nobody(tmp_path, capfd):
    metrics_file(tmp_path / "nowhere" / "relay.prom", "s")(REPORT)
    assert "metrics not written" in "".join(capfd.readouterr())
