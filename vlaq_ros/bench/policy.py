"""Whole policies end to end: transformers' `sample_actions` against the engine, from an observation to actions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._C._autograd import DeviceType  # torch.profiler's, which it does not export itself
from torch.profiler import ProfilerActivity, profile
from transformers import PI0ForConditionalGeneration
from transformers.utils import logging

from vlaq_ros.bench import bounds
from vlaq_ros.bench.machine import Machine, Roof
from vlaq_ros.bench.subjects import PLAIN, Subject
from vlaq_ros.bench.timing import Call, Estimate, WallClock, estimate, interleave, speed_up
from vlaq_ros.datatypes import FloatArray, Observation
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.engine import FULL, Engine, native_dtype
from vlaq_ros.policy.manifest import Manifest
from vlaq_ros.policy.spec import PolicySpec

TRANSFORMERS = "transformers"
_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_HOPELESS = 3.0  # times the fastest: such a dtype has no instructions on this machine
_PARTS = {  # of what takes time, by what the names of operators and GPU kernels contain
    "integer linears": ("nested_linear",),
    "attention": ("scaled_dot_product", "attention", "flash", "fmha"),
    "norms": ("_norm",),
    "other linears": ("linear", "addmm", "matmul", "conv", "gemm", "cutlass"),
}
_OTHER, _BETWEEN = "other operators", "between operators"


def measure(
    subject: Subject, machine: Machine, roof: Roof, *, budget_s: float, rounds: tuple[int, int]
) -> dict[str, Any]:
    """Time one policy on all its paths, on a machine whose threads the caller has pinned.

    Only the fastest of transformers' paths meets the others in the interleaved rounds; the rest are told by the
    shortest of their first calls.

    Returns:
        What the report shows, ready for JSON.
    """
    device = torch.device(machine.device)
    checkpoint = Checkpoint.open(subject.checkpoint)
    observation = _observation(checkpoint.spec)
    best, call, took_s = _transformers(checkpoint, device)
    calls = {best: call}
    engines = {FULL: Engine.load(subject.checkpoint, full=True, device=device)}
    engines |= {kind: Engine.load(path, device=device) for kind, path in subject.bundles.items()}
    for kind, engine in engines.items():
        noise = np.random.default_rng(0).standard_normal(engine.noise_shape)
        calls |= {_name(kind, plan): _inference(engine, observation, plan, noise) for plan in engine.precisions}
    timers = {name: WallClock([call], device) for name, call in calls.items()}
    for timer in timers.values():
        timer.sample_s(0)
    samples = interleave(timers, budget_s=budget_s, rounds=rounds)
    ratios = {}
    for kind in subject.bundles:
        fine, coarse = (_name(kind, engines[kind].precisions[place]) for place in (0, -1))
        rivals = {TRANSFORMERS: best, FULL: _name(FULL, FULL), "fine": fine}
        ratios[kind] = {
            f"coarse_over_{rival}": asdict(speed_up(samples[coarse], samples[name])) for rival, name in rivals.items()
        }
    return {
        "name": subject.name,
        "threads": torch.get_num_threads(),
        "rounds": len(samples[best]),
        "transformers": best,
        "transformers_ms": {name: seconds * 1e3 for name, seconds in took_s.items()},
        "ms": {name: float(np.median(values)) * 1e3 for name, values in samples.items()},
        "of_roof": {
            name: bound_s / float(np.median(samples[name]))
            for name, bound_s in _bounds_s(subject, checkpoint, engines, machine, roof).items()
        },
        "speed_up": ratios,
        "shares": {name: shares(call, device) for name, call in calls.items() if name.startswith("vlaq ")},
        "memory": {
            kind: asdict(engine.memory) | {"over_bf16": engine.bytes_over_bf16} for kind, engine in engines.items()
        },
    }


def switch(bundle: Path, device: torch.device, rounds: int) -> Estimate:
    """Time what the first inference after a switch takes longer than one after another of the same precision, in µs."""
    engine = Engine.load(bundle, device=device)
    observation = _observation(engine.spec)
    noise = np.random.default_rng(0).standard_normal(engine.noise_shape)
    finest, *_, coarsest = engine.precisions
    clocks = {name: WallClock([_inference(engine, observation, name, noise)], device) for name in (finest, coarsest)}
    for clock in clocks.values():
        clock.sample_s(0)
    longer_us = []
    for turn in range(rounds):
        clocks[coarsest].sample_s(turn)
        same_s = clocks[coarsest].sample_s(turn)
        clocks[finest].sample_s(turn)
        longer_us.append((clocks[coarsest].sample_s(turn) - same_s) * 1e6)
    return estimate(np.array(longer_us))


def shares(call: Call, device: torch.device) -> dict[str, float]:
    """Say where the time of a call goes: shares of its duration by kind of operator, or of kernel on a GPU."""
    on_gpu = device.type == "cuda"
    with _quiet(), profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as record:
        start_s = time.perf_counter()
        call()
        took_us = (time.perf_counter() - start_s) * 1e6
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    sums = dict.fromkeys([*_PARTS, _OTHER], 0.0)
    for event in record.events() or ():
        if event.cpu_parent is None and event.device_type == wanted:
            sums[_what(event.name)] += event.time_range.elapsed_us()
    return {what: us / took_us for what, us in sums.items()} | {_BETWEEN: 1 - sum(sums.values()) / took_us}


def _bounds_s(
    subject: Subject, checkpoint: Checkpoint, engines: Mapping[str, Engine], machine: Machine, roof: Roof
) -> dict[str, float]:
    """Give the least time of every precision of every kind, by its name."""
    dtype = native_dtype(torch.device(machine.device))
    bounds_s = {}
    for kind, engine in engines.items():
        for place, plan in enumerate(engine.plans):
            if kind == FULL:
                bits = dict.fromkeys(bounds.quantized(checkpoint), 8.0 * dtype.itemsize)
            else:
                bits = bounds.code_bits(Manifest.load(subject.bundles[kind]), place)
            bounds_s[_name(kind, plan.name)] = bounds.bound_s(
                checkpoint,
                bits,
                kind="int8" if plan.activation_bits == 8 else _DTYPES[dtype],
                steps=plan.denoise_steps,
                machine=machine,
                roof=roof,
            )
    return bounds_s


def _name(kind: str, precision: str) -> str:
    return " ".join(["vlaq", *([kind] if kind not in {PLAIN, precision} else []), precision])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's profiler writes to standard error past Python off the terminal."""
    kept = os.dup(2)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _what(operator: str) -> str:
    return next((what for what, names in _PARTS.items() if any(name in operator for name in names)), _OTHER)


