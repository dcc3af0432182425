"""Rates and lengths at known-good values, and every check of both kinds of settings."""

import math
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from tiny_bundle import tiny_config

from vab_rt.config import ModelConfig
from vab_rt.errors import BundleError, OptionError
from vab_rt.options import GenerateOptions
from vab_rt.video import Video


def full_size(**changes) -> ModelConfig:
    facts = {"clip_s": 10.0, "visual_rate_hz": 1.0, "num_codebooks": 4, "codebook_size": 2048}
    return tiny_config(**(facts | changes))


def test_lengths_of_the_published_model():
    c = full_size()
    assert (c.num_frames, c.num_token_steps, c.num_samples) == (10, 500, 160_000)
    assert c.hop_rate_hz == 50
    assert c.num_overlap_hops == 150
    assert c.mask_id == 2048


@pytest.mark.parametrize(
    ("changes", "lengths"),
    [
        ({"visual_rate_hz": 5.0}, (50, 500, 160_000, 150)),
        ({"clip_s": 2.0, "visual_rate_hz": 2.0}, (4, 100, 32_000, 30)),
        ({"sample_rate_hz": 44_100, "hop_samples": 512}, (10, 861, 440_832, 258)),
        ({"clip_s": 0.1}, (1, 5, 1600, 2)),
    ],
)
def test_lengths_follow_from_the_rates(changes, lengths):
    c = full_size(**changes)
    assert (c.num_frames, c.num_token_steps, c.num_samples, c.num_overlap_hops) == lengths


@pytest.mark.parametrize(("duration_s", "num_samples"), [(10, 160_000), (3.2, 51_200), (1e-9, 0)])
def test_samples_of_a_duration(duration_s, num_samples):
    assert full_size().samples_in(duration_s) == num_samples


@pytest.mark.parametrize(
    ("field", "bad", "expected"),
    [
        *[
            (field, 0, "at least 1")
            for field in (
                "image_size",
                "visual_dim",
                "sample_rate_hz",
                "hop_samples",
                "num_codebooks",
                "codebook_size",
                "code_dim",
                "width",
                "layers",
                "heads",
            )
        ],
        ("visual_rate_hz", 0.0, "0 to 60 Hz"),
        ("visual_rate_hz", 60.1, "0 to 60 Hz"),
        ("visual_rate_hz", math.nan, "0 to 60 Hz"),
        ("clip_s", 0.0, "0 to 600 s"),
        ("clip_s", 601.0, "0 to 600 s"),
        ("clip_s", 0.001, "at least one hop"),
        ("expert_layers", -1, "0 to layers"),
        ("expert_layers", 2, "0 to layers"),
        ("heads", 3, "multiple of heads"),
    ],
)
def test_a_model_out_of_range_is_refused(field, bad, expected):
    with pytest.raises(BundleError, match=expected) as caught:
        tiny_config(**{field: bad})
    assert field in str(caught.value)


def asked_for(option, value):
    if option in ("start_s", "duration_s"):
        return Video("in.mp4", **{option: value})
    return GenerateOptions(**{option: value})


@pytest.mark.parametrize(
    ("option", "bad", "expected"),
    [
        ("seed", -1, "0 to 2[*][*]64 - 1"),
        ("seed", 2**64, "0 to 2[*][*]64 - 1"),
        ("steps", 0, "1 to 1024"),
        ("steps", 1025, "1 to 1024"),
        ("guidance", -0.1, "0 to 100"),
        ("guidance", 100.1, "0 to 100"),
        ("guidance", math.nan, "0 to 100"),
        ("temperature", 0.0, "0.01 to 100"),
        ("temperature", 101.0, "0.01 to 100"),
        ("temperature", math.inf, "0.01 to 100"),
        ("top_k", -1, "0 [(]keep all[)] or more"),
        ("top_k", 2**31, "0 [(]keep all[)] or more"),
        ("mask_temperature", -1.0, "0 to 1000"),
        ("mask_temperature", 1001.0, "0 to 1000"),
        ("mask_temperature", math.nan, "0 to 1000"),
        ("start_s", -0.1, "0 s or more"),
        ("start_s", 1.1e9, "at most 1e9 s"),
        ("duration_s", 1e308, "at most 1e9 s"),
        ("start_s", math.inf, "0 s or more"),
        ("duration_s", 0.0, "more than 0 s"),
        ("duration_s", -1.0, "more than 0 s"),
        ("duration_s", math.nan, "more than 0 s"),
    ],
)
def test_an_option_out_of_range_is_refused(option, bad, expected):
    with pytest.raises(OptionError, match=f"{option.removesuffix('_s')} is .*{expected}"):
        asked_for(option, bad)


@pytest.mark.parametrize(
    ("option", "bad", "expected"),
    [
        ("seed", "5", "a whole number, 0 to"),
        ("seed", 5.0, "a whole number, 0 to"),
        ("steps", 2.5, "a whole number, 1 to 1024"),
        ("top_k", "all", "a whole number, 0 "),
        ("seed", None, "a whole number, 0 "),
        ("guidance", "high", "a number, 0 to 100"),
        ("duration_s", "10", "a number, more than 0 s"),
        ("seed", np.float64(5), "a whole number, 0 to"),
        ("duration_s", np.array(3.0), "a number, more than 0 s"),
    ],
)
def test_an_option_of_another_type_is_refused(option, bad, expected):
    with pytest.raises(OptionError, match=f"{option.removesuffix('_s')} is .*{expected}"):
        asked_for(option, bad)


@pytest.mark.parametrize(
    "limits",
    [
        {"seed": 2**64 - 1, "steps": 1024, "guidance": 100, "temperature": 100},
        {"seed": 0, "steps": 1, "guidance": 0, "temperature": 0.01, "top_k": 0},
        {"top_k": 2**31 - 1, "mask_temperature": 1000},
        {"start_s": 1e9, "duration_s": 1e-9},
    ],
)
def test_options_at_their_limits_are_accepted(limits):
    options = Video("", **limits) if "start_s" in limits else GenerateOptions(**limits)
    assert {name: getattr(options, name) for name in limits} == limits


@pytest.mark.parametrize(
    ("option", "given", "same"),
    [
        ("seed", np.int64(3), 3),
        ("seed", np.uint64(2**64 - 1), 2**64 - 1),
        ("steps", np.int32(4), 4),
        ("guidance", np.float32(1.5), 1.5),
        ("guidance", np.int64(3), 3.0),
        ("duration_s", np.float32(0.25), 0.25),
        ("start_s", Fraction(1, 4), 0.25),
    ],
)
def test_any_number_is_one_of_pythons_own(option, given, same):
    found, expected = asked_for(option, given), asked_for(option, same)
    assert found == expected and type(getattr(found, option)) is type(same)
    if isinstance(found, GenerateOptions):
        assert msgspec.json.encode(found) == msgspec.json.encode(expected)


def test_unknown_and_wrongly_typed_settings_are_refused():
    with pytest.raises(TypeError, match="steeps"):
        GenerateOptions(steeps=3)
    with pytest.raises(msgspec.ValidationError, match="num_layers"):
        msgspec.convert(msgspec.to_builtins(tiny_config()) | {"num_layers": 2}, ModelConfig)


def test_settings_cannot_change():
    with pytest.raises(AttributeError):
        GenerateOptions().seed = 1
