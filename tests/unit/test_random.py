"""Draws depend on (seed, purpose, name, id) alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from pipeline.random import ImageRandom, generator

ids = st.lists(st.text("0123456789abcdef", min_size=4, max_size=4), min_size=1, max_size=8, unique=True)


@given(ids, st.data())
def test_an_image_s_draws_do_not_depend_on_the_others(keys: list[str], data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(keys) - 1), min_size=1, unique=True)), np.intp)
    whole = ImageRandom(3, "attack/pgd", keys)
    for method, arguments in (("uniform", ((2, 3),)), ("normal", ((4,),)), ("integers", (9,))):
        everyone = getattr(whole, method)("x", *arguments)
        np.testing.assert_array_equal(getattr(whole.subset(rows), method)("x", *arguments), everyone[rows])
        np.testing.assert_array_equal(getattr(whole, method)("x", *arguments), everyone)


@pytest.mark.parametrize("other", [(4, "p", "x"), (3, "q", "x"), (3, "p", "y"), (3, "px", "")])
def test_another_seed_purpose_or_name_is_another_stream(other: tuple[int, str, str]) -> None:
    base = ImageRandom(3, "p", ["a", "b"]).uniform("x", (8,))
    assert not np.array_equal(ImageRandom(other[0], other[1], ["a", "b"]).uniform(other[2], (8,)), base)
    assert not np.array_equal(base[0], base[1])


def test_purposes_do_not_run_into_one_another() -> None:
    assert generator(0, "ab", "c").random() != generator(0, "a", "bc").random()


def test_draws_over_images_are_uniform() -> None:
    draws = ImageRandom(0, "p", [f"{n:08x}" for n in range(4000)])
    assert kstest(draws.uniform("u"), "uniform").pvalue > 1e-4
    assert kstest(draws.normal("n"), "norm").pvalue > 1e-4
    counts = np.bincount(draws.integers("i", 10), minlength=10)
    assert counts.min() > 300 and counts.sum() == 4000


def test_no_images_give_no_draws() -> None:
    assert ImageRandom(0, "p", []).uniform("u", (2, 3)).shape == (0, 2, 3)
