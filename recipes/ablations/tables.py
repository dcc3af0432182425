"""The paper's ablation tables: its figures, which rows are ours, and what it says of them."""

from typing import NamedTuple

from vab_rt.options import TokenOptions


class Column(NamedTuple):
    """key: dotted, into the figures of a row."""

    heading: str
    key: str
    is_share: bool = True


class Line(NamedTuple):
    """rows: ours; of each figure, the first row that has it counts. paper: of the first columns,
    or of none."""

    label: str
    rows: tuple[str, ...]
    paper: tuple[float, ...] = ()


class Figure(NamedTuple):
    row: str
    key: str


class Claim(NamedTuple):
    """What the paper found, or expects: one figure higher than another, or both alike."""

    text: str
    higher: Figure
    lower: Figure
    alike: bool = False


class Table(NamedTuple):
    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    claims: tuple[Claim, ...]


AV, V, A = (f"classification.{modality}.accuracy" for modality in ("av", "v", "a"))
FAD, KLD = "generation.fad", "generation.kld"
CLASS, ONSET, ONSET_50 = (
    f"generation.{key}" for key in ("class_agreement", "onset_f1_100ms", "onset_f1_50ms")
)
SHUFFLED_ONSET = "generation.shuffled.onset_f1_100ms"
MASKED = "validation.masked_accuracy"
R1_VA, R1_AV = "retrieval.video_to_audio.r1", "retrieval.audio_to_video.r1"

CLASSES = (Column("V+A", AV), Column("V", V), Column("A", A))
DISTANCES = (Column("FAD", FAD, False), Column("KLD", KLD, False))
SOUND = (
    Column("masked tokens right, %", MASKED),
    Column("class agreement, %", CLASS),
    Column("onset F1, 100 ms", ONSET, False),
    Column("50 ms", ONSET_50, False),
    Column("100 ms, another clip's", SHUFFLED_ONSET, False),
    *DISTANCES,
)


def claim(text: str, key: str, higher: str, lower: str, alike: bool = False) -> Claim:
    return Claim(text, Figure(higher, key), Figure(lower, key), alike)


