"""Which caption of a picture is drawn: the limits of the temperature, and long ones by share."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.data.captioned.captions import CaptionLaw, choose, probabilities


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
