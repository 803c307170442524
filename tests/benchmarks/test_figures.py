"""Figures from a results file: every right loss is drawn, a wrong one is not."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from benchmarks.figures import draw
from benchmarks.inputs import Case


def result(provider: str, status: str = "ok", **case: Any) -> dict[str, Any]:
    full = Case("logits", 64, **case)
    figures = {"milliseconds": 1.0, "peak_mib": 2.0} if status == "ok" else {}
    return {
        "key": f"{provider}: {full}",
        "provider": provider,
        "case": asdict(full),
        "status": status,
        "weighted": provider != "plain",
        **figures,
    }


def test_right_losses_are_drawn_against_v_and_share(tmp_path: Path, monkeypatch: Any) -> None:
    drawn: list[str] = []
    plot = Axes.plot

    def noted(self: Axes, *arguments: Any, **options: Any) -> Any:
        drawn.append(f"{options['label']}: {arguments[0]}")
        return plot(self, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", noted)
    results = [result(name, vocabulary=v) for name in ("cotbal", "plain") for v in (100, 200)]
    results += [result("cotbal", vocabulary=200, share=share) for share in (0.05, 1.0)]
    results += [result("bad", "wrong", vocabulary=100), result("cotbal", vocabulary=100, upstream=0.25)]
    content = {"results": results, "environment": {"device": "a device"}}
    (path,) = draw(content, tmp_path, "somewhere")
    assert path.read_bytes().startswith(b"\x89PNG")
    once = ["cotbal: (100, 200)", "cotbal: (5.0, 20.0, 100.0)"]
    plain = ["plain (unweighted): (100, 200)", "plain (unweighted): (20.0,)"]
    assert sorted(drawn) == sorted([*once, *plain] * 2)