TABLES = (
    Table(
        "Table 9: pre-training and experts, classification accuracy in %",
        CLASSES,
        (
            Line("from scratch", ("from-scratch",), (54.7, 52.8, 38.6)),
            Line("without experts", ("no-experts",), (42.5, 48.9, 41.0)),
            Line("VAB", ("contrasted",), (62.4, 53.2, 44.5)),
        ),
        (
            claim("pre-training helps V+A", AV, "contrasted", "from-scratch"),
            claim("pre-training helps V", V, "contrasted", "from-scratch"),
            claim("pre-training helps A", A, "contrasted", "from-scratch"),
            claim("experts help V+A", AV, "contrasted", "no-experts"),
            Claim(
                "without experts V+A falls behind V",
                Figure("no-experts", V),
                Figure("no-experts", AV),
            ),
        ),
    ),
    Table(
        "Table 10: training order; recall in %",
        (
            Column("FAD", FAD, False),
            *(Column(f"V to A R@{n}", f"retrieval.video_to_audio.r{n}") for n in (1, 5, 10)),
            *(Column(f"A to V R@{n}", f"retrieval.audio_to_video.r{n}") for n in (1, 5, 10)),
        ),
        (
            Line(
                "contrastive, then masked prediction",
                ("contrastive-first",),
                (4.14, 27.7, 56.4, 67.5, 32.5, 60.8, 72.3),
            ),
            Line(
                "masked prediction, then contrastive",
                ("contrasted", "base"),
                (4.18, 28.2, 56.7, 68.5, 30.5, 57.6, 71.2),
            ),
            Line("both at once (paper: fails to converge)", ("joint",)),
        ),
        (
            claim("the order hardly matters for FAD", FAD, "base", "contrastive-first", True),
            claim(
                "contrastive training from random weights ends lower in equally many steps, V to A",
                R1_VA,
                "contrasted",
                "contrastive-first",
            ),
            claim("the same, A to V", R1_AV, "contrasted", "contrastive-first"),
            claim("both at once fail at masked tokens", MASKED, "base", "joint"),
            claim("both at once fail at retrieval, V to A", R1_VA, "contrasted", "joint"),
        ),
    ),
    Table(
        "Table 11, VAB-DAC-Test: contrastive fine-tuning before classes, accuracy in %",
        CLASSES,
        (
            Line("without contrastive fine-tuning", ("base",), (56.2, 53.5, 41.0)),
            Line("with contrastive fine-tuning", ("contrasted",), (62.4, 53.2, 44.5)),
        ),
        (
            claim("it helps V+A", AV, "contrasted", "base"),
            claim("it helps A", A, "contrasted", "base"),
            claim("it leaves V as it was", V, "contrasted", "base", True),
        ),
    ),
    Table(
        "Table 12: mean of the mask ratio (std 0.25); accuracy in %",
        (CLASSES[0], DISTANCES[0]),
        (
            Line("0.35", ("mask-035",), (55.2, 6.04)),
            Line("0.55", ("base",), (56.2, 5.30)),
            Line("0.75", ("mask-075",), (57.2, 6.55)),
        ),
        (
            claim("more masked is better for classes", AV, "mask-075", "mask-035"),
            claim("0.55 generates better than 0.75", FAD, "mask-075", "base"),
            claim("0.55 generates better than 0.35", FAD, "mask-035", "base"),
        ),
    ),
    Table(
        "Table 16: guidance",
        (*DISTANCES, SOUND[1], SOUND[2]),
        (
            Line("none", ("guidance-1",), (5.93, 3.45)),
            Line(f"{TokenOptions().guidance:g} (our default)", ("base",)),
            Line("3", ("guidance-3",), (3.50, 2.90)),
            Line("5", ("guidance-5",), (3.24, 2.84)),
            Line("7", ("guidance-7",), (3.39, 2.83)),
            Line("11", ("guidance-11",), (4.18, 2.82)),
        ),
        (
            claim("5 is far better than none, FAD", FAD, "guidance-1", "guidance-5"),
            claim("11 is too much, FAD", FAD, "guidance-11", "guidance-5"),
            claim("KLD falls with guidance", KLD, "guidance-1", "guidance-11"),
        ),
    ),
    Table(
        "Table 17: mask temperature",
        (*DISTANCES, SOUND[1], SOUND[2]),
        (
            Line("4.5", ("mask-temperature-4.5",), (5.75, 3.08)),
            Line("10.5", ("base",), (3.1, 2.69)),
            Line("12.5", ("mask-temperature-12.5",), (2.98, 2.61)),
            Line("15.5", ("mask-temperature-15.5",), (2.83, 2.61)),
            Line("20.5", ("mask-temperature-20.5",), (2.74, 2.59)),
            Line("25.5", ("mask-temperature-25.5",), (2.69, 2.58)),
        ),
        (
            claim("FAD falls up to 25.5", FAD, "mask-temperature-4.5", "mask-temperature-25.5"),
            claim("KLD falls up to 25.5", KLD, "mask-temperature-4.5", "mask-temperature-25.5"),
        ),
    ),
    Table(
        "Table 18: decoding steps",
        (*DISTANCES, SOUND[1], SOUND[2]),
        (
            Line("8", ("steps-8",), (3.52, 2.67)),
            Line("16", ("base",), (3.1, 2.65)),
            Line("36", ("steps-36",), (3.25, 2.69)),
            Line("48", ("steps-48",), (3.32, 2.71)),
        ),
        (
            claim("16 are better than 8, FAD", FAD, "steps-8", "base"),
            claim("more than 16 are no better, FAD", FAD, "steps-48", "base"),
        ),
    ),
    Table(
        "Ours: visual features a second (appendix F expects better timing of more)",
        SOUND,
        (
            Line("1", ("rate-1",)),
            Line("2", ("rate-2",)),
            Line("5", ("rate-5",)),
            Line("25, the image of every tenth", ("base",)),
        ),
        (
            claim("25 a second beat 1 in timing", ONSET, "base", "rate-1"),
            claim("25 a second beat 5 in timing", ONSET, "base", "rate-5"),
            claim("25 a second beat 1 in masked tokens", MASKED, "base", "rate-1"),
        ),
    ),
    Table(
        "Ours: positions, and frames beside their tokens",
        SOUND,
        (
            Line("base: ALiBi in time, sinusoids, frames beside their tokens", ("base",)),
            Line("the same with another seed", ("base-again",)),
            Line("ALiBi by index", ("index-alibi",)),
            Line("frames not beside their tokens", ("not-aligned",)),
            Line("ALiBi by index, frames not beside", ("index-alibi-not-aligned",)),
            Line("no sinusoids", ("no-sinusoids",)),
            Line("as published: 1 frame a second, by index, none of these", ("as-published",)),
        ),
        (
            claim("ALiBi in time beats the index", MASKED, "base", "index-alibi"),
            claim(
                "the same where frames are not beside their tokens",
                MASKED,
                "not-aligned",
                "index-alibi-not-aligned",
            ),
            claim("frames beside their tokens help timing", ONSET, "base", "not-aligned"),
            claim("sinusoids help", MASKED, "base", "no-sinusoids"),
            claim("all together beat the published model in timing", ONSET, "base", "as-published"),
        ),
    ),
)
