"""An argument of another kind is an error of ours that says what was given and what is expected."""

import os

import numpy as np
import pytest

import vab_rt

SOUND = vab_rt.Audio(np.zeros(16000, np.float32), 16000)
A_PATH = "expected the name of a file, such as out"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, v: vab_rt.load(3), "model is 3, expected a bundle folder or a shipped model"),
        (lambda p, v: vab_rt.load(""), "model is '', expected a bundle folder or a shipped model"),
        (lambda p, v: vab_rt.load(device=None), "device is None, expected auto, cpu"),
        (lambda p, v: vab_rt.load(device=""), "device is '', expected auto, cpu"),
        (lambda p, v: vab_rt.load(threads="2"), "threads is '2', expected a whole number, 1 to"),
        (lambda p, v: vab_rt.load(threads=1.5), "threads is 1.5, expected a whole number, 1 to"),
        (lambda p, v: vab_rt.load(engines=3), "engines is 3, expected"),
        (lambda p, v: p.generate([v]), "the video is list, expected the name of a file, bytes"),
        (lambda p, v: p.generate(v, {"seed": 7}), "options is {'seed': 7}, expected vab_rt.Gener"),
        (lambda p, v: p.candidates(v, 7), "options is 7, expected vab_rt.GenerateOptions"),
        (lambda p, v: p.generate(v, seed="7"), "seed is '7', expected a whole number"),
        (lambda p, v: p.generate(v, kinds=""), "kind is '', expected a name"),
        (lambda p, v: p.generate(v, library=""), "library is '', expected a folder of rec"),
        (lambda p, v: p.library(None), "library is None, expected a folder of recordings"),
        (lambda p, v: p.search(v, None), "sounds is None, expected a folder of sounds"),
        (lambda p, v: p.index_sounds("x", 3), "file is 3, expected"),
        (lambda p, v: p.regenerate(v, None), "sound is None, expected vab_rt.Audio"),
        (lambda p, v: p.continue_sound(v, SOUND.samples), r"sound is array\(.{,60}\), expected"),
        (lambda p, v: SOUND.save(None), f"path is None, {A_PATH}"),
        (lambda p, v: SOUND.save(b"x.wav"), f"path is b'x.wav', {A_PATH}"),
        (lambda p, v: SOUND.save("x.wav", delivery={}), "delivery is {}, expected vab_rt.Delivery"),
        (lambda p, v: vab_rt.Audio.load(3), "path is 3, expected the name of a sound file"),
        (lambda p, v: vab_rt.Audio(SOUND.samples, "16000"), "sample_rate_hz is '16000', expected"),
        (lambda p, v: vab_rt.save_picture(None, SOUND, v), f"path is None, {A_PATH}"),
        (lambda p, v: vab_rt.save_picture("x.png", None, v), "audio is None, expected vab_rt.Aud"),
    ],
)
def test_an_argument_of_another_kind(pipeline, videos, call, message):
    with pytest.raises(vab_rt.VabError, match=f"^{message}"):
        call(pipeline, videos(25))


def test_what_programs_have_at_hand(pipeline, videos):
    """Samples as other libraries give them, an entry of a folder, no times at all."""
    path = videos(50)
    for samples in (SOUND.samples.astype(float), SOUND.samples.tolist()):
        assert vab_rt.Audio(samples, 16000).samples.dtype == np.float32
    for folder in (path.parent, os.fsencode(path.parent)):
        with os.scandir(folder) as entries:
            (entry,) = (one for one in entries if os.fsdecode(one.name) == path.name)
        assert pipeline.generate(entry, seed=7) == pipeline.generate(path, seed=7)
    assert not list(vab_rt.Video(path).frames_at([]))
