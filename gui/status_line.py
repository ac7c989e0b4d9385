"""The bottom line: how it is doing, in numbers that a performer needs."""

from __future__ import annotations

from PySide6.QtWidgets import QLabel, QStatusBar

from gui import theme
from sdv2live.status import LiveStatus, LoraLine, RankLine

COLOURS = {"running": theme.GOOD, "loading": theme.WARN, "restarting": theme.WARN, "failed": theme.BAD}


ENGINE_TIP = "State of the engine, and where it runs"


class StatusLine(QStatusBar):
    """new fps, age, drops, memory, and the engine's state in words."""

    def __init__(self) -> None:
        super().__init__()
        self.setSizeGripEnabled(False)
        self._labels = {name: QLabel() for name in ("engine", "fps", "age", "drops", "memory", "osc")}
        tips = {
            "engine": ENGINE_TIP,
            "fps": "New pictures a second",
            "age": "From the camera to the picture; in OBS, give the sound this delay",
            "drops": "Frames of the source not used, late pictures, pictures an output missed, engine restarts",
            "memory": "Memory of the app and its engine",
            "osc": "Other programs send OSC to this port of this machine",
        }
        for name, label in self._labels.items():
            label.setToolTip(tips[name])
            label.setAccessibleName(tips[name])
            self.addWidget(label, 1 if name == "engine" else 0)

    def show_status(self, status: LiveStatus) -> None:
        width, height = status.size_wh
        where = f" on {status.device}" if status.device else ""
        auto = "auto: " if status.choice else ""
        texts = {
            "engine": f"{auto}{status.engine_name} {width}x{height}{where}: {status.engine_words}",
            "fps": f"{status.new_fps:.1f} fps",
            "age": f"age {status.age_ms:.0f} ms" if status.age_ms is not None else "age -",
            "drops": (
                f"dropped {status.dropped}  late {status.lagged}  skipped {status.skipped}  restarts {status.restarts}"
            ),
            "memory": f"{status.memory_bytes / 2**20:.0f} MB" if status.memory_bytes else "",
            "osc": f"OSC {status.osc_port}" if status.osc_port else "OSC off",
        }
        if status.ranks:
            loads = ", ".join(f"{rank.device} {rank.busy:.0%}" for rank in status.ranks)
            texts["engine"] += f" ({len(status.ranks)} ranks: {loads})"
        words = (*map(_rank_words, status.ranks), *map(_lora_words, status.loras))
        self._labels["engine"].setToolTip("\n".join(filter(None, (ENGINE_TIP, status.choice, *words))))
        for name, text in texts.items():
            self._labels[name].setText(text)
        self._labels["engine"].setStyleSheet(f"color: {COLOURS.get(status.engine_state, theme.QUIET)}")

    def say(self, words: str) -> None:
        """A word in passing."""
        self.showMessage(words, 4000)


def _rank_words(rank: RankLine) -> str:
    works = (("encode", rank.encode_ms), ("blocks", rank.blocks_ms), ("decode", rank.decode_ms))
    times = ", ".join(f"{work} {taken_ms:.1f} ms" for work, taken_ms in works if taken_ms)
    blocks = f"blocks {rank.first_block + 1} to {rank.end_block}" if rank.end_block > rank.first_block else "no blocks"
    return f"rank {rank.rank} on {rank.device}: {blocks}, busy {rank.busy:.0%} of the time ({times})"


def _lora_words(lora: LoraLine) -> str:
    left_out = f", {lora.unused} of its tensors left out" if lora.unused else ""
    return f"LoRA {lora.file}: strength {lora.strength:g}, {lora.layers} layers of rank {lora.rank}{left_out}"
