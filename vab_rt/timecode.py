"""Timecodes of SMPTE ST 12-1, counted on."""

from fractions import Fraction


def later_timecode(timecode: str, num_frames: int, rate: Fraction) -> str | None:
    """HH:MM:SS:FF that many frames later; with ";" two of 30 numbers a minute are left out, but
    not every tenth minute (SMPTE ST 12-1). None where the text is none."""
    drops = ";" in timecode or "." in timecode
    parts = timecode.replace(";", ":").replace(".", ":").split(":")
    if len(parts) != 4 or not all(part.isdigit() for part in parts):
        return None
    base = round(rate)
    left_out = round(base / 15) if drops else 0
    hours, minutes, seconds, frames = map(int, parts)
    whole = 60 * hours + minutes
    count = (60 * whole + seconds) * base + frames - left_out * (whole - whole // 10) + num_frames
    tens, rest = divmod(count, 600 * base - 9 * left_out)
    if rest >= 60 * base:
        skipped = 1 + (rest - 60 * base) // (60 * base - left_out)
    else:
        skipped = 0
    count = tens * 600 * base + rest + left_out * skipped
    seconds, frames = divmod(count, base)
    clock = f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{clock}{';' if drops else ':'}{frames:02}"
