"""Ablations: rows and their mistakes, a very small run, and the tables beside the paper's."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import msgspec
import numpy as np
from checkpoints import SETTINGS, tiny_checkpoint, tiny_config
from toml_files import toml_of

from recipes.ablations import __main__ as command
from recipes.ablations.markdown import NOT_RUN, markdown, verdict
from recipes.ablations.rows import read_ablations
from recipes.ablations.stages import at_rate
from recipes.ablations.tables import TABLES, claim
from training.datasets.clips import TokenisedClips
from training.evaluation.measures import half_width
from training.fitting import averaged_weights
from training.foleyworld import CLASSES
from training.model import VAB
from training.stage import key_of
from vab_rt.errors import OptionError

CONFIG = tiny_config(
    clip_s=10.0, visual_rate_hz=2.0, visual_dim=8, num_codebooks=2, codebook_size=11,
    width=16, layers=2, expert_layers=1, heads=2,
)  # fmt: skip
ROWS = """
steps = 2
contrastive_steps = 1
classification_steps = 1
clips = 2
[base]
"model.layers" = 2
"pretrain.batch" = 2
"pretrain.warm_up" = 0.03
"pretrain.crop_s" = 2.0
"contrastive.batch" = 2
"contrastive.warm_up" = 0.03
"classification.batch" = 2
"generate.steps" = 2
[rows.base]
measures = ["validation", "generation", "classification"]
[rows.contrasted]
stages = ["masked", "contrastive"]
measures = ["retrieval"]
[rows.guidance-1]
changes = { "generate.guidance" = 1.0 }
[rows.rate-1]
measures = ["validation"]
changes = { "model.visual_rate_hz" = 1.0, "model.expert_layers" = 0 }
[rows.contrastive-first]
stages = ["contrastive", "masked"]
measures = ["validation", "retrieval"]
[rows.joint]
stages = ["joint"]
measures = ["validation", "generation", "retrieval"]
[rows.from-scratch]
stages = []
measures = ["classification"]
"""


def write_rows(folder, text=ROWS):
    """A file of rows for the recipe of the tiny model; both are written into `folder`."""
    sections = {"model": msgspec.to_builtins(CONFIG), "codec": SETTINGS["spectral"]}
    (folder / "tiny.toml").write_text(toml_of(sections))
    (folder / "rows.toml").write_text(f'recipe = "{folder / "tiny.toml"}"\n{text}')
    return folder / "rows.toml"


def make_run(folder):
    """What a recipe leaves: encoders and tokens."""
    folder.mkdir()
    torch.save(tiny_checkpoint(CONFIG), folder / "start.pt")
    random, shape = np.random.default_rng(0), (6, CONFIG.num_codebooks, CONFIG.num_token_steps)
    TokenisedClips(
        tokens=random.integers(0, CONFIG.codebook_size, shape).astype(np.int16),
        features=random.standard_normal((6, 20, 8)).astype(np.float16),
        labels=np.eye(len(CLASSES), dtype=np.float32)[:6],
    ).save(folder / "train.npz")


def run(folder, *words):
    options = ["--run", str(folder / "run"), "--config", str(folder / "rows.toml")]
    command.main([*options, "--workers", "1", *words])


def failing(folder, capsys, *words):
    """What is told on stderr, the last line, of a command that must fail."""
    with pytest.raises(SystemExit, match="1"):
        run(folder, *words)
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run in which all rows are done."""
    folder = tmp_path_factory.mktemp("ablations")
    write_rows(folder)
    make_run(folder / "run")
    run(folder)
    return folder


@pytest.fixture
def begun(finished, tmp_path):
    """A copy of it, to be damaged."""
    shutil.copytree(finished / "run", tmp_path / "run")
    write_rows(tmp_path)
    return tmp_path


def results(folder):
    paths = (folder / "run/ablations/rows").glob("*.json")
    found = [json.loads(path.read_text()) for path in paths]
    return {result["row"]: result["figures"] for result in found}


def test_every_row_has_what_it_measures(finished):
    found = results(finished)
    rows = read_ablations(finished / "rows.toml").rows
    assert {name: set(figures) for name, figures in found.items()} == {
        name: set(row.measures) for name, row in rows.items()
    }
    assert {"fad", "kld", "class_agreement", "shuffled"} <= set(found["base"]["generation"])
    assert set(found["from-scratch"]["classification"]) == {"a", "v", "av"}
    assert 0 <= found["rate-1"]["validation"]["masked_accuracy"] <= 1
    assert {"r1", "r5", "r10"} <= set(found["contrasted"]["retrieval"]["video_to_audio"])


