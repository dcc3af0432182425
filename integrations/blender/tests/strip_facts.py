"""What the tests look at of strips and their files."""

import wave
from pathlib import Path

import bpy


def span(strip) -> tuple[int, int]:
    return strip.frame_final_start, strip.frame_final_end


def sounds(project) -> list:
    return sorted((s for s in project.strips if s.type == "SOUND"), key=lambda s: s.channel)


def content(project) -> list:
    return [(s.name, s.type, s.channel, span(s), s.mute, s.select) for s in project.strips]


def path_of(strip) -> Path:
    return Path(bpy.path.abspath(strip.sound.filepath))


def samples_of(strip):
    import vab_rt

    return vab_rt.Audio.load(path_of(strip)).samples


def raw_length(path: Path) -> int:
    with wave.open(str(path)) as file:
        return file.getnframes()
