"""Which caption of a picture is drawn: the limits of the temperature, and long ones by share; lists that have
a short and a long one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from diptych.data.captioned.captions import CaptionLaw, choose, probabilities
from diptych.data.captioned.index import Index, build


@pytest.mark.parametrize("law", ["softmax", "power"])
def test_the_limits_of_the_temperature_are_the_best_caption_and_chance(law):
    scores = (28.0, 30.0, 26.0)
    for low in (1e-3, 1e-300, 5e-324):
        np.testing.assert_allclose(
            probabilities(CaptionLaw(law=law, temperature=low), scores, 3), [0, 1, 0], atol=1e-12
        )
    hot = CaptionLaw(law=law, temperature=1e300)
    np.testing.assert_allclose(probabilities(hot, scores, 3), [1 / 3] * 3)
    cold = CaptionLaw(law=law, temperature=1e-3)
    np.testing.assert_allclose(probabilities(cold, (30.0, 30.0), 2), [0.5] * 2)


def test_long_and_short_captions_are_drawn_by_share_and_by_score_among_themselves():
    law = CaptionLaw(law="power", temperature=0.1, long_share=0.25, long_words=3)
    long = (True, False, True, False)
    chances = probabilities(law, (28.0, 20.0, 30.0, 31.0), 4, long)
    assert chances[[0, 2]].sum() == pytest.approx(0.25)
    assert chances[0] / chances[2] == pytest.approx((28 / 30) ** 10)
    assert chances[1] / chances[3] == pytest.approx((20 / 31) ** 10)
    captions, scores = ("a cat sits here", "a cat"), (1.0, 1e30)
    drawn = [choose(law, captions, scores, [7, n]) for n in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.03)
    assert drawn == [choose(law, captions, scores, [7, n]) for n in range(2000)]


def test_a_kind_of_caption_that_is_not_there_gives_its_share_to_the_other():
    law = CaptionLaw(law="uniform", long_share=0.9, threshold=25.0)
    np.testing.assert_allclose(probabilities(law, (28.0, 30.0), 2, (False, False)), [0.5, 0.5])
    np.testing.assert_allclose(probabilities(law, (28.0, 20.0), 2, (False, True)), [1, 0])


def test_lists_in_json_are_read_with_journeydbs_two_captions(tmp_path):
    (tmp_path / "imgs" / "000").mkdir(parents=True)
    for name in "xy":
        pixels = np.full((16, 16, 3), ord(name), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "imgs" / "000" / f"{name}.png")
    rows = [
        {
            "img_path": f"./imgs/000/{name}.png",
            "prompt": f"{name} --v 5",
            "Task2": {"Caption": f"a long story of {name}"},
        }
        for name in "xy"
    ]
    (tmp_path / "train.json").write_text(json.dumps([*rows, {"img_path": "gone.png"}, 3], indent=1))
    # JSON of other kinds is nobody's list
    (tmp_path / "about.json").write_text('{"image": "x.png"}')
    (tmp_path / "sets.json").write_text('[{"root": "x.png"}]')
    index = Index(build(tmp_path))
    assert {row.id: row.captions for row in index.rows} == {
        f"imgs/000/{n}.png": (f"{n} --v 5", f"a long story of {n}") for n in "xy"
    }
    wrong = {row.id: row.problem for row in index.problems}
    assert "'gone.png' is not in" in wrong["train.json:3"]
    assert "no picture" in wrong["train.json:4"]
    assert len(wrong) == 2