def test_equal_trainings_are_done_once_and_others_apart(finished):
    """base, contrasted and guidance-1 share their pre-training; three rows have their own."""
    stages = finished / "run/ablations/stages"
    assert len(list(stages.glob("*/vab.pt"))) == 4
    assert len(list(stages.glob("*/contrastive.pt"))) == 3
    steps = {torch.load(p, weights_only=True)["step"] for p in stages.glob("*/vab.pt")}
    assert steps == {2}


def test_both_losses_at_once_train_the_same_layers(finished):
    (joint,) = (finished / "run/ablations/stages").glob("*/joint.pt")
    found = {n: averaged_weights(joint.with_name(n)) for n in ("vab.pt", "contrastive.pt")}
    name = "layers.0.qkv.weight"
    assert torch.equal(found["vab.pt"][name], found["contrastive.pt"][f"encoder.vab.{name}"])
    torch.manual_seed(0)
    start = VAB(CONFIG).state_dict()
    assert not torch.equal(found["vab.pt"][name], start[name])
    assert len(torch.load(joint, weights_only=True)["optimizer"]["param_groups"]) == 2


def test_a_second_run_finds_everything_done(finished, capsys):
    made = {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*.*")}
    run(finished)
    captured = capsys.readouterr()
    assert captured.err.count("done before") == 7
    assert {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*.*")} == made
    assert "### Table 9" in captured.out and "7 of 7 rows" in captured.out


def test_other_steps_are_another_experiment(finished, capsys):
    run(finished, "--table", "--steps", "3")
    assert "0 of 7 rows, 3 steps" in capsys.readouterr().out


def test_chosen_rows_only(begun, capsys):
    shutil.rmtree(begun / "run/ablations/rows")
    run(begun, "--rows", "rate-1")
    assert set(results(begun)) == {"rate-1"}


def test_one_row_that_fails_does_not_lose_the_others(begun, capsys):
    """A checkpoint of another size lies where one row's should."""
    shutil.rmtree(begun / "run/ablations/rows")
    wider = tiny_checkpoint(msgspec.structs.replace(CONFIG, width=32))["vab"]
    for path in (begun / "run/ablations/stages").glob("*/vab.pt"):
        saved = torch.load(path, weights_only=True)
        found = saved.get("vab")  # joint keeps its own elsewhere, and rate-1 is without experts
        if found is not None and "layers.0.visual.expand.weight" not in found:
            torch.save(saved | {"vab": wider}, path)
    said = failing(begun, capsys, "--rows", "rate-1", "from-scratch")
    assert "error: rate-1: " in said and "is of another model or stage" in said
    assert "1 of 2 rows failed (rate-1)" in said.splitlines()[-1]
    assert set(results(begun)) == {"from-scratch"}


def test_a_bug_in_one_row_keeps_its_traceback(begun, capsys, monkeypatch):
    shutil.rmtree(begun / "run/ablations/rows")
    actual = command.run_row

    def broken(run, name):
        return actual(run, name) if name == "rate-1" else 1 / 0

    monkeypatch.setattr(command, "run_row", broken)
    said = failing(begun, capsys, "--rows", "from-scratch", "rate-1")
    assert "ZeroDivisionError" in said and "1 of 2 rows failed (from-scratch)" in said
    assert set(results(begun)) == {"rate-1"}


def test_figures_of_other_encoders_do_not_count(begun, capsys):
    (path,) = (begun / "run/ablations/rows").glob("rate-1-*.json.inputs")
    path.write_text(path.read_text().replace('"encoders": "', '"encoders": "0'))
    run(begun, "--rows", "rate-1")
    said = capsys.readouterr().err
    assert ".json is made again: other encoders" in said and "done before" not in said


def test_trainings_on_as_many_other_clips_are_others(begun):
    clips = TokenisedClips.load(begun / "run/train.npz")
    msgspec.structs.replace(clips, tokens=clips.tokens[::-1]).save(begun / "run/train.npz")
    stages = begun / "run/ablations/stages"
    before = {*stages.glob("*")}
    run(begun, "--rows", "rate-1")
    (other,) = {*stages.glob("*")} - before
    assert (other / "vab.pt").exists()


def test_a_damaged_result_is_named(begun, capsys):
    (path,) = (begun / "run/ablations/rows").glob("rate-1-*.json")
    path.write_text(path.read_text()[:40])
    assert f"{path} cannot be read" in failing(begun, capsys, "--table")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "bass"], "no row 'bass', expected one of: base, contrasted"),
        (["--steps", "0"], "steps is 0, expected at least 1"),
        (["--clips", "1"], "clips is 1, expected at least 2"),
        (["--workers", "0"], "workers is 0, expected at least 1"),
        (["--config", "nowhere.toml"], "nowhere.toml cannot be read"),
    ],
)
def test_wrong_options_are_named(finished, capsys, words, said):
    assert said in failing(finished, capsys, *words)


