"""A clip's frames as vab-rt reads them, with PyAV alone (`pip install av numpy`).

    python frames.py in.mp4 frames.rgb [SIZE=64] [RATE=25] [SECONDS=10]

Frame number i is on display at (i + 0.5) / RATE; shortest side to SIZE, centre crop.
"""

import sys
from fractions import Fraction
from pathlib import Path

import av
from av.video.reformatter import Interpolation, VideoReformatter

SCALING = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


def main(video, out, size="64", rate="25", seconds="10"):
    size, rate = int(size), Fraction(rate)
    count, written = round(Fraction(seconds) * rate), 0
    with av.open(video) as container, Path(out).open("wb") as file:
        stream, reformatter = container.streams.video[0], VideoReformatter()
        for shown, until in timed(container, stream):
            image = None
            while written < count and (written + Fraction(1, 2)) / rate < until:
                image = image or scaled(shown, size, reformatter)
                file.write(image)
                written += 1
            if written == count:
                return


def timed(container, stream):
    """Each frame, and when it goes, counted from the first."""
    first, shown = None, None
    for frame in container.decode(stream):
        at = frame.pts * frame.time_base
        first = at if first is None else first
        if shown is not None:
            yield shown, at - first
        shown = frame
    length = shown.duration * shown.time_base or 1 / (stream.average_rate or 25)
    yield shown, shown.pts * shown.time_base + length - first


def scaled(frame, size, reformatter):
    short = min(frame.width, frame.height)
    image = reformatter.reformat(
        frame,
        width=size * frame.width // short,
        height=size * frame.height // short,
        format="rgb24",
        interpolation=SCALING,
    ).to_ndarray()  # [h, w, 3]
    top, left = (round((side - size) / 2) for side in image.shape[:2])
    return image[top : top + size, left : left + size].tobytes()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
