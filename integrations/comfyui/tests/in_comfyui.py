"""The node in a ComfyUI that runs, with this folder among its custom_nodes and MOVIE in its input:

    python in_comfyui.py http://127.0.0.1:8188 MOVIE

A movie in, a flac and a movie with the sound out; the same from frames in memory; progress; an
interruption; what is refused. A line each; an exception where something is not as it should be.
"""

import asyncio
import io
import json
import sys

import aiohttp
import av

server, movie = sys.argv[1:]


def prompt(steps: int = 0, seed: int = 7, **fields) -> dict:
    """LoadVideo -> our node -> SaveAudio, and a movie of its frames with the sound."""
    wishes = {"model": "default", "seed": seed, "steps": steps, "guidance": 0.0, "kind": ""}
    sound = {"video": ["1", 0], **wishes, **fields}
    return {
        "1": {"class_type": "LoadVideo", "inputs": {"file": movie}},
        "2": {"class_type": "VabRtSound", "inputs": sound},
        "3": {"class_type": "SaveAudio", "inputs": {"audio": ["2", 0], "filename_prefix": "vab"}},
        "4": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "5": {
            "class_type": "CreateVideo",
            "inputs": {"images": ["4", 0], "fps": ["4", 2], "audio": ["2", 0]},
        },
        "6": {
            "class_type": "SaveVideo",
            "inputs": {
                "video": ["5", 0],
                "filename_prefix": "vab",
                "format": "auto",
                "codec": "auto",
            },
        },
    }


async def run(web, nodes: dict, interrupt: bool = False) -> tuple[str, list, dict]:
    """How it ended, the progress of our node, and what was saved."""
    progress: list[tuple[int, int]] = []
    async with web.ws_connect(f"{server}/ws?clientId=test") as socket:
        body = {"prompt": nodes, "client_id": "test"}
        async with web.post(f"{server}/prompt", json=body) as answer:
            reply = await answer.json()
        if answer.status != 200:
            return json.dumps(reply["node_errors"]), progress, {}
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            told = json.loads(message.data)
            if told["type"] == "progress" and told["data"]["node"] == "2":
                progress.append((told["data"]["value"], told["data"]["max"]))
                if interrupt:
                    await web.post(f"{server}/interrupt")
            if told["type"] in ("execution_error", "execution_interrupted", "execution_success"):
                break
    async with web.get(f"{server}/history/{reply['prompt_id']}") as answer:
        outputs = (await answer.json()).get(reply["prompt_id"], {}).get("outputs", {})
    reason = told["data"].get("exception_message", "")
    return f"{told['type']} {reason}".strip(), progress, outputs


async def saved(web, output: dict) -> str:
    """What a saved file holds."""
    [file] = next(iter(files for files in output.values() if isinstance(files[0], dict)))
    async with web.get(f"{server}/view", params=file) as answer:
        content = await answer.read()
    with av.open(io.BytesIO(content)) as container:
        streams = [f"{s.type} {s.codec_context.name}" for s in container.streams]
        sound = container.streams.audio[0]
        length_s = float(sound.duration * sound.time_base)
        return (
            f"{file['filename']}: {', '.join(streams)}, {sound.rate} Hz, sound of {length_s:.3f} s"
        )


async def main() -> None:
    async with aiohttp.ClientSession() as web:
        async with web.get(f"{server}/object_info/VabRtSound") as answer:
            print("inputs:", list((await answer.json())["VabRtSound"]["input"]["required"]))
        ended, progress, outputs = await run(web, prompt())
        print("a movie:", ended, "progress", progress)
        assert ended == "execution_success" and progress[-1][0] == progress[-1][1]
        for number in ("3", "6"):
            print("   ", await saved(web, outputs[number]))
        frames = prompt(seed=8)
        frames["7"] = {
            "class_type": "CreateVideo",
            "inputs": {"images": ["4", 0], "fps": ["4", 2]},
        }
        frames["2"]["inputs"]["video"] = ["7", 0]
        ended, progress, outputs = await run(web, frames)
        print("frames in memory:", ended)
        assert ended == "execution_success"
        print("   ", await saved(web, outputs["3"]))
        ended, progress, _ = await run(web, prompt(steps=1000, seed=9), interrupt=True)
        print("interrupted:", ended, "after", progress[-1])
        assert ended == "execution_interrupted" and progress[-1][0] < 900
        for name, fields in {
            "a kind the model has no name for": {"kind": "dog"},
            "a kind that real knows": {"model": "real", "kind": "dog"},
            "no such kind": {"model": "real", "kind": "dgo"},
            "no such model": {"model": "/etc"},
        }.items():
            ended, *_ = await run(web, prompt(**fields))
            print(f"{name}:", ended[:400])


asyncio.run(main())