def test_a_run_that_is_not_there_or_not_whole(begun, capsys):
    said = failing(begun, capsys, "--run", str(begun / "elsewhere"))
    assert "elsewhere/start.pt is not there" in said and "python -m recipes.train" in said
    (begun / "run/train.npz").unlink()
    assert "train.npz is not there" in failing(begun, capsys)


def test_tokens_of_another_shape_and_encoders_of_another_model(begun, capsys):
    clips = TokenisedClips.load(begun / "run/train.npz")
    halved = msgspec.structs.replace(clips, tokens=clips.tokens[:, :, ::2])
    halved.save(begun / "run/train.npz")
    assert "train.npz has tokens and features of" in failing(begun, capsys)
    clips.save(begun / "run/train.npz")
    other = msgspec.structs.replace(CONFIG, codebook_size=12)
    torch.save(tiny_checkpoint(other), begun / "run/start.pt")
    assert "has the codebook_size 12, expected 11" in failing(begun, capsys)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("changes = { 'model.alibbi' = 'index' }", r"'model\.alibbi', expected one of: .*alibi"),
        ("changes = { 'model.codebook_size' = 9 }", r"'model\.codebook_size', expected one of"),
        ("changes = { 'pretrain.epochs' = 9 }", r"'pretrain\.epochs', expected one of"),
        ("changes = { 'model.alibi' = 'nearest' }", r"row x: .*'nearest'.*model\.alibi"),
        ("changes = { 'model.heads' = 7 }", "row x: .*not a multiple of heads 7"),
        ("changes = { 'generate.steps' = 0 }", "row x: steps is 0"),
        ("measures = ['retrieval']", "row x measures retrieval, expected 'contrastive'"),
        ("stages = ['masked', 'masked']", "row x .*expected each once"),
        ("stages = ['joint', 'masked']", "row x has stages beside joint, expected joint alone"),
        ("stage = ['masked']", "unknown field `stage`"),
    ],
)
def test_a_wrong_row_is_named_with_its_file(tmp_path, rows, said):
    path = write_rows(tmp_path, f"[rows.x]\n{rows}\n")
    with pytest.raises(OptionError, match=rf"(?s)rows\.toml: .*{said}"):
        read_ablations(path)


def test_a_row_cannot_be_a_path(tmp_path):
    path = write_rows(tmp_path, '[rows."../x"]\n')
    with pytest.raises(OptionError, match=r"row '\.\./x', expected a name"):
        read_ablations(path)


def test_more_features_a_second_than_there_are(begun, capsys):
    write_rows(begun, '[rows.x]\nchanges = { "model.visual_rate_hz" = 4.0 }\n')
    assert "row x wants 4 visual features a second, expected at most 2" in failing(begun, capsys)


def test_features_at_a_lower_rate_are_those_nearest_in_time():
    config = tiny_config(clip_s=10.0, visual_rate_hz=2.0)
    features = (np.arange(100) / 10 + 0.05)[None, :, None].astype(np.float32)  # their own times, s
    clips = TokenisedClips(np.zeros((1, 3, 500), np.int16), features, np.zeros((1, 0), np.float32))
    lower = at_rate(clips, 10.0, config).features[0, :, 0]
    times = (np.arange(20) + 0.5) / 2
    assert lower.shape == (20,) and np.abs(lower - times).max() <= 0.05 + 1e-6


def test_the_shipped_rows_and_the_tables_name_each_other():
    rows = set(read_ablations().rows)
    in_lines = {row for table in TABLES for line in table.lines for row in line.rows}
    in_claims = {x.row for t in TABLES for c in t.claims for x in (c.higher, c.lower)}
    assert in_lines == rows and in_claims <= rows


