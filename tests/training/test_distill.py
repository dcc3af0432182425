"""A student does in one pass, or in fewer steps, what its teacher does; the checkpoint is whole."""

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from checkpoints import coded_vab, saved_checkpoint, short_config

from training import distill
from training.checkpoint import read_checkpoint
from training.datasets.clips import TokenisedClips
from training.distill import DistillSettings, distill_guidance, distill_steps, random_scales
from training.fitting import averaged_weights
from training.model import VAB
from vab_rt.errors import OptionError
from vab_rt.options import TokenOptions

QUICK = DistillSettings(
    batch=8,
    epochs=12,
    peak_rate=3e-3,
    mixup=0,
    roll=0,
    visual_dropout=0.1,
    clips=16,
    max_guidance=3,
)


@pytest.fixture(scope="module")
def teacher():
    return coded_vab(short_config(layers=2, aligned_visual=True))


@pytest.fixture(scope="module")
def clips(teacher):
    c, random = teacher.config, np.random.default_rng(0)
    features = random.standard_normal((64, c.num_frames, c.visual_dim))
    return TokenisedClips(
        tokens=random.integers(c.codebook_size, size=(64, 2, c.num_token_steps), dtype=np.int16),
        features=(features / np.linalg.norm(features, axis=2, keepdims=True)).astype(np.float32),
        labels=np.zeros((64, 0), np.float32),
    )


@torch.no_grad()
def divergence(student, teacher, clips, scale, told):
    """From logits guided by `scale`, of a student that is told another, in nats."""
    c = teacher.config
    tokens = torch.full((64, c.num_codebooks, c.num_token_steps), c.mask_id)
    features, ones = torch.from_numpy(clips.features), torch.ones(64)
    with_, without = (teacher(tokens, features, x) for x in (ones, 0 * ones))
    wanted = torch.lerp(without, with_, scale).log_softmax(-1)
    found = student(tokens, features, told * ones).log_softmax(-1)
    return (wanted.exp() * (wanted - found)).sum(-1).mean().item()


def test_one_pass_becomes_the_guided_two(teacher, clips, tmp_path):
    before = {name: x.clone() for name, x in teacher.state_dict().items()}
    reports = list(distill_guidance(tmp_path, clips, teacher, QUICK, None))
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())
    student = VAB(QUICK.student_config(teacher.config)).eval()
    student.load_state_dict(averaged_weights(tmp_path / "vab.pt"))
    assert reports[-1][2]["loss"] < 0.5 * divergence(teacher, teacher, clips, 2.0, 1.0)
    for scale in (1.5, 3.0):  # nearer than a pass that is not guided, and than another scale's
        own = divergence(student, teacher, clips, scale, scale)
        assert own < 0.35 * divergence(teacher, teacher, clips, scale, 1.0)
        assert own < divergence(student, teacher, clips, scale, 4.5 - scale)
    for scale in (0.0, 1.0):  # and still what it was without
        assert divergence(student, teacher, clips, scale, scale) < 0.02


def test_a_student_begins_as_its_teacher(teacher, clips):
    student = VAB(QUICK.student_config(teacher.config))
    student.load_state_dict(student.state_dict() | teacher.state_dict())
    for scale in (0.0, 1.0):
        assert divergence(student.eval(), teacher, clips, scale, scale) == pytest.approx(
            0, abs=1e-6
        )


def test_scales_reach_from_one_to_the_largest():
    scales = random_scales(4000, QUICK)
    assert (scales == 1).float().mean() == pytest.approx(QUICK.unguided, abs=0.03)
    assert scales.min() == 1 and 2.9 < scales.max() <= 3


def test_a_student_of_steps_learns_its_teachers_tokens(teacher, clips, tmp_path):
    settings = DistillSettings(batch=8, epochs=2, clips=10, teacher_steps=3)
    options = TokenOptions(guidance=1.5)
    (last,) = list(distill_steps(tmp_path, clips, teacher, settings, None, options))
    assert last[2]["loss"] > 0
    decoded = TokenisedClips.load(tmp_path / "decoded.npz")
    assert len(decoded) == 16 and decoded.tokens.max() < teacher.config.mask_id  # whole batches
    options = TokenOptions(guidance=1.5, steps=3)
    again = distill.decoded(tmp_path / "again", teacher, clips, settings, options)
    assert np.array_equal(decoded.tokens, again.tokens)
    assert not np.array_equal(decoded.tokens, clips.batch(0, 16, 0).tokens)
    student = VAB(teacher.config)
    student.load_state_dict(averaged_weights(tmp_path / "vab.pt"))
    assert not torch.equal(student.heads.weight, teacher.heads.weight)