def _observation(spec: PolicySpec) -> Observation:
    generator = np.random.default_rng(0)
    size = spec.image_size_px
    images = {camera: generator.integers(0, 256, (size, size, 3), dtype=np.uint8) for camera in spec.cameras}
    return Observation(0, images, spec.joint_names, spec.state_mean, spec.instructions[0])


def _inference(engine: Engine, observation: Observation, precision: str, noise: FloatArray) -> Call:
    return lambda: engine.infer(observation, precision, noise)


def _transformers(checkpoint: Checkpoint, device: torch.device) -> tuple[str, Call, dict[str, float]]:
    """Find the fastest way to use transformers' own class.

    Returns:
        Its name, its call, and what a call took in s of all that were tried. A dtype that is slow at first is not tried
        in its other form.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    took_s: dict[str, float] = {}
    calls: dict[str, Call] = {}
    hopeless: set[torch.dtype] = set()
    forms = [("sdpa", False), ("eager", False), *([("sdpa", True)] if device.type == "cuda" else [])]
    for (attention, compiled), dtype in product(forms, _DTYPES):
        if dtype in hopeless:
            continue
        network: Any = PI0ForConditionalGeneration.from_pretrained(
            checkpoint.directory, dtype=dtype, attn_implementation=attention, local_files_only=True
        )
        network.eval().to(device)
        name = " ".join([TRANSFORMERS, _DTYPES[dtype], attention, *(["torch.compile"] if compiled else [])])
        if compiled:
            for part in (network, network.model.vlm, network.model.vlm.vision_tower):
                part.compile()
        call = _sampling(network.sample_actions, checkpoint, dtype, device)
        clock = WallClock([call], device)
        if compiled:
            clock.sample_s(0)  # minutes
        took_s[name] = clock.sample_s(0)
        if took_s[name] > _HOPELESS * min(took_s.values()):
            hopeless.add(dtype)
        else:
            calls[name] = call
            took_s[name] = min(clock.sample_s(turn) for turn in range(3))
    best = min(calls, key=took_s.__getitem__)
    return best, calls[best], took_s


def _sampling(
    sample: Callable[..., torch.Tensor], checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device
) -> Call:
    spec, config = checkpoint.spec, checkpoint.config
    cameras, size = len(spec.cameras), spec.image_size_px
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "pixel_values": torch.rand(1, cameras, 3, size, size, generator=generator).mul_(2).sub_(1).to(device, dtype),
        "state": torch.randn(1, config.max_state_dim, generator=generator).to(device, dtype),
        "noise": torch.randn(1, config.chunk_size, config.max_action_dim, generator=generator).to(device, dtype),
        "input_ids": checkpoint.prompts[spec.instructions[0]][None].to(device),
        "pixel_attention_mask": torch.ones(1, cameras, dtype=torch.bool, device=device),
    }

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return sample(**inputs, num_steps=spec.denoising_steps)

    return run