def test_the_shipped_rows_measure_what_the_tables_show():
    rows = read_ablations().rows
    for table in TABLES:
        for line in table.lines:
            measures = {measure for row in line.rows for measure in rows[row].measures}
            assert {column.key.split(".")[0] for column in table.columns} <= measures, line.label
        for said in table.claims:
            for figure in (said.higher, said.lower):
                assert figure.key.split(".")[0] in rows[figure.row].measures, said.text


def test_before_any_run_the_tables_hold_the_papers_figures_alone():
    text = markdown({})
    assert (
        "| without experts | 42.5 | not run yet | 48.9 | not run yet | 41 | not run yet |" in text
    )
    assert "| none | 5.93 | not run yet | 3.45 | not run yet | not run yet | not run yet |" in text
    assert all(line.endswith(NOT_RUN) for line in text.splitlines() if line.startswith("- "))
    widths = [len(part.split("|")) for part in text.splitlines() if part.startswith("|")]
    assert min(widths) > 3


def measured(width=None, **rows):
    """Figures of rows, each with an interval that is `width` on either side, or with none."""

    def figure(value):
        if width is None:
            return {"share": value}
        return {"share": value, "share_95": [value - width, value + width]}

    return {row.replace("_", "-"): {"x": figure(value)} for row, value in rows.items()}


TWICE = {"base": 0.1, "base_again": 0.35}  # a seed moves the figure by 0.25
A_OVER_B, A_LIKE_B = claim("", "x.share", "a", "b"), claim("", "x.share", "a", "b", alike=True)


@pytest.mark.parametrize(
    ("said", "figures", "expected"),
    [
        (A_OVER_B, measured(0.01, a=0.8), NOT_RUN),
        (A_OVER_B, measured(0.01, a=0.8, b=0.5), "confirmed (0.8 and 0.5)"),
        (A_OVER_B, measured(0.01, a=0.5, b=0.8), "the opposite (0.5 and 0.8)"),
        (A_OVER_B, measured(None, a=0.8, b=0.5), "not told apart (0.8 and 0.5)"),
        (A_OVER_B, measured(0.2, a=0.6, b=0.4), "not told apart (0.6 and 0.4)"),
        (A_OVER_B, measured(0.01, a=0.6, b=0.4, **TWICE), "not told apart (0.6 and 0.4)"),
        (A_OVER_B, measured(0.01, a=0.8, b=0.5, **TWICE), "confirmed (0.8 and 0.5)"),
        (A_LIKE_B, measured(0.01, a=0.8, b=0.79), "confirmed (0.8 and 0.79)"),
        (A_LIKE_B, measured(None, a=0.8, b=0.8), "not told apart (0.8 and 0.8)"),
        (A_LIKE_B, measured(0.1, a=0.8, b=0.8), "not told apart (0.8 and 0.8)"),
        (A_LIKE_B, measured(0.01, a=0.8, b=0.5), "not confirmed (0.8 and 0.5)"),
    ],
)
def test_a_verdict_is_given_only_where_intervals_allow_one(said, figures, expected):
    assert verdict(said, figures) == expected


def test_the_interval_of_a_difference_is_that_of_two_independent_figures():
    assert half_width((0.4, 0.6), (0.1, 0.7)) == pytest.approx((0.1**2 + 0.3**2) ** 0.5)
    assert half_width((0.4, 0.6), None) is None


def test_tables_go_between_the_marks_of_the_document(finished, tmp_path, capsys, monkeypatch):
    path = tmp_path / "PAPER.md"
    monkeypatch.setattr(command, "DOCUMENT", path)
    path.write_text(f"before\n{command.BEGIN}\nformer tables\n{command.END}\nafter\n")
    run(finished, "--table", "--write")
    text = path.read_text()
    assert text.startswith(f"before\n{command.BEGIN}\nOurs: 7 of 7 rows")
    assert text.endswith(f"{command.END}\nafter\n") and "former" not in text
    path.write_text("no marks")
    assert "lacks" in failing(finished, capsys, "--table", "--write")
    assert path.read_text() == "no marks"


def test_the_documents_own_tables_are_between_marks():
    text = command.DOCUMENT.read_text()
    assert text.count(command.BEGIN) == text.count(command.END) == 1
    assert text.index(command.BEGIN) < text.index("### Table 9") < text.index(command.END)


def test_a_key_follows_every_part():
    ablations = read_ablations()
    setups = {key_of(setup=ablations.setup(name)) for name in ablations.rows}
    equal = ("contrasted", "from-scratch", "contrastive-first", "joint")  # they differ in stages
    assert len(setups) == len(ablations.rows) - len(equal)