@pytest.mark.parametrize("change", ["nothing", "teacher", "seed"])
def test_what_a_teacher_has_decoded_is_gone_on_with(change, teacher, clips, tmp_path, monkeypatch):
    settings = DistillSettings(batch=8, epochs=1, clips=32, teacher_steps=2)
    clips = msgspec.structs.replace(clips, labels=np.eye(64, dtype=np.float32) / 3)
    decode, decoded = distill.decode_masked, []

    def run(folder, most=99):
        def until(*given):
            if len(decoded) == most:
                raise KeyboardInterrupt
            decoded.append(given)
            return decode(*given)

        monkeypatch.setattr(distill, "decode_masked", until)
        list(distill_steps(folder, clips, teacher, settings, None, TokenOptions()))
        made = TokenisedClips.load(folder / "decoded.npz")
        return made.tokens, made.features, made.labels

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", most=3)
    if change == "teacher":
        teacher = coded_vab(teacher.config)
        torch.nn.init.normal_(teacher.heads.weight)
    elif change == "seed":
        settings = msgspec.structs.replace(settings, seed=1)
    gone_on = run(tmp_path / "run")
    assert len(decoded) == (4 if change == "nothing" else 7)
    assert not [path for path in (tmp_path / "run").iterdir() if path.is_dir()]
    assert all(map(np.array_equal, gone_on, run(tmp_path / "whole")))
    seen = [clips.batch(step, 8, settings.seed).labels for step in range(4)]
    assert np.array_equal(gone_on[2], np.concatenate(seen))


def test_what_is_guided_in_one_pass_is_not_distilled_again(clips, tmp_path):
    student = VAB(short_config(max_guidance=3.0))
    with pytest.raises(OptionError, match="guided in one pass already"):
        next(distill_guidance(tmp_path, clips, student, QUICK, None))


@pytest.mark.parametrize("what", ["guidance", "steps"])
def test_the_command_leaves_a_checkpoint(what, clips, tmp_path, monkeypatch, refused):
    given = saved_checkpoint(tmp_path, short_config(layers=2, aligned_visual=True, code_dim=288))
    monkeypatch.setattr(distill, "open_shards", lambda url, checkpoint: clips)
    settings = ["--batch", "8", "--epochs", "4", "--clips", "8", "--teacher-steps", "2"]
    words = [what, str(given.path), "--shards", "x", "--out", str(tmp_path / "run"), *settings]
    distill.main(words)
    made = read_checkpoint(tmp_path / "run" / "ckpt.pt")
    assert made.config.max_guidance == (4 if what == "guidance" else 0)
    assert made.header.options == given.header.options
    assert not torch.equal(made.vab().heads.weight, given.vab().heads.weight)
    assert int(made.header.provenance["distillation_steps"]) >= 1
    if what == "guidance":
        told = refused(distill.main, *words, "--max-guidance", 6)
        assert "vab.pt was made of another max_guidance" in told
    else:  # has none
        distill.main([*words, "--max-guidance", "6"])
    words[0] = "guidance" if what == "steps" else "steps"
    different = "max_guidance, what" if what == "steps" else "what"
    assert f"vab.pt was made of another {different}, expected" in refused(distill.main, *words)


def test_a_student_knows_the_guidance_that_its_model_is_decoded_with(tmp_path, refused):
    config, out = short_config(layers=2, code_dim=288), tmp_path / "run"
    given = saved_checkpoint(tmp_path, config, options={"guidance": 5.0})
    words = ["guidance", given.path, "--shards", tmp_path, "--out", out]
    told = refused(distill.main, *words)
    assert "is decoded with guidance 5, expected 1 to its student's max_guidance, 4" in told
    assert not out.exists()


@pytest.mark.parametrize(
    "wrong", [{"max_guidance": 1.0}, {"unguided": 1.0}, {"clips": 0}, {"teacher_steps": 0}], ids=str
)
def test_settings_that_teach_nothing_are_refused(wrong):
    with pytest.raises(OptionError, match=f"distill .*{next(iter(wrong))}"):
        DistillSettings(**wrong)
